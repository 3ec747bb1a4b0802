"""What is expected of each model whatever the input: means that forget, drawn towards that of all models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Means:
    """A normal posterior of the mean of each model.

    Attributes
    ----------
    means, deviations : array, shape (n_arms,)
    noise : float
        Standard deviation of one outcome.
    known : array, shape (n_arms,)
        Outcomes that each model's own are worth, with what was declared of it: what is drawn from other
        models is not among them.
    """

    means: Floats
    deviations: Floats
    noise: float
    known: Floats


#: Outcomes that what is usual counts for, where noise is reckoned: a few that are alike prove nothing.
DOUBTED = 2.0
#: Noise that is usual, as a part of the mean.
USUAL = 0.5


def fit(
    arms: Ints,
    targets: Floats,
    weights: Floats,
    prior: Floats,
    strength: Floats,
    usual: tuple[float, float] | None = None,
) -> Means:
    """Fit to what was seen: empirical Bayes.

    Parameters
    ----------
    arms : int array, shape (n_rows,)
    targets, weights : array, shape (n_rows,)
        Weights are at most 1: what is old counts for less.
    prior : array, shape (n_arms,)
        What was declared of each model; NaN where nothing was: then it starts from the mean of all.
    strength : array, shape (n_arms,)
        In rows: how much a declared prior counts.
    usual : pair of float, optional
        Mean and noise that are usual for such an objective; by default as large as what was seen.

    Notes
    -----
    How far the means of models lie apart is estimated from the means that there are (DerSimonian and Laird,
    1986): where it is little, each says much of the others, and little has to be tried.
    """
    n = len(prior)
    mass = np.bincount(arms, weights=weights, minlength=n)
    sums = np.bincount(arms, weights=weights * targets, minlength=n)
    total = float(mass.sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        averages = np.where(mass > 0, sums / mass, np.nan)
    seen = mass > 0
    overall = (
        float(sums.sum() / total) if total else float(np.nanmean(prior)) if not np.isnan(prior).all() else 0.0
    )
    if usual is not None and total:
        overall = (float(sums.sum()) + usual[0]) / (total + 1.0)
    if total:
        residual = targets - averages[arms]
        expected = USUAL * float(weights @ np.abs(targets)) / total if usual is None else usual[1]
        squares = float(weights @ residual**2) + DOUBTED * expected**2
        noise = float(np.sqrt(squares / (max(total - float(seen.sum()), 0.0) + DOUBTED)))
    else:
        # nothing was seen: what is declared says how large things are
        said = prior[~np.isnan(prior)]
        noise = max(float(said.std()), 0.25 * float(np.abs(said).mean())) if len(said) else 1.0
    size = max(abs(overall), float(np.abs(averages[seen]).max()) if seen.any() else 0.0, noise)
    noise = max(noise, 1e-9 * size, 1e-150)
    # of a single one nothing can be said: they may differ as much as outcomes do, or by half
    apart = _apart(averages[seen], mass[seen], noise) if seen.sum() > 1 else max(noise, 0.5 * size) ** 2
    centre = np.where(np.isnan(prior), overall, prior)
    rows = np.where(np.isnan(prior), noise**2 / apart, np.maximum(strength, 1e-9))  # rows' worth of it
    means = (sums + rows * centre) / (mass + rows)
    known = mass + np.where(np.isnan(prior), 0.0, rows)
    return Means(means, noise / np.sqrt(mass + rows), noise, np.asarray(known, dtype=np.float64))


def _apart(averages: Any, mass: Any, noise: float) -> float:
    """Variance between models beyond what their noise explains."""
    weights = mass / mass.sum()
    centre = float(weights @ averages)
    q = float(mass @ (averages - centre) ** 2) / noise**2
    scale = float(mass.sum() * (1.0 - weights @ weights)) / noise**2
    found = (q - (len(averages) - 1)) / scale if scale > 0 else 0.0
    # never nothing at all: it would never be tried again
    return max(found, 0.01 * noise**2)
