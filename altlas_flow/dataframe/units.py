"""Units: pieces of input that are read at once, whatever the input is; cut into parts of the output.

A unit is submitted as one Dask task that yields `Rows`. Files are scanned on workers, a pandas frame
is sent slice by slice, a dask frame is computed partition by partition.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from distributed import Client, Future

from altlas_flow.cluster.plain import submit_task
from altlas_flow.dataframe.frames import columns_of, frame_schema, keeps_index, to_rows
from altlas_flow.dataframe.rows import Given, Rows, give, read_rows
from altlas_flow.dataframe.sources import (
    Chunk,
    check_schemas,
    file_format,
    find_files,
    infer_schema,
    read_schema,
    scan,
    short_names,
)
from altlas_flow.dataframe.window import ask
from altlas_flow.errors import EmptyInput, SourceError

if TYPE_CHECKING:
    import pandas as pd

#: Tasks that scan the files of a source.
SCANS = 8


def slug_of(part: str) -> str:
    """The slug of the unit that a part came of, by the part's name."""
    return part.removeprefix("part-").rpartition("-")[0]


@dataclass(frozen=True)
class Measured:
    """Rows of a unit, and what tells whether they changed."""

    rows: int
    fingerprint: str


@dataclass(eq=False)
class Unit:
    """A piece of input that is read at once.

    Attributes
    ----------
    slug : str
        How the names of its parts start; the same for the same piece of the same input.
    submit : callable
        Gives its `Rows`, as a rule as the task that reads them.
    measured : Measured or None
        None where only reading it tells.
    chunk : Chunk or None
        The piece of a file that it is, which any worker can read.
    """

    slug: str
    submit: Callable[[], Given]
    first_row: int = 0
    measured: Measured | None = None
    chunk: Chunk | None = None

    def __str__(self) -> str:
        return self.slug

    def parts(self, part_rows: int) -> Iterator[Part]:
        """Cut the unit, once it is measured, into equal parts of at most `part_rows` rows."""
        assert self.measured is not None
        rows = self.measured.rows
        count = max(1, -(-rows // part_rows))
        for index in range(count):
            start, stop = rows * index // count, rows * (index + 1) // count
            text = f"{self.measured.fingerprint}:{start}:{stop}"
            name = f"part-{self.slug}-{self.first_row + start:012d}.parquet"
            yield Part(name, self, start, stop, hashlib.sha256(text.encode()).hexdigest()[:32])


@dataclass(frozen=True)
class Part:
    """Rows `start` to `stop` of a unit: one file of the output."""

    name: str
    unit: Unit
    start: int
    stop: int
    fingerprint: str

    def __str__(self) -> str:
        return self.name

    @property
    def chunk(self) -> Chunk | None:
        """The piece of a file that this part is, where it is the whole of one."""
        unit = self.unit
        assert unit.measured is not None
        return unit.chunk if self.stop - self.start == unit.measured.rows else None


@dataclass
class Source:
    """An input as units.

    Attributes
    ----------
    columns : tuple of str
        Of the input.
    units : list of Unit
    all_null : frozenset of str
        Columns that are known to hold nothing but nulls.
    paths : tuple of str
        Files that it is read from.
    """

    columns: tuple[str, ...]
    units: list[Unit]
    all_null: frozenset[str] = frozenset()
    paths: tuple[str, ...] = ()
    keep: list[Any] = field(default_factory=list)  # what must live as long as the units

    @property
    def rows(self) -> int | None:
        """Rows of the input, where they are known."""
        if any(unit.measured is None for unit in self.units):
            return None
        return sum(unit.measured.rows for unit in self.units if unit.measured)


def open_source(
    client: Client, source: Any, part_rows: int, timeout: float, needed: Sequence[str] = ()
) -> Source:
    """Whatever a user calls an input, as units.

    Parameters
    ----------
    client : distributed.Client
    source : pandas.DataFrame, dask.dataframe.DataFrame, path, glob, or list of paths
    part_rows : int
        Rows of a unit, where it is not the source that decides.
    timeout : float
        Seconds for the scan of one file.
    needed : sequence of str
        Columns that the model gets; see `to_rows`.

    Raises
    ------
    SourceError, EmptyInput
    """
    if isinstance(source, (str, Path, list, tuple)):
        return _files(client, source, part_rows, timeout)
    if hasattr(source, "to_delayed") and hasattr(source, "npartitions"):
        return _dask_frame(client, source, needed)
    if hasattr(source, "iloc"):
        return _pandas_frame(client, source, part_rows, needed)
    raise SourceError(
        f"a {type(source).__name__} is no source of rows: give a pandas or dask DataFrame, or the path of "
        "Parquet, CSV or JSONL files"
    )


def _files(client: Client, source: Any, part_rows: int, timeout: float) -> Source:
    paths = find_files([str(path) for path in source] if isinstance(source, (list, tuple)) else source)
    parquet = file_format(paths[0]) == "parquet"
    # a few tasks for all files: thousands of small ones are scanned in no time
    named = list(zip(paths, short_names(paths), strict=True))
    groups = [named[i::SCANS] for i in range(min(SCANS, len(named)))]
    # each Parquet file says for itself what it holds
    schema = None if parquet else ask(submit_task(client, infer_schema, paths), timeout)
    scans = [submit_task(client, scan_files, group, part_rows, schema) for group in groups]
    try:
        by_path = {
            path: found
            for future, group in zip(scans, groups, strict=True)
            for path, *found in ask(future, timeout * len(group))
        }
    finally:
        for scanned in scans:  # one that failed leaves the others unasked
            scanned.release()
    if schema is None:
        schema = check_schemas([by_path[path][0] for path in paths], paths)
    types = schema.remove_metadata()
    chunks = [replace(chunk, schema=types) for path in paths for chunk in by_path[path][1]]
    if not chunks:
        raise EmptyInput(f"{source} has no rows: there is nothing to predict; check the source")
    units = [
        Unit(
            _slug(chunk.path),
            # read anywhere: a model's needs restrict predictions only
            partial(submit_task, client, read_rows, chunk),
            chunk.first_row,
            Measured(chunk.rows, chunk.fingerprint),
            chunk,
        )
        for chunk in chunks
    ]
    nulls = frozenset(field.name for field in schema if pa.types.is_null(field.type))
    return Source(tuple(schema.names), units, nulls, tuple(paths))


def scan_files(
    named: Sequence[tuple[str, str]], part_rows: int, schema: pa.Schema | None
) -> list[tuple[str, pa.Schema, list[Chunk]]]:
    """Schemas and chunks of files; `schema`: the job's, None for Parquet. Runs on a worker."""
    found = []
    for path, name in named:
        own = read_schema(path) if schema is None else schema
        found.append((path, own, scan(path, part_rows, own, name=name)))
    return found


def _slug(path: str) -> str:
    """The file's name, fit for a part's name, and a digest of its whole path."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(path).name.split(".")[0])[:60].strip("-") or "file"
    return f"{stem}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


def _pandas_frame(client: Client, frame: pd.DataFrame, part_rows: int, needed: Sequence[str]) -> Source:
    if not len(frame):
        raise EmptyInput("the frame has no rows: there is nothing to predict; check how it was made")
    columns = columns_of(frame)
    rows = to_rows(frame, "frame", needed)
    table, units = rows.table, []
    for start in range(0, rows.count, part_rows):
        piece = rows.part(start, min(start + part_rows, rows.count))
        units.append(
            Unit(
                "frame",
                partial(give, client, piece),
                start,
                measure(piece),
            )
        )
    nulls = frozenset(name for name in table.column_names if table[name].null_count == table.num_rows)
    return Source(columns, units, nulls)


def _dask_frame(client: Client, frame: Any, needed: Sequence[str]) -> Source:
    if not frame.npartitions:
        raise EmptyInput("the frame has no partitions: there is nothing to predict; check how it was made")
    columns = columns_of(frame)
    schema, index = frame_schema(frame), keeps_index(frame)
    partitions = frame.to_delayed()

    def submitter(number: int) -> Callable[[], Future[Any]]:
        def submit() -> Future[Any]:
            computed = client.compute(partitions[number])
            return submit_task(client, to_rows, computed, f"partition-{number}", needed, schema, index)

        return submit

    units = [Unit(f"partition-{number:06d}", submitter(number)) for number in range(len(partitions))]
    return Source(columns, units, keep=[partitions])


def measure(rows: Rows) -> Measured:
    """Rows and fingerprint of a unit by its content; on a worker where it had to be read for it."""
    fingerprint = digest(rows.table)
    if rows.bad:
        fingerprint = hashlib.blake2b(repr((fingerprint, rows.bad)).encode(), digest_size=16).hexdigest()
    return Measured(rows.count, fingerprint)


def digest(table: pa.Table) -> str:
    """Digest of a table's content, the same however it is split or sliced."""
    # Arrow pads what it writes of a slice with the bytes behind it: copied together with an empty array,
    # a column stands alone. What pandas notes beside it is left out: rows appended anywhere change that.
    columns = [
        pa.chunked_array([*column.chunks, pa.array([], column.type)]).combine_chunks()
        for column in table.columns
    ]
    alone = pa.Table.from_arrays(columns, names=table.column_names)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, alone.schema) as writer:
        writer.write_table(alone)
    return hashlib.blake2b(memoryview(sink.getvalue()), digest_size=16).hexdigest()
