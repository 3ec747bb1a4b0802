"""What is expected of each model, by several ways of learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from altlas_flow.selection import kernel, linear, means, trees
from altlas_flow.selection.kernel import Kernel
from altlas_flow.selection.linear import WIDEST, Linear
from altlas_flow.selection.means import Means
from altlas_flow.selection.trees import Trees

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]

#: The ways, in their order.
WAYS = ("means", "linear", "trees", "kernel")
#: Rows that a way other than means needs.
LEAST = 10
#: Rows that weigh less are left out of them.
FORGOTTEN = 0.25
#: Of the deviation between trees: the standard error of the mean of some 25 of them.
BETWEEN_TREES = 0.2


@dataclass(frozen=True)
class Blend:
    """One objective: its models' expected values, given an input.

    Attributes
    ----------
    means : Means
    linear : Linear, optional
    trees : Trees, optional
    kernel : Kernel, optional
    shares : array, shape (4,)
        How much each way is trusted; they sum to 1, and are 0 for what is not there.
    """

    means: Means
    linear: Linear | None
    trees: Trees | None
    kernel: Kernel | None
    shares: Floats

    def each(self, row: Floats, vector: Floats | None) -> tuple[Floats, Floats]:
        """What each way expects: values and deviations, shape (4, n_arms); NaN where it is not there."""
        n = len(self.means.means)
        values, deviations = np.full((len(WAYS), n), np.nan), np.full((len(WAYS), n), np.nan)
        values[0], deviations[0] = self.means.means, self.means.deviations
        if self.linear is not None:
            values[1], deviations[1] = self.linear.predict(row)
        if self.trees is not None:
            values[2], deviations[2] = self.trees.predict(row)
            deviations[2] *= BETWEEN_TREES
        if self.kernel is not None and vector is not None:
            values[3], deviations[3] = self.kernel.predict(vector)
        return values, deviations

    def expect(
        self, row: Floats, vector: Floats | None, grown: tuple[Floats, Floats] | None = None
    ) -> tuple[Floats, Floats]:
        """Values and deviations, shape (n_arms,).

        Parameters
        ----------
        row, vector
            As `each` takes them.
        grown : pair of arrays, optional
            What the trees say, where that is known already.
        """
        if grown is None or (self.kernel is not None and vector is not None) or self.shares[1] > 0.0:
            values, deviations = self.each(row, vector)
            return mixed(values, deviations, self.shares)
        return grown[0], BETWEEN_TREES * grown[1]


def mixed(values: Floats, deviations: Floats, shares: Floats) -> tuple[Floats, Floats]:
    """The mean of several ways by their shares; what is not there has none."""
    there = ~np.isnan(values[:, 0])
    weights = np.where(there, shares, 0.0)
    total = float(weights.sum())
    weights = weights / total if total > 0 else there / there.sum()
    value = np.einsum("w,wa->a", weights[there], values[there])
    return value, np.sqrt(np.einsum("w,wa->a", weights[there], deviations[there] ** 2))


class Trust:
    """How well each way has foretold outcomes before it learned them.

    The shares may follow from squared errors that forget. They do not by now: with heavy tails that
    measured worse than fixed ones, as did a share of means and lines beside trees.
    """

    #: Outcomes after which half of an error is forgotten; how sharply shares follow errors: not at all.
    HALF, SHARPNESS = 300.0, 0.0
    #: What each way has before anything is known; of rows' worth.
    FIRST = np.array([0.0, 0.0, 0.5, 0.5])

    def __init__(self) -> None:
        self.errors, self.mass = np.zeros(len(WAYS)), np.zeros(len(WAYS))

    def add(self, errors: Floats) -> None:
        """Squared errors of outcomes, shape (n_outcomes, 4), NaN for ways that were not there."""
        keep = 0.5 ** (1.0 / self.HALF)
        for error in errors:
            # compared only where all that are there have foretold
            there = ~np.isnan(error)
            self.errors[there] = keep * self.errors[there] + error[there]
            self.mass[there] = keep * self.mass[there] + 1.0

    def shares(self, there: npt.NDArray[np.bool_]) -> Floats:
        """Shares of the ways that are there; they sum to 1."""
        seen = there & (self.mass > 0)
        if not seen.any() or not (self.FIRST * seen).any():
            shares = np.where(there, np.maximum(self.FIRST, 1e-12), 0.0)
            return np.asarray(shares / shares.sum())
        mse = np.where(seen, self.errors / np.maximum(self.mass, 1e-12), np.nan)
        best = float(np.nanmin(mse))
        with np.errstate(invalid="ignore", divide="ignore"):
            worse = np.where(seen, (mse - best) / max(best, 1e-300), 0.0)
        shares = np.where(there, self.FIRST * np.exp(-self.SHARPNESS * self.mass * worse), 0.0)
        return np.asarray(shares / shares.sum())


def fit(
    rows: Floats,
    vectors: Floats | None,
    arms: Ints,
    targets: Floats,
    chances: Floats,
    weights: Floats,
    prior: tuple[Floats, Floats],
    trust: Trust,
    rng: np.random.Generator,
    old: Blend | None = None,
) -> Blend:
    """Fit all ways to what was seen; with `old`, only the means, and the rest is that one's.

    Parameters
    ----------
    rows : array, shape (n_rows, n_columns)
        Finite.
    vectors : array, shape (n_rows, wide), optional
        NaN in rows without one.
    arms, targets, chances, weights : array, shape (n_rows,)
        Weights are at most 1: what is forgotten weighs little.
    prior : arrays, shape (n_arms,)
        Declared values, and their strength in rows.
    trust : Trust
    rng : Generator
    """
    plain, n_arms = means.fit(arms, targets, weights, *prior), len(prior[0])
    if old is not None:
        ways = old.linear, old.trees, old.kernel
    else:
        ways = _fitted(rows, vectors, arms, targets, chances, weights, n_arms, rng)
    there = np.array([True, *(way is not None for way in ways)])
    return Blend(plain, *ways, trust.shares(there))


def _fitted(
    rows: Floats,
    vectors: Floats | None,
    arms: Ints,
    targets: Floats,
    chances: Floats,
    weights: Floats,
    n_arms: int,
    rng: np.random.Generator,
) -> tuple[Linear | None, Trees | None, Kernel | None]:
    """The ways that look at the input."""
    fresh = np.flatnonzero(weights > FORGOTTEN)
    straight = grown = near = None
    if rows.shape[1] and len(fresh) >= LEAST:
        grown = trees.fit(rows[fresh], arms[fresh], targets[fresh], n_arms, rng)
        if rows.shape[1] <= WIDEST:
            straight = linear.fit(rows[fresh], arms[fresh], targets[fresh], n_arms)
    if vectors is not None and vectors.shape[1]:
        there = fresh[~np.isnan(vectors[fresh, 0])]
        if len(there) >= LEAST:
            near = kernel.fit(vectors[there], arms[there], targets[there], chances[there], n_arms)
    return straight, grown, near
