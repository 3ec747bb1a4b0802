"""Writing behind: a thread hands what is over to the keeper of the history file, and gets its answers."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from altlas_flow.errors import HistoryError, describe
from altlas_flow.history import frames
from altlas_flow.history.child import Child
from altlas_flow.history.frames import Message
from altlas_flow.history.parts import Part

logger = logging.getLogger(__name__)

#: Seconds for which parts are gathered.
GATHER = 0.1
#: Seconds after which a keeper that ended without a word is started again.
AGAIN = 2.0
#: Rows that are handed over, and written, in one go at most.
BATCH = 10_000
#: Rows that may wait: beyond that the disk is too slow for what happens, and new ones are dropped, counted.
WAITING = 1_000_000
#: Seconds that closing waits for what is still to be written.
CLOSE_LIMIT = 30.0

_Question = tuple[str, dict[str, Any], "Future[Any]"]


class Writer:
    """Has a keeper write the history file; may be called from any thread, and never waits.

    What the keeper has not settled yet is kept: one that is killed is started again, and gets it again.

    Parameters
    ----------
    path : path
        Of the file; opened by the keeper, since a large one takes time to be looked at.
    opened : callable
        Called on the thread with what was found damaged, each time that the file is opened.

    Attributes
    ----------
    written, dropped : int
        Rows; dropped are those that the disk did not take until the end, or that are no rows.
    fault : str
        What went wrong last; empty where nothing did.
    keeper : int or None
        The process id of the program that has the file.
    """

    def __init__(
        self, path: str | os.PathLike[str], opened: Callable[[str], None] = lambda said: None
    ) -> None:
        self._path, self._opened = str(Path(path).absolute()), opened
        self.written = self.dropped = 0
        self.fault = ""
        self.keeper: int | None = None
        self._lock = threading.Lock()  # held for moments: never while anything is read or written
        self._inbox: deque[Part | _Question] = deque()
        self._waiting = 0
        self._closing = self._closed = False
        self._hears, self._bell = os.pipe()
        for end in (self._hears, self._bell):
            os.set_blocking(end, False)
        # what follows belongs to the thread
        self._child: Child | None = None
        self._numbers = itertools.count(1)
        self._unsettled: dict[int, tuple[bytes, int]] = {}  # by number: a message with parts, their rows
        self._asked: dict[int, tuple[bytes, Future[Any]]] = {}
        self._due: float | None = None
        self._start_at = 0.0
        self._ends: float | None = None
        self._said_close = False
        self._thread = threading.Thread(target=self._run, name="altlas-history", daemon=True)
        self._thread.start()

    # -- what any thread may call ----------------------------------------------------------------

    def put(self, part: Part) -> None:
        """Have a part written."""
        count = len(part)
        with self._lock:
            if self._closing or self._waiting + count > WAITING:
                self.dropped += count
                return
            self._waiting += count
            first = not self._inbox
            self._inbox.append(part)
            if first:
                self._ring(b"p")

    def ask(self, name: str, **arguments: Any) -> Future[Any]:
        """What a method of `Store` finds once all is written that was put before: find, read or count."""
        answer: Future[Any] = Future()
        with self._lock:
            if not self._closing:
                self._inbox.append((name, arguments, answer))
                self._ring(b"q")
                return answer
        answer.set_exception(HistoryError("there is no history: it is closed"))
        return answer

    def close(self) -> None:
        """Write what waits, and close the file."""
        with self._lock:
            self._closing = True
            if not self._closed:
                self._ring(b"q")
        self._thread.join(CLOSE_LIMIT + AGAIN)

    def _ring(self, word: bytes) -> None:
        with contextlib.suppress(BlockingIOError):  # it rings already
            os.write(self._bell, word)

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._over():
                if self._child is None and time.monotonic() >= self._start_at:
                    self._start()
                self._hand_over()
                self._wait()
        except Exception as error:
            self._failed(f"the history has ended: {describe(error)}")
            logger.exception("the history has ended")
        finally:
            self._end()

    def _over(self) -> bool:
        """Whether all is done, or closing has taken too long."""
        if not self._closing:
            return False
        now = time.monotonic()
        if self._ends is None:
            self._ends = now + CLOSE_LIMIT
        return (self._said_close and self._child is None) or now >= self._ends

    def _start(self) -> None:
        """Start a keeper; it gets again what the one before it has not settled."""
        try:
            self._child = Child(self._path)
        except OSError as error:
            self._give_up(f"no program can be started: {describe(error)}")
            return
        self.keeper = self._child.pid
        if self._unsettled:
            rows = sum(count for _, count in self._unsettled.values())
            self._child.send(frames.pack((frames.AGAIN, max(self._unsettled), rows)))
        for data, _ in (*self._unsettled.values(), *self._asked.values()):
            self._child.send(data)

    def _hand_over(self) -> None:
        """Send what waits, and is due, as fast as the keeper takes it."""
        if self._child is None:
            return
        while not self._child.busy:
            due = self._closing or (self._due is not None and time.monotonic() >= self._due)
            data = self._next() if due else None
            if data is not None:
                self._child.send(data)
                continue
            if self._closing and not self._inbox and not self._said_close:
                self._said_close = True
                self._child.send(frames.pack((frames.CLOSE,)))
            return

    def _next(self) -> bytes | None:
        """The next message: parts, or one question; None where nothing waits."""
        parts: list[bytes] = []
        rows = 0
        while self._inbox:
            first = self._inbox[0]
            if isinstance(first, tuple):
                if parts:
                    break
                self._take()
                name, arguments, answer = first
                number = next(self._numbers)
                try:
                    data = frames.pack((frames.ASK, number, name, arguments))
                except ValueError as error:
                    _refuse(answer, f"{name} cannot be asked: {describe(error)}")
                    continue
                self._asked[number] = data, answer
                return data
            if parts and rows + len(first) > BATCH:
                break
            self._take()
            try:
                parts.append(frames.pack_part(first))
                rows += len(first)
            except Exception as error:
                # what clients sent may be anything; it must not end the history of others
                self._failed(f"tasks could not be taken down: {describe(error)}")
                self._settle(len(first), 0, len(first))
        if not parts:
            return None
        number = next(self._numbers)
        data = frames.pack((frames.PARTS, number, parts))
        self._unsettled[number] = data, rows
        return data

    def _take(self) -> None:
        with self._lock:
            self._inbox.popleft()

    def _wait(self) -> None:
        """Until there is something to do."""
        if not self._inbox:
            self._due = None
        times = [self._due, self._ends] if self._child is not None else [self._start_at, self._ends]
        if self._child is not None and self._child.busy:
            times = [self._ends]
        first = min((one for one in times if one is not None), default=None)
        poll = select.poll()
        poll.register(self._hears, select.POLLIN)
        if self._child is not None:
            poll.register(self._child.replies, select.POLLIN)
            if self._child.busy:
                poll.register(self._child.requests, select.POLLOUT)
        ready = poll.poll(None if first is None else max(0.0, 1000 * (first - time.monotonic())))
        for ends, _ in ready:
            if ends == self._hears:
                self._heard(os.read(self._hears, 4096))
            elif self._child is not None and ends == self._child.requests:
                self._child.flush()
            elif self._child is not None:
                self._listen(self._child)

    def _heard(self, words: bytes) -> None:
        now = time.monotonic()
        if b"q" in words:
            self._due = now  # somebody waits
        elif self._due is None:
            self._due = now + GATHER

    def _listen(self, child: Child) -> None:
        messages = child.receive()
        for message in messages or ():
            self._told(message)
        if messages is not None:
            return
        self._child = self.keeper = None
        code = child.end()
        if self._said_close and not self._unsettled and not self._asked:
            return
        text = f"the program that keeps it ended with code {code}"
        self._said_close = False
        if child.alive:
            logger.warning("history: %s, and is started again", text)
        else:
            self._give_up(text)

    def _told(self, message: Message) -> None:
        """The keeper says something."""
        kind, *rest = message
        if kind == frames.KEPT:
            number, written, dropped = rest
            rows = 0
            for one in [one for one in self._unsettled if one <= number]:
                rows += self._unsettled.pop(one)[1]
            self._settle(rows, written, dropped)
        elif kind in (frames.ANSWER, frames.REFUSED):
            number, value = rest
            _, answer = self._asked.pop(number)
            if kind == frames.REFUSED:
                _refuse(answer, value)
            elif answer.set_running_or_notify_cancel():
                answer.set_result(value)
        elif kind == frames.FAULT:
            self._failed(rest[0])
        else:
            rescued, fault = rest
            if fault:
                self._failed(fault)
            if rescued:
                logger.warning("%s", rescued)
            self._opened(rescued)

    def _settle(self, rows: int, written: int, dropped: int) -> None:
        with self._lock:
            self._waiting -= rows
            self.written += written
            self.dropped += dropped

    def _failed(self, text: str) -> None:
        self.fault = text
        logger.error("history: %s", text)

    def _give_up(self, text: str) -> None:
        """There is no keeper for now: who asks is told, and what is over waits for the next one."""
        self._failed(text)
        self._start_at = time.monotonic() + AGAIN
        for _, answer in self._asked.values():
            _refuse(answer, f"there is no history: {text}")
        self._asked.clear()
        if self._closing:
            self._ends = time.monotonic()

    def _end(self) -> None:
        """Let go of all; what nobody has written is counted."""
        with self._lock:
            self._closing = self._closed = True
            left = [one for one in self._inbox if isinstance(one, tuple)]
            self._inbox.clear()
            self.dropped += self._waiting
            self._waiting = 0
        for answer in (*(one[2] for one in left), *(answer for _, answer in self._asked.values())):
            _refuse(answer, "there is no history: it is closed")
        if self._child is not None:
            logger.warning("history: its keeper still writes, and ends by itself")
            self._child.leave()
        os.close(self._hears)
        os.close(self._bell)


def _refuse(answer: Future[Any], text: str) -> None:
    if answer.set_running_or_notify_cancel():
        answer.set_exception(HistoryError(text))
