"""How long a row of one model takes on one node, as last seen."""

from __future__ import annotations

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
