"""Log lines of requests: what became of each, with its id; nothing is done where nobody wants them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from altlas_flow.errors import DeadlineExceeded, RequestCancelled, SelectionError, describe
from altlas_flow.logs import event

if TYPE_CHECKING:
    from altlas_flow.cluster.client.handle import Handle

logger = logging.getLogger(__name__)

# Whoever asked gets the error itself: so it is no warning here, but news for those who watch.
NEWS = logging.INFO


def wanted() -> bool:
    """Whether anybody wants such lines."""
    return logger.isEnabledFor(NEWS)


def all_wanted() -> bool:
    """Whether anybody wants lines of answers, too."""
    return logger.isEnabledFor(logging.DEBUG)


def facts(handle: Handle) -> tuple[str, str, float, int]:
    """What is told of a request that is over: id, model, seconds, tries."""
    return handle.request_id, handle.model_id, handle._ended - handle._submitted, handle.tries


def tell(
    request_id: str,
    model: str,
    seconds: float,
    tries: int | None,
    error: BaseException,
) -> None:
    """A request to a model or a pipeline is over without an answer."""
    fields: dict[str, Any] = {"request_id": request_id, "model": model, "tries": tries}
    fields["seconds"] = round(seconds, 6)
    if isinstance(error, RequestCancelled):
        text = "request %s of %s was cancelled after %.3f s"
        event(logger, NEWS, "request cancelled", text, request_id, model, seconds, **fields)
        return
    fields |= {"error": describe(error), "kind": type(error).__name__}
    fields["node"] = next(reversed(getattr(error, "nodes", ())), None)
    name = "deadline passed" if isinstance(error, DeadlineExceeded) else "request failed"
    text = "request %s of %s failed after %.3f s: %s"
    event(logger, NEWS, name, text, request_id, model, seconds, describe(error), **fields)


def again(request_id: str, model: str, tries: int, error: BaseException, node: str) -> None:
    """A try failed, and another one follows; `tries` are those so far."""
    event(
        logger,
        NEWS,
        "request retried",
        "request %s of %s goes elsewhere, as it failed on %s: %s",
        request_id,
        model,
        node,
        describe(error),
        request_id=request_id,
        model=model,
        node=node,
        tries=tries,
        error=describe(error),
        kind=type(error).__name__,
    )


def completed(request_id: str, model: str, seconds: float, tries: int, node: str) -> None:
    """A request has its answer."""
    event(
        logger,
        logging.DEBUG,
        "request completed",
        "request %s of %s was answered by %s in %.3f s",
        request_id,
        model,
        node,
        seconds,
        request_id=request_id,
        model=model,
        node=node,
        seconds=round(seconds, 6),
        tries=tries,
    )


@contextmanager
def refusal_told(task: str, id: str) -> Iterator[None]:
    """While a model is chosen: where none can be, that is logged, and raised."""
    try:
        yield
    except SelectionError as error:
        why = describe(error)
        fields = {"task": task, "request_id": id, "kind": type(error).__name__, "error": why}
        text = "request %s: no model is chosen for task %s: %s"
        event(logger, NEWS, "decision refused", text, id, task, why, **fields)
        raise
