"""Errors of requests, and of several answers that give no verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from altlas_flow.errors.base import AltlasError
from altlas_flow.errors.words import one_line


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


class StreamBroken(RequestError):
    """The request was begun again while its answer was streamed, and its text is another one now."""


class InvalidAnswer(RequestError):
    """The answer did not pass the request's validator."""


class AggregationError(RequestError):
    """Several models were asked, and their answers give no verdict.

    Attributes
    ----------
    responses : tuple of InferenceResponse
        The answers that there are; empty where the error is not of a request.
    missing : dict of str to str
        Models without an answer: why.
    """

    responses: tuple[Any, ...] = ()
    missing: Mapping[str, str] = {}


class NoQuorum(AggregationError):
    """Too few models answered.

    Parameters
    ----------
    answered, needed : int
        How many did, and how many have to.
    missing : dict of str to str
        Models without an answer that counts: why.
    """

    def __init__(self, answered: int, needed: int, missing: Mapping[str, str] | None = None) -> None:
        self.answered, self.needed, self.missing = answered, needed, dict(missing or {})
        super().__init__(answered, needed, self.missing)

    def text(self) -> str:
        asked = self.answered + len(self.missing)
        why = "; ".join(
            f"{model}: {one_line(reason, 200)}" for model, reason in list(self.missing.items())[:8]
        )
        return (
            f"{self.answered} of {asked} models answered, and {self.needed} are needed "
            f"({why or 'no more were asked'}): mend what is named, give more time or a lower quorum; "
            "the answers are in the error's .responses"
        )


class Uncombinable(AggregationError):
    """Answers that do not go together: other types, other shapes, other labels.

    Parameters
    ----------
    models : tuple of str
        The two that disagree; one, where its answer alone cannot be used.
    cause : str
        What they answered, in one line.
    """

    def __init__(self, models: Iterable[str], cause: str) -> None:
        self.models, self.cause = tuple(models), one_line(cause)
        super().__init__(self.models, self.cause)

    def text(self) -> str:
        who = " and ".join(repr(model) for model in self.models)
        return (
            f"what model{'s' * (len(self.models) > 1)} {who} answered cannot be combined: {self.cause}: "
            "ask models of one kind, or combine with a function of your own"
        )


class AggregationFailed(AggregationError):
    """An aggregator, or a function that was given to one, raised.

    Parameters
    ----------
    what : str
        Which: ``vote(key=)``.
    cause : str
        What it raised and where, in one line.
    """

    def __init__(self, what: str, cause: str) -> None:
        self.what, self.cause = what, one_line(cause)
        super().__init__(what, self.cause)

    def text(self) -> str:
        return f"{self.what} failed: {self.cause}: mend it; the answers are in the error's .responses"
