"""Errors of the cluster: connecting, nodes, certificates, what is lost."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from altlas_flow.errors.base import AltlasError
from altlas_flow.errors.words import names

#: Why a node gets no work that an operator may lift again.
CORDONED = "it is cordoned"


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
        # whoever asked may have given anything, and the error has to say so
        near = difflib.get_close_matches(str(self.node), [str(name) for name in self.known], 1)
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
    silent : int
        Clients that were asked and did not answer: one of them may have it.
    """

    def __init__(self, task: str, silent: int = 0) -> None:
        self.task, self.silent = task, silent
        super().__init__(task, silent)

    def text(self) -> str:
        clients = "1 client" if self.silent == 1 else f"{self.silent} clients"
        but = f", but {clients} did not answer and may have it" if self.silent else ""
        return (
            f"no task {self.task!r} is known{but}: give the request_id of a request that is under way, or "
            "among the last that ended (altlas.history keeps all of them)"
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
        waits = "uncordon a node, or " if CORDONED in self.reasons.values() else ""
        return (
            f"no node can serve model {self.model!r} ({why or 'no node has joined'}): "
            f"{waits}start a worker that has what the model needs"
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
