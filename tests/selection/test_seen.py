"""Rows of decisions and what came of them."""

from __future__ import annotations

import numpy as np

from altlas_flow.selection.seen import Seen


def filled(seen, count, first=0):
    for n in range(first, first + count):
        assert seen.add(f"d{n}", n % 2, 0.5, np.array([float(n)], dtype=np.float32), None)
    return seen


def test_a_decision_counts_once():
    seen = filled(Seen(), 3)
    assert not seen.add("d1", 0, 1.0, np.zeros(1, dtype=np.float32), None)
    assert (len(seen), seen.total) == (3, 3)


def test_outcomes_come_in_any_order_late_and_twice():
    one, other = filled(Seen(), 4), filled(Seen(), 4)
    for seen, order in ((one, "0123"), (other, "321300")):
        for n in order:
            assert seen.tell(f"d{n}", {"latency": float(n)})
    assert one.known("latency").tolist() == other.known("latency").tolist() == [0, 1, 2, 3]
    assert np.array_equal(one.values, other.values, equal_nan=True)


def test_what_never_came_is_not_counted():
    seen = filled(Seen(), 4)
    seen.tell("d2", {"quality": 0.5})
    assert seen.known("quality").tolist() == [2]
    assert seen.known("latency").tolist() == []


def test_the_oldest_go():
    seen = filled(Seen(4), 10)
    assert len(seen) == 4
    assert not seen.tell("d5", {"latency": 1.0})
    for n in (9, 6, 8):
        assert seen.tell(f"d{n}", {"latency": float(n)})
    places = seen.known("latency")
    assert seen.value("latency", places).tolist() == [6.0, 8.0, 9.0]
    assert seen.rows[places, 0].tolist() == [6.0, 8.0, 9.0]


def test_new_columns_and_vectors_are_not_known_of_old_rows():
    seen = filled(Seen(), 2)
    seen.add("wide", 0, 1.0, np.array([1.0, 2.0], dtype=np.float32), np.ones(3, dtype=np.float32))
    assert np.isnan(seen.rows[0, 1])
    assert np.isnan(seen.vectors[0]).all()
    assert seen.vectors[2].tolist() == [1, 1, 1]
