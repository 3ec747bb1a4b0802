"""The courier: carries what is over to the keeper of the history file, and its answers back."""

from __future__ import annotations

import itertools
import logging
import select
import time
from collections.abc import Callable

from altlas_flow.errors import describe
from altlas_flow.history import frames
from altlas_flow.history.child import Child
from altlas_flow.history.frames import Message
from altlas_flow.history.inbox import SOMEBODY, Inbox, Question

logger = logging.getLogger(__name__)

#: Seconds for which parts are gathered.
GATHER = 0.1
#: Seconds after which a keeper that ended without a word is started again.
AGAIN = 2.0
#: Rows that are handed over, and written, in one go at most.
BATCH = 10_000
#: Seconds that closing waits for what is still to be written.
CLOSE_LIMIT = 30.0


class Courier:
    """Runs on a thread of its own, which is the only one to call it.

    It has what the keeper has not settled: one that is killed is started again, and gets that again.

    Parameters
    ----------
    path : str
    inbox : Inbox
    opened : callable
        Called with what was found damaged.

    Attributes
    ----------
    fault : str
        What went wrong last.
    keeper : int or None
        The keeper's process id.
    """

    def __init__(self, path: str, inbox: Inbox, opened: Callable[[str], None]) -> None:
        self._path, self._inbox, self._opened = path, inbox, opened
        self.fault = ""
        self.keeper: int | None = None
        self._child: Child | None = None
        self._numbers = itertools.count(1)
        self._unsettled: dict[int, tuple[bytes, int]] = {}  # by number: a message with parts, their rows
        self._asked: dict[int, tuple[bytes, Question]] = {}
        self._due: float | None = None  # when what waits is handed over
        self._start_at = 0.0
        self._ends: float | None = None  # when closing has taken too long
        self._said_close = False

    def run(self) -> None:
        """Carry until the inbox is closed and all is settled."""
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
            for _, question in self._asked.values():
                question.refuse("there is no history: it is closed")
            self._inbox.end()
            if self._child is not None:
                logger.warning("history: its keeper still writes, and ends by itself")
                self._child.leave()

    def _over(self) -> bool:
        if not self._inbox.closing:
            return False
        now = time.monotonic()
        if self._ends is None:
            self._ends = now + CLOSE_LIMIT
        return (self._said_close and self._child is None) or now >= self._ends

    def _start(self) -> None:
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

    # -- to the keeper ---------------------------------------------------------------------------

    def _hand_over(self) -> None:
        """Send what waits, and is due, as fast as the keeper takes it."""
        while self._child is not None and not self._child.busy:
            due = self._inbox.closing or (self._due is not None and time.monotonic() >= self._due)
            data = self._next() if due else None
            if data is None and self._inbox.closing and not self._inbox and not self._said_close:
                self._said_close = True
                data = frames.pack((frames.CLOSE,))
            if data is None:
                return
            self._child.send(data)

    def _next(self) -> bytes | None:
        """The next message: parts, or one question; None where nothing waits."""
        parts: list[bytes] = []
        rows = 0
        while (first := self._inbox.first()) is not None:
            if isinstance(first, Question):
                if parts:
                    break
                self._inbox.take()
                try:
                    return self._ask(first)
                except ValueError as error:
                    first.refuse(f"{first.name} cannot be asked: {describe(error)}")
                    continue
            if parts and rows + len(first) > BATCH:
                break
            self._inbox.take()
            try:
                parts.append(frames.pack_part(first))
                rows += len(first)
            except Exception as error:
                # what clients sent may be anything; it must not end the history of others
                self._failed(f"tasks could not be taken down: {describe(error)}")
                self._inbox.settle(len(first), 0, len(first))
        if not parts:
            return None
        number = next(self._numbers)
        data = frames.pack((frames.PARTS, number, parts))
        self._unsettled[number] = data, rows
        return data

    def _ask(self, question: Question) -> bytes:
        number = next(self._numbers)
        data = frames.pack((frames.ASK, number, question.name, question.arguments))
        self._asked[number] = data, question
        return data

    # -- from the keeper -------------------------------------------------------------------------

    def _wait(self) -> None:
        """Until there is something to do."""
        if not self._inbox:
            self._due = None
        child, times = self._child, [self._ends]
        if child is None:
            times.append(self._start_at)
        elif not child.busy:
            times.append(self._due)
        first = min((one for one in times if one is not None), default=None)
        poll = select.poll()
        poll.register(self._inbox.bell, select.POLLIN)
        if child is not None:
            poll.register(child.replies, select.POLLIN)
            if child.busy:
                poll.register(child.requests, select.POLLOUT)
        ready = poll.poll(None if first is None else max(0.0, 1000 * (first - time.monotonic())))
        for place, _ in ready:
            if place == self._inbox.bell:
                now = time.monotonic()
                if SOMEBODY in self._inbox.heard():
                    self._due = now
                elif self._due is None:
                    self._due = now + GATHER
            elif self._child is None:
                continue  # it has just ended
            elif place == self._child.requests:
                self._child.flush()
            else:
                self._listen(self._child)

    def _listen(self, child: Child) -> None:
        messages = child.receive()
        for message in messages or ():
            self._told(message)
        if messages is not None:
            return
        self._child = self.keeper = None
        code = child.end()
        if self._said_close and not self._unsettled and not self._asked:
            return  # as it was told to
        self._said_close = False
        text = f"the program that keeps it ended with code {code}"
        if child.alive:
            logger.warning("history: %s, and is started again", text)
        else:
            self._give_up(text)

    def _told(self, message: Message) -> None:
        kind, *rest = message
        if kind == frames.KEPT:
            number, written, dropped = rest
            done = [one for one in self._unsettled if one <= number]
            self._inbox.settle(sum(self._unsettled.pop(one)[1] for one in done), written, dropped)
        elif kind == frames.ANSWER:
            number, value = rest
            self._asked.pop(number)[1].reply(value)
        elif kind == frames.REFUSED:
            number, text = rest
            self._asked.pop(number)[1].refuse(text)
        elif kind == frames.FAULT:
            self._failed(rest[0])
        else:
            rescued, fault = rest
            if fault:
                self._failed(fault)
            if rescued:
                logger.warning("%s", rescued)
            try:
                self._opened(rescued)
            except Exception:
                logger.exception("history: what was found damaged could not be told")

    def _failed(self, text: str) -> None:
        self.fault = text
        logger.error("history: %s", text)

    def _give_up(self, text: str) -> None:
        """There is no keeper for now: who asks is told, and what is over waits for the next one."""
        self._failed(text)
        self._start_at = time.monotonic() + AGAIN
        for _, question in self._asked.values():
            question.refuse(f"there is no history: {text}")
        self._asked.clear()
        self._inbox.refuse(f"there is no history: {text}")
        if self._inbox.closing:
            self._ends = time.monotonic()
