"""Bayesian linear regression, one for each model: what little is known, it uses best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]

#: Precision of the prior of each weight, in rows, for features of variance 1.
RIDGE = 2.0
#: Features at most: the matrices grow with their square.
WIDEST = 128
#: Deviations to which features are limited: one far off must not turn a line.
FAR = 4.0


@dataclass(frozen=True)
class Linear:
    """A normal posterior of the weights of each model.

    Attributes
    ----------
    weights : array, shape (n_arms, n_features + 1)
        The last one is the constant.
    inverse : array, shape (n_arms, n_features + 1, n_features + 1)
        Covariance of the weights in units of the noise's variance.
    noise : array, shape (n_arms,)
        Standard deviation of one outcome.
    middle, scale : array, shape (n_features,)
        Features are taken less the one, over the other.
    """

    weights: Floats
    inverse: Floats
    noise: Floats
    middle: Floats
    scale: Floats

    def predict(self, row: Floats) -> tuple[Floats, Floats]:
        """What is expected of each model, and how sure that is: means, deviations, shape (n_arms,)."""
        x = np.append(np.clip((row - self.middle) / self.scale, -FAR, FAR), 1.0)
        spread = np.sqrt(np.maximum(np.einsum("i,aij,j->a", x, self.inverse, x), 0.0))
        return self.weights @ x, self.noise * spread


def fit(
    rows: Floats, arms: Ints, targets: Floats, n_arms: int, *, ridge: float = RIDGE, standardise: bool = True
) -> Linear:
    """Fit to what was seen.

    Parameters
    ----------
    rows : array, shape (n_rows, n_features)
        Finite.
    arms : int array, shape (n_rows,)
    targets : array, shape (n_rows,)
    n_arms : int
    ridge : float
    standardise : bool
        Take features in their own deviations, and weights as those of what differs from the mean of all;
        else as
        they are, without a constant of their own, as textbooks have it.
    """
    wide = rows.shape[1]
    middle, scale, overall = np.zeros(wide), np.ones(wide), 0.0
    x = np.asarray(rows, dtype=np.float64)
    if standardise:
        middle, scale = x.mean(axis=0), x.std(axis=0)
        scale = np.where(scale > 0, scale, 1.0)
        x, overall = np.clip((x - middle) / scale, -FAR, FAR), float(targets.mean())
    x = np.concatenate([x, np.full((len(x), 1), float(standardise))], axis=1)
    everyone = float(targets.std()) or 1.0
    weights, noise = np.zeros((n_arms, wide + 1)), np.full(n_arms, everyone)
    inverse = np.empty((n_arms, wide + 1, wide + 1))
    for arm in range(n_arms):
        mine, y = x[arms == arm], targets[arms == arm] - overall
        inverse[arm] = np.linalg.inv(mine.T @ mine + ridge * np.eye(wide + 1))
        weights[arm] = inverse[arm] @ (mine.T @ y)
        if len(y):
            # some rows' worth of what all of them vary, since a few are soon met exactly
            wrong = float(((y - mine @ weights[arm]) ** 2).sum())
            noise[arm] = np.sqrt((wrong + 4.0 * everyone**2) / (len(y) + 4.0))
        weights[arm, -1] += overall
    return Linear(weights, inverse, noise, middle, scale)
