"""What any thread gives the history, until the courier takes it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from altlas_flow.errors import HistoryError
from altlas_flow.history.parts import Part

#: Rows that may wait: beyond that the disk is too slow for what happens, and new ones are dropped, counted.
WAITING = 1_000_000
#: What the bell says: parts have come; somebody waits.
PARTS, SOMEBODY = b"p", b"w"


@dataclass(slots=True)
class Question:
    """What a method of `Store` finds, with these arguments."""

    name: str
    arguments: dict[str, Any]
    answer: Future[Any]

    def refuse(self, text: str) -> None:
        """There is no answer."""
        if self.answer.set_running_or_notify_cancel():
            self.answer.set_exception(HistoryError(text))

    def reply(self, value: Any) -> None:
        """There is one."""
        if self.answer.set_running_or_notify_cancel():
            self.answer.set_result(value)


class Inbox:
    """Parts and questions in their order, and the count of what is not settled yet.

    Attributes
    ----------
    bell : int
        A file descriptor that can be read once there is something to do.
    written, dropped : int
        Rows.
    closing : bool
        Whether nothing more is taken.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held for moments: never while anything is written
        self._work: deque[Part | Question] = deque()
        self._waiting = 0
        self.written = self.dropped = 0
        self.closing = self._ended = False
        self.bell, self._rope = os.pipe()
        for end in (self.bell, self._rope):
            os.set_blocking(end, False)

    def __bool__(self) -> bool:
        return bool(self._work)

    # -- what any thread may call ----------------------------------------------------------------

    def put(self, part: Part) -> None:
        """Take a part, or drop it where too much waits."""
        count = len(part)
        with self._lock:
            if self.closing or self._waiting + count > WAITING:
                self.dropped += count
                return
            self._waiting += count
            first = not self._work
            self._work.append(part)
            if first:
                self._ring(PARTS)

    def ask(self, question: Question) -> None:
        """Take a question: all that waits is due now."""
        with self._lock:
            if not self.closing:
                self._work.append(question)
                self._ring(SOMEBODY)
                return
        question.refuse("there is no history: it is closed")

    def close(self) -> None:
        """Take nothing more."""
        with self._lock:
            self.closing = True
            if not self._ended:
                self._ring(SOMEBODY)

    # -- what the courier calls ------------------------------------------------------------------

    def heard(self) -> bytes:
        """What the bell has said."""
        return os.read(self.bell, 4096)

    def first(self) -> Part | Question | None:
        """What comes next; it stays."""
        return self._work[0] if self._work else None

    def take(self) -> None:
        """Take the first out; a part's rows still wait until they are settled."""
        with self._lock:
            self._work.popleft()

    def settle(self, rows: int, written: int, dropped: int) -> None:
        """So many rows wait no longer, and became that."""
        with self._lock:
            self._waiting -= rows
            self.written += written
            self.dropped += dropped

    def refuse(self, text: str) -> None:
        """Refuse all questions that wait; parts go on waiting."""
        with self._lock:
            questions = [one for one in self._work if isinstance(one, Question)]
            self._work = deque(one for one in self._work if isinstance(one, Part))
        for question in questions:
            question.refuse(text)

    def end(self) -> None:
        """Nobody takes anything out any more: what is left is dropped, or refused."""
        with self._lock:
            self.closing = self._ended = True
            self.dropped += self._waiting
            self._waiting = 0
            os.close(self.bell)
            os.close(self._rope)
        self.refuse("there is no history: it is closed")

    def _ring(self, word: bytes) -> None:
        with contextlib.suppress(BlockingIOError):  # it rings already
            os.write(self._rope, word)
