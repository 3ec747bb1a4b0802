"""The batch budget: how much goes into one batch, found on the real stream.

A pure decider in the ask / tell manner: it is told what batches took and says how large the next
one shall be. It holds no clock and runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class BudgetSearch:
    """Climb from a start by duels between neighbouring sizes; keep the best throughput.

    Two neighbouring budgets take turns (A B B A A B), so that a stream that drifts, as one sorted
    by length does, favours neither. The larger one must win by `gain`, since a smaller batch lets
    others in sooner; the smaller one only has to hold its own.

    Parameters
    ----------
    start, smallest, largest : int
        Budgets, in tokens (padding included) or rows.
    factor : int
        Between neighbouring budgets.
    gain : float
        Ratio by which a larger budget must be faster.
    rounds : int
        Full batches measured of each contestant of a duel.
    longest_s : float
        Seconds; a budget whose batches take longer is not enlarged.
    shortest_s : float
        Seconds; a budget whose batches take less is enlarged without a duel: handing out a batch
        costs some tens of microseconds, which no rate of batches shows.
    """

    start: int
    smallest: int
    largest: int
    factor: int = 2
    gain: float = 1.03
    rounds: int = 3
    longest_s: float = 1.0
    shortest_s: float = 0.003
    value: int = field(init=False)
    challenger: int | None = field(init=False, default=None)
    _seen: dict[int, list[tuple[float, float]]] = field(init=False, default_factory=dict)
    _tried: set[int] = field(init=False, default_factory=set)
    _warm: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.value = min(max(self.start, self.smallest), self.largest)
        self._tried.add(self.value)
        self._challenge(self.value * self.factor)

    @property
    def settled(self) -> bool:
        """Whether the search is over."""
        return self.challenger is None

    def ask(self) -> int:
        """Budget for the next batch."""
        if self.challenger is None:
            return self.value
        mine, its = len(self._seen.get(self.value, ())), len(self._seen.get(self.challenger, ()))
        if mine == its:
            # A B, then B A: whoever had the later place goes first in the next round
            return self.value if mine % 2 == 0 else self.challenger
        return self.value if mine < its else self.challenger

    def tell(self, budget: int, cost: float, seconds: float) -> None:
        """Learn that a full batch of `budget` did `cost` (rows or real tokens) in `seconds`."""
        if self.challenger is None or budget not in (self.value, self.challenger):
            return
        if not self._warm:  # the first batch pays for lazy initialisation
            self._warm = True
            return
        if seconds < self.shortest_s and budget * self.factor <= self.largest:
            self._seen.clear()
            self.value = max(self.value, budget * self.factor)
            self._tried.add(self.value)
            self._challenge(self.value * self.factor)
            return
        self._seen.setdefault(budget, []).append((cost, max(seconds, 1e-9)))
        mine, its = self._seen.get(self.value, []), self._seen.get(self.challenger, [])
        if min(len(mine), len(its)) >= self.rounds:
            self._judge(mine, its)

    def shrink(self, budget: int) -> None:
        """Learn that a batch of `budget` ran out of memory: it is never tried again."""
        self.largest = max(self.smallest, min(self.largest, budget // 2))
        self.value = min(self.value, self.largest)
        if self.challenger is not None and self.challenger > self.largest:
            self.challenger = None

    def _judge(self, mine: list[tuple[float, float]], its: list[tuple[float, float]]) -> None:
        challenger = self.challenger
        assert challenger is not None
        ratio = _rate(its) / _rate(mine)
        larger = challenger > self.value
        won = ratio > self.gain if larger else ratio >= 1.0
        seconds = sum(second for _, second in its) / len(its)
        self._seen.clear()
        if won:
            self.value = challenger
            self._challenge(challenger * self.factor if larger else challenger // self.factor, seconds)
        elif larger:
            self._challenge(self.value // self.factor)
        else:
            self.challenger = None

    def _challenge(self, budget: int, seconds: float = 0.0) -> None:
        """Set the next duel, unless that budget is out of bounds or was tried."""
        too_slow = budget > self.value and seconds > self.longest_s
        fits = self.smallest <= budget <= self.largest
        self.challenger = budget if fits and not too_slow and budget not in self._tried else None
        if self.challenger is not None:
            self._tried.add(budget)


def _rate(samples: list[tuple[float, float]]) -> float:
    return sum(cost for cost, _ in samples) / sum(seconds for _, seconds in samples)
