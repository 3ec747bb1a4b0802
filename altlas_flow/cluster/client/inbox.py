"""Requests that are not let in yet: by priority, and then in the order in which they came."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterator

from altlas_flow.cluster.client.handle import Handle

#: Requests that wait before those that are over are looked for.
SWEEP = 1000


class Inbox:
    """Any thread puts requests in; the client's event loop takes them out.

    Mostly there is room for all that is new, and it goes as it came.
    """

    def __init__(self) -> None:
        self._new: deque[Handle] = deque()
        self.append = self._new.append  # safe in any thread
        self._queue: list[tuple[int, int, Handle]] = []  # a heap of those for which there was no room
        self._order = itertools.count()
        self._sweep_at = SWEEP

    def take(self, room: int) -> Iterator[Handle]:
        """The next ones, at most so many; some may be over."""
        if not self._queue and len(self._new) <= room:
            for _ in range(len(self._new)):
                yield self._new.popleft()
            return
        self._line_up()
        for _ in range(min(room, len(self._queue))):
            yield heapq.heappop(self._queue)[-1]

    def _line_up(self) -> None:
        for _ in range(len(self._new)):
            handle = self._new.popleft()
            lane = handle._lane
            if handle._final is None and lane is not None:
                heapq.heappush(self._queue, (-lane.priority, next(self._order), handle))
        if len(self._queue) >= self._sweep_at:
            # those that nobody wants any more would stay for as long as others go before them
            self._queue = [entry for entry in self._queue if entry[-1]._final is None]
            heapq.heapify(self._queue)
            self._sweep_at = max(SWEEP, 2 * len(self._queue))

    def __len__(self) -> int:
        return len(self._new) + len(self._queue)

    def __iter__(self) -> Iterator[Handle]:
        return iter([*self._new, *(handle for _, _, handle in self._queue)])
