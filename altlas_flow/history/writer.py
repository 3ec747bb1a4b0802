"""Writing behind: a thread of its own writes what is over, in batches, and reads what is asked for."""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

from altlas_flow.errors import HistoryError, describe
from altlas_flow.history.rows import Row
from altlas_flow.history.store import Store

logger = logging.getLogger(__name__)

#: Seconds for which rows are gathered.
GATHER = 0.1
#: Seconds after which what the disk did not take is tried again.
AGAIN = 2.0
#: Rows that are written in one go at most.
BATCH = 10_000
#: Rows that may wait: beyond that the disk is too slow for what happens, and new ones are dropped, counted.
WAITING = 1_000_000
#: Seconds that closing waits for what is still to be written.
CLOSE_LIMIT = 30.0

Result = TypeVar("Result")
_Work = Callable[[], Iterable[Row]] | tuple[Callable[[Store], Any], "Future[Any]"] | None


class Writer:
    """Owns a `Store`; may be called from any thread, and never waits.

    Parameters
    ----------
    open_store : callable
        Gives the store; called on the thread, since a large file takes time to be looked at.
    opened : callable
        Called on the thread with what was found damaged, once the store is there.

    Attributes
    ----------
    written, dropped : int
        Rows; dropped are those that the disk did not take until the end, or that are no rows.
    fault : str
        What went wrong last; empty where nothing did.
    """

    def __init__(
        self, open_store: Callable[[], Store], opened: Callable[[str], None] = lambda said: None
    ) -> None:
        self._open, self._opened = open_store, opened
        self._queue: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._waiting = 0
        self._unwritten: list[Row] = []
        self.written = self.dropped = 0
        self.fault = ""
        self._thread = threading.Thread(target=self._run, name="altlas-history", daemon=True)
        self._thread.start()

    def put(self, count: int, rows: Callable[[], Iterable[Row]]) -> None:
        """Have so many rows written; `rows` gives them, and is called on the thread."""
        if self._waiting + count > WAITING:
            self.dropped += count
            return
        self._waiting += count
        self._queue.put(rows)

    def ask(self, question: Callable[[Store], Result]) -> Future[Result]:
        """What `question` finds in the store, once all is written that was put before."""
        answer: Future[Result] = Future()
        self._queue.put((question, answer))
        return answer

    def close(self) -> None:
        """Write what waits, and close the file."""
        self._queue.put(None)
        self._thread.join(CLOSE_LIMIT)

    def _run(self) -> None:
        store: Store | None = None
        try:
            store = self._open()
            self._opened(store.rescued)
        except Exception as error:
            # whoever asks is told; tasks go on without a history
            self.fault = describe(error)
            logger.error("there is no history: %s", self.fault)
        try:
            going = True
            while going:
                going = self._turn(store)
        finally:
            if store is not None:
                store.close()

    def _turn(self, store: Store | None) -> bool:
        """Take what waits, and do it; False where it was the end."""
        batch: list[Row] = []
        try:
            work = self._queue.get(timeout=AGAIN if self._unwritten else None)
        except queue.Empty:
            self._write(store, batch)
            return True
        while True:
            if work is None:
                self._write(store, batch, last=True)
                return False
            if isinstance(work, tuple):
                self._write(store, batch)
                batch = []
                self._answer(store, *work)
            else:
                try:
                    batch += work()
                except Exception as error:
                    # what clients sent may be anything; it must not end the history of others
                    self.fault = f"tasks could not be taken down: {describe(error)}"
                    logger.exception("tasks could not be taken down")
            if len(batch) >= BATCH:
                break
            try:
                work = self._queue.get(timeout=GATHER)
            except queue.Empty:
                break
        self._write(store, batch)
        return True

    def _write(self, store: Store | None, batch: list[Row], *, last: bool = False) -> None:
        """Write; what a full disk or a busy file refuses waits for the next time."""
        rows, self._unwritten = [*self._unwritten, *batch], []
        if not rows:
            return
        self._waiting = max(0, self._waiting - len(rows))
        try:
            if store is None:
                raise HistoryError(self.fault)
            store.add(rows)
            self.written += len(rows)
        except (OSError, sqlite3.OperationalError) as error:
            self._failed(error, len(rows))
            if last:
                self.dropped += len(rows)
            else:
                self._unwritten = rows
                self._waiting += len(rows)
        except Exception as error:
            self._failed(error, len(rows))
            if store is None or len(rows) == 1:
                self.dropped += len(rows)
            else:
                for row in rows:  # one that SQLite does not take must not cost the others theirs
                    self._write(store, [row])

    def _failed(self, error: Exception, count: int) -> None:
        self.fault = describe(error)
        logger.error("%d tasks are not in the history yet: %s", count, self.fault)

    def _answer(self, store: Store | None, question: Callable[[Store], Any], answer: Future[Any]) -> None:
        if not answer.set_running_or_notify_cancel():
            return
        try:
            if store is None:
                raise HistoryError(f"there is no history: {self.fault}")
            answer.set_result(question(store))
        except BaseException as error:
            answer.set_exception(error)
