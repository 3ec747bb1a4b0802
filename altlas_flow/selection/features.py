"""What is known of an input, as numbers: the columns of a task, which grow as people name more of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from altlas_flow.errors import FeatureError, SelectionError

Floats = npt.NDArray[np.floating[Any]]

#: Columns of one task, and values of one word, at most: what comes after has no column of its own.
COLUMNS, VALUES = 1024, 64
#: Numbers in a vector at least: shorter lists are meant as features of their own.
VECTOR = 8


#: Numbers in a vector at most; characters of a name or a word; how large a number may be: rows are float32.
WIDEST, NAME_LIMIT, LARGEST = 8192, 400, 1e15


class Known(dict[str, float | str]):
    """The features of one input: numbers and words by name, and maybe one vector.

    Attributes
    ----------
    vector : array, shape (wide,), or None
    """

    vector: Floats | None = None


def known(context: Mapping[str, Any] | None) -> Known:
    """Check a context.

    Parameters
    ----------
    context : mapping
        Names and numbers, truth values, words, or None where it is not known; one may be a vector, such as an
        embedding.

    Raises
    ------
    FeatureError
        For what is none of these, not finite, or a second vector.
    """
    result, vector_name = Known(), ""
    if context is None:
        return result
    if not isinstance(context, Mapping):
        raise FeatureError(f"context={context!r} is no mapping: give names and values")
    if len(context) > COLUMNS:
        raise FeatureError(
            f"the context has {len(context):,} features: give {COLUMNS:,} at most, or a vector"
        )
    for name, value in context.items():
        if not isinstance(name, str) or not name or "=" in name:
            raise FeatureError(f"a feature has the name {name!r}: give a text without '='")
        if len(name) > NAME_LIMIT or (isinstance(value, str) and len(value) > NAME_LIMIT):
            raise FeatureError(
                f"feature {name[:40]!r} is a text of more than {NAME_LIMIT} characters: give a word"
            )
        if value is None:
            continue
        if isinstance(value, str):
            result[name] = value
        elif type(value) is float or isinstance(value, (Real, np.bool_)):
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            if not abs(number) <= LARGEST:
                raise FeatureError(
                    f"feature {name!r} is {value!r}: give a finite number of at most {LARGEST:g}, or None "
                    "where it is not known"
                )
            result[name] = number
        elif isinstance(value, (Sequence, np.ndarray)):
            if vector_name:
                raise FeatureError(
                    f"features {vector_name!r} and {name!r} are both vectors: join them, or leave one out"
                )
            vector_name, result.vector = name, _vector(name, value)
        else:
            raise FeatureError(
                f"feature {name!r} is a {type(value).__name__}: give a number, a word, a vector or None"
            )
    return result


def vector_of(answer: Any, model: Any) -> Floats:
    """The embedding that a model has answered with.

    Raises
    ------
    SelectionError
        Where it is none.
    """
    try:
        vector = np.asarray(answer, dtype=np.float32)
    except (TypeError, ValueError):
        vector = np.zeros(0, dtype=np.float32)
    if vector.ndim not in (1, 2) or not vector.size:
        raise SelectionError(f"embed={str(model)!r:.80} gives no vector of numbers: name a model that embeds")
    return vector


def _vector(name: str, value: Any) -> Floats:
    try:
        vector = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise FeatureError(f"feature {name!r} is no vector of numbers: {error}") from error
    if vector.ndim != 1 or not 0 < len(vector) <= WIDEST:
        raise FeatureError(
            f"feature {name!r} has the shape {vector.shape}: give a vector of at most {WIDEST} numbers"
        )
    if not (np.abs(vector) <= LARGEST).all():
        raise FeatureError(
            f"feature {name!r} holds numbers that are not finite: leave the vector out where it is not known"
        )
    return vector


class Columns:
    """The columns of a task: a number each, and for words one for each value.

    What is unknown is NaN in a row; `filled` puts in its place what is usual.
    """

    def __init__(self, names: Sequence[str] = (), wide: int = 0) -> None:
        self.names = list(names)
        self.wide = wide  # of the vector; 0 where there is none
        self._at: dict[str, int] = {}  # of a number: its column
        self._words: dict[str, dict[str, int]] = {}  # of a word: the column of each of its values
        for index, name in enumerate(self.names):
            self._place(name, index)

    def _place(self, column: str, index: int) -> None:
        name, is_word, value = column.partition("=")
        if is_word:
            self._words.setdefault(name, {})[value] = index
        else:
            self._at[name] = index

    def __len__(self) -> int:
        return len(self.names)

    def learn(self, features: Known) -> None:
        """Make columns for what has none yet.

        Raises
        ------
        FeatureError
            Where a vector has another length than those before.
        """
        if features.vector is not None:
            self.check(features)
            self.wide = len(features.vector)
        for name, value in features.items():
            if isinstance(value, str):
                values = self._words.get(name, {})
                known, column = value in values or len(values) >= VALUES, f"{name}={value}"
            else:
                known, column = name in self._at, name
            if not known and len(self.names) < COLUMNS:
                self._place(column, len(self.names))
                self.names.append(column)

    def check(self, features: Known) -> None:
        """Refuse a vector of another length."""
        if features.vector is not None and self.wide and len(features.vector) != self.wide:
            raise FeatureError(
                f"the vector has {len(features.vector)} numbers, and those before had {self.wide}: "
                "use one model for all embeddings of a task"
            )

    def row(self, features: Known) -> Floats:
        """A row, shape (n_columns,): NaN where unknown; for a word that is known, 0 for its other values."""
        row = np.full(len(self.names), np.nan, dtype=np.float32)
        places, numbers = [], []
        for name, value in features.items():
            if isinstance(value, str):
                for one, place in self._words.get(name, {}).items():
                    row[place] = one == value
            elif (at := self._at.get(name)) is not None:
                places.append(at)
                numbers.append(value)
        row[places] = numbers
        return row

    def unknown(self, features: Known) -> list[str]:
        """What other inputs of the task had, and this one has not."""
        missing = [name for name in (*self._at, *self._words) if name not in features]
        return missing + (["the vector"] if self.wide and features.vector is None else [])


def filled(rows: Floats, usual: Floats) -> Floats:
    """Rows with what is usual in the place of what is not known.

    Parameters
    ----------
    rows : array, shape (..., n_columns)
    usual : array, shape (n_columns,)
    """
    return np.where(np.isnan(rows), usual, rows)


def usual_of(rows: Floats) -> Floats:
    """The median of each column of what is known; 0 where nothing is."""
    result = np.zeros(rows.shape[1], dtype=np.float32)
    there = ~np.isnan(rows).all(axis=0)
    if there.any():
        result[there] = np.nanmedian(rows[:, there], axis=0)
    return result
