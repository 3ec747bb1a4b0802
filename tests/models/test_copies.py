"""Copies: equal, and nothing in them that can be written into is the original's."""

from __future__ import annotations

import threading
from datetime import date
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from altlas_flow.models.copies import LONG, apart, writable, writables

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.just(date(2026, 1, 2)),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4) | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


class Thing:
    def __init__(self, held: Any) -> None:
        self.held = held


def parts(value: Any) -> set[int]:
    """Ids of all in a value that can be written into."""
    if isinstance(value, Thing):
        return {id(value)} | parts(value.held)
    if isinstance(value, dict):
        return {id(value)}.union(*map(parts, value.values()))
    if isinstance(value, (list, tuple)):
        own = {id(value)} if isinstance(value, list) else set()
        return own.union(*map(parts, value))
    return set()


@given(values)
def test_a_copy_is_equal_and_shares_nothing(value: Any) -> None:
    for found in (writable(value), writables([value])[0], apart([value, value], kept=True)[1]):
        assert found == value and type(found) is type(value)
        assert not parts(found) & parts(value)


@pytest.mark.parametrize("length", [2, LONG, 3 * LONG])
@pytest.mark.parametrize(
    "last", [[1], {"a": []}, Thing([1]), np.zeros(1)], ids=lambda one: type(one).__name__
)
def test_the_last_entry_of_a_list_is_copied_too(length: int, last: Any) -> None:
    value = [1.5] * length + [last]
    found = writable(value)
    assert found[:-1] == value[:-1] and type(found[-1]) is type(last)
    assert found[-1] is not last and not np.shares_memory(np.asarray(found[-1]), np.asarray(last))


def test_what_occurs_twice_in_a_value_does_so_in_its_copy() -> None:
    inner: list[Any] = [1]
    circle: list[Any] = [inner, {"again": inner}]
    circle.append(circle)
    found = writable(circle)
    assert found[0] is found[1]["again"] is not inner and found[2] is found


def test_arrays_are_copied_with_what_they_hold() -> None:
    plain, held = np.arange(3), np.array([[1], None], dtype=object)
    plain.flags.writeable = False
    copies = [writable(plain), writables([plain])[0], apart([plain], kept=True)[0]]
    assert all(one.flags.writeable and not np.shares_memory(one, plain) for one in copies)
    writable(held)[0].append(2)
    assert held[0] == [1]


def test_constants_are_not_copied_at_all() -> None:
    for rows in (["a", 1, None, 2.5], [("a",), (1,)], range(3), np.arange(3).tolist()):
        assert writables(rows) is rows
    answers = ["a", np.float64(1)]
    assert apart(answers, kept=True) is answers


def test_rows_that_are_one_object_are_apart() -> None:
    row, thing = {"n": [0]}, Thing([1])
    for rows in (writables([row, row]), apart([row, row]), apart([row, row], kept=True)):
        assert rows == [row, row] and not parts(rows[0]) & parts(rows[1])
    (first,), (second,) = writables([(row,), (row,)])
    assert not parts(first) & parts(second)
    one, other = apart([thing, thing], kept=True)
    assert not parts(one) & parts(other) and one.held == other.held
    assert apart([row, thing]) == [row, thing]


def test_what_cannot_be_copied_is_given_as_it_is() -> None:
    lock = threading.Lock()
    for rows in (writables([lock, [lock]]), apart([lock, lock], kept=True), apart([lock, lock])):
        assert rows[0] is lock
    with pytest.raises(TypeError, match="lock"):
        writable(lock)
