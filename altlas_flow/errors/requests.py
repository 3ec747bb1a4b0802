"""Errors of requests."""

from __future__ import annotations

from altlas_flow.errors.base import AltlasError


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
