"""Reading chunks: what is read at once, on a worker, with its bad rows told apart."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from altlas_flow.dataframe.csvfiles import parse_csv
from altlas_flow.dataframe.jsonfiles import parse_jsonl
from altlas_flow.dataframe.textfiles import Parsed, open_text
from altlas_flow.errors import MissingColumn, SourceError, describe

__all__ = ["Chunk", "open_parquet", "read_chunk", "unreadable"]

# What reading a damaged or vanished file may raise; ArrowException covers what Parquet adds.
READ_ERRORS = (OSError, EOFError, zlib.error, pa.ArrowException)


@dataclass(frozen=True)
class Chunk:
    """A piece of a file that is read at once; picklable.

    Parameters
    ----------
    path : str
        The file, absolute.
    format : {"parquet", "csv", "jsonl"}
        How to read it.
    name : str
        What row ids call the file.
    size, mtime_ns : int
        Its size in bytes and time of change when it was scanned.
    first_row, rows : int
        Where the chunk begins in the file, and how many rows it has, bad ones included.
    locator : tuple of int
        Parquet: first row group and the one behind the last. Text: the same of bytes.
    schema : pyarrow.Schema
        Columns and types to deliver.
    header : tuple of str
        CSV: the columns as they stand in the file.
    """

    path: str
    format: str
    name: str
    size: int
    mtime_ns: int
    first_row: int
    rows: int
    locator: tuple[int, int]
    schema: pa.Schema
    header: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Hex digest of path, size, time of change, place in the file, and the types delivered."""
        types = [(field.name, str(field.type)) for field in self.schema]
        place = [self.first_row, self.rows, *self.locator]
        what = json.dumps([self.path, self.format, self.size, self.mtime_ns, place, types])
        return hashlib.sha256(what.encode()).hexdigest()[:32]


def unreadable(path: str, error: BaseException) -> SourceError:
    """The typed error for a file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return SourceError(
            f"{path} is not there on {socket.gethostname()}: "
            "check the path, and that all workers share its file system"
        )
    return SourceError(
        f"cannot read {path} ({describe(error)}): mend the file or its rights, or leave it out"
    )


def stat(path: str) -> tuple[int, int]:
    """Size in bytes and time of change; SourceError for a file that is missing or empty."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise unreadable(path, error) from error
    if not found.st_size:
        raise SourceError(f"{path} is empty: remove it, or give another source")
    return found.st_size, found.st_mtime_ns


def open_parquet(path: str) -> pq.ParquetFile:
    """Open a Parquet file and read its footer; SourceError for anything else."""
    try:
        return pq.ParquetFile(path, memory_map=True, pre_buffer=True)
    except pa.ArrowInvalid as error:
        raise SourceError(
            f"{path} is not a whole Parquet file ({describe(error)}): write it again, or leave it out"
        ) from error
    except READ_ERRORS as error:
        raise unreadable(path, error) from error


def read_chunk(chunk: Chunk, columns: Sequence[str] | None = None) -> Parsed:
    """Read a chunk with one thread.

    Parameters
    ----------
    chunk : Chunk
        What `scan` gave.
    columns : sequence of str, optional
        The columns to deliver, all by default. Which rows are bad does not depend on it.

    Returns
    -------
    table : pyarrow.Table
        The good rows, with ``chunk.schema``'s types.
    bad : list of (int, str, str)
        The others: row number within the chunk, what is wrong, the start of the row as it stands.
    positions : numpy.ndarray of int64, or None
        The good rows' numbers within the chunk; None means all rows, in order.

    Raises
    ------
    SourceError
        The file cannot be read, or changed since it was scanned.
    MissingColumn
        The file has no such column.
    """
    for column in columns or ():
        if column not in chunk.schema.names:
            raise MissingColumn(column, chunk.schema.names)
    _refuse_changed(chunk)
    try:
        if chunk.format == "parquet":
            parsed: Parsed = (_read_parquet(chunk, columns), [], None)
        else:
            parsed = _read_text(chunk)
    except READ_ERRORS as error:
        _refuse_changed(chunk)
        raise unreadable(chunk.path, error) from error
    _refuse_changed(chunk)
    table, bad, positions = parsed
    if table.num_rows + len(bad) != chunk.rows:
        raise SourceError(
            f"{chunk.path} gave {table.num_rows + len(bad)} rows where {chunk.rows} were counted: "
            "run the job again, nothing may change the file meanwhile"
        )
    return (table if columns is None else table.select(list(columns))), bad, positions


def _refuse_changed(chunk: Chunk) -> None:
    if stat(chunk.path) != (chunk.size, chunk.mtime_ns):
        raise SourceError(f"{chunk.path} changed since the job looked at it: run the same job again")


def _read_text(chunk: Chunk) -> Parsed:
    start, stop = chunk.locator
    with open_text(chunk.path) as stream:
        stream.seek(start)
        data = stream.read(stop - start)
    if chunk.format == "csv":
        return parse_csv(data, list(chunk.header), chunk.schema, chunk.rows)
    return parse_jsonl(data, chunk.schema, chunk.rows)


def _read_parquet(chunk: Chunk, columns: Sequence[str] | None) -> pa.Table:
    with open_parquet(chunk.path) as file:
        wanted = None if columns is None else list(columns)
        table = file.read_row_groups(range(*chunk.locator), columns=wanted, use_threads=False)
    schema = chunk.schema if columns is None else pa.schema([chunk.schema.field(name) for name in columns])
    if table.schema.equals(schema):
        return table
    arrays = [_cast(table.column(field.name), field.type) for field in schema]
    fields = [field.with_nullable(True) for field in schema]  # a promoted column may hold nulls
    return pa.table(arrays, schema=pa.schema(fields, table.schema.metadata))


def _cast(column: Any, type_: pa.DataType) -> Any:
    if column.type == type_:
        return column
    if pa.types.is_null(column.type):
        return pa.chunked_array([pa.nulls(len(column), type_)])
    if pa.types.is_dictionary(type_) and pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type).dictionary_encode().cast(type_)
    return column.cast(type_)


def short_names(paths: Sequence[str]) -> list[str]:
    """Names for row ids: the files' names, or, where these are not unique, the paths below their folder."""
    plain = [Path(path).name for path in paths]
    if len(set(plain)) == len(plain):
        return plain
    return [os.path.relpath(path, os.path.commonpath(paths)) for path in paths]
