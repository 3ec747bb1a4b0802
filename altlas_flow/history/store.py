"""The history file: SQLite in WAL mode, one row a task, looked at when it is opened."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from altlas_flow.errors import HistoryError, describe, one_line
from altlas_flow.history.rescue import PAGE, rows_of_log, salvage
from altlas_flow.history.rows import COLUMNS, Row, is_good

logger = logging.getLogger(__name__)

#: Seconds that SQLite waits for another process that has the file.
BUSY = 10.0
#: Seconds between two looks whether another process has let go of the file.
LOOK = 0.02
#: First bytes of every SQLite file.
MAGIC = b"SQLite format 3\0"
#: Rows that are looked at, or carried over, in one go.
GO = 10_000
_NAMES = ", ".join((*COLUMNS, "checksum"))
_TABLE = (
    f"CREATE TABLE tasks ({', '.join(f'{name} {kind}' for name, kind in COLUMNS.items())}, checksum INTEGER)"
)
_INSERT = f"INSERT INTO tasks VALUES ({', '.join('?' * (len(COLUMNS) + 1))})"


class Store:
    """One history file, of one scheduler. Used by one thread at a time.

    Parameters
    ----------
    path : path
        Made where it is not there. A damaged file is set aside, what of it can be read is carried over,
        and `rescued` says so.
    clock : callable
        Seconds since 1970; it names files that are set aside.
    wait : float
        Seconds for another scheduler to let go of the file.

    Attributes
    ----------
    rescued : str
        What was found damaged, and what became of it; empty where nothing was.

    Raises
    ------
    HistoryError
        Where the file cannot be made or opened, or another scheduler has it.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, clock: Callable[[], float] = time.time, wait: float = 0.0
    ) -> None:
        self.path = Path(path).absolute()
        self.rescued = ""
        self._clock = clock
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path.with_name(self.path.name + ".lock"), "ab")  # noqa: SIM115
        except OSError as error:
            raise HistoryError(
                f"altlas.history: {self.path} cannot be written ({describe(error)})"
            ) from error
        try:
            lock_within(self._lock, wait)
        except OSError as error:
            self._lock.close()
            raise HistoryError(
                f"altlas.history: {self.path} is in use by another scheduler: give each a file of its own"
            ) from error
        try:
            self._database = self._open_or_rescue()
        except (OSError, sqlite3.Error) as error:
            self._lock.close()
            raise HistoryError(f"altlas.history: {self.path} cannot be used ({describe(error)})") from error
        except BaseException:
            self._lock.close()
            raise

    def add(self, rows: Iterable[Row]) -> None:
        """Write rows, all or none."""
        with _transaction(self._database):
            self._database.executemany(_INSERT, rows)

    def add_each(self, rows: Iterable[Row]) -> int:
        """Write the rows that SQLite takes; how many it does not."""
        refused = 0
        with _transaction(self._database):
            for row in rows:
                try:
                    self._database.execute(_INSERT, row)
                except (OSError, sqlite3.OperationalError):
                    raise
                except Exception:
                    refused += 1
        return refused

    def latest(self, count: int) -> Iterator[Row]:
        """So many rows, good or not, the latest first."""
        return iter(
            self._database.execute(f"SELECT {_NAMES} FROM tasks ORDER BY rowid DESC LIMIT ?", (count,))
        )

    def read(
        self,
        *,
        limit: int,
        before: int | None = None,
        status: str | None = None,
        model: str | None = None,
        since: int | None = None,
    ) -> tuple[list[tuple[int, Row]], int]:
        """Good rows with their numbers, the latest first; and how many bad ones were passed over.

        Parameters
        ----------
        limit : int
        before : int, optional
            Only rows with smaller numbers: to read on.
        status, model : str, optional
        since : int, optional
            Microseconds since 1970, at which they ended at the earliest.
        """
        asked = {"rowid <": before, "status =": status, "model_id =": model, "ended >=": since}
        given = {name: value for name, value in asked.items() if value is not None}
        where = " AND ".join(f"{name} ?" for name in given) or "1"
        text = f"SELECT rowid, {_NAMES} FROM tasks WHERE {where} ORDER BY rowid DESC LIMIT ?"
        found = self._database.execute(text, (*given.values(), limit)).fetchall()
        good = [(row[0], row[1:]) for row in found if is_good(row[1:])]
        return good, len(found) - len(good)

    def find(self, task_id: str) -> Row | None:
        """The latest good row of a task."""
        text = f"SELECT {_NAMES} FROM tasks WHERE task_id = ? ORDER BY rowid DESC"
        for row in self._database.execute(text, (task_id,)):
            if is_good(row):
                return tuple(row)
        return None

    def count(self) -> int:
        """Rows in the file."""
        (found,) = self._database.execute("SELECT count(*) FROM tasks").fetchone()
        return int(found)

    def close(self) -> None:
        """Close the file; another scheduler may have it then."""
        self._database.close()
        self._lock.close()

    def _open_or_rescue(self) -> sqlite3.Connection:
        # before SQLite looks: it passes over what comes behind a torn place of the log, and then forgets it
        log = rows_of_log(self.path)
        fault = _fault(self.path, log) if self.path.exists() else ""
        if fault:
            self._set_aside(fault, log)
        database = _connect(self.path)
        if not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'tasks'").fetchone():
            database.execute(_TABLE)
        return database

    def _set_aside(self, fault: str, log: list[Row]) -> None:
        """Put a damaged file beside, and its good rows into a new one; only then does that get its name."""
        fresh = self.path.with_name(self.path.name + ".rescue")
        for leftover in _files(fresh):
            leftover.unlink(missing_ok=True)
        kept = 0
        with contextlib.closing(_connect(fresh)) as database:
            database.execute(_TABLE)
            for rows in _in_goes(salvage(self.path, log)):
                with _transaction(database):
                    database.executemany(_INSERT, rows)
                kept += len(rows)
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if not kept and not _is_sqlite(self.path):
            fresh.unlink()
            raise HistoryError(
                f"altlas.history: {self.path} holds something else: name a file that is not there yet"
            )
        aside = self._name_aside()
        # the log first: its file without it is older, but whole; a log without its file is nothing
        for old, name in zip(_files(self.path), _files(aside), strict=True):
            if old.exists():
                old.rename(name)
        fresh.rename(self.path)
        self.rescued = (
            f"{self.path.name} was damaged ({fault}): {kept} tasks were carried over, and the damaged "
            f"file is {aside.name}"
        )
        logger.warning("%s", self.rescued)

    def _name_aside(self) -> Path:
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(self._clock()))
        names = (f"{self.path.name}.damaged-{stamp}{end}" for end in ("", *(f"-{n}" for n in range(1, 1000))))
        return next(place for name in names if not (place := self.path.with_name(name)).exists())


