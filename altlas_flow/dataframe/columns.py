"""Columns in, columns out: rows of a table for a model, and its answers as Arrow columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from altlas_flow.errors import InputError, MissingColumn, SpecError, describe, one_line

Row = dict[str, Any]


@dataclass(frozen=True)
class Input:
    """What of a row the model gets.

    Parameters
    ----------
    columns : tuple of str, optional
        One column: its value. Several: a record of them, which models of texts join by newlines.
    function : callable, optional
        Of the row as a record; what it returns is the model's input.
    """

    columns: tuple[str, ...] = ()
    function: Callable[[Row], Any] | None = None

    @classmethod
    def of(cls, given: str | Sequence[str] | Callable[[Row], Any], known: Sequence[str]) -> Input:
        """Read what a user gave as ``input=``.

        Raises
        ------
        MissingColumn
            Where a column is not among those known.
        InputError
            Where it is neither a name, nor names, nor a callable.
        """
        if isinstance(given, str):
            columns: tuple[str, ...] = (given,)
        elif callable(given):
            return cls(function=given)
        elif isinstance(given, Sequence) and given and all(isinstance(name, str) for name in given):
            columns = tuple(given)
        else:
            raise InputError(
                f"input={one_line(repr(given), 80)} names no column: give a column, a list of columns, or a "
                "function of the row"
            )
        for column in columns:
            if column not in known:
                raise MissingColumn(column, known)
        return cls(columns=columns)

    def needed(self) -> list[str] | None:
        """Columns that have to be read for the model; None: all."""
        return list(self.columns) or None

    def label(self) -> Any:
        """What identifies this input, as JSON can hold it."""
        if self.function is None:
            return list(self.columns)
        from altlas_flow.models.spec import digest_callable

        return {"function": digest_callable(self.function)}

    def rows(self, table: pa.Table) -> tuple[list[Any], list[int] | range, dict[int, Exception]]:
        """The model's inputs out of a table.

        Returns
        -------
        inputs : list
            Of the rows that have one.
        positions : list of int or range
            Where in the table those rows stand.
        faults : dict of int to Exception
            The other rows.
        """
        if self.function is not None:
            return self._call(table)
        if len(self.columns) > 1:
            records, faults = _to_python(table.select(list(self.columns)))
            faults |= {at: _null(self.columns) for at, row in enumerate(records) if row and _all_null(row)}
            return _without(records, faults)
        column = table.column(self.columns[0])
        values, faults = _to_python(column)
        if column.null_count:
            nulls = np.flatnonzero(column.is_null().to_numpy()).tolist()
            faults |= {at: _null(self.columns) for at in nulls}
        return _without(values, faults)

    def _call(self, table: pa.Table) -> tuple[list[Any], list[int] | range, dict[int, Exception]]:
        assert self.function is not None
        values: list[Any] = []
        positions: list[int] = []
        rows, faults = _to_python(table)
        for position, row in enumerate(rows):
            if position in faults:
                continue
            try:
                values.append(self.function(row))
                positions.append(position)
            except Exception as error:
                # the user's function may fail on a row in any way; the job goes on without the row
                faults[position] = InputError(f"the function of the row failed: {describe(error)}")
        return values, positions, faults


def named_columns(given: Any) -> list[str]:
    """Names in what a user gave as ``input=``, not checked yet."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, Sequence):
        return []
    return [name for name in given if isinstance(name, str)]


def _all_null(row: Row) -> bool:
    return all(value is None for value in row.values())


def _null(columns: Sequence[str]) -> Exception:
    return InputError(f"{' and '.join(repr(column) for column in columns)} is null")


def _to_python(data: pa.Table | pa.ChunkedArray) -> tuple[list[Any], dict[int, Exception]]:
    """Rows or values as Python has them; None and a fault where it has no such value."""
    try:
        return data.to_pylist(), {}
    except (ValueError, OverflowError, pa.ArrowException):
        pass  # bytes that are no UTF-8, a time before the year 1: looked for one by one
    found: list[Any] = []
    faults: dict[int, Exception] = {}
    for at in range(len(data)):
        try:
            found += data.slice(at, 1).to_pylist()
        except (ValueError, OverflowError, pa.ArrowException) as error:
            found.append(None)
            faults[at] = InputError(f"the value cannot be read: {describe(error)}")
    return found, faults


def _without(
    values: list[Any], faults: dict[int, Exception]
) -> tuple[list[Any], list[int] | range, dict[int, Exception]]:
    """The values that have no fault, and where they stand."""
    if not faults:
        return values, range(len(values)), {}
    positions = [at for at in range(len(values)) if at not in faults]
    return [values[at] for at in positions], positions, faults


def output_names(keys: Sequence[str], output: str | None) -> tuple[str, ...]:
    """Names of the columns that a model adds.

    The first of `keys` is what the model is for; it gets the name that the user wants.

    >>> output_names(["label", "score"], None), output_names(["label", "score"], "mood")
    (('label', 'score'), ('mood', 'mood_score'))
    """
    first, *others = keys
    if output is None or output == first:
        return tuple(keys)
    return (output, *(f"{output}_{key}" for key in others))


