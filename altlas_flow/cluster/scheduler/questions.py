"""Questions to clients: what they have under way, of all or of one id, and whether they give it up."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from altlas_flow.cluster.client.journal import ASKED
from altlas_flow.records import TaskStatus

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

#: Seconds of silence after which a client counts as one that does not answer.
ASK_LIMIT = 2.0
#: Seconds for all that clients have to say.
LONGEST = 20.0
#: Tasks that anybody may ask for at once, and that a client may tell of each status.
MOST = 100_000

#: As `TaskInfo` has its fields; times are seconds since 1970.
Row = tuple[Any, ...]
_LIVE = {str(status): str(status) for status in TaskStatus if not status.final}
_NOTHING: tuple[list[Any], ...] = ([],) * 7


@dataclass(slots=True)
class Question:
    """What was asked, and what has been said so far.

    Attributes
    ----------
    waiting : set of str
        Clients that have more to say.
    first : str, optional
        Client that has the last word: once it has spoken, anybody's finding is enough.
    said : dict of str to list of Row
        Of each client, the latest first.
    began : dict of str to float
        When clients began to answer: their times count from there.
    over : set of (str, str)
        Client and id of what has ended since its client said that it is under way.
    """

    waiting: set[str]
    first: str | None
    said: dict[str, list[Row]] = field(default_factory=dict)
    began: dict[str, float] = field(default_factory=dict)
    over: set[tuple[str, str]] = field(default_factory=set)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    heard: float = field(default_factory=time.monotonic)  # anybody, last

    def rows(self) -> Iterator[Row]:
        """What all have said, the latest first."""
        rows = heapq.merge(*self.said.values(), key=lambda row: row[4], reverse=True)
        return (row for row in rows if (row[2], row[0]) not in self.over)

    def take(self, client: str, tasks: list[Any]) -> None:
        """A client says something. What clients send may be anything: this may raise anything."""
        self.heard = time.monotonic()
        said = self.said.setdefault(client, [])
        more = False
        try:
            more, *columns = tasks or (False,)
            more = more is True and len(said) < 2 * MOST
            said += _rows(client, self.began.setdefault(client, time.time()), columns or _NOTHING)
        finally:
            if not more:
                self.waiting.discard(client)
            self.look()

    def leave(self, client: str) -> None:
        """A client is gone: what it had under way is over, or with it."""
        self.waiting.discard(client)
        self.said.pop(client, None)
        self.look()

    def look(self) -> None:
        """See whether enough was said."""
        enough = self.first is not None and self.first not in self.waiting and any(self.said.values())
        if enough or not self.waiting:
            self.settled.set()


class Questions:
    """Asks clients on their streams.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._open: dict[int, Question] = {}
        self._number = 0

    async def ask(
        self,
        clients: Iterable[str],
        *,
        ids: list[str] | None = None,
        limit: int = 0,
        cancel: bool = False,
        first: str | None = None,
        patience: float = ASK_LIMIT,
    ) -> Question:
        """Ask clients; those that are silent for too long are left in `waiting`.

        Parameters
        ----------
        clients : iterable of str
        ids : list of str, optional
            Only these tasks; without, the latest `limit` of each status.
        limit : int
        cancel : bool
            Give them up; only those that were are told.
        first : str, optional
            As `Question` has it.
        patience : float
            Seconds of silence.
        """
        question = Question(set(clients) & self._scheduler.client_comms.keys(), first)
        question.look()
        self._number += 1
        number = self._number
        self._open[number] = question
        message = {"op": ASKED, "ask": number, "ids": ids, "limit": limit, "cancel": cancel}
        try:
            for client in list(question.waiting):
                with contextlib.suppress(OSError):  # it goes just now, and `left` says so
                    self._scheduler.client_comms[client].send(message)
            await _settle(question, patience)
        finally:
            del self._open[number]
        return question

    def told(self, client: str, ask: int, tasks: list[Any]) -> None:
        """A client answers, in one part or in several."""
        question = self._open.get(ask)
        if question is not None and client in question.waiting:
            question.take(client, tasks)

    def ended(self, client: str, ids: Iterable[Any]) -> None:
        """Tasks of a client are over: it may have said other moments ago."""
        for question in self._open.values():
            if client in question.said:
                question.over.update((client, str(task)) for task in ids)

    def left(self, client: str) -> None:
        """A client, or its flows, are gone: nobody waits for its answer."""
        for question in list(self._open.values()):
            question.leave(client)


async def _settle(question: Question, patience: float) -> None:
    """Wait until enough was said, or nobody says anything any more."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LONGEST):
            while not question.settled.is_set():
                left = question.heard + patience - time.monotonic()
                if left <= 0:
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(question.settled.wait(), left)


def _rows(client: str, at: float, columns: Iterable[list[Any]]) -> Iterator[Row]:
    for task, model, status, submitted, started, node, tries in zip(*columns, strict=True):
        yield (
            str(task),
            str(model),
            client,
            _LIVE[status],
            at - submitted,
            None if started is None else at - started,
            None,
            None if node is None else str(node),
            int(tries),
            None,
        )
