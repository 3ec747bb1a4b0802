"""What has been learned of a task, at one time: what choices are made on. Never changed, only replaced."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from altlas_flow.selection.blend import Blend
from altlas_flow.selection.features import Columns, Known, filled
from altlas_flow.selection.goal import Goal
from altlas_flow.selection.grove import Grove
from altlas_flow.selection.guard import Verdict

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]

#: Chance to fail of a model that was never tried; it counts as one try.
UNKNOWN = 0.1
#: What answers more seldom counts as if it did so often.
SELDOM = 0.02


@dataclass(frozen=True)
class Snapshot:
    """What has been learned.

    Attributes
    ----------
    version : int
    arms : tuple of str
        All models that there ever were, in the order of their coming.
    columns : Columns
    usual : array, shape (n_columns,)
        What stands in for what is not known.
    blends : mapping
        Objective -> what is expected; those of which nothing is known are left out.
    scales : mapping
        ``latency`` and ``cost``: what is usual, in seconds and in units of cost.
    ratios : tuple of arrays
        Of each model the latencies of its latest requests as multiples of what was expected, sorted.
    tries : array, shape (n_arms,)
        How often each has been tried and something came of it.
    failures : array, shape (n_arms,)
        Chance of each to fail, as far as it is known: that of a new one is `UNKNOWN`.
    verdict : Verdict, optional
        Of the guard; None where nothing can be said yet.
    noted : tuple of str
        What people should know: models that have changed.
    aims : tuple of float
        Weights of quality, latency and cost by which the guard has compared.
    """

    version: int
    arms: tuple[str, ...]
    columns: Columns
    usual: Floats
    blends: Mapping[str, Blend]
    scales: Mapping[str, float]
    ratios: tuple[Floats, ...]
    tries: Floats
    failures: Floats
    verdict: Verdict | None = None
    noted: tuple[str, ...] = field(default=())
    aims: tuple[float, ...] = (1.0, 0.0, 0.0)

    def expect(self, features: Known) -> Expected:
        """What is expected of all models for an input."""
        return self.expect_row(filled(self.columns.row(features), self.usual), features.vector)

    def expect_row(self, row: Floats, vector: Floats | None) -> Expected:
        """As `expect`, of a row without gaps."""
        values, deviations = {}, {}
        grown = {} if self._grove is None else dict(zip(self._wooded, self._grove.predict(row), strict=True))
        for objective, blend in self.blends.items():
            values[objective], deviations[objective] = blend.expect(row, vector, grown.get(objective))
            if objective != "quality":
                values[objective] = np.maximum(values[objective], 0.0)
        return expected_of(self, values, deviations)

    @cached_property
    def spread(self) -> Floats:
        """The ratios of all models, sorted."""
        return np.sort(np.concatenate([np.zeros(0), *self.ratios]))

    @cached_property
    def _wooded(self) -> list[str]:
        """The objectives that trees say something of."""
        return [objective for objective, blend in self.blends.items() if blend.trees is not None]

    @cached_property
    def _grove(self) -> Grove | None:
        grown = [trees for name in self._wooded if (trees := self.blends[name].trees) is not None]
        return Grove(grown, len(self.columns)) if grown else None

    def plain(self) -> Expected:
        """As `expect`, whatever the input."""
        values = {name: blend.means.means for name, blend in self.blends.items()}
        return expected_of(
            self, values, {name: blend.means.deviations for name, blend in self.blends.items()}
        )


@dataclass(frozen=True)
class Expected:
    """What is expected of all models for one input: by objective values and deviations, shape (n_arms,).

    Attributes
    ----------
    snapshot : Snapshot
    values, deviations : mapping
        What gives no answer has the quality 0; times and costs are those of one try.
    answered : array, shape (n_arms,), or None
        How often each gives an answer; None: always, as far as is known.
    """

    snapshot: Snapshot
    values: Mapping[str, Floats]
    deviations: Mapping[str, Floats]
    answered: Floats | None = None

    def utility(self, goal: Goal, price: float = 0.0) -> tuple[Floats, Floats]:
        """What each model is worth, more is better, and how sure that is.

        Parameters
        ----------
        goal : Goal
        price : float
            What a unit of cost costs beyond the goal's weight, as a budget that is short makes it.
        """
        n = len(self.snapshot.arms)
        value, variance = np.zeros(n), np.zeros(n)
        for objective, weight in self.weights(goal, price).items():
            # of what fails another one is needed: what an answer takes in all
            tries = 1.0 if self.answered is None or objective == "quality" else self.answered
            value += weight * self.values[objective] / tries
            variance += (weight * self.deviations[objective] / tries) ** 2
        return value, np.sqrt(variance)

    def counted(self, objective: str, got: float, arm: int) -> float:
        """What an answer gave, as `utility` counts it: with how often there is none."""
        if self.answered is None:
            return got
        return got * float(self.answered[arm]) if objective == "quality" else got / float(self.answered[arm])

    def weights(self, goal: Goal, price: float = 0.0) -> dict[str, float]:
        """Weight of a unit of each objective that anything is known of."""
        scales = self.snapshot.scales
        found = {
            "quality": goal.quality,
            "latency": -goal.latency / scales.get("latency", 1.0),
            "cost": -goal.cost / scales.get("cost", 1.0) - price,
        }
        return {name: weight for name, weight in found.items() if weight and name in self.values}

    def late(self, limit: float) -> Floats:
        """Chance of each model to take longer than `limit` seconds; 0.5 where nothing is known.

        By how its latencies were spread around what was expected; all models' count as one of its own.
        """
        chances = np.full(len(self.snapshot.arms), 0.5)
        every = self.snapshot.spread
        if "latency" in self.values and math.isfinite(limit) and len(every):
            for arm, ratios in enumerate(self.snapshot.ratios):
                far = limit / max(float(self.values["latency"][arm]), 1e-12)
                others = (_beyond(every, far) + 0.5) / (len(every) + 1.0)
                chances[arm] = (_beyond(ratios, far) + others) / (len(ratios) + 1.0)
        return chances


def _beyond(ratios: Floats, far: float) -> int:
    return len(ratios) - int(np.searchsorted(ratios, far, side="right"))


def expected_of(snapshot: Snapshot, values: dict[str, Floats], deviations: dict[str, Floats]) -> Expected:
    """What is expected, where some of it fails.

    Parameters
    ----------
    snapshot : Snapshot
    values, deviations : dict
        ``failed`` is taken out: where nobody has said how good answers are, each counts as 1.
    """
    if "failed" not in values:
        return Expected(snapshot, values, deviations)
    answered = np.clip(1.0 - values.pop("failed"), SELDOM, 1.0)
    error = deviations.pop("failed")
    quality = values.get("quality", np.ones(len(answered)))
    own = deviations.get("quality", np.zeros(len(answered)))
    values["quality"] = quality * answered
    deviations["quality"] = np.hypot(own * answered, quality * error)
    return Expected(snapshot, values, deviations, answered)
