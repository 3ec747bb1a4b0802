"""One pass of a policy over a stream of recorded outcomes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from altlas_flow import Selector
from altlas_flow.selection.learner import Arm
from benchmarks._outcomes import Stream


class Policy(Protocol):
    """Chooses, and is told what came of it."""

    def choose(self, context: dict[str, Any]) -> int:
        """The number of a choice."""

    def learn(self, context: dict[str, Any], choice: int, outcome: float) -> None:
        """What came of it."""


@dataclass
class Passed:
    """What one pass took: seconds of each decision and of each update; and the scores of the selector's."""

    decisions: list[float] = field(default_factory=list)
    updates: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


class Ours:
    """The selector, as it comes.

    Parameters
    ----------
    choices : sequence of str
    seed : int
    objective : str
        ``latency`` for costs to minimise, ``quality`` for what is right or wrong.
    ceiling : float, optional
        Mean cost at most, where the choices cost 0, 1, 2, ...
    strategy : str
    """

    def __init__(
        self, choices: Any, seed: int, objective: str, ceiling: float | None = None, strategy: str = "HYBRID"
    ) -> None:
        self.objective, self.ceiling = objective, ceiling
        arms = [Arm(name, cost=None if ceiling is None else float(at)) for at, name in enumerate(choices)]
        self.selector = Selector(
            arms,
            weights={objective: 1.0},
            constraints={} if ceiling is None else {"cost": ceiling},
            strategy=strategy,
            seed=seed,
        )
        self.at = {name: at for at, name in enumerate(choices)}
        self.decision: Any = None

    def choose(self, context: dict[str, Any]) -> int:
        self.decision = self.selector.ask(context)
        return self.at[self.decision.model]

    def learn(self, context: dict[str, Any], choice: int, outcome: float) -> None:
        told = {self.objective: outcome}
        if self.ceiling is not None:
            told["cost"] = float(choice)
        self.selector.tell(self.decision, **told)

    def score(self) -> float:
        """How much better the last choice is expected to be than the first, for the decision just made."""
        first, *_, last = self.decision.estimates
        return 0.0 if first.quality is None or last.quality is None else last.quality[0] - first.quality[0]


def run(stream: Stream, policy: Policy) -> Passed:
    """Give a policy every instance once."""
    passed = Passed()
    scored = isinstance(policy, Ours) and policy.objective == "quality"
    for number, context in stream.contexts():
        began = time.perf_counter()
        choice = policy.choose(context)
        chosen = time.perf_counter()
        if scored:
            passed.scores.append(policy.score())  # type: ignore[attr-defined]
        outcome = stream.outcome(number, choice)
        told = time.perf_counter()
        policy.learn(context, choice, outcome)
        passed.updates.append(time.perf_counter() - told)
        passed.decisions.append(chosen - began)
    return passed


class Plain:
    """Contexts as plain rows, for learners that want numbers: standardised by what was seen so far."""

    def __init__(self) -> None:
        self.n, self.sums, self.squares = 0, None, None

    def row(self, context: dict[str, Any]) -> Any:
        """A row; what is not known is the mean."""
        values = [np.atleast_1d(np.nan if value is None else value) for value in context.values()]
        row = np.concatenate(values).astype(float) if values else np.zeros(1)
        if self.sums is None:
            self.sums, self.squares = np.zeros(len(row)), np.zeros(len(row))
        mean = self.sums / max(self.n, 1)
        row = np.where(np.isnan(row), mean, row)
        self.n += 1
        self.sums += row
        self.squares += row**2
        mean = self.sums / self.n
        deviation = np.sqrt(np.maximum(self.squares / self.n - mean**2, 1e-12))
        return np.clip((row - mean) / deviation, -5, 5)
