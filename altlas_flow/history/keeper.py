"""The keeper: a program of its own that owns the history file, so that writing costs requests little.

``python -m altlas_flow.history.keeper PATH`` reads frames from its standard input and answers on its
standard output. It ends with its owner's pipe, after it has written all that it got.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from altlas_flow.errors import HistoryError, describe
from altlas_flow.history import frames
from altlas_flow.history.frames import Message
from altlas_flow.history.rows import Row
from altlas_flow.history.store import Store

#: Seconds after which what the disk did not take is tried again.
AGAIN = 2.0
#: Seconds that it waits for the keeper of a scheduler that was killed to write what that left behind.
LOCK_LIMIT = 10.0
#: How far it stands back behind requests.
NICE = 5
#: What may be asked of the store.
QUESTIONS = ("find", "read", "count")


class Keeper:
    """Does what messages say, in their order.

    Parameters
    ----------
    open_store : callable
    reply : callable
        Takes messages to the owner.
    clock : callable
        Monotonic seconds.
    """

    def __init__(
        self,
        open_store: Callable[[], Store],
        reply: Callable[[Message], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reply, self._clock = reply, clock
        self._store: Store | None = None
        self._unwritten: list[Row] = []
        self._number = 0  # of the last parts that came
        self._settled = 0  # and of the last that the owner knows of
        self._found = self._dropped = 0  # rows since then: there already, or none at all
        self._try_at = 0.0
        self._again, self._there = 0, set[int]()
        fault = ""
        try:
            self._store = open_store()
        except Exception as error:
            fault = describe(error)  # whoever asks is told; tasks go on without a history
        self._fault = fault
        reply((frames.OPENED, self._store.rescued if self._store is not None else "", fault))

    def take(self, message: Message) -> bool:
        """Do what a message says; False where it was the end."""
        kind, *rest = message
        if kind == frames.PARTS:
            self._gather(*rest)
            if self._clock() >= self._try_at:
                self.write()
        elif kind == frames.ASK:
            self.write()
            self._answer(*rest)
        elif kind == frames.AGAIN:
            self._expect(*rest)
        return bool(kind != frames.CLOSE)

    def patience(self) -> float | None:
        """Seconds until `write` is to be called; None where nothing waits."""
        return max(0.0, self._try_at - self._clock()) if self._unwritten else None

    def write(self, *, last: bool = False) -> None:
        """Write what waits; what a full disk or a busy file refuses waits for the next time."""
        rows, failed = self._unwritten, 0
        try:
            if rows:
                failed = self._add(rows)
        except (OSError, sqlite3.OperationalError) as error:
            self._said(f"{len(rows)} tasks are not in the history yet: {describe(error)}")
            self._try_at = self._clock() + AGAIN
            if not last:
                return
            failed = len(rows)
        if self._number > self._settled:
            done = self._found + len(rows) - failed
            self._reply((frames.KEPT, self._number, done, self._dropped + failed))
            self._unwritten, self._found, self._dropped, self._settled = [], 0, 0, self._number

    def close(self) -> None:
        """Write what waits, whatever comes of it, and let go of the file."""
        self.write(last=True)
        if self._store is not None:
            self._store.close()

    def _add(self, rows: list[Row]) -> int:
        """Write rows; how many of them cannot be."""
        if self._store is None:
            return len(rows)
        try:
            self._store.add(rows)
            return 0
        except (OSError, sqlite3.OperationalError):
            raise
        except Exception as error:
            self._said(f"tasks could not be written: {describe(error)}")
            return self._store.add_each(rows)

    def _gather(self, number: int, parts: list[bytes]) -> None:
        for data in parts:
            count = 0
            try:
                part = frames.unpack_part(data)
                count = len(part)
                rows = list(part.rows())
            except Exception as error:
                # what clients sent may be anything; it must not end the history of others
                self._said(f"tasks could not be taken down: {describe(error)}")
                self._dropped += count
                continue
            if self._there and number <= self._again:
                fresh = [row for row in rows if hash(row) not in self._there]
                self._found += len(rows) - len(fresh)
                rows = fresh
            self._unwritten += rows
        self._number = number
        if number >= self._again:
            self._there = set()

    def _expect(self, number: int, count: int) -> None:
        """Parts come again: what of them an earlier keeper has written is among the latest rows.

        A file that was damaged is in another order.
        """
        if self._store is not None and count:
            self._again = number
            several = self._store.count() if self._store.rescued else count
            self._there = {hash(row) for row in self._store.latest(several)}

    def _answer(self, number: int, name: str, arguments: dict[str, Any]) -> None:
        try:
            if self._store is None:
                raise HistoryError(f"there is no history: {self._fault}")
            if name not in QUESTIONS:
                raise HistoryError(f"{name!r} is no question")
            message = frames.ANSWER, number, getattr(self._store, name)(**arguments)
        except Exception as error:
            text = str(error) if isinstance(error, HistoryError) else describe(error)
            message = frames.REFUSED, number, text
        self._reply(message)

    def _said(self, text: str) -> None:
        self._reply((frames.FAULT, text))


def main(argv: Sequence[str]) -> int:
    """Keep the file named in the arguments until standard input ends."""
    # the owner decides: a signal to all of its group, or service, must not cost what it still says
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    logging.disable()  # the owner logs what it is told
    with contextlib.suppress(OSError):
        os.nice(NICE)
    out = os.dup(1)
    os.dup2(2, 1)  # nothing else may get in between

    def reply(message: Message) -> None:
        data = memoryview(frames.pack(message))
        with contextlib.suppress(BrokenPipeError):  # the owner is gone: only the file counts now
            while data:
                data = data[os.write(out, data) :]

    keeper = Keeper(lambda: Store(argv[0], wait=LOCK_LIMIT), reply)
    unpacker, going = frames.Unpacker(), True
    while going:
        patience = keeper.patience()
        if patience is not None and not select.select([0], [], [], patience)[0]:
            keeper.write()
            continue
        data = os.read(0, frames.CHUNK)
        going = bool(data) and all(map(keeper.take, unpacker.feed(data)))
    keeper.close()
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    os._exit(code)  # nothing is left to be torn down
