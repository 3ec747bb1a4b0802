"""MABWiser's policies over the same streams, in the environment of the project.

Its linear policies get what they need to do well: features of mean 0 and deviation 1, a constant one (they
have no intercept), and the decimal logarithm of costs, less its mean. Their parameters are those that closed
most of the gap of five or six tried each: `alpha` 0.1 and 0.5, or 0.1 and 1; `l2_lambda` 1 and 10; features
also shortened.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks._passes import Plain

#: Name -> its learning policy and whether it looks at the context.
POLICIES = ("LinUCB", "LinTS", "Thompson", "epsilon-greedy")
#: Choices by chance before the first fit, for each choice.
FIRST = 2


class Peer:
    """One of MABWiser's bandits; outcomes are costs, and are made rewards from 0 to 1 as they come.

    Parameters
    ----------
    name : str
        One of `POLICIES`.
    choices : sequence of str
    seed : int
    upwards : bool
        Whether more is better.
    """

    def __init__(self, name: str, choices: Sequence[str], seed: int, upwards: bool = False) -> None:
        from mabwiser.mab import MAB, LearningPolicy

        made = {
            "LinUCB": lambda: LearningPolicy.LinUCB(alpha=1.0, l2_lambda=1.0),
            "LinTS": lambda: LearningPolicy.LinTS(alpha=0.1, l2_lambda=1.0),
            "Thompson": lambda: LearningPolicy.ThompsonSampling(binarizer=self._is_good),
            "epsilon-greedy": lambda: LearningPolicy.EpsilonGreedy(epsilon=0.05),
        }
        self.contextual, self.upwards = name in ("LinUCB", "LinTS"), upwards
        self.mab = MAB(list(range(len(choices))), made[name](), seed=seed)
        self.rng, self.n = np.random.default_rng(seed), len(choices)
        self.plain, self.row = Plain(), None
        self.pending: list[tuple[int, float, Any]] = []
        self.fitted, self.mean, self.seen = False, 0.0, []

    def _is_good(self, choice: int, reward: float) -> bool:
        return bool(reward >= (np.median(self.seen) if self.seen else 0.0))

    def choose(self, context: dict[str, Any]) -> int:
        self.row = np.append(self.plain.row(context), 1.0) if self.contextual else None
        if not self.fitted:
            return int(self.rng.integers(self.n))
        return int(self.mab.predict(self.row[None] if self.contextual else None))

    def learn(self, context: dict[str, Any], choice: int, outcome: float) -> None:
        # costs over decades: their logarithm is kinder to what is linear than they are themselves
        reward = outcome if self.upwards else -math.log10(1.0 + max(outcome, 0.0))
        self.seen.append(reward)
        if self.fitted:
            rows = self.row[None] if self.contextual else None
            self.mab.partial_fit([choice], [reward - self.mean], rows)
            return
        self.pending.append((choice, reward, self.row))
        if len(self.pending) >= FIRST * self.n:
            chosen, rewards, rows = zip(*self.pending, strict=True)
            self.mean = float(np.mean(rewards)) if self.contextual else 0.0
            centred = [reward - self.mean for reward in rewards]
            self.mab.fit(list(chosen), centred, np.array(rows) if self.contextual else None)
            self.fitted = True
