"""The client's pulse: it says what it holds back, takes over leases, and sees that the scheduler lives."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from distributed import Client

from altlas_flow.cluster.client.lanes import Pool
from altlas_flow.cluster.ledger import shorten
from altlas_flow.errors import ClusterLost

#: Seconds between two pulses at most, while somebody waits for an answer.
PULSE = 1.0
#: Seconds between two reports of what is held back.
REPORT = 0.05
#: Of the time within which those who wait have to be told, what the scheduler gets to answer.
PATIENCE = 0.7
#: Beats by which one may come late before it counts as this client's own standing still.
OVERDUE = 2


class Pulse:
    """Reports to the scheduler plugin, and hears from it; all on the client's event loop.

    Parameters
    ----------
    client : distributed.Client
    loop : asyncio event loop
    clock : callable
        Monotonic seconds.
    limit : float
        Seconds within which those who wait are told that the scheduler is gone.
    waiting : callable
        Whether anybody waits for an answer.
    wake : callable
        Called when more may be in flight.
    lost : callable
        Called with an error when the scheduler is gone.
    """

    def __init__(
        self,
        client: Client,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        *,
        limit: float,
        waiting: Callable[[], bool],
        wake: Callable[[], None],
        lost: Callable[[ClusterLost], None],
    ) -> None:
        self._client, self._loop, self._clock = client, loop, clock
        self._limit, self._waiting, self._wake, self._lost = limit, waiting, wake, lost
        self.pools: dict[str, Pool] = {}
        self.faults = 0  # of the scheduler plugin, as it last said
        self._between = min(PULSE, limit / 8)
        self._beat: asyncio.TimerHandle | None = None
        self._due = 0.0  # when the beat should come
        self._soon: asyncio.TimerHandle | None = None
        self._number = 0
        self._unanswered: deque[tuple[int, float]] = deque()  # pulses without an answer: number, time
        self._reported = 0.0
        self._closed = False

    def pool(self, name: str, count: int, version: int) -> Pool:
        """The pool of that name, with a lease that was just told."""
        pool = self.pools.setdefault(name, Pool(name))
        self._take(pool, count, version)
        return pool

    def leased(
        self, pools: Mapping[str, tuple[int, int]], pulse: int | None = None, faults: int | None = None
    ) -> None:
        """The plugin tells how many envelopes may be in flight, or answers a pulse."""
        while pulse is not None and self._unanswered and self._unanswered[0][0] <= pulse:
            self._unanswered.popleft()
        if faults is not None:
            self.faults = faults
        for name, (count, version) in pools.items():
            # it may come before the answer of whoever asked for the pool: another connection brings that
            self._take(self.pools.setdefault(name, Pool(name)), count, version)
        if pools:
            self._wake()

    def start(self) -> None:
        """Keep beating while somebody waits."""
        if self._beat is None and not self._closed and self._waiting():
            self._due = self._clock() + self._between
            self._beat = self._loop.call_later(self._between, self._pulse)

    def report_soon(self) -> None:
        """Something is held back: say so, but not all the time."""
        if self._soon is None and not self._closed:
            wait = max(0.0, self._reported + REPORT - self._clock())
            self._soon = self._loop.call_later(wait, self.report)

    def report(self) -> None:
        """Say what is held back, and which leases are taken over; the answer shows that somebody listens."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._closed:
            return  # the plugin would take it for the word of one that goes on
        shorten(self._client.scheduler_comm)  # another one after each reconnection
        now = self._clock()
        self._reported = now
        self._number += 1
        self._unanswered.append((self._number, now))
        held: dict[str, int] = {}
        for pool in self.pools.values():
            for lane in pool.lanes:
                if waiting := lane.waiting():
                    held[lane.spec.id] = held.get(lane.spec.id, 0) + waiting
        for pool in self.pools.values():
            if not pool.over:
                pool.taken_over = pool.version
        pools = {name: [pool.held, pool.taken_over] for name, pool in self.pools.items()}
        self.tell({"op": "altlas-report", "pulse": self._number, "pools": pools, "held": held})

    def tell(self, message: dict[str, Any]) -> None:
        """Send something to the plugin."""
        # a client that is closed raises; those who wait are told by the pulse
        with contextlib.suppress(Exception):
            self._client._send_to_scheduler(message)

    def close(self) -> None:
        """Beat and report no more."""
        self._closed = True
        for timer in (self._beat, self._soon):
            if timer is not None:
                timer.cancel()

    def _take(self, pool: Pool, count: int, version: int) -> None:
        if version > pool.version:
            pool.count, pool.version = count, version
            self.report()  # what is taken back may be given to others only now

    def _pulse(self) -> None:
        self._beat = None
        if not self._waiting():
            self.report()  # nothing is held any more
            self._unanswered.clear()
            return
        now = self._clock()
        if now - self._due > OVERDUE * self._between:
            # it is this client that stood still: answers may have come, and lie unread
            self._unanswered = deque((number, now) for number, _ in self._unanswered)
        late = now - self._unanswered[0][1] if self._unanswered else 0.0
        if self._client.status != "running":
            self._lost(ClusterLost("the scheduler went away: see whether it runs, connect and ask again"))
        elif late > PATIENCE * self._limit:
            self._unanswered.clear()
            self._lost(
                ClusterLost(f"the scheduler is silent for {late:.1f} s: see whether it runs, and ask again")
            )
        else:
            self.report()
        self.start()
