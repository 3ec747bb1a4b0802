"""Source files of a job: finding them, and cutting them into chunks."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from altlas_flow.dataframe.csvfiles import csv_header
from altlas_flow.dataframe.readers import (
    READ_ERRORS,
    Chunk,
    open_parquet,
    read_chunk,
    short_names,
    stat,
    unreadable,
)
from altlas_flow.dataframe.schemas import (
    check_schemas,
    file_format,
    infer_schema,
    read_schema,
    refuse_other_columns,
)
from altlas_flow.dataframe.textfiles import Records, open_text
from altlas_flow.errors import SourceError

__all__ = [
    "Chunk",
    "check_schemas",
    "file_format",
    "find_files",
    "infer_schema",
    "read_chunk",
    "read_schema",
    "scan",
    "short_names",
]

CHUNK_BYTES = 64 << 20


def find_files(source: str | Path | Sequence[str | Path]) -> list[str]:
    """Absolute paths of the files that a source means, sorted, each once.

    Parameters
    ----------
    source : str, Path or list of them
        Files, folders (searched to the bottom) or globs. Inside folders and globs, names that start
        with ``_`` or ``.`` are left out. Folder names such as ``year=2024`` add no columns.

    Raises
    ------
    SourceError
        Nothing is there, the format is not known, or formats are mixed.
    """
    given = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    found = sorted({path for one in given for path in _expand(os.fspath(one))})
    if not found:
        raise SourceError(f"the source {source!r} names no file: give a file, a folder or a glob")
    kinds = {file_format(path): path for path in reversed(found)}
    if len(kinds) > 1:
        one, other = list(kinds.values())[:2]
        raise SourceError(
            f"the source mixes formats ({one}, {other}): give files of one, such as a glob '*.csv'"
        )
    return found


def _expand(source: str) -> list[str]:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source):
        raise SourceError(
            f"{source} is not a local path: copy the files to a file system that all workers share"
        )
    path = os.path.abspath(os.path.expanduser(source))
    if os.path.isdir(path):
        matches = _below(path)
    elif os.path.exists(path):
        return [path]
    elif glob.has_magic(path):
        fixed = path[: re.search(r"[*?\[]", path).start()].rpartition(os.sep)[0]  # type: ignore[union-attr]
        hits = [
            hit
            for hit in glob.glob(path, recursive=True)
            if not any(_hidden(name) for name in os.path.relpath(hit, fixed or os.sep).split(os.sep))
        ]
        matches = [file for hit in hits for file in (_below(hit) if os.path.isdir(hit) else [hit])]
    else:
        raise SourceError(f"there is no file or folder {path}: check the path")
    if not matches:
        raise SourceError(
            f"{source} holds or matches no file: check the path (names with _ or . do not count)"
        )
    return matches


def _below(folder: str) -> list[str]:
    def refuse(error: OSError) -> None:
        raise unreadable(folder, error) from error

    found: list[str] = []
    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not _hidden(name)]
        found.extend(os.path.join(place, name) for name in files if not _hidden(name))
    return found


def _hidden(name: str) -> bool:
    return name.startswith(("_", "."))


def scan(
    path: str, part_rows: int, schema: pa.Schema | None = None, *, name: str | None = None
) -> list[Chunk]:
    """Cut a file into chunks of up to `part_rows` rows; run on a worker, which really reads the file.

    Parameters
    ----------
    path : str
        The file, absolute.
    part_rows : int
        Rows of a chunk at most; only a Parquet row group and a ``.gz`` file are chunks however many
        they have. A chunk of text has about 64 MiB at most.
    schema : pyarrow.Schema, optional
        The types of the whole job (`infer_schema`, `check_schemas`); by default the file's own.
    name : str, optional
        What row ids call the file (see `short_names`).

    Returns
    -------
    list of Chunk
        In order; none for a file without rows.

    Raises
    ------
    SourceError
        The file cannot be read, is empty or not what its name says, or has other columns.
    """
    kind, (size, mtime_ns) = file_format(path), stat(path)
    header: tuple[str, ...] = ()
    try:
        if kind == "parquet":
            schema = read_schema(path) if schema is None else schema
            spans = list(_row_groups(path, part_rows, schema))
        else:
            if schema is None:
                schema = infer_schema([path])
            assert schema is not None  # only Parquet's is None
            header, spans = _cut_text(path, kind, part_rows, schema)
    except READ_ERRORS as error:
        raise unreadable(path, error) from error
    name = name or os.path.basename(path)
    types = schema.remove_metadata()
    starts = itertools.accumulate((rows for *_, rows in spans), initial=0)
    return [
        Chunk(path, kind, name, size, mtime_ns, first, rows, (start, stop), types, header)
        for first, (start, stop, rows) in zip(starts, spans, strict=False)
    ]


def _row_groups(path: str, part_rows: int, schema: pa.Schema) -> Iterator[tuple[int, int, int]]:
    with open_parquet(path) as file:
        check_schemas([schema, file.schema_arrow], ["the job", path])
        counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    start, rows = 0, 0
    for group, count in enumerate(counts):
        if rows and rows + count > part_rows:
            yield start, group, rows
            start, rows = group, 0
        rows += count
    if rows:
        yield start, len(counts), rows


def _cut_text(
    path: str, kind: str, part_rows: int, schema: pa.Schema
) -> tuple[tuple[str, ...], list[tuple[int, int, int]]]:
    """The CSV header, and where each chunk begins and ends in (unpacked) bytes, with its rows."""
    packed = path.endswith(".gz")  # unpacked from its start each time it is read: one chunk
    spans: list[tuple[int, int, int]] = []
    header: tuple[str, ...] = ()
    with open_text(path) as stream:
        records = Records(stream, stream.tell())
        found: Iterator[object] = records.jsonl()
        if kind == "csv":
            parsed = records.csv()
            header = tuple(csv_header(path, parsed))
            refuse_other_columns(header, schema.names, path, "the job's first file")
            found = parsed
        start, rows = records.end, 0
        for record in found:
            rows += bool(record)
            if rows and not packed and (rows >= part_rows or records.end - start >= CHUNK_BYTES):
                spans.append((start, records.end, rows))
                start, rows = records.end, 0
        if rows:
            spans.append((start, records.end, rows))
    return header, spans
