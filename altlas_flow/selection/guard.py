"""Whether the learner has been shown to beat the best single model: a doubly robust comparison.

What was expected of all models before an outcome was seen stands in for what was not tried, and what was seen
corrects it, weighed by how unlikely it was. So the comparison is right where either of the two is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]

#: What an unlikely choice counts for at most.
HEAVIEST = 20.0
#: Standard errors by which the learner has to be ahead to be trusted, and behind to lose that again.
AHEAD, BEHIND = 0.0, -1.0


@dataclass(frozen=True)
class Verdict:
    """Attributes
    ----------
    best : int
        The best single model.
    gain, error : float
        What the learner gets beyond it for each decision, and the standard error of that.
    trusted : bool
    """

    best: int
    gain: float
    error: float
    trusted: bool


def judge(
    expected: Floats, wished: Floats, arms: Ints, chances: Floats, got: Floats, trusted: bool, now: Floats
) -> Verdict:
    """Compare the learner with the best single model.

    Parameters
    ----------
    expected : array, shape (n_rows, n_arms)
        The utility that was expected of each model, before the outcome was learned.
    wished : array, shape (n_rows, n_arms)
        The chances with which the learner alone would have chosen.
    arms : int array, shape (n_rows,)
        What was chosen,
    chances : array, shape (n_rows,)
        with which chance,
    got : array, shape (n_rows,)
        and the utility that came of it.
    trusted : bool
        The verdict before.
    now : array, shape (n_arms,)
        What is expected of each model by now, over all inputs: says which is the best single one. Means
        of what was
        seen do not, where a model was only asked what it is good at.
    """
    n, at = len(arms), np.arange(len(arms))
    heavy = np.minimum(1.0 / np.maximum(chances, 1e-9), HEAVIEST)
    corrected = expected.copy()
    corrected[at, arms] += heavy * (got - expected[at, arms])
    best = int(np.argmax(now))
    ahead = (wished * corrected).sum(axis=1) - corrected[:, best]
    gain = float(ahead.mean())
    error = float(ahead.std() / np.sqrt(n)) if n > 1 else float("inf")
    limit = BEHIND if trusted else AHEAD
    return Verdict(best, gain, error, gain > limit * error)
