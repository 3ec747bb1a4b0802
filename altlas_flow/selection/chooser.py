"""Draws models by what has been learned, and keeps what was promised over many draws."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from altlas_flow.records.decision import AdvancedModelSelectionStrategy, Decision
from altlas_flow.selection.deciding import Terms, decide
from altlas_flow.selection.features import Known
from altlas_flow.selection.goal import Goal
from altlas_flow.selection.pacing import Budget, Promise
from altlas_flow.selection.snapshot import Snapshot
from altlas_flow.selection.wanted import subtype_of

#: Decisions that wait for an outcome.
OPEN = 100_000


class Chooser:
    """Decides for one task, goal and strategy; not for several threads at once.

    Parameters
    ----------
    task : str
    goal : Goal
    strategy : AdvancedModelSelectionStrategy
    explore : float
    rng : numpy.random.Generator
    clock : callable
        Seconds since the epoch.
    """

    def __init__(
        self,
        task: str,
        goal: Goal,
        strategy: AdvancedModelSelectionStrategy,
        explore: float,
        rng: np.random.Generator,
        clock: Callable[[], float],
    ) -> None:
        self.task, self.goal, self.strategy, self.explore = task, goal, strategy, explore
        self._rng, self._clock = rng, clock
        self._budget, self._promise = Budget(goal.cost_limit), Promise(goal.late)
        # id -> its model, what it was expected to cost, and whether its time is known
        self._open: dict[str, tuple[str, float, bool]] = {}

    def choose(
        self,
        snapshot: Snapshot,
        features: Known,
        *,
        top: int = 1,
        id: str | None = None,
        excluded: Mapping[str, str] | None = None,
        specialists: Sequence[str] = (),
    ) -> Decision:
        """Choose a model; `note` says that it is used.

        Parameters
        ----------
        snapshot : Snapshot
        features : Known
        top : int
            Models that are named at most.
        id : str, optional
            Of the decision; by default one by chance.
        excluded : mapping of str to str, optional
            Models that cannot answer: why.
        specialists : sequence of str
            Models that are made for this kind of input.

        Raises
        ------
        NoModelFits
        """
        terms = Terms(
            self.strategy,
            explore=self.explore,
            price=self._budget.price,
            room=self._budget.room(),
            late=self._promise.allowed,
            excluded=excluded,
            specialists=specialists,
            pareto=self.strategy is AdvancedModelSelectionStrategy.MULTI_OBJECTIVE,
            subtype=subtype_of(features) or "",
        )
        if id is None:
            id = f"{self.task}-{os.urandom(16).hex()}"  # of no other, also where their seeds are the same
        return decide(
            snapshot,
            features,
            self.goal,
            terms,
            id=id,
            task=self.task,
            made=self._clock(),
            draw=float(self._rng.random()),
            top=top,
        )

    def ended(self, id: str, *, latency: float | None = None, cost: float | None = None) -> None:
        """What a decision has cost, and how long its request took."""
        if id not in self._open:
            return
        model, expected, timed = self._open[id]
        if cost is not None:
            self._budget.corrected(expected, cost)
            expected = cost
        if latency is not None and not timed:  # said twice it counts once
            self._promise.ended(latency > self.goal.latency_limit)
            timed = True
        self._open[id] = (model, expected, timed)

    def note(self, snapshot: Snapshot, decision: Decision) -> None:
        """A request goes to the model that was chosen: the budget has it."""
        estimates = {estimate.model: estimate for estimate in decision.estimates}
        costs = [estimate.cost[0] for estimate in estimates.values() if estimate.cost is not None]
        cost = estimates[decision.model].cost
        expected = 0.0 if cost is None else cost[0]
        if self._budget.bounded:
            values, _ = snapshot.plain().utility(self.goal)
            apart = max(costs) - min(costs) if costs else 0.0
            exchange = float(values.max() - values.min()) / apart if apart > 0 else 1.0
            self._budget.chosen(expected, max(exchange, 1e-12))
        self._open[decision.id] = (decision.model, expected, False)
        while len(self._open) > OPEN:
            del self._open[next(iter(self._open))]

    def state(self) -> dict[str, Any]:
        """What it keeps, as JSON holds it."""
        budget, promise = self._budget, self._promise
        return {
            "task": self.task,
            "strategy": str(self.strategy),
            "explore": self.explore,
            "rng": self._rng.bit_generator.state,
            "budget": [budget.price, budget.spent, budget.count],
            "promise": [promise.allowed, promise.missed, promise.count],
            "open": [[id, *said] for id, said in self._open.items()],
        }

    @classmethod
    def of(cls, state: Mapping[str, Any], goal: Goal, clock: Callable[[], float]) -> Chooser:
        """One that was kept.

        Raises
        ------
        KeyError, TypeError, ValueError
            Where something is missing.
        """
        rng = np.random.default_rng()
        rng.bit_generator.state = state["rng"]
        strategy = AdvancedModelSelectionStrategy(state["strategy"])
        made = cls(state["task"], goal, strategy, state["explore"], rng, clock)
        budget, promise = made._budget, made._promise
        budget.price, budget.spent, budget.count = state["budget"]
        promise.allowed, promise.missed, promise.count = state["promise"]
        made._open = {id: (model, cost, timed) for id, model, cost, timed in state["open"]}
        return made
