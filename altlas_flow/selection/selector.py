"""`Selector`: chooses among models and learns from what comes of it, in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from altlas_flow.errors import SelectionError, StateError, UnknownDecision
from altlas_flow.records.decision import AdvancedModelSelectionStrategy, Decision
from altlas_flow.selection import keep
from altlas_flow.selection.chooser import Chooser
from altlas_flow.selection.features import known
from altlas_flow.selection.goal import Goal, goal_of
from altlas_flow.selection.learner import Arm, Learner
from altlas_flow.selection.wanted import EXPLORE, explore_of, strategy_of

#: Outcomes after which the means are taken in, and as a part of what there is; when all is fitted anew says
#: the learner.
EVERY, PART = 8, 100


class Selector:
    """Chooses a model for each input, and learns from what comes of it. Not for several threads at once.

    Parameters
    ----------
    models : sequence of str or Arm
        An `Arm` declares what is expected of its model.
    task : str
        What they do; shown in decisions.
    weights : mapping, optional
        How much ``quality``, ``latency`` and ``cost`` count; the last two in units of what is usual.
    constraints : mapping, optional
        What must hold: ``{"latency_p95": "300ms", "cost_per_1k": 2.0, "quality": 0.8}``.
    strategy : AdvancedModelSelectionStrategy or str
    explore : float
        The least part of decisions that goes to models by chance, so that the others can prove themselves.
    seed : int
    clock : callable
        Seconds since the epoch.

    Raises
    ------
    SelectionError

    Examples
    --------
    >>> from altlas_flow import Selector
    >>> selector = Selector(["small", "large"], weights={"quality": 1.0})
    >>> decision = selector.ask({"length": 120})
    >>> selector.tell(decision, quality=0.8)
    """

    def __init__(
        self,
        models: Sequence[str | Arm],
        *,
        task: str = "task",
        weights: Mapping[str, float] | None = None,
        constraints: Mapping[str, Any] | None = None,
        strategy: AdvancedModelSelectionStrategy | str = AdvancedModelSelectionStrategy.HYBRID,
        explore: float = EXPLORE,
        seed: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        arms = [model if isinstance(model, Arm) else Arm(model) for model in models]
        if not arms:
            raise SelectionError("there are no models to choose from: name one at least")
        if len({arm.id for arm in arms}) < len(arms):
            if isinstance(models, str):
                raise SelectionError(f"models={models!r} is a text: give a list of ids")
            raise SelectionError("a model is named twice: name each once")
        goal = goal_of(weights, constraints)
        self.learner = Learner(goal, seed=seed)
        self.learner.admit(arms)
        rng = np.random.default_rng([seed, 1])
        self._chooser = Chooser(task, goal, strategy_of(strategy), explore_of(explore), rng, clock)
        self._waiting = 0

    @property
    def task(self) -> str:
        """What its models do."""
        return self._chooser.task

    @property
    def strategy(self) -> AdvancedModelSelectionStrategy:
        """How it chooses."""
        return self._chooser.strategy

    @property
    def goal(self) -> Goal:
        """What it aims at."""
        return self._chooser.goal

    def ask(
        self, context: Mapping[str, Any] | None = None, *, able: Sequence[str] | None = None, top: int = 1
    ) -> Decision:
        """Choose a model.

        Parameters
        ----------
        context : mapping, optional
            What is known of the input: numbers, words, and at most one vector.
        able : sequence of str, optional
            The models that can answer now; by default all.
        top : int
            Models that are named at most: the first is the one that was drawn.

        Raises
        ------
        FeatureError, NoModelFits
        """
        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise SelectionError(f"top={top!r}: give a whole number of at least 1")
        if isinstance(able, str):
            raise SelectionError(f"able={able!r} is a text: give a list of ids")
        features = known(context)
        self.learner.columns.check(features)
        out = (
            {}
            if able is None
            else {name: "it is not to be had" for name in self.learner.arms if name not in able}
        )
        decision = self._chooser.choose(self.learner.snapshot, features, top=top, excluded=out)
        self._chooser.note(self.learner.snapshot, decision)
        self.learner.decided(decision.id, decision.model, decision.propensity, features)
        return decision

    def tell(
        self,
        decision: Decision | str,
        *,
        quality: float | None = None,
        latency: float | None = None,
        cost: float | None = None,
        failed: bool | None = None,
    ) -> None:
        """What came of a decision: as much as is known, in any order, late, or twice.

        Parameters
        ----------
        decision : Decision or str
            Or its id.
        quality : float, optional
            0 to 1.
        latency : float, optional
            Seconds.
        cost : float, optional
        failed : bool, optional
            It gave no answer: a quality of 0, and what it took. By default it has answered, where anything
            else is said.

        Raises
        ------
        UnknownDecision
            Where it is not one of the latest decisions of this selector.
        SelectionError
            Where a figure is out of range.
        """
        id = decision.id if isinstance(decision, Decision) else decision
        values = checked(quality, latency, cost, failed)
        if not self.learner.told(id, values):
            raise UnknownDecision(id)
        self._chooser.ended(id, latency=values.get("latency"), cost=values.get("cost"))
        self._waiting += 1
        seen = len(self.learner.seen)
        if self._waiting >= (max(EVERY, seen // PART) if seen > 5 * EVERY else 1):
            self._waiting = 0
            self.learner.learn()

    def save(self, path: str | Path) -> None:
        """Write all that it knows into a file: whole, or not at all.

        Raises
        ------
        OSError
        """
        more = {**self._chooser.state(), "waiting": self._waiting}
        keep.write(Path(path), keep.to_bytes(self.learner, more))

    @classmethod
    def load(cls, path: str | Path, *, clock: Callable[[], float] = time.time) -> Selector:
        """One that was saved: it goes on as if nothing had been between.

        Raises
        ------
        StateError
            Where the file is damaged, of another version, or something else.
        """
        learner, more = keep.from_bytes(keep.read(Path(path)))
        made = cls.__new__(cls)
        try:
            made.learner = learner
            made._chooser = Chooser.of(more, learner.goal, clock)
            made._waiting = more["waiting"]
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"something of it is missing: {error!r}") from error
        return made

    def __repr__(self) -> str:
        snapshot = self.learner.snapshot
        return f"<Selector {self.task!r}: {len(snapshot.arms)} models, {self.learner.seen.total} decisions>"


def checked(
    quality: float | None,
    latency: float | None,
    cost: float | None,
    failed: bool | None,
    called: str = "quality",
) -> dict[str, float]:
    """Figures of an outcome, those that are known; what is said of the quality may be called otherwise.

    Raises
    ------
    SelectionError
    """
    if failed is not None and not isinstance(failed, (bool, np.bool_)):
        raise SelectionError(f"failed={failed!r} is neither True nor False")
    values: dict[str, float] = {} if failed is None else {"failed": float(failed)}
    for name, value, most in (
        ("quality", quality, 1.0),
        ("latency", latency, 1e9),
        ("cost", cost, 1e12),
    ):
        if value is None:
            continue
        if isinstance(value, (bool, np.bool_)):
            value = float(value)
        if not isinstance(value, (int, float, np.floating, np.integer)) or not 0.0 <= value <= most:
            limits = "a number from 0 to 1" if most == 1.0 else f"a number from 0 to {most:g}"
            raise SelectionError(f"{called if name == 'quality' else name}={value!r}: give {limits}")
        values[name] = float(value)
    return values
