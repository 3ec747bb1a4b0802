"""Formats of source files, and the one schema that all files of a job are delivered with."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pyarrow as pa

from altlas_flow.dataframe.csvfiles import infer_csv
from altlas_flow.dataframe.jsonfiles import infer_jsonl
from altlas_flow.dataframe.readers import READ_ERRORS, open_parquet, stat, unreadable
from altlas_flow.dataframe.textfiles import merge_types
from altlas_flow.errors import SourceError

__all__ = ["check_schemas", "file_format", "infer_schema", "read_schema", "refuse_other_columns"]

SAMPLE_BYTES = 1 << 20
SAMPLE_FILES = 16
FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}


def file_format(path: str) -> str:
    """Format by a file's name: ``parquet``, ``csv`` or ``jsonl``; SourceError for any other."""
    stem = path.removesuffix(".gz").lower()
    found = FORMATS.get(os.path.splitext(stem)[1])
    if found is None or (found == "parquet" and path.endswith(".gz")):
        raise SourceError(
            f"{path} has no format that is known by its name: give .parquet, .csv or .jsonl files "
            "(the latter two also .gz), or a glob that matches only such"
        )
    return found


def read_schema(path: str) -> pa.Schema:
    """Schema in a Parquet file's footer; SourceError if it is no Parquet file, or has a column twice."""
    with open_parquet(path) as file:
        schema: pa.Schema = file.schema_arrow
    twice = {name for name in schema.names if schema.names.count(name) > 1}
    if twice:
        raise SourceError(f"{path} has the column {min(twice)!r} more than once: rename one of them")
    return schema


def infer_schema(paths: Sequence[str]) -> pa.Schema | None:
    """Columns and types of CSV or JSON lines files, by the first MiB of the first 16 files.

    Numbers of both kinds become float64, anything else that disagrees becomes text, as does what is not
    known yet. Values further on that do not fit are bad rows. None for Parquet, which knows its types.

    Raises
    ------
    SourceError
        A file cannot be read, or has other columns than the first (CSV).
    """
    kind = file_format(paths[0])
    if kind == "parquet":
        return None
    types: dict[str, pa.DataType] = {}
    for place, path in enumerate(paths[:SAMPLE_FILES]):
        stat(path)
        try:
            found = infer_csv(path, SAMPLE_BYTES) if kind == "csv" else infer_jsonl(path, SAMPLE_BYTES)
        except READ_ERRORS as error:
            raise unreadable(path, error) from error
        if place and kind == "csv":
            refuse_other_columns(found.names, list(types), path, paths[0])
        for field in found:
            types[field.name] = merge_types(types.get(field.name, field.type), field.type)
    return pa.schema(list(types.items()))


def refuse_other_columns(names: Sequence[str], wanted: Sequence[str], path: str, first: str) -> None:
    """SourceError if a file's columns are not the wanted ones, in any order; it names one and both files."""
    if set(names) == set(wanted):
        return
    column = min(set(names) ^ set(wanted))
    one, other = (path, first) if column in wanted else (first, path)
    raise SourceError(f"{one} has no column {column!r}, but {other} has: give files with the same columns")


def check_schemas(schemas: Sequence[pa.Schema], paths: Sequence[str]) -> pa.Schema:
    """The schema that all files' rows are delivered with.

    Null columns take the others' type, and both lengths of string and of dictionary index are one. The
    first file gives the columns' order.

    Raises
    ------
    SourceError
        Two files disagree; it names them and the column.
    """
    fields: dict[str, pa.Field] = {}
    origin: dict[str, str] = {}
    for schema, path in zip(schemas, paths, strict=True):
        if fields:
            refuse_other_columns(schema.names, list(fields), path, paths[0])
        for field in schema:
            known = fields.get(field.name, field)
            merged = _common(known.type, field.type)
            if merged is None:
                was = f"{known.type} in {origin[field.name]}"
                raise SourceError(
                    f"column {field.name!r} is {was}, but {field.type} in {path}: "
                    "give files with the same types, or run them as two jobs"
                )
            if field.name not in fields or known.type != merged:
                fields[field.name] = pa.field(field.name, merged)
                origin[field.name] = path
    return pa.schema(list(fields.values()))


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    for pair in ((pa.string(), pa.large_string()), (pa.binary(), pa.large_binary())):
        if one in pair and other in pair:
            return pair[1]
    if pa.types.is_dictionary(one) and pa.types.is_dictionary(other):
        value = _common(one.value_type, other.value_type)
        return None if value is None else pa.dictionary(pa.int32(), value, one.ordered and other.ordered)
    if pa.types.is_list(one) and pa.types.is_list(other):
        value = _common(one.value_type, other.value_type)
        return None if value is None else pa.list_(value)
    return None
