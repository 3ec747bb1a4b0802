"""JSON lines: types, and rows with the bad ones told apart."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.json as pa_json

from altlas_flow.dataframe.textfiles import EXCERPT, Parsed, Records, numbers_without, open_text, sorted_bad
from altlas_flow.errors import SourceError, one_line

__all__ = ["infer_jsonl", "parse_jsonl"]

DEPTH = 16  # what is nested deeper is kept as its JSON


def parse_jsonl(data: bytes, schema: pa.Schema, rows: int) -> Parsed:
    """Rows of JSON lines; arguments and results as in `parse_csv`. Keys not in `schema` are left out."""
    try:
        table = pa_json.read_json(
            io.BytesIO(data),
            read_options=pa_json.ReadOptions(use_threads=False, block_size=min(len(data) + 1, 2**31 - 1)),
            parse_options=pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
        if table.num_rows == rows and table.schema.equals(schema):
            table.validate(full=True)  # Arrow takes any bytes for a text
            return table, [], None
    except pa.ArrowException:
        pass  # the reading below says which rows are bad
    return _slow_jsonl(data, schema, rows)


def _slow_jsonl(data: bytes, schema: pa.Schema, rows: int) -> Parsed:
    values: dict[str, list[Any]] = {name: [] for name in schema.names}
    bad: dict[int, tuple[str, str]] = {}
    fitters = [(target.name, _fitter(target.type), target.type) for target in schema]
    for row, line in enumerate(line for line in Records(io.BytesIO(data)).jsonl() if line):
        try:
            found = _json_object(line)
            fitted = []
            for name, fit, type_ in fitters:
                try:
                    fitted.append(None if found.get(name) is None else fit(found[name]))
                except (ValueError, OverflowError) as error:
                    text = json.dumps(found[name], ensure_ascii=False)
                    raise ValueError(f"{name}: {one_line(text, 80)} is not {type_}") from error
        except (ValueError, RecursionError) as error:
            bad[row] = (one_line(error, EXCERPT), one_line(line.decode("utf-8", "replace"), EXCERPT))
            continue
        for name, value in zip(schema.names, fitted, strict=True):
            values[name].append(value)
    arrays = {target.name: pa.array(values[target.name], target.type) for target in schema}
    return pa.table(arrays, schema=schema), sorted_bad(bad), numbers_without(rows, bad)


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def _fitter(type_: pa.DataType) -> Callable[[Any], Any]:
    """What takes a JSON value that is not null into an Arrow type, exactly, or raises ValueError."""
    if pa.types.is_boolean(type_):
        return lambda value: _only(value, isinstance(value, bool))
    if pa.types.is_integer(type_):
        return lambda value: _only(value, type(value) is int and -(2**63) <= value < 2**63)
    if pa.types.is_floating(type_):
        return lambda value: float(_only(value, type(value) in (int, float)))
    if pa.types.is_list(type_):
        inner = _fitter(type_.value_type)
        return lambda value: [
            None if item is None else inner(item) for item in _only(value, isinstance(value, list))
        ]
    if pa.types.is_struct(type_):
        inners = {f.name: _fitter(f.type) for f in type_.fields}
        return lambda value: {
            name: None if _only(value, isinstance(value, dict)).get(name) is None else fit(value[name])
            for name, fit in inners.items()
        }
    return _text


def _only(value: Any, fits: bool) -> Any:
    if not fits:
        raise ValueError(value)
    return value


def _text(value: Any) -> str:
    """A string as it is, anything else as its JSON; lone surrogates cannot be stored."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("not Unicode") from error
    return text


def infer_jsonl(path: str, block: int) -> pa.Schema:
    """Keys and types by the first `block` bytes of a file; where values disagree, text wins."""
    with open_text(path) as stream:
        data = stream.read(block)
        if not data.endswith(b"\n"):
            data += stream.readline()
    objects: list[dict[str, Any]] = []
    lines = [line for line in Records(io.BytesIO(data)).jsonl() if line]
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            objects.append(_json_object(line))
    if lines and not objects:
        hint = "it is one JSON array" if lines[0].startswith(b"[") else "they do not parse"
        raise SourceError(f"{path} has no JSON object on any of its first lines ({hint}): one object a line")
    keys = dict.fromkeys(key for found in objects for key in found)
    return pa.schema([(key, _json_type([found.get(key) for found in objects])) for key in keys])


def _json_type(values: list[Any], depth: int = 0) -> pa.DataType:
    """One type for values from JSON; text where they disagree, and where nothing is known yet."""
    found = [value for value in values if value is not None]
    kinds = {type(value) for value in found}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64() if all(-(2**63) <= value < 2**63 for value in found) else pa.string()
    if kinds and kinds <= {int, float}:
        return pa.float64()
    if kinds == {list} and depth < DEPTH:
        return pa.list_(_json_type([item for value in found for item in value], depth + 1))
    if kinds == {dict} and any(found) and depth < DEPTH:  # Parquet has no struct without fields
        keys = dict.fromkeys(key for value in found for key in value)
        inner = {key: _json_type([value.get(key) for value in found], depth + 1) for key in keys}
        return pa.struct(list(inner.items()))
    return pa.string()