def lock_within(file: IO[bytes], seconds: float) -> None:
    """Lock a file; raises OSError where another process does not let go of it in time."""
    ends = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            if time.monotonic() >= ends:
                raise
        time.sleep(LOOK)  # a lock that is waited for has no limit


def _files(path: Path) -> list[Path]:
    """A database's log, its index of the log, and itself."""
    return [path.with_name(path.name + end) for end in ("-wal", "-shm", "")]


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
    try:
        database.execute(f"PRAGMA page_size = {PAGE}")
        database.execute("PRAGMA journal_mode = WAL")
        # a crash of the machine may cost the last moments, and never the file
        database.execute("PRAGMA synchronous = NORMAL")
        # nothing is in the log before it is committed: what is there and not in the file looks like damage
        database.execute("PRAGMA cache_spill = OFF")
    except sqlite3.Error:
        database.close()
        raise
    return database


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _fault(path: Path, log: list[Row]) -> str:
    """What is wrong with a file; empty where every page and every row of it, and of its log, is good."""
    if path.stat().st_size == 0 and not log:
        return ""  # made, and nothing written: SQLite takes it for new
    missing = set(log)
    try:
        with contextlib.closing(_connect(path)) as database:
            (said,) = database.execute("PRAGMA integrity_check(1)").fetchone()
            if said != "ok":
                return one_line(said, 200)
            bad = 0
            for rows in _in_goes(database.execute(f"SELECT {_NAMES} FROM tasks")):
                bad += sum(not is_good(row) for row in rows)
                missing.difference_update(rows)
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "unable to open" in str(error):
            raise
        return describe(error)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        return describe(error)
    if bad or missing:
        return f"{bad} rows are not as they were written, and {len(missing)} are only in a torn log"
    return ""


def _in_goes(rows: Iterable[Sequence[Any]]) -> Iterable[list[Any]]:
    some: list[Any] = []
    for row in rows:
        some.append(row)
        if len(some) == GO:
            yield some
            some = []
    if some:
        yield some


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Any:
    database.execute("BEGIN")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")
