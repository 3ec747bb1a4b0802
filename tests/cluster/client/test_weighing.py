"""What inputs weigh: exactly where it is soon known, about where it is not, and soon in any case."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from altlas_flow.cluster.client.posting import ITEM, SAMPLE, weigh, weight_of


@given(st.lists(st.text(max_size=50) | st.binary(max_size=50), max_size=50))
def test_a_list_weighs_what_its_items_do_and_their_places(items):
    expected = sum(map(len, items)) + ITEM * len(items)
    assert weigh(items) == weigh(tuple(items)) == weigh(dict(enumerate(items))) == expected
    assert weigh([items, {"a": items}]) == 2 * expected + 3 * ITEM


def test_arrays_and_tables_weigh_their_bytes():
    array = np.zeros(1000)
    assert weigh(array) == weigh(pa.array(array)) == weigh(pa.table({"x": array})) == 8000
    assert weigh([array] * 10) == 10 * (8000 + ITEM)


class Counted:
    """Says how often it was weighed."""

    looks = 0

    @property
    def nbytes(self):
        Counted.looks += 1
        return 100


@pytest.mark.parametrize("shape", [(10**6,), (1000, 1000), (100, 100, 100), (3, 10**5), (10**5, 3), (3,) * 8])
def test_of_many_items_a_sample_is_looked_at(shape):
    nested = Counted()
    for count in shape:
        nested = [nested] * count
    Counted.looks = 0
    exact = math.prod(shape) * 100
    assert exact <= weigh(nested) <= 1.3 * exact
    assert Counted.looks <= 4 * SAMPLE


@given(st.lists(st.integers(0, 10_000), max_size=50), st.integers(1, 10_000))
def test_nobody_counts_beyond_what_is_enough(sizes, enough):
    items = [bytes(size) for size in sizes]
    assert (weigh(items, enough) >= enough) == (weigh(items) >= enough)
    Counted.looks = 0
    assert weigh([Counted() for _ in range(1000)], 20_000) >= 20_000
    assert Counted.looks <= 200


def test_what_cannot_be_weighed_weighs_nothing():
    endless = []
    endless.append(endless)
    assert weight_of(endless, math.inf) == 0
