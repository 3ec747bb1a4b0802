"""Objects on their way: buffers are not copied, slices go alone, functions go by value."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from dask.sizeof import sizeof
from distributed.protocol import deserialize, serialize
from distributed.protocol.serialize import Serialized, ToPickle
from hypothesis import given
from hypothesis import strategies as st

from altlas_flow.cluster.packed import Packed
from altlas_flow.errors import AltlasError

LARGE = 1_000_000

json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def sent(value):
    """Through Dask's serialization, as between processes but for the wire."""
    header, frames = serialize(Packed.of(value))
    return deserialize(header, frames).open()


@given(json_like)
def test_what_was_packed_comes_out(value):
    assert Packed.of(value).open() == value
    assert sent(value) == value
    for protocol in (2, 4, 5):
        assert pickle.loads(pickle.dumps(Packed.of(value), protocol=protocol)).open() == value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_and_tables_survive_every_protocol_of_pickle(protocol):
    array, table = np.arange(1000.0), pa.table({"x": range(1000)})
    copied = pickle.loads(pickle.dumps(Packed.of([array, table]), protocol=protocol))
    found, same = copied.open()
    np.testing.assert_array_equal(found, array)
    assert same.equals(table)
    assert copied.nbytes == Packed.of([array, table]).nbytes


def test_arrays_are_not_copied_on_the_way_through_dask():
    array = np.arange(LARGE)
    assert np.shares_memory(Packed.of({"deep": [array]}).open()["deep"][0], array)
    assert np.shares_memory(sent({"deep": [array]})["deep"][0], array)
    header, frames = serialize(Packed.of(array))
    assert sum(memoryview(frame).nbytes for frame in frames) < array.nbytes + 10_000
    again_header, again = serialize(deserialize(header, frames))
    assert np.shares_memory(deserialize(again_header, again).open(), array)


def test_arrays_that_are_not_contiguous_come_out_equal():
    array = np.arange(10_000).reshape(100, 100)
    for view in (array[::2, ::3], array.T, np.asfortranarray(array), array[:0]):
        np.testing.assert_array_equal(sent(view), view)


@pytest.mark.parametrize("batch", [False, True])
def test_a_slice_of_arrow_data_does_not_carry_the_rest(batch):
    table = pa.table({"x": np.arange(LARGE), "text": [f"row {i}" for i in range(LARGE)]})
    piece = table.slice(5, 10)
    piece = piece.to_batches()[0] if batch else piece
    packed = Packed.of(piece)
    assert packed.nbytes < 20_000
    assert type(packed.open()) is type(piece)
    assert packed.open().equals(piece)
    assert sent([piece])[0].equals(piece)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_slice_of_an_arrow_array_does_not_carry_the_rest(chunked):
    array = pa.array(range(LARGE))
    piece = (pa.chunked_array([array]) if chunked else array).slice(5, 10)
    packed = Packed.of(piece)
    assert packed.open().equals(piece)
    assert packed.nbytes < 20_000


@pytest.mark.parametrize(
    "table",
    [
        pa.table({}),
        pa.table({"x": pa.array([], pa.int64())}),
        pa.table({"x": pa.chunked_array([[1], [2, 3]])}),
        pa.table({"x": pa.array(["a", "b", "a"]).dictionary_encode()}),
        pa.table({"x": [1]}).replace_schema_metadata({"who": "me"}),
        pa.record_batch({"x": pa.array([], pa.string())}),
    ],
    ids=["no columns", "no rows", "chunks", "dictionary", "metadata", "empty batch"],
)
def test_arrow_data_of_every_shape_comes_out(table):
    found = sent(table)
    assert type(found) is type(table)
    assert found.equals(table, check_metadata=True)


def test_tables_are_not_copied_on_the_way_through_dask():
    packed = Packed.of(pa.table({"x": np.arange(LARGE)}))
    header, frames = serialize(packed)
    arrived = deserialize(header, frames)
    where = [np.frombuffer(buffer, np.uint8) for buffer in packed.buffers]
    there = [np.frombuffer(buffer, np.uint8) for buffer in arrived.buffers]
    assert sum(part.nbytes for part in where) >= 8 * LARGE
    assert all(np.shares_memory(one, other) for one, other in zip(where, there, strict=True))


def test_frames_of_pandas_come_out():
    frame = pd.DataFrame({"x": np.arange(5), "text": list("abcde")})
    pd.testing.assert_frame_equal(sent(frame), frame)


def test_lambdas_and_classes_of_a_notebook_go_by_value():
    cells = {"__name__": "__main__"}
    exec("factor = 3\nclass Model:\n    def __call__(self, x): return x * factor", cells)
    assert sent(cells["Model"]())(2) == 6
    offset = 7
    assert sent(lambda x: x + offset)(1) == 8


def test_dask_knows_how_large_it_is_without_opening_it():
    array = np.zeros(LARGE)
    packed = Packed.of(array)
    assert array.nbytes <= packed.nbytes < array.nbytes + 10_000
    assert array.nbytes <= sizeof(packed) < array.nbytes + 10_000


def test_what_cannot_be_pickled_says_so_where_it_is_packed():
    with pytest.raises(Exception, match="generator") as caught:
        Packed.of(i for i in range(3))
    assert not isinstance(caught.value, AltlasError)
    with pytest.raises(Exception, match="pickle"):
        Packed.of({"lock": __import__("threading").Lock()})


def test_the_scheduler_passes_it_on_unread():
    header, frames = serialize(Packed.of([np.arange(10)]), serializers=["dask", "pickle"])
    assert not isinstance(Serialized(header, frames), Packed)
    assert ToPickle(Packed.of(1)).data.open() == 1
