"""What workers write into an output folder, and the dead letters that are read back from it."""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from altlas_flow.dataframe.manifest import committed_parts, dead_letters_of, not_writable
from altlas_flow.errors import OutputNotWritable

__all__ = ["DEAD_LETTER_SCHEMA", "Attempt", "read_dead_letters", "write_attempt"]

_COLUMNS = ("row_id", "phase", "error", "error_type", "model", "node", "input", "stage")
#: Of rows put aside; `stage` is null where a model was asked, and not a pipeline.
DEAD_LETTER_SCHEMA = pa.schema([(name, pa.string()) for name in _COLUMNS])


@dataclass(frozen=True)
class Attempt:
    """A file that a worker wrote and that nobody has committed yet (`bytes`: its size)."""

    path: str
    rows: int
    bytes: int


def write_attempt(table: pa.Table, folder: str | Path, part: str) -> Attempt:
    """Write a table durably under a name of its own; called on a worker.

    Parameters
    ----------
    table : pyarrow.Table
        The part's rows, or its dead letters.
    folder : path
        The job's ``OutputFolder.attempts``. It is not made: once the job is gone, nothing is written.
    part : str
        The part's file name.

    Raises
    ------
    OutputNotWritable
        Rights, a full disk, or no such folder on this machine; the partial file is removed.
    """
    path = Path(folder) / f"{part.removesuffix('.parquet')}-{uuid.uuid4().hex}.parquet.attempt"
    encoded = [name for name in table.column_names if repeats(table.column(name))]
    try:
        pq.write_table(table, path, use_dictionary=encoded)
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
            size = os.fstat(handle).st_size
        finally:
            os.close(handle)
    except OSError as error:
        with contextlib.suppress(OSError):  # what went wrong first is what people must know
            path.unlink(missing_ok=True)
        if isinstance(error, FileNotFoundError):
            raise OutputNotWritable(
                f"{folder} is not there on {socket.gethostname()}: the job has ended, "
                "or the output folder is not on a file system that the workers share"
            ) from error
        raise not_writable(folder, error) from error
    return Attempt(str(path), table.num_rows, size)


def repeats(column: pa.ChunkedArray) -> bool:
    """Whether values come again and again in the first thousand, so that a dictionary is worth its time."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return True
    if pa.types.is_floating(kind) or pa.types.is_nested(kind) or pa.types.is_null(kind):
        return False
    sample = column.slice(0, 1000)
    try:
        return 2 * len(pc.unique(sample)) <= len(sample)
    except pa.ArrowNotImplementedError:  # a type that knows no equality
        return False


def read_dead_letters(path: str | Path) -> pa.Table:
    """The rows put aside in the committed parts of a folder, with `DEAD_LETTER_SCHEMA`.

    Raises
    ------
    OutputMismatch
        The folder has no manifest of ours.
    """
    tables = [DEAD_LETTER_SCHEMA.empty_table()]
    for part, record in sorted(committed_parts(path).items()):
        if record.dead_letters:
            with contextlib.suppress(FileNotFoundError):  # withdrawn since
                table = pq.ParquetFile(dead_letters_of(Path(path), part)).read()
                if "stage" not in table.column_names:  # of a job before there were pipelines
                    table = table.append_column("stage", pa.nulls(table.num_rows, pa.string()))
                tables.append(table.cast(DEAD_LETTER_SCHEMA))
    return pa.concat_tables(tables)
