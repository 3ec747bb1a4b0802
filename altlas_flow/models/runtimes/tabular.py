"""Rows of numbers, records or texts, as estimators of scikit-learn take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from altlas_flow.errors import AltlasError, InputError, names
from altlas_flow.models.runtimes.base import Prepared
from altlas_flow.models.runtimes.common import as_list, is_null, null_fault


class Features:
    """What a fitted estimator takes as a row.

    Parameters
    ----------
    model : estimator
        Its ``feature_names_in_`` and ``n_features_in_`` say what it was fitted with; one that begins with a
        vectoriser takes texts.
    """

    def __init__(self, model: Any) -> None:
        columns = getattr(model, "feature_names_in_", None)
        self.columns = None if columns is None else [str(name) for name in columns]
        self.count: int | None = getattr(model, "n_features_in_", None)
        self.texts = hasattr(_first(model), "build_analyzer")

    def prepare(self, rows: Any) -> Prepared:
        """Rows, each checked by itself."""
        items: list[Any] = list(rows if isinstance(rows, np.ndarray) else as_list(rows))
        faults: dict[int, Exception] = {}
        for at, row in enumerate(items):
            try:
                items[at] = self._row(row)
            except AltlasError as error:
                faults[at] = error
        return Prepared(items, faults=faults)

    def stack(self, items: Sequence[Any]) -> Any:
        """A batch as the model takes it: texts, a frame with the columns that it knows, or a matrix."""
        if self.texts:
            return list(items)
        if self.columns is None:
            return np.stack(items)
        import pandas as pd

        if all(isinstance(item, np.ndarray) for item in items):
            return pd.DataFrame(np.stack(items), columns=self.columns)
        rows = [list(item.values()) if isinstance(item, dict) else item.tolist() for item in items]
        return pd.DataFrame(rows, columns=self.columns)

    def _row(self, row: Any) -> Any:
        if is_null(row):
            raise null_fault()
        if self.texts:
            return _text(row)
        if isinstance(row, Mapping):
            return self._record(row)
        return _numbers(row, self.count)

    def _record(self, row: Mapping[str, Any]) -> Any:
        if self.columns is None:
            # fitted without names: the columns come in the order in which they were asked for
            return _numbers(list(row.values()), self.count)
        missing = [name for name in self.columns if name not in row]
        if missing:
            raise InputError(
                f"the input has no {names([repr(name) for name in missing], 5)}: give all columns"
            )
        return {name: row[name] for name in self.columns}


def _first(model: Any) -> Any:
    """The first step of a pipeline, however nested."""
    while isinstance(steps := getattr(model, "steps", None), list) and steps:
        model = steps[0][1]
    return model


def _text(row: Any) -> str:
    if isinstance(row, Mapping):
        parts = [value for value in row.values() if not is_null(value)]
        if not parts:
            raise null_fault()
        return "\n".join(_text(part) for part in parts)
    if not isinstance(row, str):
        raise InputError(f"the input is a {type(row).__name__}, and the model takes texts")
    return row


def _numbers(row: Any, count: int | None) -> np.ndarray:
    """One row of a matrix."""
    try:
        array = np.asarray(row)
        if array.dtype.kind == "O" and isinstance(row, (list, tuple)):
            # a missing number is NaN; whether that will do is the model's to say
            array = np.array([np.nan if value is None else value for value in row])
    except ValueError:
        raise InputError("the input has entries of different lengths, not one row of numbers") from None
    if array.dtype.kind not in "biuf":
        raise InputError(f"the input is a {type(row).__name__}, not numbers")
    if array.ndim == 0:
        if count is not None and count != 1:
            raise InputError(
                f"the input is one number, and the model takes {count} in a row: one row is one input: wrap "
                "it in a list of rows, or give an array"
            )
        array = array.reshape(1)
    if count is not None and array.ndim == 2 and array.shape[1] == count:
        raise InputError(
            f"the input has shape {array.shape}, which is {len(array)} rows: several rows are a list: list(x)"
        )
    if count is not None and array.shape != (count,):
        raise InputError(f"the input has shape {array.shape}, and the model takes {count} numbers in a row")
    return array
