"""Every error that altlas_flow raises on purpose.

::

    AltlasError
    ├── SettingsError            a setting has a value that cannot be used
    ├── ModelError
    │   ├── SpecError            a model spec or a catalog file is wrong
    │   ├── UnknownModel         no model of that id is registered
    │   ├── ModelConflict        the id is taken by another recipe
    │   ├── ModelLoadError       a worker could not load the model
    │   ├── UnsafeModel          the weights need pickle or remote code
    │   ├── ParameterError       the runtime does not know a parameter
    │   └── PredictError         the model failed on an input
    ├── InputError
    │   ├── MissingColumn        the input has no such column
    │   ├── EmptyInput           the input has no rows
    │   ├── NothingPredicted     every row became a dead letter
    │   ├── SourceError          a source file cannot be found or read
    │   └── BadRow               one row is at fault (``on_error="raise"``)
    ├── RequestError
    │   ├── BadRequest           a field of a request is wrong
    │   ├── DeadlineExceeded     the request was not answered in time
    │   ├── RequestCancelled     the request was cancelled
    │   ├── Overloaded           too much waits already (``altlas.overload: raise``)
    │   └── InvalidAnswer        the answer did not pass the request's validator
    ├── OutputError
    │   ├── OutputNotWritable    the folder cannot be written (rights, full disk)
    │   ├── OutputLocked         another job works on the folder
    │   ├── OutputMismatch       the folder holds something else
    │   └── HistoryError         the history file cannot be used
    └── ClusterError
        ├── ConnectError         no cluster could be reached or started
        ├── CertificateError     a certificate cannot be made, read or used
        ├── Exposed              a cluster would be open to others without TLS
        ├── Forbidden            the certificate's role does not allow it
        ├── UnknownNode          no node of that name is known
        ├── UnknownTask          no task of that id is known
        ├── VersionMismatch      a scheduler or worker runs another altlas_flow
        ├── NoEligibleNode       no worker can serve the model
        ├── ClusterLost          the scheduler or all workers went away
        ├── NodeLost             the worker died, or fell silent, while it had the request
        └── HostClosed           the worker is shutting down

The message is always one line that says what to do. Every error pickles: what its constructor takes
is its ``args``. The error of a request knows its ``tries``, the ``nodes`` they were made on, and its
``root_cause``.
"""

from __future__ import annotations

import difflib
import sysconfig
from collections.abc import Iterable
from functools import cache
from pathlib import Path


def text_of(value: object) -> str:
    """``str(value)``; the name of its type where it cannot say."""
    try:
        return str(value)
    except Exception:
        # an error of somebody else's code may have a __str__ that fails, with any error at all
        return type(value).__name__


