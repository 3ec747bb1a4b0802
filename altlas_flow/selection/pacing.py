"""Keeps what was promised over many requests: a mean cost, and a share of late ones."""

from __future__ import annotations

import math


class Budget:
    """A ceiling of the mean cost: a price of cost that rises while too much is spent, and a brake.

    Parameters
    ----------
    limit : float
        Mean cost of a request at most.
    step : float
        How fast the price follows, in its own scale.

    Notes
    -----
    The price is the dual variable of the constraint, followed by subgradient steps (Balseiro, Lu,
    Mirrokni, 2020);
    they are multiplied by what quality may be bought for, so that units do not matter.
    """

    #: What may be overspent in all, as a part of what was allowed so far, and in requests at the begin.
    SLACK, START = 0.005, 1.0

    def __init__(self, limit: float, step: float = 0.05) -> None:
        self.limit, self.step = limit, step
        self.price, self.spent, self.count = 0.0, 0.0, 0

    @property
    def bounded(self) -> bool:
        """Whether there is a limit."""
        return math.isfinite(self.limit)

    def room(self) -> float:
        """What the next request may cost at most."""
        allowed = self.limit * ((self.count + 1) * (1.0 + self.SLACK) + self.START)
        return allowed - self.spent if self.bounded else math.inf

    def chosen(self, cost: float, exchange: float) -> None:
        """A request was given to a model that costs so much.

        Parameters
        ----------
        cost : float
            As expected.
        exchange : float
            Utility that a unit of cost may buy, such as the spread of utilities over that of costs.
        """
        self.spent += cost
        self.count += 1
        if self.bounded:
            step = max(self.step, self.count**-0.5)  # large at first: nothing is known of the price
            self.price = max(0.0, self.price + step * exchange * (cost / max(self.limit, 1e-300) - 1.0))

    def corrected(self, expected: float, cost: float) -> None:
        """What it did cost."""
        self.spent += cost - expected


class Promise:
    """A share of requests that may be late: how late a model may be expected to be, so that this holds.

    Parameters
    ----------
    late : float
        The share.
    rate : float
        How fast the allowance follows what happens.

    Notes
    -----
    Adaptive conformal inference (Gibbs, Candès, 2021): the allowance falls by what was late too much,
    whatever the distribution does, so that over many requests the share holds as far as any model can keep
    it.
    """

    #: Part of what may be late that is aimed at: bursts come faster than the allowance follows.
    AIM = 0.8
    #: The allowance at most. It rises while nothing is late, also where that is because nothing is risked:
    #: whoever is more likely late than not is not chosen for that.
    MOST = 0.5

    def __init__(self, late: float, rate: float = 0.02) -> None:
        self.late, self.rate = late, rate
        self.allowed = min(late, self.MOST)
        self.missed, self.count = 0, 0

    def ended(self, was_late: bool) -> None:
        """A request is over."""
        self.missed += was_late
        self.count += 1
        self.allowed = min(self.MOST, max(0.0, self.allowed + self.rate * (self.AIM * self.late - was_late)))
