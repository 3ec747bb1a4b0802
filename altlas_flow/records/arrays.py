"""NumPy arrays and Arrow data as JSON objects, and back, with every size checked."""

from __future__ import annotations

import base64
import math
import sys
from typing import Any

from altlas_flow.errors import BadRequest

#: Kinds of NumPy types whose bytes are their value: no objects, no structures, nothing of other libraries.
_PLAIN = "biufcmMSU"


def to_base64(value: Any) -> str:
    """Bytes as text."""
    return base64.b64encode(bytes(value)).decode("ascii")


def from_base64(value: Any) -> bytes:
    """Text as bytes; ValueError or TypeError where it is none of `to_base64`."""
    if not isinstance(value, str):
        raise TypeError("base64 text is needed")
    return base64.b64decode(value, validate=True)


def pack_array(value: Any, place: str) -> dict[str, Any]:
    """A NumPy array or scalar as a JSON object; BadRequest where it needs pickle."""
    import numpy as np

    if isinstance(value, np.ma.MaskedArray):
        raise BadRequest(f"{place} holds a masked array: fill it, or send an Arrow array, which knows nulls")
    array = np.asarray(value)
    # the second: types of other libraries share the kinds, not the names
    if array.dtype.kind not in _PLAIN or np.dtype(array.dtype.str) != array.dtype:
        raise BadRequest(
            f"{place} holds an array of {array.dtype}, which cannot be written without pickle: "
            "convert it to numbers or texts with .astype(…), or send an Arrow table"
        )
    packed: dict[str, Any] = {
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "data": to_base64(array.tobytes()),
    }
    if isinstance(value, np.generic):
        packed["scalar"] = True
    return packed


def unpack_array(packed: Any) -> Any:
    """What `pack_array` was given, in memory of its own; ValueError where sizes do not fit."""
    import numpy as np

    if not isinstance(packed, dict):
        raise TypeError("an object with dtype, shape and data is needed")
    name, shape, data = packed["dtype"], packed["shape"], from_base64(packed["data"])
    if not isinstance(name, str) or not isinstance(shape, list):
        raise TypeError("dtype is text and shape a list")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("shape is whole numbers of at least 0")
    dtype = np.dtype(name)
    if dtype.kind not in _PLAIN:
        raise ValueError(f"dtype {name[:40]!r} is not allowed")
    count = math.prod(shape)
    if count * dtype.itemsize != len(data) or (count > 1 and not dtype.itemsize):
        raise ValueError(f"shape {shape} of {dtype} does not fit {len(data)} bytes")
    # no bytes: frombuffer refuses them
    array = np.frombuffer(data, dtype).reshape(shape).copy() if data else np.zeros(shape, dtype)
    return array[()] if packed.get("scalar") is True else array


def pack_arrow(value: Any) -> dict[str, Any]:
    """An Arrow table, batch, array or chunked array as a JSON object."""
    import pyarrow as pa

    if isinstance(value, pa.Table):
        kind, table = "table", value
    elif isinstance(value, pa.RecordBatch):
        kind, table = "batch", value
    elif isinstance(value, pa.ChunkedArray):
        kind, table = "chunked", pa.table({"": value})
    else:
        kind, table = "array", pa.record_batch({"": value})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write(table)
    return {"kind": kind, "data": to_base64(sink.getvalue())}


def unpack_arrow(packed: Any) -> Any:
    """What `pack_arrow` was given; ValueError where the stream is torn or of another kind."""
    import pyarrow as pa

    if not isinstance(packed, dict):
        raise TypeError("an object with kind and data is needed")
    kind, data = packed["kind"], from_base64(packed["data"])
    try:
        with pa.ipc.open_stream(data) as reader:
            table = reader.read_all()
        # what came from outside may point beyond its buffers
        table.validate(full=True)
    except (pa.ArrowException, OSError, EOFError) as error:
        raise ValueError(f"it is no Arrow stream: {error}") from error
    if kind == "table":
        return table
    if kind == "chunked" and table.num_columns == 1:
        return table.column(0)
    if kind in ("batch", "array"):
        batches = table.to_batches()
        if len(batches) <= 1:
            batch = batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
            if kind == "batch":
                return batch
            if batch.num_columns == 1:
                return batch.column(0)
    raise ValueError(f"it is no Arrow {str(kind)[:40]!r} (table, batch, array or chunked)")


def equal(left: Any, right: Any) -> bool | None:
    """Whether two arrays are equal; None where neither is an array."""
    numpy, arrow = sys.modules.get("numpy"), sys.modules.get("pyarrow")
    if numpy is not None:
        kinds = (numpy.ndarray, numpy.generic)
        if isinstance(left, kinds) or isinstance(right, kinds):
            return (
                isinstance(left, numpy.ndarray) == isinstance(right, numpy.ndarray)
                and isinstance(right, kinds)
                and isinstance(left, kinds)
                and left.dtype == right.dtype
                and left.shape == right.shape
                and _same_items(left, right)
            )
    if arrow is not None:
        types = (arrow.Table, arrow.RecordBatch, arrow.ChunkedArray, arrow.Array)
        if isinstance(left, types) or isinstance(right, types):
            return _same_arrow(left, right)
    return None


def _same_items(left: Any, right: Any) -> bool:
    import numpy as np

    floats = left.dtype.kind in "fcmM"  # the kinds that know NaN or NaT
    return bool(np.array_equal(left, right, equal_nan=floats))


def _same_arrow(left: Any, right: Any) -> bool:
    import pyarrow as pa

    arrays = (pa.Array, pa.ChunkedArray)
    if isinstance(left, (pa.Table, pa.RecordBatch)):
        return bool(
            type(left) is type(right)
            and left.schema.equals(right.schema, check_metadata=True)
            and left.num_rows == right.num_rows
            and all(map(_same_arrow, left.columns, right.columns))
        )
    if not (isinstance(left, arrays) and isinstance(right, arrays)):
        return False
    if isinstance(left, pa.ChunkedArray) != isinstance(right, pa.ChunkedArray):
        return False
    if left.type != right.type or len(left) != len(right):
        return False
    # Arrow's own comparison holds NaN for unequal to itself; repr tells NaN and null apart
    return bool(left.equals(right)) or repr(left.to_pylist()) == repr(right.to_pylist())
