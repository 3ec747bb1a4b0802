"""The weighted mean of numbers, arrays and probability maps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np

from altlas_flow.aggregation.base import Aggregator, Tally, Verdict
from altlas_flow.aggregation.values import by_row, is_scored, is_scores, kind_of, probabilities, scalar
from altlas_flow.aggregation.weighing import Quality, Weights
from altlas_flow.errors import Uncombinable, names, one_line


def average(
    weights: Weights | None = None, quorum: float | None = None, *, quality: Quality | None = None
) -> Average:
    """The weighted mean of numbers, of arrays of equal shape (embeddings), or of maps of the same labels.

    Weights are taken anew over those who answered, so that they sum to one. Bad where embeddings are of
    different models: equal shapes do not make them of one space.

    Parameters
    ----------
    weights : mapping or sequence of numbers, optional
        By model, or in the order in which they are named; equal by default.
    quorum : int or float, optional
        How many models have to answer: a count, or as a float a share; by default one.
    quality : mapping or callable, optional
        In place of `weights`: what is recorded of a model, a number from 0 up, or None.

    Returns
    -------
    Average
        Its agreement, for maps of labels: the share of weight of the models whose first label is that of
        the mean; over rows, the mean. Of numbers and arrays: None.
    """
    return Average(weights=weights, quorum=quorum, quality=quality)


class Average(Aggregator):
    """See `average`."""

    name = "average"

    def _verdict(self, given: Mapping[str, Any], tally: Tally) -> Verdict:
        return averaged(given, tally.weights, tally.rows)


def averaged(given: Mapping[str, Any], weights: Mapping[str, float], rows: int | None) -> Verdict:
    """The mean of answers, or of each row of theirs.

    Raises
    ------
    Uncombinable
    """
    if rows is None:
        return Verdict(*mean_of(given, weights))
    if all(_is_table(value, rows) for value in given.values()):
        return Verdict(mean_of(given, weights)[0])
    pairs = [mean_of(row, weights) for row in by_row(given, rows)]
    known = [agreement for _, agreement in pairs if agreement is not None]
    return Verdict([value for value, _ in pairs], math.fsum(known) / len(known) if known else None)


def _is_table(value: Any, rows: int) -> bool:
    """Whether it is an array with so many rows of numbers."""
    return isinstance(value, np.ndarray) and value.dtype.kind in "iuf" and value.shape[:1] == (rows,)


def mean_of(given: Mapping[str, Any], weights: Mapping[str, float]) -> tuple[Any, float | None]:
    """The mean of one answer a model, and the agreement."""
    total = math.fsum(weights[model] for model in given)
    shares = {model: weights[model] / total for model in given}
    values = {model: _countable(model, value) for model, value in given.items()}
    first = next(iter(values))
    for model, value in values.items():
        if _shape(value) != _shape(values[first]):
            raise Uncombinable((first, model), f"{_shape(values[first])}, and {_shape(value)}")
    if isinstance(values[first], dict):
        return _mean_map(values, shares)
    if isinstance(values[first], float):
        return math.fsum(shares[model] * value for model, value in values.items()), None
    kind = np.result_type(*values.values())
    mean = sum(shares[model] * value.astype(np.float64) for model, value in values.items())
    return np.asarray(mean).astype(kind if kind.kind == "f" else np.float64), None


def _mean_map(
    values: Mapping[str, dict[Any, float]], shares: Mapping[str, float]
) -> tuple[dict[Any, float], float | None]:
    first = next(iter(values))
    labels = values[first]
    for model, other in values.items():
        if differing := [label for label in (*labels, *other) if (label in labels) != (label in other)]:
            shown = names((repr(label) for label in differing), 3)
            raise Uncombinable((first, model), f"their labels differ: {one_line(shown, 120)}")
    mean = {
        label: math.fsum(shares[model] * value[label] for model, value in values.items()) for label in labels
    }
    if not mean:
        return mean, None
    best = _best(mean, labels)
    agrees = math.fsum(shares[model] for model, value in values.items() if _best(value, labels) == best)
    return mean, min(1.0, agrees)


def _best(shares: Mapping[Any, float], labels: Mapping[Any, Any]) -> Any:
    return max(labels, key=lambda label: shares[label])


def _countable(model: str, value: Any) -> Any:
    """An answer as a float, an array of numbers, or a dict of floats."""
    value = scalar(value)
    if not isinstance(value, bool) and isinstance(value, Real):
        return float(value)
    if is_scored(value):
        raise Uncombinable((model,), "a label with its score has no mean: vote, or have all labels answered")
    if isinstance(value, Mapping) or is_scores(value):
        return probabilities(model, value)
    if isinstance(value, (list, tuple, np.ndarray)):
        try:
            array = np.asarray(value)
        except ValueError:
            raise Uncombinable((model,), f"{kind_of(value)} of rows of unequal length") from None
        if array.dtype.kind in "iuf" and array.size:
            return array
        value = array if array.size and isinstance(value, np.ndarray) else value
    raise Uncombinable((model,), f"{kind_of(value)} has no mean")


def _shape(value: Any) -> str:
    return "a map of labels to numbers" if isinstance(value, dict) else kind_of(value)
