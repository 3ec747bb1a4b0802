"""What is wanted of an answer: weights of quality, latency and cost, and what must hold."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from altlas_flow.errors import SelectionError
from altlas_flow.records.request import seconds

#: What weights may be given for.
WEIGHED = ("quality", "latency", "cost")


@dataclass(frozen=True)
class Goal:
    """What a selector aims at.

    Attributes
    ----------
    quality, latency, cost : float
        Weights, not negative; latency and cost count in units of what is usual for the task.
    latency_limit, late : float
        A promise: so many seconds, and the share of requests that may take longer (0.05 of a p95).
    cost_limit : float
        Mean cost of a request at most, in the long run.
    quality_limit : float
        Expected quality of a model at least.

    All limits are infinite, or 0, where nothing was asked for.
    """

    quality: float = 1.0
    latency: float = 0.0
    cost: float = 0.0
    latency_limit: float = math.inf
    late: float = 0.05
    cost_limit: float = math.inf
    quality_limit: float = 0.0
    said: tuple[str, ...] = field(default=(), compare=False)

    @property
    def aims(self) -> tuple[float, ...]:
        """The weights of quality, latency and cost."""
        return self.quality, self.latency, self.cost

    @property
    def constrained(self) -> bool:
        """Whether anything must hold."""
        return math.isfinite(self.latency_limit) or math.isfinite(self.cost_limit) or self.quality_limit > 0.0


def goal_of(weights: Mapping[str, float] | None = None, constraints: Mapping[str, Any] | None = None) -> Goal:
    """Read weights and constraints as people write them.

    Parameters
    ----------
    weights : mapping
        Of ``quality``, ``latency``, ``cost``; what is not named weighs nothing.
    constraints : mapping
        ``latency_p95`` (or another percentile: p50 to p999) as seconds or ``"300ms"``; ``cost``,
        ``cost_per_1k``: mean cost of a request, or of a thousand; ``quality``: at least.

    Raises
    ------
    SelectionError
    """
    given: dict[str, Any] = {}
    if weights is not None:
        given = dict.fromkeys(WEIGHED, 0.0)
        for name, value in _pairs(weights, "weights").items():
            if name not in WEIGHED:
                raise SelectionError(f"weights name {name!r}: give weights of {', '.join(WEIGHED)}")
            given[name] = _number(f"weights[{name!r}]", value, 0.0, math.inf)
        if not any(given.values()):
            raise SelectionError(
                f"weights={dict(weights)!r} weigh nothing: give one of them a number above 0"
            )
    said = []
    for name, value in _pairs(constraints or {}, "constraints").items():
        said.append(f"{name}={value}")
        if name.startswith("latency_p"):
            digits = name.removeprefix("latency_p")
            if not re.fullmatch("[5-9][0-9]{1,3}", digits):
                raise SelectionError(
                    f"constraint {name!r}: name a percentile from p50 to p9999, as latency_p95"
                )
            if "latency_limit" in given:
                raise SelectionError("two percentiles of latency are promised: leave one of them out")
            try:
                given["latency_limit"] = seconds(value)
            except (ValueError, TypeError) as error:
                raise SelectionError(
                    f'constraint {name}={value!r}: {error}: give seconds above 0, or "300ms"'
                ) from error
            given["late"] = 1.0 - float(f"0.{digits}")
        elif name in ("cost", "cost_per_1k"):
            if "cost_limit" in given:
                raise SelectionError("cost and cost_per_1k are the same constraint: leave one of them out")
            limit = _number(name, value, 0.0, math.inf)
            if not limit:
                raise SelectionError(f"{name}={value!r}: give a number above 0, or leave dear models out")
            given["cost_limit"] = limit / (1000.0 if name == "cost_per_1k" else 1.0)
        elif name == "quality":
            given["quality_limit"] = _number(name, value, 0.0, 1.0)
        else:
            raise SelectionError(
                f"constraint {name!r} is not known: there are latency_p95 (or another percentile), cost, "
                "cost_per_1k, quality"
            )
    return Goal(**given, said=tuple(said))


def _pairs(given: Any, what: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise SelectionError(f"{what}={given!r} is no mapping: give names and numbers")
    return dict(given)


def _number(name: str, value: Any, low: float, high: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise SelectionError(f"{name}={value!r} is no number") from error
    if not low <= number <= high or math.isinf(number):
        raise SelectionError(
            f"{name}={value!r}: give a number from {low:g}" + (f" to {high:g}" if high < math.inf else "")
        )
    return number
