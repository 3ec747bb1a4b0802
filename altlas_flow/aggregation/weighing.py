"""How much each model counts, and how many have to answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

from altlas_flow.errors import BadRequest, one_line

Weights = Mapping[str, float] | Sequence[float]
Quality = Mapping[str, float] | Callable[[str], float | None]

#: Of the best recorded quality, what a model has at least: one that was never right is heard still.
LEAST = 1e-6


def weights_of(weights: Weights | None, quality: Quality | None, models: Sequence[str]) -> dict[str, float]:
    """The weight of each model; the greatest is 1.

    Raises
    ------
    BadRequest
        Where a weight is missing, or is no number above 0.
    """
    given: Any = weights
    if given is None:
        found = dict.fromkeys(models, 1.0) if quality is None else _recorded(quality, models)
    elif isinstance(given, Mapping):
        if lacking := [model for model in models if model not in given]:
            raise BadRequest(f"weights have none for model {lacking[0]!r}: give one for each")
        found = {model: _positive(given[model], model) for model in models}
    elif isinstance(given, str) or not isinstance(given, Sequence) or len(given) != len(models):
        raise BadRequest(
            f"weights={one_line(repr(weights), 60)} are not those of {len(models)} models: give one for "
            "each, by model or in order"
        )
    else:
        found = {model: _positive(weight, model) for model, weight in zip(models, given, strict=True)}
    greatest = max(found.values())
    return {model: weight / greatest for model, weight in found.items()}


def _positive(value: Any, model: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise BadRequest(
            f"the weight of model {model!r} is {one_line(repr(value), 60)}: give a number above 0"
        )
    return float(value)


def _recorded(quality: Quality, models: Sequence[str]) -> dict[str, float]:
    known: dict[str, float] = {}
    for model in models:
        value: Any = quality.get(model) if isinstance(quality, Mapping) else quality(model)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < math.inf:
            shown = one_line(repr(value), 60)
            raise BadRequest(
                f"the quality of model {model!r} is {shown}: give a number of at least 0, or None"
            )
        known[model] = float(value)
    best = max(known.values(), default=0.0)
    if best == 0.0:
        return dict.fromkeys(models, 1.0)  # nothing is recorded that tells them apart
    known = {model: max(value, LEAST * best) for model, value in known.items()}
    mean = math.fsum(known.values()) / len(known)
    return {model: known.get(model, mean) for model in models}


def needed_of(quorum: float | None, count: int | None = None) -> int:
    """How many of so many models have to answer; without `count` only what can be meant is checked.

    Raises
    ------
    BadRequest
    """
    if quorum is None:
        return 1
    given: Any = quorum
    if isinstance(given, int) and not isinstance(given, bool) and given >= 1:
        if count is not None and given > count:
            raise BadRequest(f"quorum={given} of {count} models can never be reached: ask more, or lower it")
        return given
    if isinstance(given, float) and 0 < given <= 1:
        return max(
            1, math.ceil(given * (count or 1) - 1e-9)
        )  # 0.6 of 5 models are 3, whatever floats make of it
    raise BadRequest(
        f"quorum={one_line(repr(quorum), 60)} is none: give a count of at least 1, or as a float a share "
        "above 0 and at most 1"
    )
