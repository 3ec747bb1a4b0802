"""Arrow tables inside other objects, without their neighbours.

A slice of a table pickles with all of the buffers that it is a slice of; as an IPC stream it carries
its own rows only.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pyarrow as pa


class CarriesTables:
    """Base of dataclasses that hold tables and travel between workers."""

    def __reduce__(self) -> tuple[Any, ...]:
        state = {item.name: getattr(self, item.name) for item in fields(self)}  # type: ignore[arg-type]
        packed = {name: _pack(value) for name, value in state.items() if isinstance(value, pa.Table)}
        return _rebuild, (type(self), {**state, **packed}, tuple(packed))

    def __sizeof__(self) -> int:
        """Bytes, for Dask's account of a worker's memory."""
        values = (getattr(self, item.name) for item in fields(self))  # type: ignore[arg-type]
        return 64 + sum(int(value.nbytes) for value in values if isinstance(value, pa.Table))


def _pack(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _rebuild(kind: type, state: dict[str, Any], packed: tuple[str, ...]) -> Any:
    tables = {name: pa.ipc.open_stream(state[name]).read_all() for name in packed}
    return kind(**{**state, **tables})
