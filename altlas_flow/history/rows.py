"""Rows of the history: what is kept of a task that is over, and the checksum that tells a good row."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

#: Columns, in order, and what SQLite calls their types. Times are microseconds since 1970, UTC.
COLUMNS: dict[str, str] = {
    "task_id": "TEXT",
    "model_id": "TEXT",
    "client": "TEXT",
    "status": "TEXT",
    "submitted": "INTEGER",
    "started": "INTEGER",
    "ended": "INTEGER",
    "node_id": "TEXT",
    "tries": "INTEGER",
    "error": "TEXT",
}
#: Characters of an error that are kept: a row must fit into a page.
ERROR_LIMIT = 500
#: Characters of a name that are kept.
NAME_LIMIT = 200

Row = tuple[Any, ...]


def checksum(values: Sequence[Any]) -> int:
    """CRC-32 of the values of a row."""
    return zlib.crc32("\x1f".join(map(str, values)).encode("utf-8", "replace"))


def seal(values: Sequence[Any]) -> Row:
    """A row: the values, and their checksum."""
    return (*values, checksum(values))


def is_good(row: Sequence[Any]) -> bool:
    """Whether a row is as it was written."""
    return len(row) == len(COLUMNS) + 1 and checksum(row[:-1]) == row[-1]


def cut(text: str | None, limit: int = NAME_LIMIT) -> str | None:
    """A text that SQLite takes and a page holds: no half surrogates, not too long."""
    if text is None:
        return None
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= limit else text[: limit - 1] + "…"