def one_line(value: object, limit: int = 500) -> str:
    """Text of `value` on one line, cut at `limit` characters."""
    # what stands for bytes of a file name is no text, and would break whatever it is sent by
    text = " ".join(text_of(value).encode("utf-8", "replace").decode().split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def root_cause(error: BaseException) -> BaseException:
    """The first error of the chain that ended in `error`."""
    seen = {id(error)}
    while True:
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is None or id(cause) in seen:
            return error
        seen.add(id(cause))
        error = cause


def kinds_of(error: BaseException) -> tuple[str, ...]:
    """Names of the types of an error and of what caused it, bases included."""
    found: dict[str, None] = {}
    seen: set[int] = set()
    now: BaseException | None = error
    while now is not None and id(now) not in seen:
        seen.add(id(now))
        found.update(dict.fromkeys(kind.__name__ for kind in type(now).__mro__[:-1]))
        now = now.__cause__ or (None if now.__suppress_context__ else now.__context__)
    return tuple(found)


def names(known: Iterable[object], limit: int = 10) -> str:
    """A short list of what is known, for messages."""
    items = [str(item) for item in known]
    shown = ", ".join(items[:limit]) or "none"
    return shown + (f" and {len(items) - limit} more" if len(items) > limit else "")


class AltlasError(Exception):
    """Base of all errors of altlas_flow; its text is one line.

    Attributes
    ----------
    tries : int
        How often the request was tried; 0 where the error is not of a request that was sent.
    nodes : tuple of str
        The nodes that it was tried on, in order.
    root_cause : str
        What began it, in one line; empty where there is nothing beyond the error itself.
    kinds : tuple of str
        Names of the types of what caused it on a worker: the errors themselves do not travel.
    """

    tries: int = 0
    nodes: tuple[str, ...] = ()
    root_cause: str = ""
    kinds: tuple[str, ...] = ()

    def __str__(self) -> str:
        return one_line(self.text(), 2000)

    def text(self) -> str:
        """What `str` makes one line of."""
        return text_of(self.args[0]) if self.args else type(self).__name__


class SettingsError(AltlasError):
    """A setting has a value that cannot be used."""


class ModelError(AltlasError):
    """Something about a model is wrong."""


class SpecError(ModelError):
    """A model spec or a catalog file is wrong."""


class UnknownModel(ModelError):
    """No model of that id is registered.

    Parameters
    ----------
    model : str
        The id that was asked for.
    known : sequence of str
        The ids there are.
    """

    def __init__(self, model: str, known: Iterable[str] = ()) -> None:
        self.model, self.known = model, tuple(known)
        super().__init__(model, self.known)

    def text(self) -> str:
        near = difflib.get_close_matches(self.model, self.known, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        return (
            f"no model {self.model!r} is registered (known: {names(self.known)}{meant}): "
            "register or pass a ModelSpec; on the command line give a catalog file, or the spec as JSON"
        )


class ModelConflict(ModelError):
    """The id is taken by another recipe.

    Parameters
    ----------
    model : str
        The id.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        super().__init__(model)

    def text(self) -> str:
        return (
            f"model {self.model!r} is registered with another recipe: choose another id, "
            "or replace it with flow.register(spec, replace=True)"
        )


class ModelLoadError(ModelError):
    """A worker could not load a model.

    Parameters
    ----------
    model : str
        Its id.
    node : str
        The worker's name or address.
    cause : str
        What went wrong, in one line.
    """

    def __init__(self, model: str, node: str, cause: str) -> None:
        self.model, self.node, self.cause = model, node, one_line(cause)
        super().__init__(model, node, self.cause)

    def text(self) -> str:
        return f"model {self.model!r} could not be loaded on {self.node}: {self.cause}"


class UnsafeModel(ModelError):
    """The weights need pickle, or the model wants to run remote code."""


class ParameterError(ModelError):
    """The runtime does not know a parameter, or its value is out of range."""


class PredictError(ModelError):
    """The model failed on an input.

    Parameters
    ----------
    model : str
        Its id.
    cause : str
        What went wrong, in one line.
    """

    def __init__(self, model: str, cause: str) -> None:
        self.model, self.cause = model, one_line(cause)
        super().__init__(model, self.cause)

    def text(self) -> str:
        return f"model {self.model!r} failed on its input: {self.cause}"


class InputError(AltlasError):
    """What was given to predict on is wrong."""


class MissingColumn(InputError):
    """The input has no such column.

    Parameters
    ----------
    column : str
        What was asked for.
    known : sequence of str
        The columns there are.
    """

    def __init__(self, column: str, known: Iterable[str] = ()) -> None:
        self.column, self.known = column, tuple(str(name) for name in known)
        super().__init__(column, self.known)

    def text(self) -> str:
        return f"the input has no column {self.column!r}: choose one of {names(self.known, 20)}"


class EmptyInput(InputError):
    """The input has no rows."""


class NothingPredicted(InputError):
    """Every row became a dead letter."""


class SourceError(InputError):
    """A source file cannot be found or read."""


class BadRow(InputError):
    """One row is at fault, and ``on_error="raise"`` was asked for.

    Parameters
    ----------
    row_id : str
        Which row.
    phase : str
        Where it failed: ``read``, ``input``, ``predict`` or ``output``.
    model : str
        The model's id.
    cause : str
        What went wrong, in one line.
    """

    def __init__(self, row_id: str, phase: str, model: str, cause: str) -> None:
        self.row_id, self.phase, self.model, self.cause = row_id, phase, model, one_line(cause)
        super().__init__(row_id, phase, model, self.cause)

    def text(self) -> str:
        return (
            f"row {self.row_id} failed at {self.phase} with model {self.model!r}: {self.cause}: "
            'mend the row; flow.map and flow.run collect such rows with on_error="collect"'
        )


class RequestError(AltlasError):
    """Something about a request is wrong, or it ended without an answer."""


class BadRequest(RequestError):
    """A field of a request is wrong."""


class DeadlineExceeded(RequestError):
    """The request was not answered in time."""


class RequestCancelled(RequestError):
    """The request was cancelled."""


class Overloaded(RequestError):
    """Too much waits already."""


class InvalidAnswer(RequestError):
    """The answer did not pass the request's validator."""


class OutputError(AltlasError):
    """The output folder cannot be used."""


class OutputNotWritable(OutputError):
    """The folder cannot be written: rights, a full disk, a read-only file system."""


class OutputLocked(OutputError):
    """Another job works on the folder."""


class OutputMismatch(OutputError):
    """The folder holds something else than this job's output."""


class HistoryError(OutputError):
    """The history file cannot be used."""


class ClusterError(AltlasError):
    """Something about the cluster is wrong."""


class ConnectError(ClusterError):
    """No cluster could be reached or started."""


class CertificateError(ClusterError):
    """A certificate cannot be made, read or used."""


class Exposed(ClusterError):
    """A cluster would be open to others without TLS."""


class Forbidden(ClusterError):
    """The role of a certificate does not allow what was asked."""


class UnknownNode(ClusterError):
    """No node of that name is known.

    Parameters
    ----------
    node : str
    known : sequence of str
        The nodes there are.
    """

    def __init__(self, node: str, known: Iterable[str] = ()) -> None:
        self.node, self.known = node, tuple(known)
        super().__init__(node, self.known)

    def text(self) -> str:
        near = difflib.get_close_matches(self.node, self.known, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        return (
            f"no node {self.node!r} is known (known: {names(self.known)}{meant}): flow.nodes(), or "
            "altlas-flow nodes, lists them"
        )


class UnknownTask(ClusterError):
    """No task of that id is known.

    Parameters
    ----------
    task : str
    """

    def __init__(self, task: str) -> None:
        self.task = task
        super().__init__(task)

    def text(self) -> str:
        return (
            f"no task {self.task!r} is known: give the request_id of a request that is under way, or among "
            "the last that ended (altlas.history keeps all of them)"
        )


class VersionMismatch(ClusterError):
    """A scheduler or worker has no altlas_flow, or another version of it."""


class NoEligibleNode(ClusterError):
    """No worker can serve the model.

    Parameters
    ----------
    model : str
        The model's id or fingerprint.
    reasons : dict of str to str
        For each node, why not.
    """

    def __init__(self, model: str, reasons: dict[str, str] | None = None) -> None:
        self.model, self.reasons = model, dict(reasons or {})
        super().__init__(model, self.reasons)

    def text(self) -> str:
        why = "; ".join(f"{node}: {reason}" for node, reason in list(self.reasons.items())[:8])
        return (
            f"no node can serve model {self.model!r} ({why or 'no node has joined'}): "
            "start a worker that has what the model needs"
        )


class ClusterLost(ClusterError):
    """The scheduler, or every worker, went away."""


class NodeLost(ClusterError):
    """The worker died, or fell silent, while it had the request.

    Parameters
    ----------
    node : str
        The worker's name.
    cause : str
        What became of it: ``died``, ``silent``.
    started : tuple of int
        Of an envelope, the positions of the members that were running there.
    begun : tuple of int
        Those that had begun to run there at all, whether or not they were done.
    suspected : tuple of int
        Those whose inputs were being opened.
    beside : bool
        Whether something else is to blame: a model that was being loaded, or another's inputs.
    """

    def __init__(
        self,
        node: str,
        cause: str,
        started: tuple[int, ...] = (),
        begun: tuple[int, ...] = (),
        suspected: tuple[int, ...] = (),
        beside: bool = False,
    ) -> None:
        self.node, self.cause = node, cause
        self.started, self.begun = tuple(started), tuple(sorted({*started, *begun}))
        self.suspected, self.beside = tuple(suspected), beside
        super().__init__(node, cause, self.started, self.begun, self.suspected, beside)

    def text(self) -> str:
        what = "fell silent" if self.cause == "silent" else "died"
        return (
            f"worker {self.node} {what} while it had the request: see its log and its memory; "
            "the input may kill the model"
        )


class HostClosed(ClusterError):
    """The worker is shutting down; what waited on it has to be asked again."""


def describe(error: BaseException) -> str:
    """One line that names the error's type and its text, for logs and dead letters."""
    if isinstance(error, AltlasError):
        return text_of(error)
    kind, text = type(error).__name__, one_line(error)
    return kind if text in ("", kind) else f"{kind}: {text}"


def located(error: BaseException) -> str:
    """As `describe`, with the line of the user's own code that raised it, where there is one."""
    trace, found = error.__traceback__, ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith(("<frozen", *_installed())):
            found = f" ({Path(code.co_filename).name}:{trace.tb_lineno}, in {code.co_name})"
        trace = trace.tb_next
    return describe(error) + found


@cache
def _installed() -> tuple[str, ...]:
    """Where code lies that is not the user's own: this package, others, Python's."""
    folders = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    return (str(Path(__file__).parent), *(str(Path(folder)) for folder in folders))
