"""What is expected of each model by trees: some for each model alone, and some over all of them together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from altlas_flow.selection.forest import Forest, grow

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]

#: Trees of each model, and of all together; and where models are few: more measured a little better, and
#: there they cost little.
OWN, SHARED = 10, 20
FEW, OWN_OF_FEW, SHARED_OF_FEW = 8, 20, 40
#: Rows of a shared tree at most: each sees others.
SAMPLE = 1000
#: Columns by which the shared trees tell models apart, the mean of each not counted.
CODES = 4
#: Splits that are looked at in a node: a part of the features, and some at least.
PART, LOOKED_AT = 0.25, 4


@dataclass(frozen=True)
class Trees:
    """Fitted to the rows that there were.

    Attributes
    ----------
    own, shared : Forest
        The trees of the models, one model's after the other's; and those over all.
    codes : float32 array, shape (n_arms, n_codes)
        What the shared trees know each model by.
    """

    own: Forest
    shared: Forest
    codes: Floats

    def predict(self, row: Floats) -> tuple[Floats, Floats]:
        """What is expected of each model, and how far trees differ: means, deviations, shape (n_arms,)."""
        n = len(self.codes)
        own = self.own.predict(row[None])[0].reshape(n, -1)
        both = np.concatenate([np.repeat(row[None], n, axis=0), self.codes], axis=1, dtype=np.float32)
        shared = self.shared.predict(both)
        means = 0.5 * (own.mean(axis=1) + shared.mean(axis=1))
        return means, np.sqrt(0.5 * (own.var(axis=1) + shared.var(axis=1)))

    def predict_own(self, rows: Floats, arms: Ints) -> Floats:
        """What is expected of one model each, for many rows: means, shape (n_rows,)."""
        each = len(self.own.roots) // len(self.codes)
        own = self.own.predict(rows, arms[:, None] * each + np.arange(each))
        both = np.concatenate([rows, self.codes[arms]], axis=1, dtype=np.float32)
        return np.asarray(0.5 * (own.mean(axis=1) + self.shared.predict(both).mean(axis=1)))


def fit(
    rows: Floats, arms: Ints, targets: Floats, n_arms: int, rng: np.random.Generator, *, heavy: bool = False
) -> Trees:
    """Fit to what was seen.

    Parameters
    ----------
    rows : array, shape (n_rows, n_features)
        Finite.
    arms : int array, shape (n_rows,)
    targets : array, shape (n_rows,)
    n_arms : int
        A model without a row gets those of all, and with them the mean of all.
    rng : Generator
    heavy : bool
        Split by the logarithm of targets, which are not negative: one that is a hundred times the usual
        would decide alone what rows are alike. What is expected of them stays their mean.
    """
    own_trees, shared_trees = (OWN, SHARED) if n_arms > FEW else (OWN_OF_FEW, SHARED_OF_FEW)
    everyone, by = np.arange(len(rows)), _logarithms(targets) if heavy else targets
    samples = []
    for arm in range(n_arms):
        mine = np.flatnonzero(arms == arm)
        mine = mine if len(mine) else everyone
        samples += [rng.choice(mine, len(mine)) for _ in range(own_trees)]
    looked_at = max(LOOKED_AT, round(PART * rows.shape[1]))
    own = grow(rows, targets, samples, rng, by=by, candidates=looked_at)
    means = np.array(
        [targets[arms == arm].mean() if (arms == arm).any() else targets.mean() for arm in range(n_arms)]
    )
    codes = np.concatenate([means[:, None], rng.random((n_arms, CODES))], axis=1)
    # as often as a quarter of the features, or they would hardly ever be asked for
    codes = np.tile(codes, (1, max(1, rows.shape[1] // (4 * codes.shape[1])))).astype(np.float32)
    both = np.concatenate([rows, codes[arms]], axis=1, dtype=np.float32)
    size = min(SAMPLE, len(rows))
    samples = [rng.integers(len(rows), size=size) for _ in range(shared_trees)]
    return Trees(own, grow(both, targets, samples, rng, by=by, candidates=looked_at), codes)


def _logarithms(targets: Floats) -> Floats:
    usual = float(np.median(targets))
    return np.asarray(np.log1p(targets / (usual or float(targets.mean()) or 1.0)))
