"""What is expected of each model, by several ways of learning.

Means count until there are rows enough for the others; where both numbers and a vector are known of inputs,
trees and likeness count half each. Tried and left out: shares that follow how well each way has foretold
(with heavy tails worse than fixed ones), a share for means beside trees, and for linear regression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from altlas_flow.selection import kernel, means, trees
from altlas_flow.selection.kernel import Kernel
from altlas_flow.selection.means import Means
from altlas_flow.selection.trees import Trees

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]

#: Rows that a way other than means needs.
LEAST = 10
#: Rows that weigh less are left out of them.
FORGOTTEN = 0.25
#: How far trees differ is not by how much they are wrong together: that falls with the outcomes of a model.
#: It is taken as this part of it at most, or as so many standard errors of a mean of those.
BETWEEN_TREES, COUNTED = 0.35, 1.0


@dataclass(frozen=True)
class Blend:
    """One objective: its models' expected values, given an input.

    Attributes
    ----------
    means : Means
    trees : Trees, optional
    kernel : Kernel, optional
    """

    means: Means
    trees: Trees | None
    kernel: Kernel | None

    def expect(
        self, row: Floats, vector: Floats | None, grown: tuple[Floats, Floats] | None = None
    ) -> tuple[Floats, Floats]:
        """Values and deviations, shape (n_arms,).

        Parameters
        ----------
        row : array, shape (n_columns,)
            Without gaps.
        vector : array, shape (wide,), optional
        grown : pair of arrays, optional
            What the trees say, where that is known already.
        """
        ways = []
        if self.trees is not None:
            value, deviation = self.trees.predict(row) if grown is None else grown
            part = np.minimum(BETWEEN_TREES, COUNTED * self.means.deviations / self.means.noise)
            ways.append((value, part * deviation))
        if self.kernel is not None and vector is not None:
            ways.append(self.kernel.predict(vector))
        if not ways:
            return self.means.means, self.means.deviations
        if len(ways) == 1:
            return ways[0]
        (one, its), (other, others) = ways
        return 0.5 * (one + other), np.sqrt(0.5 * (its**2 + others**2))

    def expect_own(self, rows: Floats, vectors: Floats | None, arms: Ints) -> Floats:
        """Values of one model each, for many rows: as `expect` says them, shape (n_rows,).

        Parameters
        ----------
        rows : array, shape (n_rows, n_columns)
            Without gaps.
        vectors : array, shape (n_rows, wide), optional
            NaN in rows without one.
        arms : int array, shape (n_rows,)
        """
        grown = None if self.trees is None else self.trees.predict_own(rows, arms)
        found = self.means.means[arms] if grown is None else grown
        if self.kernel is None or vectors is None:
            return np.asarray(found)
        there = ~np.isnan(vectors[:, 0])
        near = self.kernel.predict_own(vectors[there], arms[there])
        found = np.array(found)
        found[there] = near if grown is None else 0.5 * (grown[there] + near)
        return found


def fit(
    rows: Floats,
    vectors: Floats | None,
    arms: Ints,
    targets: Floats,
    chances: Floats,
    weights: Floats,
    prior: tuple[Floats, Floats],
    rng: np.random.Generator,
    *,
    heavy: bool = False,
    usual: tuple[float, float] | None = None,
    old: Blend | None = None,
) -> Blend:
    """Fit all ways to what was seen; with `old`, only the means, and the rest is that one's.

    Parameters
    ----------
    rows : array, shape (n_rows, n_columns)
        Finite; with `old` they are not looked at.
    vectors : array, shape (n_rows, wide), optional
        NaN in rows without one.
    arms, targets, chances, weights : array, shape (n_rows,)
        Weights are at most 1: what is forgotten weighs little.
    prior : arrays, shape (n_arms,)
        Declared values, and their strength in rows.
    rng : Generator
    heavy : bool
        Targets are not negative, and may have heavy tails: trees split them by their logarithms.
    usual : pair of float, optional
        Mean and noise that such targets usually have.
    """
    plain, n_arms = means.fit(arms, targets, weights, *prior, usual), len(prior[0])
    if old is not None:
        return Blend(plain, old.trees, old.kernel)
    fresh = np.flatnonzero(weights > FORGOTTEN)
    grown = near = None
    if rows.shape[1] and len(fresh) >= LEAST:
        grown = trees.fit(rows[fresh], arms[fresh], targets[fresh], n_arms, rng, heavy=heavy)
    if vectors is not None and vectors.shape[1]:
        there = fresh[~np.isnan(vectors[fresh, 0])]
        if len(there) >= LEAST:
            near = kernel.fit(vectors[there], arms[there], targets[there], chances[there], n_arms)
    return Blend(plain, grown, near)
