"""The book: the log of all lessons in a SQLite file, and what was learned of them in a file beside it."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from altlas_flow.errors import StateError, describe
from altlas_flow.learning.lessons import CHOSE, Lesson, of_text, to_text
from altlas_flow.learning.tutor import Tutor
from altlas_flow.selection import keep

#: Seconds that SQLite waits for the keeper of the history, which has the same file.
BUSY = 10.0
_TABLE = "CREATE TABLE IF NOT EXISTS lessons (number INTEGER PRIMARY KEY, body TEXT, checksum INTEGER)"


class Book:
    """A log that is only ever added to. Used by one thread.

    Parameters
    ----------
    path : path
        The history file: the log is a table of its own in it, and the state lies beside it as
        ``<path>.selector``.

    Raises
    ------
    sqlite3.Error, OSError
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.state = self.path.with_name(self.path.name + ".selector")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(self.path, timeout=BUSY, isolation_level=None)
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute("PRAGMA cache_spill = OFF")  # as the keeper of the history has it
            self._database.execute(_TABLE)
            (self.number,) = self._database.execute("SELECT coalesce(max(number), 0) FROM lessons").fetchone()
        except sqlite3.Error:
            self._database.close()
            raise

    def append(self, lessons: Iterable[Lesson]) -> None:
        """Write lessons, all or none."""
        rows, number = [], self.number
        for lesson in lessons:
            number += 1
            text = to_text(lesson)
            rows.append((number, text, zlib.crc32(text.encode())))
        self._database.execute("BEGIN IMMEDIATE")
        try:
            self._database.executemany("INSERT INTO lessons VALUES (?, ?, ?)", rows)
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")
        self.number = number

    def since(self, number: int) -> Iterator[Lesson]:
        """The lessons after a number; those that are damaged are left out."""
        found = self._database.execute(
            "SELECT body, checksum FROM lessons WHERE number > ? ORDER BY number", (number,)
        )
        yield from _good(found)

    def decisions(self, task: str, limit: int) -> list[Lesson]:
        """The latest lessons of a task's decisions with all outcomes, in their order."""
        ids: set[str] = set()
        found: list[Lesson] = []
        for lesson in self.since(0):
            if lesson[0] == CHOSE and lesson[1] == task:
                ids.add(lesson[3])
                found.append(lesson)
            elif lesson[0] != CHOSE and lesson[1] in ids:
                found.append(lesson)
        return found[-limit:]

    def recall(self, seed: int) -> tuple[Tutor, str]:
        """What had been learned, and what was found wrong with the state; the log makes up for that."""
        said, tutor, number = "", Tutor(seed=seed), 0
        if self.state.exists():
            try:
                tutor, number = Tutor.of_bytes(keep.read(self.state))
            except StateError as error:
                said = f"{self.state.name} cannot be used ({error.cause}): it is learned again from the log"
        if number > self.number:
            # the log is another one, or was damaged: what is known counts on
            number = self.number
        for lesson in self.since(number):
            try:
                tutor.take(lesson)
            except Exception as error:
                said = said or f"a lesson of the log was left out: {describe(error)}"
        tutor.learn()
        return tutor, said

    def save(self, tutor: Tutor) -> None:
        """Write what has been learned, whole or not at all."""
        keep.write(self.state, tutor.to_bytes(self.number))

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def read_log(path: str | Path) -> list[Lesson]:
    """All lessons of a history file, which is only read.

    Raises
    ------
    sqlite3.Error
        Where it is no such file, or has no log.
    """
    with closing(
        sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY)
    ) as found:
        return list(_good(found.execute("SELECT body, checksum FROM lessons ORDER BY number")))


def tasks_of(lessons: Iterable[Lesson]) -> list[str]:
    """The tasks that decisions were made for."""
    return sorted({lesson[1] for lesson in lessons if lesson[0] == CHOSE})


def _good(rows: Iterable[tuple[Any, Any]]) -> Iterator[Lesson]:
    for text, check in rows:
        if isinstance(text, str) and zlib.crc32(text.encode()) == check:
            yield of_text(text)
