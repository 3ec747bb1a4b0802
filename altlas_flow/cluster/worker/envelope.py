"""An envelope: one Dask task that carries requests of one model and one set of parameters.

Every request in it has an outcome of its own. What goes wrong is returned, not raised: the sender
decides what is tried again, and where.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from distributed import get_worker, secede

from altlas_flow.cluster.keys import ANNOTATION
from altlas_flow.cluster.packed import Packed
from altlas_flow.cluster.worker.plugin import HostPlugin, current_host, current_plugin, still_wanted
from altlas_flow.errors import (
    AltlasError,
    HostClosed,
    InputError,
    InvalidAnswer,
    PredictError,
    describe,
    kinds_of,
    located,
    root_cause,
)
from altlas_flow.models.faults import of_the_node
from altlas_flow.models.host import ModelHost
from altlas_flow.models.spec import ModelSpec
from altlas_flow.models.watch import Watch
from altlas_flow.models.work import Predictions
from altlas_flow.tracing import Carrier

_Value = TypeVar("_Value")


@dataclass
class Envelope:
    """What travels, in a `Packed`.

    Attributes
    ----------
    spec : ModelSpec
    parameters : mapping
    inputs : list
        Of each request; `Elsewhere` where it was sent ahead, `Packed` where that was to be.
    counts : list of int, optional
        Rows of each request whose input is a list, -1 for one that is not; None: no input is a list.
    left : list of float, optional
        Seconds until each deadline.
    priority : int
    solo : bool
        Run alone: it may be what killed a worker.
    validator : callable, optional
        Of the answers.
    once : bool
        None may run twice: each row is a batch of its own, since one that fails is halved and tried again.
    traces : list of Carrier or None, optional
        Contexts of the requests, where they are traced; where they are not, nothing of it travels.
    """

    spec: ModelSpec
    parameters: Mapping[str, Any]
    inputs: list[Any]
    counts: list[int] | None = None
    left: list[float] | None = None
    priority: int = 0
    solo: bool = False
    validator: Any = None
    once: bool = False
    traces: list[Carrier | None] | None = field(default=None, init=False)


@dataclass(frozen=True)
class Elsewhere:
    """Stands for an input that was sent ahead: its place among the task's other arguments."""

    at: int


@dataclass
class Answers:
    """Outcomes of the requests of an envelope, in their order.

    Attributes
    ----------
    node : str
    rows : list or numpy.ndarray; a Packed while they travel
        Answers, row by row.
    offsets : list of int, optional
        Where the rows of each request begin, and the end; None: one row each.
    errors : dict of int to (bool, Exception)
        Requests without an answer: whether the node is at fault, and the error.
    queue, predict : numpy.ndarray of float64, shape (requests,)
        Seconds that it waited on the worker, and that its last batch took.
    batch : numpy.ndarray of int64, shape (requests,)
        Rows of that batch.
    load : float
        Seconds of loading the model, where this envelope caused it.
    seconds : float
        On the worker, from arrival to the last answer.
    service : float
        Seconds of predicting, shared batches by their share of rows.
    together : int
        Rows like these that one batch holds, where another one costs little.
    """

    node: str
    rows: Any = ()
    offsets: list[int] | None = None
    errors: dict[int, tuple[bool, Exception]] = field(default_factory=dict)
    queue: Any = None
    predict: Any = None
    batch: Any = None
    load: float = 0.0
    seconds: float = 0.0
    service: float = 0.0
    together: int = 1
    placement: Mapping[str, Any] = field(default_factory=dict)
    began: list[int] = field(default_factory=list)

    def outputs(self, at: int, many: bool) -> Any:
        """The answer to the request at a position."""
        if self.offsets is None:
            return self.rows[at]
        first = self.offsets[at]
        return self.rows[first : self.offsets[at + 1]] if many else self.rows[first]

    def __sizeof__(self) -> int:
        from dask.sizeof import sizeof

        return int(object.__sizeof__(self) + sum(map(sizeof, (self.rows, self.queue, self.predict))))


def serve(packed: Packed, *ahead: Any) -> Answers:
    """Predict the requests of an envelope; runs on a worker."""
    worker, plugin = get_worker(), current_plugin()
    key = str(worker.get_current_task())
    said = (worker.state.tasks[key].annotations or {}).get(ANNOTATION) or {}
    host = current_host()
    careful = bool(said.get("careful"))
    if careful:
        # a worker has died under it: should opening it be what kills, that is known
        plugin.words.say_now("opening", key=key, begins=True)
    delivery = Delivery(key, packed.open(), ahead, host, plugin, str(worker.name))
    if careful:
        plugin.words.say_now("opening", key=key, begins=False)
    return delivery.serve(said)


