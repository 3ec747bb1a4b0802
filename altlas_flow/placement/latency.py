"""How long a row of one model takes on one node, as last seen."""

from __future__ import annotations

from collections import deque

#: Weight of a new observation. Three in a row make up two thirds of the mean.
WEIGHT = 0.3
#: Seconds of silence after which a mean is believed half.
HALF_LIFE = 30.0
#: Halvings after which it is not believed any less.
HALVINGS = 6


class Latency:
    """Exponentially weighted mean of the seconds that one row takes.

    The first observations are averaged plainly, so that the very first does not weigh more than
    those that follow it. Bad where rows differ much in size: it knows rows, not tokens.

    Attributes
    ----------
    mean : float
        Seconds per row; 0 before the first observation.
    at : float
        Time of the last observation, seconds.
    count : int
        Observations so far.
    """

    __slots__ = ("at", "count", "mean")

    def __init__(self) -> None:
        self.mean, self.at, self.count = 0.0, 0.0, 0

    def __repr__(self) -> str:
        return f"Latency(mean={self.mean:.3g}, at={self.at:.1f}, count={self.count})"

    def observe(self, seconds_per_row: float, now: float) -> None:
        """Learn that rows took `seconds_per_row` each, at time `now` (seconds)."""
        self.count += 1
        self.mean += max(WEIGHT, 1.0 / self.count) * (max(seconds_per_row, 0.0) - self.mean)
        self.at = max(self.at, now) if self.count > 1 else now

    def expect(self, now: float) -> float:
        """Seconds per row to reckon with at time `now`.

        The mean, halved for every 30 s without an observation, and never below a 64th of it: a node
        that was slow once and is left alone for that gets its next try.
        """
        age = now - self.at
        if age <= 0.0:
            return self.mean
        halvings = age / HALF_LIFE
        return self.mean * 0.5 ** (halvings if halvings < HALVINGS else HALVINGS)


#: Observations that quantiles are taken of: the latest ones.
KEPT = 512


class Times:
    """How long requests of a model were on a node: all of them counted, the latest ones kept.

    Attributes
    ----------
    count : int
        Requests.
    """

    __slots__ = ("_latest", "_sum", "count")

    def __init__(self) -> None:
        self.count, self._sum = 0, 0.0
        self._latest: deque[float] = deque(maxlen=KEPT)

    def observe(self, seconds: float, requests: int = 1) -> None:
        """So many requests took so long, together."""
        self.count += requests
        self._sum += seconds * requests
        self._latest.append(seconds)

    @property
    def mean(self) -> float:
        """Seconds, of all requests; 0 where there are none."""
        return self._sum / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """Seconds within which that share of the latest were answered; 0 where there are none."""
        if not self._latest:
            return 0.0
        ordered = sorted(self._latest)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
