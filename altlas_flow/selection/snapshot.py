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
        return Expected(self, values, deviations)

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
        return Expected(self, values, {name: blend.means.deviations for name, blend in self.blends.items()})


@dataclass(frozen=True)
class Expected:
    """What is expected of all models for one input: by objective values and deviations, shape (n_arms,)."""

    snapshot: Snapshot
    values: Mapping[str, Floats]
    deviations: Mapping[str, Floats]

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
            value += weight * self.values[objective]
            variance += (weight * self.deviations[objective]) ** 2
        return value, np.sqrt(variance)

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
        """Chance of each model to take longer than `limit` seconds; 0.5 where nothing is known."""
        chances = np.full(len(self.snapshot.arms), 0.5)
        if "latency" in self.values and math.isfinite(limit):
            for arm, ratios in enumerate(self.snapshot.ratios):
                if len(ratios):
                    expected = max(float(self.values["latency"][arm]), 1e-12)
                    longer = len(ratios) - int(np.searchsorted(ratios, limit / expected, side="right"))
                    chances[arm] = (longer + 0.5) / (len(ratios) + 1.0)
        return chances
