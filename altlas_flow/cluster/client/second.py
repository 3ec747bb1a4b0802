"""Second tries: requests that are late are sent to another node as well, and the first answer counts.

Lives on the event loop of Dask's client, beside `Dispatch`, which sends, and `Returns`, which hands out
what comes back. A second try is a `SecondTry`, a handle that nobody holds: it waits in lanes and travels in
envelopes as any other, gives its answer to the first, and its failure to nobody. Where the first try fails
while the second is under way, the request goes on in its place.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from altlas_flow.cluster.client.handle import CANCELLED, COMPLETED, Handle
from altlas_flow.cluster.client.hedging import Budget, Hedges, Lateness
from altlas_flow.cluster.client.lanes import Flight, Lane
from altlas_flow.models.frozen import frozen

#: Requests that wait for the budget before those of them that are over are looked for.
SWEEP = 1000


class SecondTry(Handle):
    """The second try of a request that is under way.

    Attributes
    ----------
    first : Handle
        The request's own.
    """

    __slots__ = ("first",)

    def __init__(self, first: Handle, lane: Lane) -> None:
        super().__init__(first._transport, lane, first.request_id, None, first._submitted, first.model_id)
        self.first = first
        self._inputs, self._many, self._rows = first._inputs, first._many, first._rows
        self._weight, self._ahead, self._deadline = first._weight, first._ahead, first._deadline


class SecondTries:
    """Sends what is late a second time, as far as the budget goes.

    Parameters
    ----------
    loop : asyncio event loop
        Everything here is called on it.
    clock : callable
        Monotonic seconds.
    share : float
        Of what was sent with ``hedge=True``, what may be sent twice.
    withdraw : callable
        ``withdraw(flight, at)``: nobody wants the member of an envelope at a position any more.
    wake : callable
        Called when something waits.

    Attributes
    ----------
    counts : Hedges
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        share: float,
        *,
        withdraw: Callable[[Flight, int], None],
        wake: Callable[[], None],
    ) -> None:
        self._loop, self._clock, self._withdraw, self._wake = loop, clock, withdraw, wake
        self._lateness, self._budget = Lateness(), Budget(share)
        self.counts = Hedges()
        self._due: list[tuple[float, int, Flight]] = []  # a heap: when envelopes will be late
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0
        self._unknown: dict[str, dict[Flight, None]] = {}  # by model: when it is late, nobody knows yet
        self._short: deque[tuple[Flight, Handle]] = deque()  # late, but the budget is used up
        self._sweep_at = SWEEP
        self._lanes: dict[Any, Lane] = {}

    # -- when -----------------------------------------------------------------------------------

    def sent(self, flight: Flight) -> None:
        """An envelope has left that has requests which may be hedged, or second tries."""
        if flight.lane.apart is not None:
            count = 0
            for handle in flight.handles:
                if isinstance(handle, SecondTry) and (hedged := handle.first._hedged) is not None:
                    hedged.left(max(0.0, flight.sent - handle.first._sent))
                    count += 1
            self.counts = self.counts._replace(sent=self.counts.sent + count)
            return
        flight.hedged = True
        new = 0
        for handle in flight.handles:
            if handle._hedged is not None and not handle._hedged.counted:
                handle._hedged.counted = True
                self._budget.earn(max(1, handle._rows))
                new += 1
        self.counts = self.counts._replace(requests=self.counts.requests + new)
        self._watch(flight)
        self._afford()

    def observe(self, flight: Flight, node: str) -> None:
        """An envelope was answered, or one of its requests by a second try, before it."""
        model, now = flight.lane.spec.fingerprint, self._clock()
        self._lateness.observe(model, node, max(0.0, now - flight.sent), now)
        if model in self._unknown and self._lateness.after(model, now) is not None:
            for waiting in self._unknown.pop(model):
                self._watch(waiting)

    def ended(self, flight: Flight) -> None:
        """An envelope is over, in whatever way."""
        model = flight.lane.spec.fingerprint
        if (waiting := self._unknown.get(model)) is not None:
            waiting.pop(flight, None)
            if not waiting:
                del self._unknown[model]
        if self._short:
            self._loop.call_soon(self._afford)  # its requests have their outcomes by then, and are let go of

    def close(self) -> None:
        """Send no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._due.clear()
        self._short.clear()
        self._unknown.clear()

    def _watch(self, flight: Flight) -> None:
        """Have it looked at when it is late."""
        model = flight.lane.spec.fingerprint
        after = self._after(model)
        if after is None:
            self._unknown.setdefault(model, {})[flight] = None
        else:
            heapq.heappush(self._due, (flight.sent + after, next(self._order), flight))
            self._set()

    def _after(self, model: str) -> float | None:
        """Seconds after which a request of a model is late enough; None where nobody knows."""
        after = self._lateness.after(model, self._clock())
        return None if after is None else after * self._budget.patience

    def _set(self) -> None:
        """Have the timer go off when the first envelope that is not over will be late."""
        while self._due and not self._due[0][2].handles:
            heapq.heappop(self._due)
        if not self._due:
            return
        first = self._due[0][0]
        if self._timer is not None:
            if self._at <= first:
                return
            self._timer.cancel()
        self._at = first
        self._timer = self._loop.call_later(max(0.0, first - self._clock()), self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = self._clock()
        again: list[Flight] = []
        while self._due and self._due[0][0] <= now:
            flight = heapq.heappop(self._due)[2]
            after = self._after(flight.lane.spec.fingerprint)
            if after is None or now < flight.sent + after:
                again.append(flight)  # more is known by now than when it left
            else:
                self._short.extend((flight, handle) for handle in flight.handles if _fits(flight, handle))
        for flight in again:
            if flight.handles:
                self._watch(flight)
        self._afford()
        self._set()

    def _afford(self) -> None:
        """Send what is late a second time, for as long as the budget lasts: who was late first goes first."""
        while self._short:
            flight, handle = self._short[0]
            if _fits(flight, handle):
                if not self._budget.spend(max(1, handle._rows)):
                    break
                self._hedge(flight, handle)
            self._short.popleft()
        if len(self._short) >= self._sweep_at:
            # those that are over would keep their answers
            self._short = deque(late for late in self._short if _fits(*late))
            self._sweep_at = max(SWEEP, 2 * len(self._short))

    # -- there ------------------------------------------------------------------------------------

    def _hedge(self, flight: Flight, handle: Handle) -> None:
        """Queue the second try of a request, with those that are to keep away from the same node."""
        old, hedged = flight.lane, handle._hedged
        assert hedged is not None and old.pool is not None
        # where it merely waits, only the scheduler knows the node: it goes by the name of the envelope
        apart = flight.key if flight.node == "?" else flight.node
        key = (
            (old.spec.fingerprint, old.spec.id, frozen(old.parameters), old.strategy, old.priority),
            (id(old.validator), old.exclude, old.alone, old.pool.name, apart),
        )
        lane = self._lanes.get(key)
        if lane is None or lane.refused is not None:
            self._lanes = {key: lane for key, lane in self._lanes.items() if lane.pending}
            lane = self._lanes[key] = Lane(
                old.spec,
                old.parameters,
                old.strategy,
                old.priority,
                old.validator,
                old.exclude,
                pool=old.pool,
                alone=old.alone,
                code=old.code,
                apart=apart,
            )
        hedged.second = SecondTry(handle, lane)
        lane.pending.append(hedged.second)
        old.pool.lanes.add(lane)
        self._wake()

    # -- and back -----------------------------------------------------------------------------------

    def answered(self, flight: Flight, handles: Sequence[Handle]) -> list[Handle]:
        """The requests that an envelope with second tries has answers for."""
        found = []
        for handle in handles:
            if isinstance(handle, SecondTry):
                if handle.done():
                    continue  # the first was there before it
                self._win(handle, flight)
                handle = handle.first
            found.append(handle)
        return found

    def _win(self, second: SecondTry, flight: Flight) -> None:
        """A second try was faster: the request has its answer from there, and the first try is given up."""
        first, loser, at = second.first, second.first._flight, second.first._at
        hedged = first._hedged
        assert hedged is not None
        second._final, hedged.second = COMPLETED, None
        second._inputs = second._ahead = None
        hedged.became("the second node answered")
        first._flight, first._at = flight, second._at
        if not first.done():
            self.counts = self.counts._replace(won=self.counts.won + 1)
        if loser is not None:
            if not loser.overtaken:
                loser.overtaken = True
                placed = flight.answers.placement if flight.answers is not None else {}
                node = loser.node if loser.node != "?" else str(placed.get("apart", "?"))
                self.observe(loser, node)
            self._withdraw(loser, at)

    def over(self, handle: Handle) -> None:
        """A request is over, in whatever way: its second try is not wanted any more."""
        if handle._hedged is not None and (second := handle._hedged.second) is not None:
            self.drop(second)

    def refused(self, second: SecondTry) -> None:
        """The scheduler knows no other node than that of the first try: this one has gone nowhere."""
        if second._final is None:
            self.drop(second, outcome="no other node could do it")
            self._budget.refund(max(1, second._rows))
            self.counts = self.counts._replace(sent=self.counts.sent - 1)

    def drop(self, second: SecondTry, node: str = "?", outcome: str = "") -> None:
        """A second try is not wanted any more, or has failed on a node; whatever the first does goes on."""
        if second._final is not None:
            return
        second._final = CANCELLED
        second._inputs = second._ahead = None
        hedged = second.first._hedged
        assert hedged is not None
        hedged.second = None
        if node != "?":
            hedged.failed |= {node}
        if outcome:
            hedged.became(outcome)
        if second._flight is None:
            self._budget.refund(max(1, second._rows))  # it waited for a place, and takes none now
        else:
            self._withdraw(second._flight, second._at)

    def take_over(self, handle: Handle, node: str) -> bool:
        """The first try has failed: the request goes on as its second; False where that has not left."""
        hedged = handle._hedged
        second = hedged.second if hedged is not None else None
        if hedged is None or second is None:
            return False
        if second._flight is None:
            self.drop(second)
            return False
        flight = second._flight
        flight.handles[second._at] = handle
        second._final, hedged.second = CANCELLED, None
        second._inputs = second._ahead = None
        hedged.failed |= {node} - {"?"}
        hedged.became("the first node failed")
        handle._flight, handle._at, handle._sent, handle._lane = flight, second._at, second._sent, flight.lane
        return True

    def forget(self, handles: Iterable[Handle]) -> None:
        """Everything ends: those of these that are second tries count no more, and nobody is told."""
        for handle in handles:
            if isinstance(handle, SecondTry) and handle._final is None:
                handle._final = CANCELLED
                if handle.first._hedged is not None:
                    handle.first._hedged.second = None


def _fits(flight: Flight, handle: Handle) -> bool:
    """Whether a request that is late in this envelope may be sent twice."""
    lane = flight.lane
    return (
        handle._hedged is not None
        and handle._final is None
        and handle._flight is flight
        and handle._hedged.second is None
        # what may kill a worker is not given to two of them
        and not (handle._deaths or handle._moves or lane.solo or lane.once)
        and lane.refused is None
    )
