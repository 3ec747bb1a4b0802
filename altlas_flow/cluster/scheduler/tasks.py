"""Tasks of all clients: what is under way, as their clients say when they are asked, and what is over."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from distributed.comm.core import Comm

from altlas_flow.cluster.scheduler.guard import Guard, who_is
from altlas_flow.cluster.scheduler.questions import ASK_LIMIT, MOST, Questions, Row
from altlas_flow.errors import BadRequest, UnknownTask, one_line
from altlas_flow.history.parts import MICRO, Part
from altlas_flow.history.writer import Writer
from altlas_flow.nodes.audit import Audit
from altlas_flow.nodes.unusual import Unusual
from altlas_flow.records import TaskStatus
from altlas_flow.security.roles import name_in

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

#: Tasks that are over and kept in memory.
KEPT = 10_000
#: Tasks that are written down before the scheduler's event loop has its turn again: a few milliseconds.
PAGE = 1000
#: Seconds that silent clients get where a task is over: only one whose id was given twice is not.
TWIN_LIMIT = 0.5


class Tasks:
    """Keeps what is over, and asks clients for the rest.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    guard : Guard
    audit : Audit
    unusual : Unusual
    history : path, optional
        Of a file that keeps all tasks.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        guard: Guard,
        audit: Audit,
        unusual: Unusual,
        history: str | None,
    ) -> None:
        self.scheduler = scheduler
        self.clients: set[str] = set()  # that have flows
        self.guard, self.audit, self.unusual = guard, audit, unusual
        self._recent: deque[Part] = deque()
        self._count = 0
        self.questions = Questions(scheduler)
        self.writer = Writer(history, self._opened) if history is not None else None

    # -- what clients say ------------------------------------------------------------------------

    def over(self, client: str, parts: Iterable[Mapping[str, Any]]) -> None:
        """Tasks of a client are over."""
        now, count, errors = time.time(), 0, 0
        for columns in parts:
            part = Part(client, now, columns)
            self._recent.append(part)
            self.questions.ended(client, columns["ids"])
            self._count += len(part)
            count += len(part)
            errors += len(part) if columns["status"] == TaskStatus.ERROR else 0
            if self.writer is not None:
                self.writer.put(part)
        while self._recent and self._count - len(self._recent[0]) >= KEPT:
            self._count -= len(self._recent.popleft())
        for said in self.unusual.ended(client, count, errors, time.monotonic()):
            self.audit.warn(said, client=client)

    def told(self, client: str, ask: int, tasks: list[Any]) -> None:
        """A client has answered."""
        self.questions.told(client, ask, tasks)

    def left(self, client: str) -> None:
        """A client, or its flows, are gone: nobody waits for its answer."""
        self.clients.discard(client)
        self.unusual.left(client)
        self.questions.left(client)

    # -- what is asked ---------------------------------------------------------------------------

    async def known(self, comm: Comm, status: str | None = None, count: int = 1000) -> dict[str, Any]:
        """Tasks of all clients, the latest first: those under way, then those that are over.

        Rows in pages of JSON, made in steps, since requests wait for the scheduler meanwhile; whoever
        asks makes records of them. And how many clients did not answer.
        """
        word = None if status is None else _status(status)
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise BadRequest(f"count={one_line(repr(count), 60)}: give a whole number of at least 1")
        count = min(count, MOST)
        ended = word is not None and word.final
        # clients also say what is over since they last spoke
        asked = await self.questions.ask(self.clients, limit=0 if ended else count)
        live = (row for row in asked.rows() if word is None or row[3] == word)
        over = self._ended(word) if word is None or ended else iter(())
        rows = itertools.islice(itertools.chain(live, over), count)
        pages = []
        while page := list(itertools.islice(rows, PAGE)):
            pages.append(json.dumps(page))
            await asyncio.sleep(0)
        return {"pages": pages, "silent": len(asked.waiting)}

    async def get(self, comm: Comm, task_id: str, client: str = "") -> Row:
        """One task: under way, over, or in the history. Of several of one id that of the asking client."""
        if not isinstance(task_id, str):
            raise BadRequest(f"task_id={one_line(repr(task_id), 60)} is no text: give a request_id")
        patience = ASK_LIMIT if self._recently(task_id) is None else TWIN_LIMIT
        asked = await self.questions.ask(self.clients, ids=[task_id], first=client, patience=patience)
        live = sorted(asked.rows(), key=lambda row: row[2] != client)
        found = live[0] if live else self._recently(task_id)  # its client may have said so just now
        if found is not None:
            return found
        if self.writer is not None:
            kept = await asyncio.wrap_future(self.writer.ask("find", task_id=task_id))
            if kept is not None:
                return _in_seconds(kept[:-1])
        raise UnknownTask(task_id, len(asked.waiting))

    async def cancel(self, comm: Comm, task_id: str, client: str = "") -> bool:
        """Give a task up; whether that changed anything. One that is over is no error.

        Where certificates have roles, a client may cancel its own, and operators those of all.
        """
        row = await self.get(comm, task_id, client)  # raises where nobody knows it
        owner = row[2]
        own = client == owner and self._bearer(client) == name_in(comm.extra_info.get("peercert"))
        if TaskStatus(row[3]).final:
            return False
        if not own:
            self.guard.check(comm, "cancel_task")
        asked = await self.questions.ask({owner}, ids=[task_id], cancel=True)
        found = any(asked.said.values())
        if found:
            self.audit.note("cancelled", **who_is(comm), task=task_id, client=owner)
        return found

    async def read(self, comm: Comm, count: int, **asked: Any) -> dict[str, Any]:
        """Rows of the history, the latest first, and the number before which to read on."""
        if self.writer is None:
            raise BadRequest(
                "there is no history: start the scheduler with the setting altlas.history (a file), as in "
                "DASK_ALTLAS__HISTORY=tasks.sqlite"
            )
        writer = self.writer
        rows, bad = await asyncio.wrap_future(writer.ask("read", limit=count, **asked))
        before = rows[-1][0] if rows else None
        fault = {"dropped": writer.dropped, "fault": writer.fault}
        return {"rows": [list(row[:-1]) for _, row in rows], "before": before, "bad": bad, **fault}

    def close(self) -> None:
        """Write what waits."""
        if self.writer is not None:
            self.writer.close()

    # -- how -------------------------------------------------------------------------------------

    def _opened(self, rescued: str) -> None:
        if rescued:
            self.audit.warn(rescued)

    def _bearer(self, client: str) -> str:
        """The name in the certificate of a client's own connection."""
        stream = self.scheduler.client_comms.get(client)
        comm = getattr(stream, "comm", None)
        return name_in(comm.extra_info.get("peercert")) if comm is not None else ""

    def _recently(self, task_id: str) -> Row | None:
        for part in reversed(self._recent):
            ids = part.columns["ids"]
            if task_id in ids:
                return _in_seconds(part.row(len(ids) - 1 - ids[::-1].index(task_id)))
        return None

    def _ended(self, status: TaskStatus | None) -> Iterator[Row]:
        for part in reversed(list(self._recent)):
            if status is not None and part.columns["status"] != status:
                continue
            for at in reversed(range(len(part))):
                try:
                    row = _in_seconds(part.row(at))
                except Exception:
                    # what clients sent may be anything: it must not keep others from seeing theirs
                    break
                yield row


def _status(word: str) -> TaskStatus:
    try:
        return TaskStatus(word)
    except ValueError:
        known = ", ".join(TaskStatus)
        raise BadRequest(f"status={word!r} is none: give one of {known}") from None


def _in_seconds(row: Row) -> Row:
    """A row of the history with times as people see them."""
    submitted, started, ended = (None if time is None else time / MICRO for time in row[4:7])
    return (*row[:4], submitted, started, ended, *row[7:])
