"""Values that requests and responses carry, for hypothesis; and callables to be named."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import BaseModel

from altlas_flow.records import File

MARKS = ["$array", "$bytes", "$arrow", "$float", "$pairs", "$dict", "$file"]

plain = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20)
)
keys = st.text(max_size=8) | st.sampled_from(MARKS)
arrays = hnp.arrays(
    dtype=st.one_of(
        hnp.boolean_dtypes(),
        hnp.integer_dtypes(endianness="?"),
        hnp.unsigned_integer_dtypes(),
        hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
        hnp.complex_number_dtypes(sizes=(64, 128)),
        hnp.datetime64_dtypes(),
        hnp.timedelta64_dtypes(),
        hnp.byte_string_dtypes(min_len=1, max_len=4),
        hnp.unicode_string_dtypes(min_len=1, max_len=4),
    ),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
columns = st.one_of(
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3).map(
        lambda items: pa.array(items, pa.int64())
    ),
    st.lists(st.none() | st.floats(), min_size=3, max_size=3).map(
        lambda items: pa.array(items, pa.float64())
    ),
    st.lists(st.none() | st.text(max_size=5), min_size=3, max_size=3).map(
        lambda items: pa.array(items, pa.string())
    ),
    st.lists(st.sampled_from(["a", "b"]), min_size=3, max_size=3).map(
        lambda items: pa.array(items).dictionary_encode()
    ),
    st.lists(st.lists(st.integers(0, 9), max_size=2), min_size=3, max_size=3).map(
        lambda items: pa.array(items, pa.list_(pa.int32()))
    ),
)
batches = st.lists(columns, min_size=1, max_size=3).map(
    lambda items: pa.record_batch(items, names=[f"c{at}" for at in range(len(items))])
)
arrow = st.one_of(
    columns,
    columns.map(lambda item: item.slice(1, 2)),
    batches,
    batches.map(lambda item: item.slice(0, 0)),
    batches.map(lambda item: pa.Table.from_batches([item, item])),
    columns.map(lambda item: pa.chunked_array([item, item])),
)
files = st.builds(
    File,
    st.text(min_size=1, max_size=20).filter(lambda path: "\0" not in path and "://" not in path),
    on_worker=st.booleans(),
)
leaves = plain | arrays | arrow | files | hnp.from_dtype(np.dtype("f4")) | hnp.from_dtype(np.dtype("i8"))
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(keys, inner, max_size=3),
        st.dictionaries(st.none() | st.booleans() | st.integers() | st.text(max_size=3), inner, max_size=3),
    ),
    max_leaves=8,
)
mappings = st.dictionaries(keys, values, max_size=3)


def positive(outputs: object) -> bool:
    """A validator that can be imported."""
    return bool(outputs)


class Answer(BaseModel):
    """A validator that is a class."""

    text: str

    @classmethod
    def check(cls, outputs: object) -> bool:
        """A validator that is a method of a class."""
        return isinstance(outputs, str)
