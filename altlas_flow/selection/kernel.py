"""What models did with inputs that lie near: averages weighed by likeness, and a ridge beside them.

For embeddings: hundreds of features of which none says much for itself. Trees, which ask one at a time, learn
nothing there. Tried on graded prompts as well: nearest neighbours (as good, with a border that jumps),
sharper
kernels (a smaller squared error, a worse order of the prompts), logistic regression (no better than the
ridge),
and either part alone (worse than their mean).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]

#: How fast weight falls with likeness, for vectors of length 1.
SHARPNESS = 5.0
#: Precision of the prior of the ridge's weights, in rows.
RIDGE = 100.0
#: Rows' worth of weight that each model's own mean has in an average.
PRIOR = 2.0
#: What is doubted of an average however many rows it is of, in deviations of an outcome: that those that
#: lie near
#: are alike is itself a guess.
DOUBT = 0.2
#: The weight that a row gets for having been unlikely, at most.
RARE = 5.0


@dataclass(frozen=True)
class Kernel:
    """Fitted to the rows that there were.

    Attributes
    ----------
    rows : float32 array, shape (n_rows, wide)
        Of length 1.
    arms : int array, shape (n_rows,)
    targets, weights : float32 array, shape (n_rows,)
    means, spreads : array, shape (n_arms,)
        Of the targets of each.
    slopes : float32 array, shape (n_arms, wide)
        Of the ridge, about `means` and `middle`.
    middle : float32 array, shape (wide,)
    """

    rows: Floats
    arms: Ints
    targets: Floats
    weights: Floats
    means: Floats
    spreads: Floats
    slopes: Floats
    middle: Floats

    def predict(self, row: Floats) -> tuple[Floats, Floats]:
        """What is expected of each model.

        Parameters
        ----------
        row : array, shape (wide,)

        Returns
        -------
        means, deviations : array, shape (n_arms,)
            Deviations are those of the means.
        """
        x = unit(row)
        likeness = self.rows @ x
        near = np.exp(SHARPNESS * (likeness - likeness.max())) * self.weights
        n = len(self.means)
        mass = np.bincount(self.arms, weights=near, minlength=n)
        squares = np.bincount(self.arms, weights=near * near, minlength=n)
        sums = np.bincount(self.arms, weights=near * self.targets, minlength=n)
        with np.errstate(divide="ignore", invalid="ignore"):
            worth = np.where(squares > 0, mass * mass / squares, 0.0)  # rows' worth of what was averaged
            average = np.where(mass > 0, sums / mass, 0.0)
        local = (worth * average + PRIOR * self.means) / (worth + PRIOR)
        straight = self.means + self.slopes @ (x - self.middle)
        return 0.5 * (local + straight), self.spreads * np.sqrt(1.0 / (worth + PRIOR) + DOUBT**2)


def fit(rows: Floats, arms: Ints, targets: Floats, chances: Floats, n_arms: int) -> Kernel:
    """Fit to what was seen.

    Parameters
    ----------
    rows : array, shape (n_rows, wide)
    arms : int array, shape (n_rows,)
    targets : array, shape (n_rows,)
    chances : array, shape (n_rows,)
        With which each row's model was chosen: what a model was seldom asked counts for more, or it would
        be known
        only where it was liked already.
    n_arms : int
    """
    rows = unit(np.asarray(rows, dtype=np.float32))
    counts = np.bincount(arms, minlength=n_arms)
    shares = counts / max(1, len(arms))
    weights = np.clip(shares[arms] / np.maximum(chances, 1e-6), 1.0 / RARE, RARE).astype(np.float32)
    overall = float(targets.mean()) if len(targets) else 0.0
    spread = float(targets.std()) if len(targets) else 1.0
    means, spreads = np.full(n_arms, overall), np.full(n_arms, spread)
    middle = rows.mean(axis=0) if len(rows) else np.zeros(rows.shape[1], dtype=np.float32)
    slopes = np.zeros((n_arms, rows.shape[1]), dtype=np.float32)
    for arm in np.flatnonzero(counts):
        mine = arms == arm
        x, y, w = rows[mine] - middle, targets[mine], weights[mine]
        means[arm] = (float(w @ y) + overall) / (float(w.sum()) + 1.0)
        spreads[arm] = np.sqrt((float(w @ (y - means[arm]) ** 2) + spread**2) / (float(w.sum()) + 1.0))
        weighed = x * w[:, None]
        slopes[arm] = np.linalg.solve(
            weighed.T @ x + RIDGE * np.eye(x.shape[1], dtype=np.float32), weighed.T @ (y - means[arm])
        )
    return Kernel(rows, arms, targets.astype(np.float32), weights, means, spreads, slopes, middle)


def unit(rows: Floats) -> Floats:
    """Of length 1 each; what has none stays."""
    length = np.sqrt((rows * rows).sum(axis=-1, keepdims=True))
    return np.asarray(rows / np.where(length > 0, length, 1.0))
