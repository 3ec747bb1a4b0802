"""Tasks of all clients: what is under way, as their clients say when they are asked, and what is over."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from distributed.comm.core import Comm

from altlas_flow.cluster.client.journal import ASKED
from altlas_flow.cluster.scheduler.guard import Guard, who_is
from altlas_flow.errors import BadRequest, UnknownTask
from altlas_flow.history.parts import MICRO, Part
from altlas_flow.history.rows import Row, cut
from altlas_flow.history.writer import Writer
from altlas_flow.nodes.audit import Audit
from altlas_flow.nodes.unusual import Unusual
from altlas_flow.records import TaskInfo, TaskStatus
from altlas_flow.security.roles import name_in

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

#: Tasks that are over and kept in memory.
KEPT = 10_000
#: Seconds that clients get to say what they have under way.
ASK_LIMIT = 2.0


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
        self._asks: dict[int, tuple[set[str], dict[str, list[Any]], asyncio.Event]] = {}
        self._ask = 0
        self.writer = Writer(history, self._opened) if history is not None else None

    # -- what clients say ------------------------------------------------------------------------

    def over(self, client: str, parts: Iterable[Mapping[str, Any]]) -> None:
        """Tasks of a client are over."""
        now, count, errors = time.time(), 0, 0
        for columns in parts:
            part = Part(client, now, columns)
            self._recent.append(part)
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
        found = self._asks.get(ask)
        if found is not None and client in found[0]:
            waiting, answers, event = found
            answers[client] = tasks
            waiting.discard(client)
            if not waiting:
                event.set()

    def left(self, client: str) -> None:
        """A client, or its flows, are gone: nobody waits for its answer."""
        self.clients.discard(client)
        self.unusual.left(client)
        for ask in list(self._asks):
            self.told(client, ask, [])

    # -- what is asked ---------------------------------------------------------------------------

    async def known(self, comm: Comm, status: str | None = None, count: int = 1000) -> list[dict[str, Any]]:
        """Tasks of all clients, the latest first: those under way, then those that are over."""
        word = None if status is None else _status(status)
        found: list[TaskInfo] = []
        live = await self._live(None, count)  # its clients also say what is over since they last spoke
        if word is None or not word.final:
            found += sorted(live, key=lambda task: task.submitted or 0.0, reverse=True)
        if word is None or word.final:
            found += self._ended()
        chosen = [task for task in found if word is None or task.status is word]
        return [task.model_dump(mode="json") for task in chosen[:count]]

    async def get(self, comm: Comm, task_id: str) -> dict[str, Any]:
        """One task: under way, over, or in the history."""
        found = self._recently(task_id)
        if found is None:
            # its client also says what is over since it last spoke
            live = await self._live([task_id], 1)
            found = live[0] if live else self._recently(task_id)
        if found is not None:
            return found.model_dump(mode="json")
        if self.writer is not None:
            kept = await asyncio.wrap_future(self.writer.ask("find", task_id=task_id))
            if kept is not None:
                return _info(kept).model_dump(mode="json")
        raise UnknownTask(task_id)

    async def cancel(self, comm: Comm, task_id: str, client: str = "") -> bool:
        """Give a task up; whether that changed anything. One that is over is no error.

        Where certificates have roles, a client may cancel its own, and operators those of all.
        """
        info = TaskInfo.model_validate(await self.get(comm, task_id))  # raises where nobody knows it
        own = client == info.client and self._bearer(client) == name_in(comm.extra_info.get("peercert"))
        if info.status.final:
            return False
        if not own:
            self.guard.check(comm, "cancel_task")
        found = await self._live([task_id], 1, cancel=True, of={info.client})
        if found:
            self.audit.note("cancelled", **who_is(comm), task=task_id, client=info.client)
        return bool(found)

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

    def _recently(self, task_id: str) -> TaskInfo | None:
        for part in reversed(self._recent):
            if task_id in part.columns["ids"]:
                return _info(next(row for row in part.rows() if row[0] == cut(task_id)))
        return None

    def _ended(self) -> Iterator[TaskInfo]:
        for part in reversed(self._recent):
            for row in reversed(list(part.rows())):
                yield _info(row)

    async def _live(
        self, ids: list[str] | None, limit: int, *, cancel: bool = False, of: set[str] | None = None
    ) -> list[TaskInfo]:
        """Ask clients; those that do not answer in time have said nothing."""
        waiting = set(self.clients if of is None else of)
        waiting &= self.scheduler.client_comms.keys()
        if not waiting:
            return []
        self._ask += 1
        ask, answers, event = self._ask, dict[str, list[Any]](), asyncio.Event()
        self._asks[ask] = waiting, answers, event
        try:
            for client in list(waiting):
                comm = self.scheduler.client_comms[client]
                comm.send({"op": ASKED, "ask": ask, "ids": ids, "limit": limit, "cancel": cancel})
            await asyncio.wait_for(event.wait(), ASK_LIMIT)
        except TimeoutError:
            pass
        finally:
            del self._asks[ask]
        now = time.time()
        return [
            TaskInfo(
                task_id=str(task),
                model_id=str(model),
                client=client,
                status=TaskStatus(status),
                submitted=now - submitted,
                started=None if started is None else now - started,
                node_id=node,
                tries=tries,
            )
            for client, tasks in answers.items()
            for task, model, status, submitted, started, node, tries in tasks
        ]


def _status(word: str) -> TaskStatus:
    try:
        return TaskStatus(word)
    except ValueError:
        known = ", ".join(TaskStatus)
        raise BadRequest(f"status={word!r} is none: give one of {known}") from None


def _info(row: Row) -> TaskInfo:
    """A record of a row of the history."""
    task, model, client, status, submitted, started, ended, node, tries, error = row[:-1]
    return TaskInfo(
        task_id=task,
        model_id=model,
        client=client,
        status=TaskStatus(status),
        submitted=submitted / MICRO,
        started=None if started is None else started / MICRO,
        ended=ended / MICRO,
        node_id=node,
        tries=tries,
        error=error,
    )
