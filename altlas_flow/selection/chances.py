"""How likely each model is the best one, by quadrature: what draws from the posteriors would choose.

Thompson sampling draws a value for each model and takes the best. Here the chances are computed first,
and the model
is drawn from them: so the propensity that is logged is exact, and what another policy would have got can
be reckoned.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

#: Points that each model adds to the grid, in its own standard deviations, and how far they reach.
POINTS, REACH = 17, 5.0


def chances(means: Floats, deviations: Floats) -> Floats:
    """Chance of each to be the largest, where all are normal and independent.

    Parameters
    ----------
    means, deviations : array, shape (n,)
        Deviations of 0 are taken as very small ones.

    Returns
    -------
    array, shape (n,)
        Sums to 1.
    """
    means = np.asarray(means, dtype=np.float64)
    if len(means) == 1:
        return np.ones(1)
    spread = float(np.max(np.abs(means - means.max()))) + float(np.max(deviations))
    if not np.isfinite(spread):
        return np.full(len(means), 1.0 / len(means))  # nothing can be said: no chance may be NaN
    if spread == 0.0:
        return np.full(len(means), 1.0 / len(means))
    deviations = np.maximum(np.asarray(deviations, dtype=np.float64), 1e-6 * spread)
    # nothing that lies far below the best lower end can be the largest
    floor = float(np.max(means - REACH * deviations))
    reach = means + REACH * deviations
    able = reach >= floor
    result = np.zeros(len(means))
    means, deviations = means[able], deviations[able]
    if len(means) == 1:
        result[able] = 1.0
        return result
    # one grid for all, dense wherever one of them is: a sharp one between broad ones is not missed
    steps = np.linspace(-REACH, REACH, POINTS)
    grid = np.sort((means[:, None] + deviations[:, None] * steps).ravel())
    below = _normal((grid - means[:, None]) / deviations[:, None])  # (n, points)
    logs = np.log(below + 1e-300)
    others = np.exp(logs.sum(axis=0) - logs)  # that none of the others lies above
    mass = (np.diff(below, axis=1) * (others[:, 1:] + others[:, :-1])).sum(axis=1)
    result[able] = mass
    total = float(result.sum())
    return np.asarray(result / total if total > 0 else able / able.sum())


def _normal(z: Floats) -> Floats:
    """The normal distribution function, to 1e-7."""
    # Abramowitz and Stegun 7.1.26 for erfc, which NumPy has not
    x = np.abs(z) / math.sqrt(2.0)
    t = 1.0 / (1.0 + 0.3275911 * x)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    tail = 0.5 * series * np.exp(-(x**2))
    return np.asarray(np.where(z < 0.0, tail, 1.0 - tail))


def floored(shares: Floats, explore: float, allowed: npt.NDArray[np.bool_] | None = None) -> Floats:
    """Chances with a floor: `explore` of all goes to the models in equal parts.

    Parameters
    ----------
    shares : array, shape (n,)
    explore : float
        0 to 1.
    allowed : bool array, shape (n,), optional
        Who takes part in the floor.
    """
    even = np.ones(len(shares)) if allowed is None else np.asarray(allowed, dtype=np.float64)
    if explore <= 0.0 or not even.any():
        return np.asarray(shares)
    return np.asarray((1.0 - explore) * shares + explore * even / even.sum())
