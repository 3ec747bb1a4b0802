"""`Decision`: which model answers, with which chance it was chosen, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from html import escape
from typing import Any

from altlas_flow.errors import one_line
from altlas_flow.records.html import cut, rows


class AdvancedModelSelectionStrategy(StrEnum):
    """How a model is chosen; also found by ``"context-aware"`` or ``"context_aware"``."""

    MULTI_OBJECTIVE = "MULTI_OBJECTIVE"
    ADAPTIVE = "ADAPTIVE"
    CONTEXT_AWARE = "CONTEXT_AWARE"
    HYBRID = "HYBRID"
    SPECIALIZED = "SPECIALIZED"

    @classmethod
    def _missing_(cls, value: object) -> AdvancedModelSelectionStrategy | None:
        name = str(value).strip().upper().replace("-", "_")
        return cls.__members__.get(name)


@dataclass(frozen=True)
class Estimate:
    """What was expected of one model.

    Attributes
    ----------
    model : str
    quality, latency, cost : pair of float, optional
        Expected value and its standard error: 0 to 1, seconds, units of cost. None: nothing is known.
    late : float, optional
        Chance to miss the latency that was asked for.
    probability : float
        With which it was chosen.
    excluded : str
        Why it was not to be had; empty: it was.
    """

    model: str
    quality: tuple[float, float] | None
    latency: tuple[float, float] | None
    cost: tuple[float, float] | None
    late: float | None
    probability: float
    excluded: str = ""

    def __str__(self) -> str:
        if self.excluded:
            return f"{self.model}: {self.excluded}"
        said = []
        if self.latency is not None:
            unit, scale = ("ms", 1e3) if self.latency[0] < 1 else ("s", 1.0)
            said.append(f"expected {scale * self.latency[0]:.3g} {unit} ± {scale * self.latency[1]:.2g}")
        if self.quality is not None:
            said.append(f"quality {self.quality[0]:.2f} ± {self.quality[1]:.2f}")
        if self.cost is not None:
            said.append(f"cost {self.cost[0]:.3g}")
        if self.late is not None:
            said.append(f"late with probability {self.late:.2f}")
        known = ", ".join(said) or "nothing is known"
        return f"{self.model}: {known}; chosen with probability {self.probability:.3g}"


@dataclass(frozen=True, repr=False)
class Decision:
    """One choice of a model.

    Attributes
    ----------
    id : str
    task : str
    strategy : AdvancedModelSelectionStrategy
    models : tuple of str
        The first is the one that was drawn, the others follow by what they are worth.
    probabilities : mapping of str to float
        With which each could be drawn; they sum to 1.
    features : mapping
        What was known of the input, a vector left out.
    version : int
        Of what had been learned.
    estimates : tuple of Estimate
        Of all models.
    reasons : tuple of str
    made : float
        Seconds since the epoch.
    """

    id: str
    task: str
    strategy: AdvancedModelSelectionStrategy
    models: tuple[str, ...]
    probabilities: Mapping[str, float]
    features: Mapping[str, Any]
    version: int
    estimates: tuple[Estimate, ...]
    reasons: tuple[str, ...]
    made: float

    @property
    def model(self) -> str:
        """The model that was drawn."""
        return self.models[0]

    @property
    def propensity(self) -> float:
        """The probability with which it was drawn."""
        return self.probabilities[self.model]

    def __str__(self) -> str:
        lines = [f"{self.task}: {self.model} ({self.strategy}, {self.id}, on version {self.version})"]
        lines += [f"  {estimate}" for estimate in self.estimates]
        return "\n".join([*lines, *(f"  {reason}" for reason in self.reasons)])

    def __repr__(self) -> str:
        others = f" of {len(self.estimates)} models" if self.estimates else ""
        return one_line(
            f"<Decision {self.task}: {self.model}{others}, by {self.strategy}, {self.propensity:.3g}>"
        )

    def _repr_html_(self) -> str:
        """A line of each model; everything is escaped."""

        def pair(value: tuple[float, float] | None) -> str:
            return "" if value is None else f"{value[0]:.3g} ± {value[1]:.2g}"

        lines = [
            (
                one.model,
                pair(one.quality),
                pair(one.latency),
                pair(one.cost),
                "" if one.excluded else f"{one.probability:.3g}",
                one.excluded,
            )
            for one in self.estimates
        ]
        columns = ("model", "quality", "latency, s", "cost", "chance", "excluded")
        title = f"{self.task}: {self.model} ({self.strategy}, version {self.version})"
        reasons = "".join(f"<li>{escape(cut(reason))}</li>" for reason in self.reasons)
        return rows(title, columns, lines) + (f"<ul>{reasons}</ul>" if reasons else "")
