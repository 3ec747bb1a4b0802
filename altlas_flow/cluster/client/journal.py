"""The journal: tells the scheduler plugin what became of requests, and, where it asks, what is under way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from altlas_flow.cluster.client.handle import CANCELLED, COMPLETED, RUNNING, Handle

if TYPE_CHECKING:
    from altlas_flow.cluster.client.lanes import Flight

#: Operations on streams: what is over; the plugin asks what is under way; the answer to that.
OVER, ASKED, TOLD = "altlas-over", "altlas-tasks", "altlas-told"
#: Seconds after which what is over is told where no envelope leaves meanwhile.
SOON = 0.05
#: Characters of an error that are told.
ERROR_LIMIT = 500


class Journal:
    """Lives on the event loop of Dask's client; only `over` may be called from any thread.

    Columns, not rows: a burst of requests costs a fraction of a microsecond each here, and about as much
    on the scheduler. Times travel as seconds ago, since clocks differ.

    Parameters
    ----------
    loop : asyncio event loop
    clock : callable
        Monotonic seconds.
    tell : callable
        Sends a message to the plugin.
    everything : callable
        Gives all requests that are under way.
    cancel : callable
        Gives a request up; whether that changed anything.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        *,
        tell: Callable[[dict[str, Any]], None],
        everything: Callable[[], Iterable[Handle]],
        cancel: Callable[[Handle], bool],
    ) -> None:
        self._loop, self._clock, self._tell = loop, clock, tell
        self._everything, self._cancel = everything, cancel
        self._over: deque[tuple[Flight | None, list[Handle]]] = deque()
        self._soon: asyncio.TimerHandle | None = None

    def over(self, flight: Flight | None, handles: list[Handle]) -> None:
        """Requests are over; with a flight, they are completed, and all travelled in that."""
        if handles:
            self._over.append((flight, handles))

    def flush_soon(self) -> None:
        """Have it told, but not right before an envelope: Dask's client pauses after each message."""
        if self._over and self._soon is None:
            self._soon = self._loop.call_later(SOON, self.flush)

    def flush(self) -> None:
        """Tell what is over."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        parts: list[dict[str, Any]] = []
        now = self._clock()
        while self._over:
            flight, handles = self._over.popleft()
            if flight is not None:
                parts.append(_flown(flight, handles, now))
            else:
                parts += [_single(handle, now) for handle in handles]
        if parts:
            self._tell({"op": OVER, "parts": parts})

    def asked(self, ask: int, ids: Sequence[str] | None, limit: int, cancel: bool) -> None:
        """The plugin asks what is under way, or what is of some requests; these may be to be cancelled."""
        self.flush()  # what is over comes first: it is in neither place meanwhile
        wanted = None if ids is None else set(ids)
        now = self._clock()
        found: list[list[Any]] = []
        for handle in list(self._everything()):
            if handle.done() or (wanted is not None and handle.request_id not in wanted):
                continue
            if cancel:
                self._cancel(handle)
            found.append(_live(handle, now))
            if len(found) >= limit:
                break
        self._tell({"op": TOLD, "ask": ask, "tasks": found})


def _flown(flight: Flight, handles: list[Handle], now: float) -> dict[str, Any]:
    """Completed requests of one envelope."""
    answers = flight.answers
    assert answers is not None
    begun = now - flight.sent - float(answers.placement.get("placing", 0.0))
    queue = answers.queue if len(handles) == flight.count else answers.queue[[one._at for one in handles]]
    tried = any(handle._tried for handle in handles)
    return {
        "model": handles[0].model_id,
        "node": answers.node,
        "status": COMPLETED,
        "ids": [handle.request_id for handle in handles],
        "submitted": [now - handle._submitted for handle in handles],
        "started": (begun - queue).tolist(),
        "ended": now - handles[0]._ended,
        "tries": [handle.tries for handle in handles] if tried else 1,
        "error": None,
    }


def _single(handle: Handle, now: float) -> dict[str, Any]:
    """A request that ended in any other way."""
    tried = handle._tried or []
    error = handle._error
    return {
        "model": handle.model_id,
        "node": tried[-1].node if tried else None,
        "status": handle.status,
        "ids": [handle.request_id],
        "submitted": [now - handle._submitted],
        "started": [now - handle._sent if tried else None],
        "ended": now - handle._ended,
        "tries": handle.tries,
        "error": None if error is None or handle.status == CANCELLED else str(error)[:ERROR_LIMIT],
    }


def _live(handle: Handle, now: float) -> list[Any]:
    """Id, model, status, seconds since it was submitted and since it began, node, tries."""
    flight, status = handle._flight, handle.status
    runs = status == RUNNING and flight is not None
    since = flight.since.get(handle._at) if runs and flight is not None else None
    return [
        handle.request_id,
        handle.model_id,
        status,
        now - handle._submitted,
        None if since is None else now - since,
        flight.node if runs and flight is not None else None,
        handle.tries,
    ]
