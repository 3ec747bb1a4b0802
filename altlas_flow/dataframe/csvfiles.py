"""CSV: headers, types, and rows with the bad ones told apart.

Empty cells and the usual spellings of "missing" are null in typed columns; in text columns only the
empty cell is.
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from altlas_flow.dataframe.textfiles import EXCERPT, Parsed, Records, numbers_without, open_text, sorted_bad
from altlas_flow.errors import SourceError, one_line

__all__ = ["csv_header", "infer_csv", "parse_csv"]

MISSING = ("", "NA", "N/A", "n/a", "#N/A", "NULL", "null", "NaN", "nan", "None")


def csv_header(path: str, records: Iterator[list[str] | csv.Error]) -> list[str]:
    """The column names, taken off `records`; SourceError where there are none, or one comes twice."""
    header = next((record for record in records if record), None)
    if header is None or isinstance(header, csv.Error) or _surrogates(header):
        why = "no header line" if header is None else "a header line that is not CSV in UTF-8"
        raise SourceError(f"{path} has {why}: give the columns' names in its first line")
    header = [name.strip() or f"Unnamed: {place}" for place, name in enumerate(header)]
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise SourceError(f"{path} has the column {min(twice)!r} more than once: rename one of them")
    return header


def parse_csv(data: bytes, names: list[str], schema: pa.Schema, rows: int) -> Parsed:
    """Rows of CSV without its header.

    Parameters
    ----------
    data : bytes
        Whole records.
    names : list of str
        The columns as they stand in the file.
    schema : pyarrow.Schema
        The table's columns and types.
    rows : int
        How many records there are, blank lines not counted.

    Returns
    -------
    tuple
        Table of good rows, bad rows (number, error, excerpt), and the good rows' numbers, or None
        where all are good.
    """
    texts = _fast_csv(data, names, rows)
    bad: dict[int, tuple[str, str]] = {}
    if texts is None:
        texts, bad = _slow_csv(data, names)
    kept = numbers_without(rows, bad)
    columns = {}
    for target in schema:
        cells = texts.column(target.name)
        columns[target.name], misfits = _convert(cells, target.type)
        for place in misfits:
            row = place if kept is None else int(kept[place])
            text = f"{target.name}: {one_line(cells[place].as_py(), 80)!r} is not {target.type}"
            excerpt = ",".join(str(texts.column(name)[place].as_py()) for name in names)
            bad.setdefault(row, (text, one_line(excerpt, EXCERPT)))
    table, positions = pa.table(columns, schema=schema), numbers_without(rows, bad)
    if positions is not None and len(positions) < table.num_rows:  # rows with cells that do not fit
        places = positions if kept is None else np.searchsorted(kept, positions)
        table = table.take(pa.array(places))
    return table, sorted_bad(bad), positions


def _fast_csv(data: bytes, names: list[str], rows: int) -> pa.Table | None:
    wrong = 0

    def skip(row: Any) -> str:
        nonlocal wrong
        wrong += 1
        return "skip"

    try:
        table = pa_csv.read_csv(
            io.BytesIO(data),
            read_options=pa_csv.ReadOptions(
                column_names=names, use_threads=False, block_size=min(len(data) + 1, 2**31 - 1)
            ),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowException:
        return None
    return table if not wrong and table.num_rows == rows else None


def _slow_csv(data: bytes, names: list[str]) -> tuple[pa.Table, dict[int, tuple[str, str]]]:
    cells: list[list[str]] = [[] for _ in names]
    bad: dict[int, tuple[str, str]] = {}
    records = (record for record in Records(io.BytesIO(data)).csv() if not isinstance(record, list) or record)
    for row, record in enumerate(records):
        if isinstance(record, csv.Error):
            bad[row] = (f"not CSV: {one_line(record)}", "")
        elif len(record) != len(names):
            bad[row] = (f"{len(record)} fields where the header has {len(names)}", _excerpt(record))
        elif _surrogates(record):
            bad[row] = ("not UTF-8", _excerpt(record))
        else:
            for column, cell in zip(cells, record, strict=True):
                column.append(cell)
    arrays = [pa.chunked_array([pa.array(column, pa.string())]) for column in cells]
    return pa.table(dict(zip(names, arrays, strict=True))), bad


def _without_missing(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    trimmed = pc.utf8_trim_whitespace(cells)
    return pc.if_else(pc.is_in(trimmed, value_set=pa.array(MISSING)), None, trimmed)


def _convert(cells: pa.ChunkedArray, type_: pa.DataType) -> tuple[pa.ChunkedArray, list[int]]:
    """Cells as `type_`, null where they do not fit, and the places of those."""
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return pc.if_else(pc.equal(cells, ""), None, cells).cast(type_), []
    trimmed = _without_missing(cells)
    misfits: list[int] = []
    pieces: list[pa.Array] = []

    def cast_span(start: int, stop: int) -> None:  # halves what fails: few misfits cost few casts
        try:
            pieces.extend(trimmed.slice(start, stop - start).cast(type_).chunks)
        except pa.ArrowInvalid:
            if stop - start == 1:
                misfits.append(start)
                pieces.append(pa.nulls(1, type_))
            else:
                middle = (start + stop) // 2
                cast_span(start, middle)
                cast_span(middle, stop)

    cast_span(0, len(trimmed))
    return pa.chunked_array(pieces, type_).combine_chunks(), misfits


def infer_csv(path: str, block: int) -> pa.Schema:
    """Columns and types of a CSV file by its first `block` bytes; what is not a number or bool is text."""
    with open_text(path) as stream:
        data = stream.read(block)
        more = bool(stream.read(1))
    records = Records(io.BytesIO(data))
    parsed = records.csv()
    names = csv_header(path, parsed)
    rows = [row for row in parsed if isinstance(row, list) and len(row) == len(names)]
    if more:
        rows = rows[:-1]  # cut off by the block's end
    return pa.schema([(name, _csv_type([row[place] for row in rows])) for place, name in enumerate(names)])


def _csv_type(cells: list[str]) -> pa.DataType:
    with contextlib.suppress(UnicodeEncodeError):  # what is not UTF-8 is text, and a bad row later
        column = _without_missing(pa.chunked_array([pa.array(cells, pa.string())])).drop_null()
        # Codes such as 00123 and 0x1F are no numbers: they would not come out as they went in.
        if not len(column) or pc.any(pc.match_substring_regex(column, "^[+-]?0[0-9xX]")).as_py():
            return pa.string()
        for type_ in (pa.int64(), pa.float64(), pa.bool_()):
            with contextlib.suppress(pa.ArrowInvalid):
                column.cast(type_)
                return type_
    return pa.string()


def _surrogates(record: list[str]) -> bool:
    return not all(cell.isascii() or cell.encode("utf-8", "ignore").decode() == cell for cell in record)


def _excerpt(record: list[str]) -> str:
    return one_line(",".join(record).encode("utf-8", "replace").decode(), EXCERPT)