class Delivery:
    """One envelope on its worker."""

    def __init__(
        self,
        key: str,
        envelope: Envelope,
        ahead: Sequence[Any],
        host: ModelHost,
        plugin: HostPlugin,
        node: str,
    ) -> None:
        self.key, self.envelope, self.host, self.plugin = key, envelope, host, plugin
        self.answers = Answers(node, rows=[])
        inputs = [_opened(item, ahead) for item in envelope.inputs]
        self.count = len(inputs)
        self.first: np.ndarray | None = None  # row at which each request begins
        if envelope.counts is None:
            self.rows: list[Any] = inputs
            return
        rows: list[Any] = []
        offsets = [0]
        for item, count in zip(inputs, envelope.counts, strict=True):
            if count < 0:
                rows.append(item)
            else:
                rows.extend(item)
            offsets.append(len(rows))
        self.rows, self.answers.offsets = rows, offsets
        self.first = np.asarray(offsets)

    def serve(self, placement: Mapping[str, Any]) -> Answers:
        """Predict; what goes wrong becomes the outcome of each request that has no answer."""
        envelope, answers, host = self.envelope, self.answers, self.host
        answers.placement = placement.get("trace") or {}
        arrived = self.plugin.arrived(self.key, host.clock())
        deadlines = None
        if envelope.left is not None:
            waited = float(answers.placement.get("placing", 0.0))
            deadlines = self._by_row([arrived + left - waited for left in envelope.left])
        watch = Watch(
            len(self.rows),
            self.key,
            deadlines=deadlines,
            solo=envelope.solo,
            once=envelope.once,
            clock=host.clock,
        )
        self.plugin.begin(self.key, watch, self)
        predictions = None
        try:
            if self.rows:  # no model is loaded for an empty list
                predictions = host.predict(
                    envelope.spec,
                    self.rows,
                    parameters=envelope.parameters,
                    batch=1 if envelope.once else None,
                    priority=envelope.priority,
                    wanted=still_wanted(),
                    watch=watch,
                    traces=None if envelope.traces is None else self._by_row(envelope.traces),
                    # Out of the worker's thread pool before any waiting: tasks that read and write need
                    # its threads, and so do envelopes that could share the batch. What is quick spares
                    # itself that.
                    settle=secede,
                )
        except BaseException as error:
            # whatever ended it ends all of its requests, and their sender says what is tried again
            self._fail_all(error)
        finally:
            try:
                self._take_in(watch, arrived, predictions)
            except BaseException as error:
                # an answer or an error that cannot even be looked at
                self._fail_all(error)
            predicted = int(np.count_nonzero(watch.sizes))  # not those that nobody wanted any more
            self.plugin.end(
                self.key,
                rows=predicted,
                seconds=answers.service if predictions is not None and predicted else None,
                faults=sum(faulty for faulty, _ in answers.errors.values()),
                closing=any(isinstance(error, HostClosed) for _, error in answers.errors.values()),
                took=answers.seconds,
            )
        self._pack()
        return answers

    def _take_in(self, watch: Watch, arrived: float, predictions: Predictions | None) -> None:
        """What came of each request."""
        answers = self.answers
        answers.began = self.requests(np.flatnonzero(~np.isnan(watch.began)))
        answers.seconds = self.host.clock() - arrived
        self._note(watch, arrived)
        if predictions is not None:
            answers.rows, answers.load = predictions.outputs, predictions.load_s
            answers.service, answers.together = predictions.predict_s, predictions.together
            self._fail_rows(predictions.errors)
            if self.envelope.validator is not None:
                self._validate(self.envelope.validator)

    def _fail_all(self, error: BaseException) -> None:
        typed, faulty = portable(self.envelope.spec.id, error), of_the_node(error)
        self.answers.errors = dict.fromkeys(range(self.count), (faulty, typed))

    def _pack(self) -> None:
        """Make the answers bytes here: one that cannot be must not cost the others theirs."""
        answers = self.answers
        try:
            answers.rows = Packed.of(answers.rows)
            return
        except Exception:
            # a model may answer with anything at all; which of them it was is found out one by one
            rows = list(answers.rows)
        for row, value in enumerate(rows):
            try:
                Packed.of(value)
            except Exception as error:
                rows[row] = None
                problem = PredictError(self.envelope.spec.id, f"its answer cannot be sent: {describe(error)}")
                (at,) = self.requests([row])
                answers.errors.setdefault(at, (False, problem))
        answers.rows = Packed.of(rows)

    def requests(self, rows: Sequence[int] | np.ndarray) -> list[int]:
        """Positions of the requests that `rows` belong to."""
        if self.first is None:
            return [int(row) for row in rows]
        return sorted({int(np.searchsorted(self.first, row, side="right")) - 1 for row in rows})

    def rows_of(self, requests: Sequence[int]) -> list[int]:
        """Rows of the requests at some positions."""
        offsets = self.answers.offsets
        if offsets is None:
            return [at for at in requests if at < self.count]
        return [row for at in requests if at < self.count for row in range(offsets[at], offsets[at + 1])]

    def _by_row(self, values: list[_Value]) -> list[_Value]:
        counts = self.envelope.counts
        if counts is None:
            return values
        return [value for value, n in zip(values, counts, strict=True) for _ in range(1 if n < 0 else n)]

    def _note(self, watch: Watch, arrived: float) -> None:
        """What the records say of each request: of the last of its rows."""
        answers = self.answers
        last = slice(None) if self.first is None else np.maximum(self.first[1:] - 1, 0)
        if len(self.rows):
            answers.queue = np.nan_to_num(watch.began[last] - arrived)
            answers.predict, answers.batch = watch.took[last], watch.sizes[last]
        else:
            answers.queue = answers.predict = np.zeros(self.count)
            answers.batch = np.zeros(self.count, np.int64)

    def _fail_rows(self, errors: Mapping[int, Exception]) -> None:
        """A request fails with the first of its rows that did."""
        model, first = self.envelope.spec.id, self.first
        for row in sorted(errors):
            (at,) = self.requests([row])
            error = errors[row]
            if at in self.answers.errors:
                continue
            if type(error) is InputError and first is not None and first[at + 1] - first[at] > 1:
                error = InputError(f"inputs[{row - first[at]}]: {error}")
            self.answers.errors[at] = (of_the_node(error), portable(model, error))

    def _validate(self, validator: Any) -> None:
        counts = self.envelope.counts
        for at in range(self.count):
            if at in self.answers.errors:
                continue
            fault = complaint(validator, self.answers.outputs(at, counts is not None and counts[at] >= 0))
            if fault is not None:
                error = InvalidAnswer(f"model {self.envelope.spec.id!r}: the answer is not valid: {fault}")
                self.answers.errors[at] = (False, error)