def refuse_replaced(names: Sequence[str], output: str | None, columns: Sequence[str]) -> None:
    """Refuse to put answers, unasked, where the input has a column of that name.

    Parameters
    ----------
    names : sequence of str
        Of the columns that are added; the first is what the model is for.
    output : str or None
        What the user named. It takes the place of a column of that name, and so do the columns beside it
        where that column is there: they came with it.
    columns : sequence of str
        Of the input.

    Raises
    ------
    InputError
    """
    for at, name in enumerate(names):
        if name in names[:at]:
            raise InputError(
                f"there would be two columns {name!r}, as the model has an answer of that name: give output= "
                "another name"
            )
    taken = [name for name in names if name in columns]
    if taken and (output is None or output not in columns):
        raise InputError(
            f"the input has a column {taken[0]!r} already: "
            + (
                "rename it, or leave it out"
                if output is not None and taken[0] != output
                else "give output= another name" + (", or that one to replace it" if output is None else "")
            )
        )


def infer_types(answers: np.ndarray | list[Any], default: str) -> dict[str, pa.DataType]:
    """Arrow types of answers, by key; answers that are records have the keys of the first.

    Raises
    ------
    SpecError
        Where Arrow has no type for them.
    """
    if isinstance(answers, list) and answers and isinstance(answers[0], Mapping):
        columns: dict[str, Any] = {str(key): [row.get(key) for row in answers] for key in answers[0]}
    else:
        columns = {default: answers}
    types: dict[str, pa.DataType] = {}
    for key, values in columns.items():
        try:
            kind = _array(values, None).type
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise SpecError(
                f"the answers cannot be put into a column ({one_line(error, 120)}): return numbers, texts, "
                "arrays or records of them, or declare outputs="
            ) from error
        types[key] = pa.string() if pa.types.is_null(kind) else kind
    return types


def to_columns(
    answers: np.ndarray | list[Any], types: Mapping[str, pa.DataType]
) -> tuple[dict[str, pa.Array], dict[int, Exception]]:
    """Answers as Arrow arrays, by key; a row whose answer does not fit is null and a fault."""
    faults: dict[int, Exception] = {}
    if len(types) == 1 and not (isinstance(answers, list) and _records(answers, types)):
        columns: dict[str, Any] = dict.fromkeys(types, answers)
    else:
        for position, answer in enumerate(answers):
            if not isinstance(answer, Mapping) or types.keys().isdisjoint(answer):
                faults[position] = InputError(
                    f"the answer {one_line(repr(answer), 80)} is no record with {' and '.join(types)}"
                )
        columns = {
            key: [None if at in faults else row.get(key) for at, row in enumerate(answers)] for key in types
        }
    arrays: dict[str, pa.Array] = {}
    for key, values in columns.items():
        kind = types[key]
        try:
            arrays[key] = _array(values, kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            fitting = []
            for position, value in enumerate(values):
                try:
                    _array([value], kind)
                    fitting.append(value)
                except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                    fitting.append(None)
                    faults[position] = InputError(
                        f"the answer does not fit the column's type {kind}: {one_line(error, 120)}"
                    )
            arrays[key] = pa.array(fitting, kind)
    return arrays, faults


def _records(answers: list[Any], types: Mapping[str, pa.DataType]) -> bool:
    key = next(iter(types))
    # a type is looked at once: asking each of many answers is as dear as all the rest
    if not any(issubclass(kind, Mapping) for kind in set(map(type, answers))):
        return False
    return any(isinstance(answer, Mapping) and key in answer for answer in answers)


def _array(values: Any, kind: pa.DataType | None) -> pa.Array:
    """An Arrow array; a matrix becomes lists of fixed size, without a detour over Python objects."""
    if isinstance(values, list) and values and all(isinstance(value, np.ndarray) for value in values):
        if len({value.shape for value in values}) == 1:
            values = np.stack(values)
        else:
            values = [value.reshape(-1) for value in values]
    if kind is not None and pa.types.is_struct(kind) and isinstance(values, list):
        values = [_texts_as_keys(value) for value in values]
    if not isinstance(values, np.ndarray):
        if kind is None or not pa.types.is_integer(_leaf(kind)):
            return pa.array(values, kind)
        # made to order, Arrow would silently cut 1.5 to 1
        found = pa.array(values)
        return found.cast(kind) if pa.types.is_floating(_leaf(found.type)) else pa.array(values, kind)
    if values.ndim == 1:
        return pa.array(values, kind)
    flat = values.reshape(len(values), -1)
    array = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
    return array if kind is None or array.type == kind else array.cast(kind)


def _texts_as_keys(value: Any) -> Any:
    """A record under names: Arrow would take labels that are numbers, unasked, for missing fields."""
    if isinstance(value, Mapping) and not all(isinstance(key, str) for key in value):
        return {str(key): item for key, item in value.items()}
    return value


def _leaf(kind: pa.DataType) -> pa.DataType:
    """The type at the bottom of nested lists."""
    while pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return kind
