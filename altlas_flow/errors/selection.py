"""Errors of choosing models, and of learning which to choose."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from altlas_flow.errors.base import AltlasError
from altlas_flow.errors.words import names, one_line


class SelectionError(AltlasError):
    """What was asked of a selector, or told to it, is wrong."""


class FeatureError(SelectionError):
    """A feature of an input cannot be used."""


class UnknownDecision(SelectionError):
    """Something was told of a decision that is not known, or no longer.

    Parameters
    ----------
    decision : str
        Its id.
    others : int
        Of those that it was told with, how many are known, and were taken in.
    """

    def __init__(self, decision: str, others: int = 0) -> None:
        self.decision, self.others = decision, others
        super().__init__(decision, others)

    def text(self) -> str:
        return (
            f"no decision {self.decision!r} is known: give the id of a decision or of a response of this "
            "cluster, one of the latest"
            + (f" (the {self.others:,} others are taken in)" if self.others else "")
        )


class NoModelFits(SelectionError):
    """No model is able to answer, or each is excluded by a constraint.

    Parameters
    ----------
    task : str
    why : mapping of str to str
        Models: what excludes them.
    """

    def __init__(self, task: str, why: Mapping[str, str]) -> None:
        self.task, self.why = task, dict(why)
        super().__init__(task, self.why)

    def text(self) -> str:
        said = "; ".join(f"{model}: {one_line(reason, 200)}" for model, reason in list(self.why.items())[:8])
        why = said or "there is none"
        return f"no model can be chosen for {self.task!r} ({why}): ask for less, or add models"


class NothingServes(SelectionError):
    """No model of the catalog does a task.

    Parameters
    ----------
    task : str
        What was asked for.
    known : sequence of str
        The tasks that models do.
    """

    def __init__(self, task: str, known: Iterable[str] = ()) -> None:
        self.task, self.known = task, tuple(known)
        super().__init__(task, self.known)

    def text(self) -> str:
        near = difflib.get_close_matches(self.task, self.known, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        return (
            f"no model serves the task {self.task!r} (served: {names(self.known)}{meant}): register a "
            "ModelSpec with serves=(...), or with that task"
        )


class StateError(SelectionError):
    """What a selector has learned cannot be read: damaged, of another version, or something else.

    Parameters
    ----------
    cause : str
        What is wrong, in one line.
    """

    def __init__(self, cause: str) -> None:
        self.cause = one_line(cause)
        super().__init__(self.cause)

    def text(self) -> str:
        return f"the state of a selector cannot be used: {self.cause}: begin anew, or give another file"


class ReplayError(SelectionError):
    """A log of decisions cannot be replayed, or the policy gives no chances."""
