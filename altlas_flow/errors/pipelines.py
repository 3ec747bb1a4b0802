"""Errors of pipelines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from altlas_flow.errors.base import AltlasError
from altlas_flow.errors.cluster import HostClosed
from altlas_flow.errors.requests import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence


class PipelineError(AltlasError):
    """A pipeline cannot be run as it is written; its text names the stage."""


class StageFailed(RequestError):
    """A stage of a pipeline failed: the first one that did.

    Parameters
    ----------
    stage : str
    reason : str
        One line.

    Attributes
    ----------
    result : PipelineResult or None
        What the stages made that do not depend on it, where the error was raised to whoever asked.
    responses : sequence of InferenceResponse
        The same where the stages were given as requests: one for each, in order.
    """

    result: Any = None
    responses: Sequence[Any] = ()

    def __init__(self, stage: str, reason: str) -> None:
        self.stage, self.reason = stage, reason
        super().__init__(stage, reason)

    def __reduce__(self) -> tuple[Any, ...]:
        # what came of the other stages stays here: it may hold functions that do not travel
        state = {name: value for name, value in self.__dict__.items() if name not in ("result", "responses")}
        return type(self), self.args, state

    def text(self) -> str:
        """What `str` makes one line of."""
        return f"stage {self.stage!r} failed: {self.reason}"


class TargetUnreachable(AltlasError):
    """No threshold of a cascade gives what is wished for.

    Parameters
    ----------
    target : str
        ``share`` or ``quality``.
    wanted, best : float
        From 0 to 1; what can be reached on the sample.
    """

    def __init__(self, target: str, wanted: float, best: float) -> None:
        self.target, self.wanted, self.best = target, wanted, best
        super().__init__(target, wanted, best)

    def text(self) -> str:
        """What `str` makes one line of."""
        if self.target == "share":
            return (
                f"at least {self.best:.4g} of the sample goes to the large model, for the small one has no "
                f"score there: {self.wanted:.4g} cannot be reached"
            )
        return (
            f"no threshold gives a {self.target} of {self.wanted:.4g}: the best on this sample is "
            f"{self.best:.4g}; wish for less, or take other models"
        )


class NodeFault(HostClosed):
    """A node failed at a stage, not its input: another node may do it.

    Parameters
    ----------
    node : str
    reason : str
        One line.
    """

    def __init__(self, node: str, reason: str) -> None:
        self.node, self.reason = node, reason
        super().__init__(node, reason)

    def text(self) -> str:
        """What `str` makes one line of."""
        return f"node {self.node} failed ({self.reason}): ask again, or look at that node"