def _opened(item: Any, ahead: Sequence[Any]) -> Any:
    """An input, as its sender gave it."""
    if isinstance(item, Elsewhere):
        # Dask keeps it for another try, and a model may write into its inputs
        return ahead[item.at].open(copied=True)
    return item.open() if isinstance(item, Packed) else item


def portable(model: str, error: BaseException) -> AltlasError:
    """An error that travels: typed, with what caused it in words."""
    typed = copy(error) if isinstance(error, AltlasError) else PredictError(model, located(error))
    typed.kinds = kinds_of(error)
    cause = root_cause(error)
    if cause is not error:
        typed.root_cause = describe(cause)
    return typed.with_traceback(None)


def complaint(validator: Any, outputs: Any) -> str | None:
    """What a validator, a callable or a pydantic model, has against an answer; None where nothing.

    It says no with False, also NumPy's or in an array of booleans, or with any error.
    """
    check, name = (
        getattr(validator, "model_validate", validator),
        getattr(validator, "__name__", "its validator"),
    )
    try:
        verdict = check(outputs)
        if inspect.isawaitable(verdict):
            verdict = asyncio.run(_awaited(verdict))
        kind = str(getattr(verdict, "dtype", type(verdict).__name__))
        if kind in ("bool", "boolean", "torch.bool") and not np.all(verdict):
            return f"{name} says no"
    except BaseException as error:
        # a validator says no with whatever error it likes, panics of native code among them
        return f"{name} says {located(error)}"
    return None


async def _awaited(verdict: Awaitable[Any]) -> Any:
    return await verdict
