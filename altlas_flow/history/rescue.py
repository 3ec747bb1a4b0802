"""What can still be read of a damaged history file.

SQLite itself gives up where a page on the way to a row is damaged. So this looks at every page of the
file and of its write-ahead log by itself, and takes each record whose checksum is right. The format is
SQLite's own, https://www.sqlite.org/fileformat.html (sections 1.6, 2.1 and 4.1).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from altlas_flow.history.rows import COLUMNS, Row, is_good

#: Bytes of a page: what we create files with.
PAGE = 4096
#: Bytes of the log's header, and of the header of each page in it.
LOG_HEADER, FRAME_HEADER = 32, 24
#: First byte of a page that holds rows of a table.
LEAF = 0x0D
_WIDTHS = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 7: 8, 8: 0, 9: 0}
_FIELDS = len(COLUMNS) + 1


def salvage(path: Path, log: Iterable[Row] = ()) -> Iterator[Row]:
    """All good rows of a file, then those of a log that are not in it, each once."""
    seen: set[int] = set()
    for row in itertools.chain(_rows_of_file(path), log):
        mark = hash(row)
        if mark not in seen:
            seen.add(mark)
            yield row


def rows_of_log(path: Path) -> list[Row]:
    """All good rows of the write-ahead log that a file has, and that SQLite may not have taken over yet."""
    log, found = path.with_name(path.name + "-wal"), dict[Row, None]()
    if log.exists():
        with log.open("rb") as file:
            file.read(LOG_HEADER)
            while frame := file.read(FRAME_HEADER + PAGE):
                found.update(dict.fromkeys(_rows(frame[FRAME_HEADER:])))
    return list(found)


def _rows_of_file(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        while page := file.read(PAGE):
            yield from _rows(page)


def _rows(page: bytes) -> list[Row]:
    """The good rows of a page: where it says that they are, and where it is damaged, wherever they are."""
    found, whole = [], page[:1] == bytes([LEAF])
    if whole:
        count = int.from_bytes(page[3:5], "big")
        for place in range(8, 8 + 2 * count, 2):
            at = int.from_bytes(page[place : place + 2], "big")
            _, after = _varint(page, at)  # bytes of the record
            _, start = _varint(page, after)  # number of the row
            row = _record(page, start)
            if row is None:
                whole = False
            else:
                found.append(row)
    if not whole:
        # a record begins with the length of its header, which is about as many bytes as there are fields
        starts = (at for at, byte in enumerate(page) if _FIELDS < byte <= 2 * _FIELDS + 4)
        found += [row for at in starts if (row := _record(page, at)) is not None]
    return found


def _record(page: bytes, start: int) -> Row | None:
    """The record at a place; None where there is no good one."""
    size, at = _varint(page, start)
    body = start + size
    values: list[object] = []
    while at < start + size and len(values) < _FIELDS:
        kind, at = _varint(page, at)
        width = _WIDTHS.get(kind, (kind - 12) // 2 if kind >= 12 else -1)
        data = page[body : body + width] if width >= 0 else b""
        if width < 0 or len(data) < width:
            return None
        body += width
        if kind == 0:
            values.append(None)
        elif kind <= 6:
            values.append(int.from_bytes(data, "big", signed=True))
        elif kind in (8, 9):
            values.append(kind - 8)
        elif kind >= 13 and kind % 2:
            values.append(data.decode("utf-8", "replace"))
        else:
            return None  # a float or bytes: we write none
    row = tuple(values)
    return row if len(row) == _FIELDS and is_good(row) else None


def _varint(page: bytes, at: int) -> tuple[int, int]:
    """A number of SQLite's variable length, and the place behind it."""
    value = 0
    for byte in page[at : at + 8]:
        at += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at
    return value, at
