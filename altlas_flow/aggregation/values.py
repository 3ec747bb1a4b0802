"""Answers: what kind they are of, and those of a list row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from altlas_flow.errors import Uncombinable, one_line


def kind_of(value: Any) -> str:
    """What an answer is, in words; the same words for what goes together."""
    value = scalar(value)
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "True or False"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, Real):
        return "a number"
    if isinstance(value, np.ndarray):
        return (
            f"an array of shape {value.shape}" if value.dtype.kind in "iuf" else f"an array of {value.dtype}"
        )
    if is_scored(value):
        return "a label with its score"
    if isinstance(value, Mapping):
        return "a mapping"
    return f"a {type(value).__name__}"


def scalar(value: Any) -> Any:
    """A NumPy scalar, or an array that holds just one number, as Python has it."""
    return value.item() if isinstance(value, np.generic) or _is_point(value) else value


def _is_point(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 0


def is_scored(value: Any) -> bool:
    """Whether it is what a classifier answers: one label, and its score."""
    return isinstance(value, Mapping) and "label" in value and "score" in value


def is_scores(value: Any) -> bool:
    """Whether it is what a classifier answers that gives all its labels: a list of labels with scores."""
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(map(is_scored, value))


def by_row(given: Mapping[str, Any], rows: int) -> Iterator[dict[str, Any]]:
    """For each row, what each model answered.

    Raises
    ------
    Uncombinable
        Where one has answered with another number of rows.
    """
    for model, outputs in given.items():
        check_rows(model, outputs, rows)
    for row in range(rows):
        yield {model: outputs[row] for model, outputs in given.items()}


def check_rows(model: str, outputs: Any, rows: int) -> None:
    """See that an answer has as many rows as the question.

    Raises
    ------
    Uncombinable
    """
    listed = isinstance(outputs, Sequence) and not isinstance(outputs, (str, bytes))
    if not listed and not (isinstance(outputs, np.ndarray) and outputs.ndim):
        raise Uncombinable((model,), f"{kind_of(outputs)} for a list of {rows} inputs")
    if len(outputs) != rows:
        raise Uncombinable((model,), f"{len(outputs)} rows for {rows} inputs")


def probabilities(model: str, value: Any) -> dict[Any, float]:
    """Labels with numbers: a mapping, or a list of labels with scores.

    Raises
    ------
    Uncombinable
        Where a number is none.
    """
    pairs = [(one["label"], one["score"]) for one in value] if is_scores(value) else list(value.items())
    found = {}
    for label, share in pairs:
        share = scalar(share)
        if isinstance(share, bool) or not isinstance(share, Real):
            raise Uncombinable((model,), f"{one_line(repr(label), 60)} has {kind_of(share)}, and no number")
        found[label] = float(share)
    return found
