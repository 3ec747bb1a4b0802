"""The book: the log of all lessons in a SQLite file, and what was learned of them in a file beside it."""

from __future__ import annotations

import os
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from altlas_flow.errors import StateError, describe
from altlas_flow.history.store import lock_within
from altlas_flow.learning.lessons import CHOSE, Lesson, of_text, to_text
from altlas_flow.learning.tutor import Tutor
from altlas_flow.selection import keep

#: Seconds that SQLite waits for whoever reads the file.
BUSY = 10.0
#: Seconds for the program of a scheduler that was killed to let go of the file.
LOCK_LIMIT = 10.0
#: Behind the name of the history: the log, and the state.
LOG, STATE = ".lessons", ".selector"
#: Stands for the task of an outcome whose decision is not known yet.
NOBODY = ""
_TABLE = (
    "CREATE TABLE IF NOT EXISTS lessons (number INTEGER PRIMARY KEY, task TEXT, body TEXT, checksum INTEGER)"
)
_INDEX = "CREATE INDEX IF NOT EXISTS by_task ON lessons (task, number)"


class Book:
    """A log that is only ever added to. Used by one thread.

    Parameters
    ----------
    path : path
        Of the history: the log is ``<path>.lessons``, a SQLite file of its own, since what happens to the one
        must not cost the other; the state is ``<path>.selector``. A log that is no SQLite file any more is
        set aside, and the state goes on.

    Attributes
    ----------
    said : str
        What was found damaged.

    Raises
    ------
    sqlite3.Error, OSError
        Where it cannot be opened; BlockingIOError where another program has it.
    """

    def __init__(self, path: str | Path) -> None:
        given = Path(path).absolute()
        self.path, self.state = given.with_name(given.name + LOG), given.with_name(given.name + STATE)
        self.said = ""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path.with_name(self.path.name + ".lock"), "ab")  # noqa: SIM115
        try:
            lock_within(self._lock, LOCK_LIMIT)
            try:
                self._database = _opened(self.path)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError as error:
                self.said = f"{self.path.name} is damaged ({describe(error)}), and was set aside"
                _set_aside(self.path)
                self._database = _opened(self.path)
        except BaseException:
            self._lock.close()
            raise
        (self.number,) = self._database.execute("SELECT coalesce(max(number), 0) FROM lessons").fetchone()

    def append(self, lessons: Sequence[tuple[str, Lesson]]) -> None:
        """Write lessons with their tasks, all or none."""
        rows, number = [], self.number
        for task, lesson in lessons:
            number += 1
            text = to_text(lesson)
            rows.append((number, task, text, zlib.crc32(text.encode())))
        self._database.execute("BEGIN IMMEDIATE")
        try:
            self._database.executemany("INSERT INTO lessons VALUES (?, ?, ?, ?)", rows)
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")
        self.number = number

    def since(self, number: int) -> Iterator[Lesson]:
        """The lessons after a number; those that are damaged are left out."""
        yield from _good(
            self._database.execute(
                "SELECT body, checksum FROM lessons WHERE number > ? ORDER BY number", (number,)
            )
        )

    def latest(self, task: str, limit: int) -> list[Lesson]:
        """The latest lessons of a task, in their order."""
        found = self._database.execute(
            "SELECT body, checksum FROM lessons WHERE task = ? ORDER BY number DESC LIMIT ?", (task, limit)
        ).fetchall()
        return list(_good(reversed(found)))

    def recall(self, seed: int) -> tuple[Tutor, str]:
        """What had been learned, and what was found wrong with the state; the log makes up for that."""
        said, tutor, number = self.said, Tutor(seed=seed), 0
        if self.state.exists():
            try:
                tutor, number = Tutor.of_bytes(keep.read(self.state))
            except StateError as error:
                said = f"{self.state.name} cannot be used ({error.cause}): it is learned again from the log"
        # a log that ends before the state is another one: what is known counts on
        number = min(number, self.number)
        try:
            for lesson in self.since(number):
                try:
                    tutor.take(lesson)
                except Exception as error:
                    said = said or f"a lesson of the log was left out: {describe(error)}"
        except sqlite3.DatabaseError as error:
            said = f"{self.path.name} is damaged ({describe(error)}): some of it is not learned again"
        tutor.learn()
        return tutor, said

    def save(self, tutor: Tutor) -> None:
        """Write what has been learned, whole or not at all."""
        keep.write(self.state, tutor.to_bytes(self.number))

    def close(self) -> None:
        """Close the file; another program may have it then."""
        self._database.close()
        self._lock.close()


def read_log(path: str | Path) -> list[Lesson]:
    """All lessons beside a history file, or of a log itself, which is only read.

    Raises
    ------
    sqlite3.Error
        Where it is no such file, or has no log.
    """
    given = Path(path).absolute()
    beside = given.with_name(given.name + LOG)
    uri = f"{(beside if beside.exists() else given).as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=BUSY)) as found:
        return list(_good(found.execute("SELECT body, checksum FROM lessons ORDER BY number")))


def tasks_of(lessons: Iterable[Lesson]) -> list[str]:
    """The tasks that decisions were made for."""
    return sorted({lesson[1] for lesson in lessons if lesson[0] == CHOSE})


def _good(rows: Iterable[tuple[Any, Any]]) -> Iterator[Lesson]:
    for text, check in rows:
        if not isinstance(text, str) or zlib.crc32(text.encode("utf-8", "replace")) != check:
            continue
        try:
            yield of_text(text)
        except (ValueError, TypeError, LookupError):
            continue  # as a damaged one


def _opened(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=BUSY, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(_TABLE)
        database.execute(_INDEX)
        (said,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if said != "ok":
            raise sqlite3.DatabaseError(said)
    except BaseException:
        database.close()
        raise
    return database


def _set_aside(path: Path) -> None:
    stamp = f"damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}"
    for end in ("-wal", "-shm", ""):
        old = path.with_name(path.name + end)
        if old.exists():
            old.rename(path.with_name(f"{path.name}.{stamp}{end}"))
