"""Hedging: when a request that is not answered yet is worth a second try beside the first. Pure.

A request is late when it has been under way for longer than 95 of 100 take on a healthy node. Then it may be
sent to a second node, and the first answer counts (Dean and Barroso, "The Tail at Scale", 2013).
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from statistics import median_low
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from altlas_flow.cluster.client.second import SecondTry

#: Of the latest times of a node, the share that is not late.
QUANTILE = 0.95
#: Times of a model that are kept of each node: the latest ones.
KEPT = 128
#: Seconds after which a time says nothing any more.
RECENT = 600.0
#: Times that a node has to have before it has a say; and all such nodes together.
ENOUGH, MINIMUM = 5, 20
#: Models, and nodes of each, of which times are kept: those that were seen last.
MODELS, NODES = 64, 64
#: Second tries that can be saved up: after a quiet day, not all requests of a bad minute are sent twice.
SAVED = 100
#: Second tries that are kept for those who need one most: with less than that left, a request has to be
#: later than late, by up to that share. Without it, those that are a little late on healthy nodes, five of a
#: hundred, use all up, and nothing is left when a node becomes slow.
RESERVE, STRETCH = 20, 0.5


class Hedges(NamedTuple):
    """How much was hedged so far, over all flows of one Dask client.

    Attributes
    ----------
    requests : int
        Requests that were sent with ``hedge=True``, each counted once.
    sent : int
        Second tries that left.
    won : int
        Those of them that answered first.
    """

    requests: int = 0
    sent: int = 0
    won: int = 0


class Hedged:
    """On the handle of a request that may be hedged: its second try, and what came of it.

    Attributes
    ----------
    second : SecondTry, optional
        That waits or is under way.
    failed : frozenset of str
        Names of nodes on which one of its tries failed while the other went on.
    counted : bool
        Whether it has been counted as a request.
    """

    __slots__ = ("_after", "_outcome", "counted", "failed", "second")

    def __init__(self) -> None:
        self.second: SecondTry | None = None
        self.failed: frozenset[str] = frozenset()
        self.counted = False
        self._after, self._outcome = 0.0, ""

    def left(self, after: float) -> None:
        """The second try has left, so many seconds after the first."""
        self._after, self._outcome = after, "the first node answered"

    def became(self, outcome: str) -> None:
        """What came of it, in words, where it has left."""
        if self._outcome:
            self._outcome = outcome

    def notes(self) -> list[str]:
        """What the trace says of it; nothing where no second try left."""
        return [f"hedged after {1000 * self._after:.0f} ms; {self._outcome}"] if self._outcome else []


class Times:
    """The latest times of one model on one node."""

    __slots__ = ("_late", "_seen")

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=KEPT)  # when, seconds
        self._late: float | None = None  # the quantile, until something changes

    def __len__(self) -> int:
        return len(self._seen)

    def observe(self, seconds: float, now: float) -> None:
        """Something took so long."""
        self._seen.append((now, seconds))
        self._late = None

    def forget(self, before: float) -> None:
        """Let go of what is older."""
        while self._seen and self._seen[0][0] < before:
            self._seen.popleft()
            self._late = None

    def late(self) -> float:
        """Seconds that 95 of 100 took at most; there has to be something."""
        if self._late is None:
            ordered = sorted(seconds for _, seconds in self._seen)
            self._late = ordered[math.ceil(QUANTILE * (len(ordered) - 1))]
        return self._late


class Lateness:
    """From when on a request of a model is late, as answers have told.

    Each node has a window of its own, and the median over the nodes of what 95 of 100 took there counts:
    so it is what is usual on a healthy node, as long as not more than half of the nodes are slow. Of two,
    the faster one counts. Bad where requests of one model differ much in size: the large ones are always
    late.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, OrderedDict[str, Times]] = OrderedDict()  # by model and node

    def observe(self, model: str, node: str, seconds: float, now: float) -> None:
        """An envelope was answered by that node after so long, or was given up there then.

        What is given up because its second try has answered has to be told, too: else the slow ones would be
        missing, and less and less would count as late.
        """
        nodes = self._known.get(model)
        if nodes is None:
            nodes = self._known[model] = OrderedDict()
            if len(self._known) > MODELS:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(model)
        times = nodes.get(node)
        if times is None:
            times = nodes[node] = Times()
            if len(nodes) > NODES:
                nodes.popitem(last=False)
        else:
            nodes.move_to_end(node)
        times.observe(seconds, now)

    def after(self, model: str, now: float) -> float | None:
        """Seconds after which a request of that model is late; None where too little is known."""
        found: list[float] = []
        total = 0
        for times in self._known.get(model, {}).values():
            times.forget(now - RECENT)
            if len(times) >= ENOUGH:
                found.append(times.late())
                total += len(times)
        return median_low(found) if total >= MINIMUM else None


class Budget:
    """How much may be sent twice: a share of the rows that were sent once.

    Parameters
    ----------
    share : float
        From 0 (nothing is hedged) to 1.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self._left = 0.0  # rows
        self._requests = self._rows = 0

    def earn(self, rows: int) -> None:
        """A request of so many rows was sent."""
        self._requests += 1
        self._rows += rows
        self._left = min(self._left + self.share * rows, self._most)

    def spend(self, rows: int) -> bool:
        """Whether a request of so many rows may be sent once more; then that is counted."""
        if rows > self._left + 1e-9:  # twenty times 0.05 is a little less than 1
            return False
        self._left -= rows
        return True

    def refund(self, rows: int) -> None:
        """It was not sent after all."""
        self._left = min(self._left + rows, self._most)

    @property
    def patience(self) -> float:
        """By how much later than late a request has to be: 1 to 1.5 times, the more the less is left."""
        return 1.0 + STRETCH * max(0.0, 1.0 - self._left / (RESERVE * self._each))

    @property
    def _each(self) -> float:
        """Rows of a request."""
        return max(1.0, self._rows / max(1, self._requests))

    @property
    def _most(self) -> float:
        """Rows that can be saved up."""
        return SAVED * self._each
