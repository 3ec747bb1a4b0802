"""Objects as bytes that are opened only where they are used: the scheduler passes them on unread."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import cloudpickle


class Packed:
    """An object as bytes; buffers of arrays and tables stay beside them, and are not copied.

    Parameters
    ----------
    data : bytes
        Its pickle.
    buffers : sequence of buffers
        What the pickle refers to.
    """

    __slots__ = ("buffers", "data")

    def __init__(self, data: bytes, buffers: Sequence[Any] = ()) -> None:
        self.data, self.buffers = data, tuple(buffers)

    @classmethod
    def of(cls, value: Any) -> Packed:
        """Pack `value`; functions and classes that no worker can import go by value.

        Raises
        ------
        TypeError, pickle.PicklingError, or what its parts raise
            Where it cannot be pickled.
        """
        buffers: list[pickle.PickleBuffer] = []
        file = _Pieces()
        _Pickler(file, protocol=5, buffer_callback=buffers.append).dump(value)
        return cls(file[0] if len(file) == 1 else b"".join(file), buffers)

    def open(self, *, copied: bool = False) -> Any:
        """The object. It came over the cluster from one of its clients, never from a file.

        Its arrays share the buffers here, unless they are `copied`.
        """
        buffers = [bytearray(buffer) for buffer in self.buffers] if copied else self.buffers
        return pickle.loads(self.data, buffers=buffers)

    @property
    def nbytes(self) -> int:
        """Bytes of it all."""
        return len(self.data) + sum(memoryview(buffer).nbytes for buffer in self.buffers)

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + self.nbytes

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        def as_is(buffer: Any) -> Any:
            if protocol < 5:
                return bytes(buffer)
            return buffer if isinstance(buffer, pickle.PickleBuffer) else pickle.PickleBuffer(buffer)

        return Packed, (self.data, tuple(as_is(buffer) for buffer in self.buffers))


class _Pieces(list[bytes]):
    """A file to pickle into: whatever its thread packs, other threads run between two pieces.

    A file that is written in C lets none of them run before all is packed.
    """

    def write(self, piece: Any) -> None:
        self.append(bytes(piece))


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """As cloudpickle's, but slices of Arrow data go without the rest of their buffers."""

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind.__module__ == "pyarrow.lib":
            import pyarrow as pa

            if kind is pa.Table or kind is pa.RecordBatch:
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, obj.schema) as writer:
                    writer.write(obj)
                return _open_arrow, (sink.getvalue(), kind is pa.Table)
            if isinstance(obj, (pa.Array, pa.ChunkedArray)) and obj.get_total_buffer_size() > 2 * obj.nbytes:
                return _open_column, (pa.table({"": obj}), isinstance(obj, pa.Array))
        return super().reducer_override(obj)


def _open_column(table: Any, single: bool) -> Any:
    column = table.column(0)
    return column.combine_chunks() if single else column


def _open_arrow(buffer: Any, table: bool) -> Any:
    import pyarrow as pa

    with pa.ipc.open_stream(buffer) as reader:
        return reader.read_all() if table else reader.read_next_batch()
