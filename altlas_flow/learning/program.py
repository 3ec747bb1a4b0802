"""The program that learns: ``python -m altlas_flow.learning.program PATH``.

It reads frames from its standard input and answers on its standard output, as the keeper of the history
does, and ends with its owner's pipe, after it has kept all that it got.

=============================================  ====================================================
to it
=============================================  ====================================================
``(LESSONS, number, [lesson, ...])``           keep these, and learn
``(ASK, number, name, arguments)``             a question: ``admit``, ``told``, ``report`` or
                                               ``decisions``
``(CLOSE,)``                                   keep what there is, and end
=============================================  ====================================================

=============================================  ====================================================
from it
=============================================  ====================================================
``(OPENED, said, fault)``                      the log is open, or cannot be
``(SETTLED, number)``                          the lessons up to that number are kept
``(SNAPSHOT, task, version, bytes)``           what has been learned
``(ANSWER, number, value)``                    to a question
``(REFUSED, number, text)``                    the question cannot be answered
``(FAULT, text)``                              what went wrong
=============================================  ====================================================
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
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from altlas_flow.errors import SelectionError, describe
from altlas_flow.history import frames
from altlas_flow.history.frames import Message
from altlas_flow.learning.book import NOBODY, Book
from altlas_flow.learning.lessons import ARMS, CHOSE, TOLD, Lesson, checked
from altlas_flow.learning.tutor import Tutor

LESSONS, SETTLED, SNAPSHOT = "lessons", "settled", "snapshot"
#: Seconds for which lessons are gathered before they are learned.
GATHER = 0.2
#: Seconds between two times that what was learned is kept.
SAVE = 10.0
#: How far it stands back behind requests.
NICE = 5
#: Decisions of which an outcome came first, and that are waited for.
EARLY = 20_000
#: Lessons that a question gives at most.
MOST = 40_000


class Program:
    """Does what messages say, in their order.

    Parameters
    ----------
    path : str
        Of the history file.
    reply : callable
        Takes messages to the owner.
    clock : callable
        Monotonic seconds.
    seed : int
    """

    def __init__(
        self,
        path: str,
        reply: Callable[[Message], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        seed: int = 0,
    ) -> None:
        self._reply, self._clock = reply, clock
        self._book: Book | None = None
        self._tutor, said, fault = Tutor(seed=seed), "", ""
        try:
            self._book = Book(path)
        except BlockingIOError:
            raise  # the program of a scheduler that was killed still has it: the owner tries again
        except (OSError, sqlite3.Error) as error:
            fault = f"{path}: {describe(error)}: what is learned is lost with the scheduler"
        else:
            self._tutor, said = self._book.recall(seed)
        reply((frames.OPENED, said, fault))
        for task, (version, data) in self._tutor.snapshots().items():
            reply((SNAPSHOT, task, version, data))
        self._early: dict[str, list[Lesson]] = {}
        for lesson in [] if self._book is None else self._book.latest(NOBODY, EARLY):
            if lesson[0] == TOLD and not self._tutor.knows(lesson[1]):
                self._wait_for_decision(lesson)
        self._learn_at: float | None = None
        self._save_at: float | None = None

    def take(self, message: Message) -> bool:
        """Do what a message says; False where it was the end."""
        kind, *rest = message
        if kind == LESSONS:
            number, lessons = rest
            self._take(lessons)
            self._reply((SETTLED, number))
        elif kind == frames.ASK:
            self._answer(*rest)
        return bool(kind != frames.CLOSE)

    def patience(self) -> float | None:
        """Seconds until `work` is to be called; None where nothing waits."""
        times = [at for at in (self._learn_at, self._save_at) if at is not None]
        return max(0.0, min(times) - self._clock()) if times else None

    def work(self) -> None:
        """Learn, and keep what was learned, where it is time."""
        now = self._clock()
        if self._learn_at is not None and now >= self._learn_at:
            self._learn()
        if self._save_at is not None and now >= self._save_at:
            self._save()

    def close(self) -> None:
        """Learn and keep what there is."""
        if self._learn_at is not None:
            self._learn()
        if self._save_at is not None:
            self._save()
        if self._book is not None:
            self._book.close()

    def _take(self, lessons: Iterable[Any], look: Callable[[Any], Lesson] = checked) -> None:
        """Learn lessons, and keep those that say anything new."""
        good: list[tuple[str, Lesson]] = []
        faults: Counter[str] = Counter()
        for lesson in lessons:
            try:
                right = look(lesson)
                if task := self._tutor.take(right):
                    good.append((task, right))
                    if right[0] == CHOSE:
                        early = self._early.pop(right[3], ())
                        good += [(task, one) for one in early if self._tutor.take(one)]
                elif right[0] == TOLD and self._wait_for_decision(right):
                    good.append((NOBODY, right))  # what is settled is kept
            except SelectionError as error:
                faults[str(error)] += 1
            except Exception as error:
                # what clients sent may be anything; it must not end what others learn
                faults[f"a lesson could not be taken: {describe(error)}"] += 1
        if self._book is not None and good:
            try:
                self._book.append(good)
            except (OSError, sqlite3.Error) as error:
                faults[f"{len(good)} lessons are not in the log: {describe(error)}"] += 1
        for text, count in faults.items():
            self._reply((frames.FAULT, text if count == 1 else f"{count} times: {text}"))
        if good and self._learn_at is None:
            self._learn_at = self._clock() + GATHER

    def _wait_for_decision(self, told: Lesson) -> bool:
        """What came of a decision that is not known yet: another worker made it, and tells it itself.

        False where that waits already: a lesson that is sent again.
        """
        waiting = self._early.setdefault(told[1], [])
        if told in waiting:
            return False
        waiting.append(told)
        while len(self._early) > EARLY:
            del self._early[next(iter(self._early))]
        return True

    def _learn(self) -> None:
        self._learn_at = None
        for task, (version, data) in self._tutor.learn().items():
            self._reply((SNAPSHOT, task, version, data))
        for text in self._tutor.faults:
            self._reply((frames.FAULT, text))
        self._tutor.faults.clear()
        if self._save_at is None:
            self._save_at = self._clock() + SAVE

    def _save(self) -> None:
        self._save_at = None
        if self._book is not None:
            try:
                self._book.save(self._tutor)
            except (OSError, ValueError) as error:
                self._reply((frames.FAULT, f"what was learned could not be kept: {describe(error)}"))

    def _answer(self, number: int, name: str, arguments: dict[str, Any]) -> None:
        try:
            value: Any
            if name == "told":
                value = self._told(**arguments)
            elif name == "admit":
                self._admit(**arguments)
                value = None
            elif name == "report":
                value = self._tutor.report(**arguments)
            elif name == "course":
                value = self._tutor.course(**arguments)
            elif name == "decisions":
                value = [] if self._book is None else self._book.latest(limit=MOST, **arguments)
            else:
                raise SelectionError(f"{name!r} is no question")
            message = frames.ANSWER, number, value
        except Exception as error:
            message = (
                frames.REFUSED,
                number,
                str(error) if isinstance(error, SelectionError) else describe(error),
            )
        self._reply(message)

    def _admit(self, task: str, arms: list[list[Any]]) -> None:
        """Models that serve a task; what is known of them is said at once."""
        self._take([(ARMS, task, arms)], look=tuple)
        self._learn()

    def _told(self, outcomes: Sequence[tuple[str, dict[str, float]]]) -> list[str]:
        """Take what came of decisions; the ids of those that are not known."""
        known = [self._tutor.knows(id) for id, _ in outcomes]
        self._take((TOLD, *one) for one, here in zip(outcomes, known, strict=True) if here)
        return [id for (id, _), here in zip(outcomes, known, strict=True) if not here]


def main(argv: Sequence[str]) -> int:
    """Learn until standard input ends."""
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
        with contextlib.suppress(BrokenPipeError):  # the owner is gone: only the files count now
            while data:
                data = data[os.write(out, data) :]

    program = Program(argv[0], reply)
    unpacker, going = frames.Unpacker(), True
    while going:
        patience = program.patience()
        if patience is not None and not select.select([0], [], [], patience)[0]:
            program.work()
            continue
        data = os.read(0, frames.CHUNK)
        going = bool(data) and all(map(program.take, unpacker.feed(data)))
        program.work()
    program.close()
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    os._exit(code)  # nothing is left to be torn down
