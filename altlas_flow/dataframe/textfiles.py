"""What CSV and JSON lines have in common: opening them, and telling their rows apart by bytes.

Rows are read with Arrow's parsers first. Where these do not agree with the row by row reading here (a
wrong number of fields, a line that does not parse, a value that does not fit), the row by row reading
counts: it is slower, and it names each bad row.
"""

from __future__ import annotations

import csv
import gzip
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa

from altlas_flow.errors import SourceError

__all__ = ["EXCERPT", "Parsed", "Records", "merge_types", "numbers_without", "open_text", "sorted_bad"]

EXCERPT = 300
Positions = np.ndarray[Any, np.dtype[np.int64]]
Parsed = tuple[pa.Table, list[tuple[int, str, str]], Positions | None]


def open_text(path: str) -> BinaryIO:
    """Open a text file for reading, unpacked, behind its byte order mark.

    Raises
    ------
    SourceError
        The file is empty, or is not UTF-8.
    OSError
        It cannot be read.
    """
    stream = cast(BinaryIO, gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb"))  # noqa: SIM115
    try:
        mark = stream.read(3)
        if not mark:
            raise SourceError(f"{path} is empty: remove it, or give another source")
        if mark[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise SourceError(f"{path} is UTF-16: convert it to UTF-8")
        if mark != b"\xef\xbb\xbf":
            stream.seek(0)
    except BaseException:
        stream.close()
        raise
    return stream


@dataclass
class Records:
    """The rows of a stream, one by one; `end` is the offset in bytes behind the last one given."""

    stream: Iterable[bytes]
    end: int = 0

    def _lines(self) -> Iterator[str]:
        for line in self.stream:
            self.end += len(line)
            yield line.decode("utf-8", "surrogateescape")

    def csv(self) -> Iterator[list[str] | csv.Error]:
        """Each record's fields (none for a blank line), or what is wrong with it."""
        csv.field_size_limit(sys.maxsize)  # the default refuses texts of more than 128 KiB
        reader = csv.reader(self._lines())
        while True:
            try:
                yield next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield error

    def jsonl(self) -> Iterator[bytes]:
        """Each line, stripped (empty for a blank one)."""
        for line in self.stream:
            self.end += len(line)
            yield line.strip()


def numbers_without(rows: int, bad: dict[int, tuple[str, str]]) -> Positions | None:
    """The numbers of the good rows among `rows`, or None where all are good."""
    if not bad:
        return None
    good = np.ones(rows, dtype=bool)
    good[[row for row in bad if row < rows]] = False
    return cast(Positions, np.flatnonzero(good).astype(np.int64))


def sorted_bad(bad: dict[int, tuple[str, str]]) -> list[tuple[int, str, str]]:
    """Bad rows as (number, error, excerpt), in their order."""
    return [(row, *bad[row]) for row in sorted(bad)]


def merge_types(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type that holds values of both; text where nothing else does."""
    if one == other:
        return one
    numbers = [pa.types.is_integer(t) or pa.types.is_floating(t) for t in (one, other)]
    if all(numbers):
        return pa.float64()
    if pa.types.is_list(one) and pa.types.is_list(other):
        return pa.list_(merge_types(one.value_type, other.value_type))
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        fields = {f.name: f.type for f in one.fields}
        for f in other.fields:
            fields[f.name] = merge_types(fields.get(f.name, f.type), f.type)
        return pa.struct(list(fields.items()))
    return pa.string()
