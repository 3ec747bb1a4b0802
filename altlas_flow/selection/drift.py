"""Notices that a model has changed: what came of it lies beside what was expected, and goes on to."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

#: Outcomes that a side of a change has at least, and those that are looked back at.
LEAST, WINDOW = 6, 400
#: How far the sides have to lie apart: in standard errors, and in deviations of a single outcome. The
#: second is for what looks like a change and is none: a learner that gets better expects better, too.
APART, EFFECT = 5.0, 1.0
#: Deviations to which single outcomes are limited: one of a hundred times the usual is no change.
FAR = 3.0


def change(residuals: Floats, *, least: float = 0.0, bounded: bool = False) -> int | None:
    """Where a series of residuals changed: the index of the first one after; None where it did not.

    Parameters
    ----------
    residuals : array, shape (n,)
        What came less what was expected, in their order.
    least : float
        What is nearer to what was expected is right enough.
    bounded : bool
        Whether single outcomes cannot lie far off: then all count as they are. Of scores that are 0 or 1,
        those that are rare are no outliers, and a few of them in a row are no change.
    """
    skipped = max(0, len(residuals) - WINDOW)
    values = np.asarray(residuals, dtype=np.float64)[skipped:]
    n = len(values)
    aside = 2 * LEAST if bounded else LEAST
    if n < 2 * aside:
        return None
    middle = float(np.median(values))
    # of the smaller differences between neighbours: a change in the middle does not widen it
    spread = float(np.median(np.abs(np.diff(values)))) * 1.05
    if spread == 0.0:
        spread = max(1e-9, 1e-6 * abs(middle), float(np.abs(values - middle).mean()) / 2)
    reach = np.inf if bounded else _reach(values, middle, spread)
    values = np.clip(values, middle - reach, middle + reach)
    before = np.arange(aside, n - aside + 1)
    sums = np.cumsum(values)
    low = sums[before - 1] / before
    high = (sums[-1] - sums[before - 1]) / (n - before)
    spreads = _within(values, before, low, high)
    score = np.abs(high - low) / (spreads * np.sqrt(1.0 / before + 1.0 / (n - before)))
    # a learner that gets better errs less than before: what has changed is wrong now, and was not
    wrong_now = (np.abs(high) > EFFECT * spreads) & (np.abs(high) > 2.0 * np.abs(low))
    wrong_now &= (np.abs(high) > least) & (np.abs(high - low) > least)
    score[~wrong_now | (np.abs(high - low) < EFFECT * spreads)] = 0.0
    best = int(np.argmax(score))
    return skipped + int(before[best]) if score[best] > APART else None


def _reach(values: Floats, middle: float, spread: float) -> float:
    return max(FAR * spread, float(np.quantile(np.abs(values - middle), 0.9)))


def _within(values: Floats, before: Any, low: Floats, high: Floats) -> Floats:
    """Deviation within the two sides, for each place of the cut."""
    n = len(values)
    squares = float(values @ values)
    inside = squares - before * low**2 - (n - before) * high**2
    floor = 1e-9 * max(1.0, float(np.abs(values).max()))
    return np.asarray(np.maximum(np.sqrt(np.maximum(inside, 0.0) / max(n - 2, 1)), floor))
