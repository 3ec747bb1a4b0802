"""The journal: tells the scheduler plugin what became of requests, and, where it asks, what is under way."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from altlas_flow.cluster.client.handle import CANCELLED, COMPLETED, ERROR, PENDING, RUNNING, Handle

if TYPE_CHECKING:
    from altlas_flow.cluster.client.lanes import Flight

#: Operations on streams: what is over; the plugin asks what is under way; the answer to that.
OVER, ASKED, TOLD = "altlas-over", "altlas-tasks", "altlas-told"
#: Seconds after which what is over is told where no envelope leaves meanwhile.
SOON = 0.05
#: Requests that are looked at, or told, before the event loop has its turn again: a few milliseconds.
SLICE = 2000
#: Characters of an error that are told.
ERROR_LIMIT = 500
#: Requests that failed, of those told together, whose traces are told as well.
TRACED = 20


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
        now, traced = self._clock(), 0
        while self._over:
            flight, handles = self._over.popleft()
            if flight is not None:
                parts.append(_flown(flight, handles, now))
                continue
            for handle in handles:
                part = _single(handle, now)
                if part["status"] == ERROR and traced < TRACED:
                    traced += 1
                    trace = handle._response().trace
                    part["trace"] = [] if trace is None else [" ".join(line) for line in trace.lines()]
                parts.append(part)
        if parts:
            self._tell({"op": OVER, "parts": parts})

    def asked(self, ask: int, ids: Sequence[str] | None, limit: int, cancel: bool) -> None:
        """The plugin asks what is under way, or what is of some requests; these may be to be cancelled.

        It is told the latest `limit` of each status, the latest first, and chooses: only it knows what
        others have. Of some requests it is told all, since an id may have been given twice.
        """
        self.flush()  # what is over comes first: it is in neither place meanwhile
        if ids is None:
            self._work(self._list(ask, limit))
            return
        wanted = set(ids)
        found = [handle for handle in self._everything() if handle.request_id in wanted]
        found.sort(key=lambda handle: handle._submitted, reverse=True)
        now = self._clock()
        rows = []
        for handle in found:
            row = _live(handle, now)
            if row is not None and (not cancel or self._cancel(handle)):
                rows.append(row)
        self._tell({"op": TOLD, "ask": ask, "tasks": _columns(rows, more=False)})

    def _work(self, steps: Iterator[None]) -> None:
        """Take the next step, and the others one by one when the loop has had its turn."""
        for _ in steps:
            self._loop.call_soon(self._work, steps)
            return

    def _list(self, ask: int, limit: int) -> Iterator[None]:
        """Choose, and tell, in steps: there may be hundreds of thousands."""
        everything = list(self._everything()) if limit > 0 else []
        found: dict[str, list[tuple[float, int, Handle]]] = {PENDING: [], RUNNING: []}
        for start in range(0, len(everything), SLICE):
            if start:
                yield
            for at, handle in enumerate(everything[start : start + SLICE], start):
                live = found.get(handle.status)
                if live is not None:
                    live.append((-handle._submitted, at, handle))  # of one instant, in their order
        chosen = sorted(entry for live in found.values() for entry in heapq.nsmallest(limit, live))
        # one moment for all: that they were asked one after the other is to be seen in their times
        now = self._clock()
        for start in range(0, max(1, len(chosen)), SLICE):
            if start:
                yield
            rows = [_live(handle, now) for _, _, handle in chosen[start : start + SLICE]]
            self.flush()  # those that were over by now
            tasks = _columns([row for row in rows if row is not None], more=start + SLICE < len(chosen))
            self._tell({"op": TOLD, "ask": ask, "tasks": tasks})


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
    kind = {} if error is None or handle.status == CANCELLED else {"kind": type(error).__name__}
    return {
        **kind,
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


def _live(handle: Handle, now: float) -> tuple[Any, ...] | None:
    """Id, model, status, seconds since it was submitted and since it began, node, tries; None: it is over."""
    flight, status = handle._flight, handle.status
    if status not in (PENDING, RUNNING):
        return None
    runs = status == RUNNING and flight is not None
    since = flight.since.get(handle._at) if runs and flight is not None else None
    return (
        handle.request_id,
        handle.model_id,
        status,
        now - handle._submitted,
        None if since is None else now - since,
        flight.node if runs and flight is not None else None,
        handle.tries,
    )


def _columns(rows: Sequence[tuple[Any, ...]], *, more: bool) -> list[Any]:
    """What is told: whether more comes, and a column of each value."""
    return [more, *map(list, zip(*rows, strict=True))]
