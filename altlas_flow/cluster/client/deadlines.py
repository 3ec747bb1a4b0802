"""Ends requests whose time is over: one timer for all of them, on the client's event loop."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable

from altlas_flow.cluster.client.handle import Handle
from altlas_flow.errors import DeadlineExceeded

#: Deadlines that are kept before those of requests that are over are looked for.
SWEEP = 1000


class Deadlines:
    """Keeps the deadlines of requests.

    Parameters
    ----------
    loop : asyncio event loop
        Everything here is called on it.
    clock : callable
        Monotonic seconds, the same that the deadlines are in.
    late : callable
        Called with a request and its error; it does nothing where the request is over.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        late: Callable[[Handle, DeadlineExceeded], None],
    ) -> None:
        self._loop, self._clock, self._late = loop, clock, late
        self._dated: list[tuple[float, int, Handle]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0
        self._sweep_at = SWEEP

    def add(self, handle: Handle) -> None:
        """Watch a request."""
        assert handle._deadline is not None
        heapq.heappush(self._dated, (handle._deadline, next(self._order), handle))
        if len(self._dated) >= self._sweep_at:
            # those that are over would keep their answers until their own time
            self._dated = [entry for entry in self._dated if not entry[2].done()]
            heapq.heapify(self._dated)
            self._sweep_at = max(SWEEP, 2 * len(self._dated))
        self._set()

    def close(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._dated.clear()

    def _set(self) -> None:
        """Have the timer go off at the first deadline of a request that is not over."""
        while self._dated and self._dated[0][2].done():
            heapq.heappop(self._dated)
        if not self._dated:
            return
        first = self._dated[0][0]
        if self._timer is not None:
            if self._at == first:
                return
            self._timer.cancel()
        self._at = first
        self._timer = self._loop.call_later(max(0.0, first - self._clock()), self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self._clock()
        while self._dated and self._dated[0][0] <= now:
            handle = heapq.heappop(self._dated)[2]
            if not handle.done():
                given = (handle._deadline or now) - handle._submitted
                text = f"request {handle.request_id} was not answered within {given:.3g} s: give it more time"
                self._late(handle, DeadlineExceeded(text))
        self._set()
