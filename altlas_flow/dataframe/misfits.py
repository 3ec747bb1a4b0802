"""Values of a column of Python objects that have not the type of the others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from altlas_flow.errors import one_line

#: What Arrow raises for values that it has no place for.
UNFIT = (pa.ArrowException, TypeError, ValueError, OverflowError)
#: Characters of a value that are shown.
EXCERPT = 200

Misfits = dict[int, tuple[str, str]]


def misfits(name: str, values: Sequence[Any], there: np.ndarray, promised: pa.DataType | None) -> Misfits:
    """Rows whose value does not fit the column: why, and how the value begins.

    Parameters
    ----------
    name : str
        Of the column.
    values : sequence
    there : numpy.ndarray of bool
        Which of them are not null.
    promised : pyarrow.DataType, optional
        The column's type as the frame declares it; it counts where any value has it.

    Examples
    --------
    >>> misfits("text", ["a", 1, "b"], np.ones(3, bool), None)
    {1: ("'text' is int where most rows have str", '1')}
    """
    rows = np.flatnonzero(there).tolist()
    kinds = Counter(type(values[row]) for row in rows)
    if len(kinds) < 2 and _converts([values[row] for row in rows], None):
        return {}
    most, target = _target([values[row] for row in rows], kinds, promised)
    if target is None:
        return {}  # nothing of it is anything to Arrow
    if len(kinds) == 1:
        suspects = rows
    elif _converts([values[row] for row in rows if type(values[row]) is most], target):
        suspects = [row for row in rows if type(values[row]) is not most]
    else:
        suspects = rows
    found: Misfits = {}
    for row in suspects:
        value = values[row]
        if (fault := _fault(value, target)) is not None:
            kind = type(value)
            told = f"is {kind.__name__} where most rows have {most.__name__}" if kind is not most else fault
            found[row] = f"{name!r} {told}", _shown(value)
    return found


def why(error: BaseException) -> str:
    """What Arrow says in one line; it puts several texts into one error."""
    whole = isinstance(error, UnicodeError) or not error.args
    return one_line(error if whole else error.args[0], 120)


def _target(
    values: Sequence[Any], kinds: Counter[type], promised: pa.DataType | None
) -> tuple[type, pa.DataType | None]:
    """The type of most values, in Python and in Arrow."""
    if promised is not None:
        own = Counter(type(value) for value in values if _fault(value, promised) is None)
        if own:
            return own.most_common(1)[0][0], promised
    most = kinds.most_common(1)[0][0]
    alike = [value for value in values if type(value) is most]
    try:
        return most, pa.array(alike).type
    except UNFIT:
        pass
    for value in alike:  # they do not even fit each other: the first that is anything says
        try:
            return most, pa.array([value]).type
        except UNFIT:
            continue
    return most, None


def _converts(values: Sequence[Any], target: pa.DataType | None) -> bool:
    try:
        pa.array(values, target)
    except UNFIT:
        return False
    return True


def _fault(value: Any, target: pa.DataType) -> str | None:
    """Why a value does not fit a type; None where it does, without being turned into something else."""
    try:
        pa.array([value], target)
        own = pa.array([value]).type
    except UNFIT as error:
        return f"does not fit {target}: {why(error)}"
    # Arrow would take bytes for a text, and cut a time of day off
    same = own == target or pa.types.is_nested(own) or (_is_number(own) and _is_number(target))
    return None if same or _are_texts(own, target) else f"is {own} where the column is {target}"


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _are_texts(one: pa.DataType, other: pa.DataType) -> bool:
    return all(pa.types.is_string(kind) or pa.types.is_large_string(kind) for kind in (one, other))


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:
        # an object of the user may fail at anything; the row is bad already
        text = f"{type(value).__name__} whose repr fails: {one_line(error, 80)}"
    # an address differs from run to run, and what is shown is part of a fingerprint
    return re.sub(r" at 0x[0-9a-f]+", "", text)[:EXCERPT]
