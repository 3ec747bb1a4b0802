"""Copies of what may be written into, so that nobody sees what was done to another one's.

A batch that fails is predicted again, a stage is tried again on another node, and rows of several requests
may be one object: what functions of the user's own are given, and what they answer with, is copied. Texts
and numbers are left as they are.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import chain
from typing import Any

import cloudpickle
import numpy as np

#: Types of values that nobody can write into.
CONSTANT = frozenset(
    {str, bytes, int, float, bool, type(None), complex, date, datetime, timedelta, Decimal}
    | {np.bool_, np.int32, np.int64, np.float32, np.float64}
)

#: Entries of a list from which on it is worthwhile to tell what they are without looking at each.
LONG = 16


class _Unknown(Exception):
    """A value holds something that only its pickle can tell how to copy."""


def writable(value: Any) -> Any:
    """A value that may be written into: a copy, where it can be written into at all.

    Raises
    ------
    TypeError, pickle.PicklingError, or what its parts raise
        Where it can neither be copied nor be pickled.
    """
    if type(value) in CONSTANT:
        return value
    try:
        return _plain(value)
    except (_Unknown, RecursionError):
        return pickle.loads(cloudpickle.dumps(value))


def writables(values: Sequence[Any]) -> Sequence[Any]:
    """Values that may be written into, each apart from the others; the same where all are constants.

    What cannot be copied, such as a lock, is given as it is.
    """
    kinds = set(map(type, values))
    if kinds <= CONSTANT:
        return values
    if kinds == {tuple} and set(map(len, values)) == {1}:
        # rows of a pipeline's functions
        inner = list(chain.from_iterable(values))
        found = writables(inner)
        return values if found is inner else [(value,) for value in found]
    return _copies(values, _if_it_can)


def apart(values: list[Any], *, kept: bool = False) -> list[Any]:
    """Values of several requests, none of them another one's, too.

    Parameters
    ----------
    values : list
    kept : bool
        Whoever gave them may have kept them, and may write into them: lists, records and arrays are copied
        where they come but once, too.
    """
    if CONSTANT.issuperset(map(type, values)):
        return values
    if not kept and len(set(map(id, values))) == len(values):
        return values
    seen: set[int] = set()

    def another(value: Any) -> Any:
        if id(value) in seen:
            return _if_it_can(value)
        seen.add(id(value))
        try:
            return _plain(value) if kept else value
        except (_Unknown, RecursionError):
            return value  # an object: to pickle every one would cost too much here

    return _copies(values, another) if kept else [another(value) for value in values]


def _copies(values: Iterable[Any], rest: Callable[[Any], Any]) -> list[Any]:
    """A copy of each value; what is neither a constant, an array nor a flat record is left to `rest`."""
    constants, array = CONSTANT.issuperset, np.ndarray
    found: list[Any] = []
    for value in values:
        kind = type(value)
        if (kind is array and not value.dtype.hasobject) or (
            kind is dict and constants(map(type, value.values()))
        ):
            found.append(value.copy())
        elif kind in CONSTANT:
            found.append(value)
        else:
            found.append(rest(value))
    return found


def _if_it_can(value: Any) -> Any:
    """A value that may be written into, or the value itself where it has no copy."""
    try:
        return writable(value)
    except Exception:
        # objects refuse to be pickled with any error at all
        return value


def _plain(value: Any, made: dict[int, Any] | None = None) -> Any:
    """A copy of a list, record or array; raises `_Unknown` where it holds anything else.

    What occurs in it twice occurs in the copy twice; `made` has the copies so far.
    """
    kind = type(value)
    if kind in CONSTANT:
        return value
    if made is None:
        made = {}
    elif id(value) in made:
        return made[id(value)]
    copy: Any
    if kind is dict:
        copy = made[id(value)] = {}
        for key, item in value.items():
            copy[key] = _plain(item, made)
    elif kind is list:
        copy = made[id(value)] = value.copy()
        if not _constants(value):
            copy[:] = [_plain(item, made) for item in value]
    elif kind is tuple:
        copy = made[id(value)] = tuple([_plain(item, made) for item in value])
    elif kind is np.ndarray and not value.dtype.hasobject:
        copy = made[id(value)] = value.copy()
    else:
        raise _Unknown
    return copy


def _constants(values: list[Any]) -> bool:
    """Whether all entries of a list are constants."""
    if len(values) >= LONG:
        # a sum of plain numbers is one: it takes a tenth of what a look at the type of each does
        try:
            if type(values[0]) in (int, float) and type(sum(values)) in (int, float):
                return True
        except Exception:
            # entries of other kinds may refuse to be added with any error
            return False
    return CONSTANT.issuperset(map(type, values))
