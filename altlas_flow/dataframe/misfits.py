"""Values of a column of Python objects that have not the type of the others."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from altlas_flow.errors import one_line

#: What Arrow raises for values that it has no place for.
UNFIT = (pa.ArrowException, TypeError, ValueError, OverflowError)
#: Characters of a value that are shown.
EXCERPT = 200
#: Values that say what type most have, where not all fit together.
SAMPLE = 1000

Misfits = dict[int, tuple[str, str]]


def misfits(name: str, values: Sequence[Any], there: np.ndarray) -> Misfits:
    """Rows whose value does not fit the column: why, and how the value begins.

    Parameters
    ----------
    name : str
        Of the column.
    values : sequence
    there : numpy.ndarray of bool
        Which of them are not null.

    Returns
    -------
    dict of int to (str, str)
        Empty also where the values fit nothing at all.

    Examples
    --------
    >>> misfits("text", ["a", 1, "b"], np.ones(3, bool))
    {1: ("'text' is int where most rows have str", '1')}
    """
    rows = np.flatnonzero(there).tolist()
    kinds = Counter(type(values[row]) for row in rows)
    if len(kinds) < 2 and _converts([values[row] for row in rows], None):
        return {}
    most = kinds.most_common(1)[0][0]
    alike = [row for row in rows if type(values[row]) is most]
    target = _common_type([values[row] for row in alike])
    if target is None:
        return {}
    bad = {row: fault for row in _apart(values, alike, target) if (fault := _fault(values[row], target))}
    others = [row for row in rows if type(values[row]) is not most]
    bad |= {row: fault for row in others if (fault := _fault(values[row], target))}
    # each fits, and yet Arrow may have no one type for all that are left
    rest = [row for row in rows if row not in bad]
    if not _converts([values[row] for row in rest], None):
        bad |= {row: fault for row in rest if (fault := _fault(values[row], target, strict=True))}
    found: Misfits = {}
    for row, fault in bad.items():
        kind = type(values[row])
        told = f"is {kind.__name__} where most rows have {most.__name__}" if kind is not most else fault
        found[row] = f"{name!r} {told}", _shown(values[row])
    return found


def why(error: BaseException) -> str:
    """What Arrow says in one line; it puts several texts into one error."""
    whole = isinstance(error, UnicodeError) or not error.args
    return one_line(error if whole else error.args[0], 120)


def _common_type(values: Sequence[Any]) -> pa.DataType | None:
    """The Arrow type of values of one Python type, or of most of them; None where they have none."""
    try:
        return pa.array(values).type
    except UNFIT:
        pass
    found: Counter[pa.DataType] = Counter()
    for value in values[:: 1 + len(values) // SAMPLE]:
        with contextlib.suppress(*UNFIT):
            found[pa.array([value]).type] += 1
    whole = [kind for kind, _ in found.most_common() if not _is_open(kind)]
    return whole[0] if whole else next(iter(found), None)


def _apart(values: Sequence[Any], rows: list[int], target: pa.DataType) -> Iterator[int]:
    """Rows whose values do not convert, searched for by halves: most do."""
    waiting = [rows]
    while waiting:
        some = waiting.pop()
        if not some or _converts([values[row] for row in some], target):
            continue
        if len(some) == 1:
            yield some[0]
        else:
            waiting += [some[len(some) // 2 :], some[: len(some) // 2]]


def _converts(values: Sequence[Any], target: pa.DataType | None) -> bool:
    try:
        pa.array(values, target)
    except UNFIT:
        return False
    return True


def _fault(value: Any, target: pa.DataType, strict: bool = False) -> str | None:
    """Why a value does not fit a type; None where it does, without being turned into something else.

    `strict`: numbers of another kind, and records with other keys, do not fit either.
    """
    try:
        pa.array([value], target)
        own = pa.array([value]).type
    except UNFIT as error:
        return f"does not fit {target}: {why(error)}"
    # Arrow would take bytes for a text, cut a time of day off, and leave out keys that it does not know
    same = own == target or _is_open(own)
    if not strict:
        same = same or pa.types.is_nested(own) or (_is_number(own) and _is_number(target))
    return None if same else f"is {own} where the column is {target}"


def _is_open(kind: pa.DataType) -> bool:
    """Whether a part of the type is not known, as of an empty list."""
    if pa.types.is_nested(kind):
        return any(_is_open(kind.field(at).type) for at in range(kind.num_fields))
    return bool(pa.types.is_null(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:
        # an object of the user may fail at anything; the row is bad already
        text = f"{type(value).__name__} whose repr fails: {one_line(error, 80)}"
    # an address differs from run to run, and what is shown is part of a fingerprint
    return re.sub(r" at 0x[0-9a-f]+", "", text)[:EXCERPT]
