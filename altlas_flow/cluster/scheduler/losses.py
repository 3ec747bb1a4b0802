"""Lost nodes: what becomes of the work of workers that died, left, or are silent.

Envelopes of requests are not moved: they fail with `NodeLost`, which says which of their members were
running, and their sender, who knows each request, decides. All else of ours is done anew elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from distributed.core import Status

from altlas_flow.cluster.keys import is_envelope, is_passage
from altlas_flow.errors import AltlasError, NodeLost
from altlas_flow.placement.loads import Loads

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

    from altlas_flow.cluster.scheduler.assignment import Assignment

#: No worker has this address: a task restricted to it waits until we know better.
NOWHERE = "altlas://nowhere"
#: Seconds within which the last words of a lost host are heard.
HEARD_LIMIT = 2.0
#: Lost envelopes whose senders may ask what ran of them.
KEPT = 1000
#: What of a silent worker is ours: tasks of jobs, and inputs that were sent ahead.
OURS = ("altlas-", "Packed-", "Rows-")


class Losses:
    """Knows what runs on each node, as its host says, and tells the owners of what is lost.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    fail : callable
        ``fail(key, error)`` ends a task.
    heard_out : callable
        ``await heard_out(address)``: until all that the host of a lost worker had said is heard.
    place : callable
        ``place(ts)`` restricts a task to a node that can do it: whether there is one.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        fail: Callable[[Any, AltlasError], None],
        heard_out: Callable[[str], Awaitable[None]],
        place: Callable[[TaskState], bool],
    ) -> None:
        self.scheduler, self._fail, self._heard_out, self._place = scheduler, fail, heard_out, place
        self.loop = asyncio.get_running_loop()
        self.leaving: set[str] = set()  # workers that go on purpose
        self._running: dict[str, dict[str, list[tuple[Any, list[int] | None]]]] = {}  # by address and slot
        self.loads = Loads()
        self._solo: dict[str, bool] = {}  # by address: whether the latest batch runs alone
        self._opening: dict[str, set[Any]] = {}  # by address: envelopes whose inputs are being opened
        self._loading: dict[str, set[str]] = {}  # by address: models that are being loaded
        self._tellings: set[asyncio.Task[None]] = set()
        # envelopes that Dask forgot as their inputs were lost: the assignment, and where and why it was lost
        self._forgotten: dict[Any, tuple[Assignment, str, str, str]] = {}

    def began(
        self, address: str, slot: str, runs: Iterable[tuple[Any, list[int] | None]], *, solo: bool = False
    ) -> None:
        """A batch of that slot is about to run, maybe alone on its host; what the slot ran before is over."""
        self._running.setdefault(address, {})[slot] = list(runs)
        self._solo[address] = solo

    def opening(self, address: str, key: Any, begins: bool) -> None:
        """The inputs of an envelope under which a worker has died are about to be opened, or are open."""
        keys = self._opening.setdefault(address, set())
        if begins:
            keys.add(key)
        else:
            keys.discard(key)

    def loading(self, address: str, model: str, begins: bool) -> None:
        """A model is about to be loaded, or could not be."""
        models = self._loading.setdefault(address, set())
        if begins:
            models.add(model)
        else:
            models.discard(model)

    def loaded(self, address: str, model: str, size: int | None) -> None:
        """A model is loaded, or, with None, unloaded."""
        if size is not None:
            self.loading(address, model, False)
            self.loads.succeeded(model)

    def idle(self, address: str, slot: str) -> None:
        """The batch of that slot is over."""
        self._running.get(address, {}).pop(slot, None)

    def is_busy(self, address: str, slot: str) -> bool:
        """Whether a batch runs in that slot, as far as its host has said."""
        return bool(self._running.get(address, {}).get(slot))

    def runs(self, address: str, key: Any) -> bool:
        """Whether a batch on that node has members of an envelope, as far as its host has said."""
        return any(run[0] == key for runs in self._running.get(address, {}).values() for run in runs)

    def done(self, address: str, key: Any) -> None:
        """A task has its answers."""
        for slot, runs in self._running.get(address, {}).items():
            self._running[address][slot] = [run for run in runs if run[0] != key]

    def left(self, address: str) -> None:
        """A worker is gone."""
        # what its host said last may not have been heard yet
        self.loop.call_later(2 * HEARD_LIMIT, self._forget, address, self._running.get(address))
        if address not in self.leaving:
            self._start(self._blame(address))
        self.leaving.discard(address)

    async def _blame(self, address: str) -> None:
        """A worker died: what it was loading may have killed it."""
        await self._heard_out(address)
        for model in self._loading.get(address, ()):
            self.loads.died(model, self.loop.time())

    def _forget(self, address: str, runs: object) -> None:
        if self._running.get(address) is runs:  # else a new worker has the address
            for kept in (self._running, self._solo, self._opening, self._loading):
                kept.pop(address, None)

    def lose(self, ts: TaskState, assignment: Assignment, address: str | None, name: str) -> None:
        """The node of an envelope is gone: park it where nobody is, and tell its sender."""
        self.scheduler.set_restrictions({ts.key: [NOWHERE]})
        if assignment.lost:
            return  # it is about to be told
        assignment.lost = True
        cause = self._cause(assignment, address)
        self._note(assignment, address or "", name, cause)
        self._start(self._tell_lost(assignment, address or "", name, cause))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        telling = self.loop.create_task(work)
        self._tellings.add(telling)
        telling.add_done_callback(self._tellings.discard)

    def forgotten(self, assignment: Assignment) -> None:
        """An envelope is gone: keep what ran of it, where its node is gone, too."""
        address = assignment.address
        ws = self.scheduler.workers.get(address) if address is not None else None
        if address is not None and (ws is None or ws.status in (Status.closed, Status.closing)):
            self._note(assignment, address, assignment.name, self._cause(assignment, address))

    async def what_was_lost(self, key: Any) -> dict[str, Any] | None:
        """What was lost of an envelope with its node; None where it was on none, or on one that is there."""
        found = self._forgotten.pop(key, None)
        if found is None:
            return None
        assignment, address, name, cause = found
        if not assignment.answered:
            await self._heard_out(address)
        lost = self._lost(assignment, address, name, cause)
        members = lost.started, lost.begun, lost.suspected
        return {"node": lost.node, "cause": lost.cause, "members": members, "beside": lost.beside}

    def _cause(self, assignment: Assignment, address: str | None) -> str:
        return "left" if assignment.answered or address in self.leaving else "died"

    def _note(self, assignment: Assignment, address: str, name: str, cause: str) -> None:
        self._forgotten[assignment.key] = assignment, address, name, cause
        while len(self._forgotten) > KEPT:
            del self._forgotten[next(iter(self._forgotten))]

    async def _tell_lost(self, assignment: Assignment, address: str, name: str, cause: str) -> None:
        if not assignment.answered:
            # the end of a worker may be seen before its last words are read
            await self._heard_out(address)
        ts = self.scheduler.tasks.get(assignment.key)
        if ts is None or ts.state not in ("no-worker", "waiting"):
            return
        lost = self._lost(assignment, address, name, cause)
        if is_passage(assignment.key) and not (lost.started or lost.suspected):
            # it had not begun: as if nothing had happened
            assignment.lost = False
            ts.suspicious = 0  # or Dask would give it up after some workers that others have killed
            if self._place(ts):
                self.scheduler.transitions({ts.key: "processing"}, stimulus_id=f"altlas-anew-{ts.key}")
        elif ts.state == "no-worker":
            self._fail(assignment.key, lost)
        else:
            assignment.verdict = (
                lost  # what it depends on went as well; Dask fails no task that waits for that
            )

    def hold(self, ts: TaskState, assignment: Assignment) -> None:
        """What a lost task depends on is there again: it stays parked until its sender is told."""
        self.scheduler.set_restrictions({ts.key: [NOWHERE]})
        if assignment.verdict is not None:
            # not at once: a task cannot be failed within its own transition
            self.loop.call_soon(self._fail, ts.key, assignment.verdict)

    def _lost(self, assignment: Assignment, address: str, name: str, cause: str) -> NodeLost:
        if assignment.answered:
            return NodeLost(name, cause, (), tuple(assignment.members))
        running: set[int] = set()
        for runs in self._running.get(address, {}).values():
            for key, members in runs:
                if key == assignment.key:
                    running.update(assignment.members if members is None else members)
        if self._solo.get(address) and any(self._running.get(address, {}).values()):
            # it runs alone since a worker has died of it, or so it seemed: that is the likeliest
            return NodeLost(name, cause, tuple(sorted(running)), tuple(assignment.begun))
        # what was being opened or loaded is more likely to have killed than what ran beside it
        opening = self._opening.get(address, set())
        mine = assignment.key in opening
        beside = bool(self._loading.get(address)) or bool(opening and not mine)
        suspected = tuple(assignment.members) if mine else ()
        return NodeLost(name, cause, tuple(sorted(running)), tuple(assignment.begun), suspected, beside)

    def silent(self, ws: WorkerState, assignments: Mapping[Any, Assignment]) -> int:
        """A worker is silent: its work moves; how many tasks."""
        stimulus = f"altlas-silent-{ws.address}-{self.loop.time()}"
        self.scheduler.handle_worker_status_change("paused", ws, stimulus)
        busy, moved, gone = list(ws.processing), 0, []
        for ts in busy:
            # first, while their inputs are there: Dask forgets an envelope together with what was sent ahead
            assignment = assignments.get(ts.key)
            if assignment is not None and is_envelope(ts.key):
                self._fail(ts.key, self._lost(assignment, ws.address, str(ws.name), "silent"))
                gone.append(ts.key)
        moved = len(gone)
        # before what needs them is sent elsewhere: it would be told to fetch them from here
        gone += self._drop_copies(ws, stimulus)
        for ts in busy:
            if (ts.key in assignments or str(ts.key).startswith(OURS)) and not is_envelope(ts.key):
                moved += 1
                gone.append(ts.key)
                if ts.processing_on is ws:  # else it went with what it needs
                    self.scheduler.transitions({ts.key: "released"}, stimulus_id=stimulus)
        # tasks run to their ends when the worker goes on; nobody waits for that any more
        self.scheduler.worker_send(ws.address, {"op": "free-keys", "keys": gone, "stimulus_id": stimulus})
        self._running.pop(ws.address, None)
        return moved

    def _drop_copies(self, ws: WorkerState, stimulus: str) -> list[Any]:
        """Count what only a silent worker has as lost, as Dask does where a worker dies: it is made anew."""
        lost = [
            ts
            for ts in ws.has_what
            if len(ts.who_has or ()) == 1 and str(ts.key).startswith(OURS) and not is_envelope(ts.key)
        ]
        for ts in lost:
            self.scheduler.remove_replica(ts, ws)
        self.scheduler.transitions(
            {ts.key: "released" if ts.run_spec else "forgotten" for ts in lost}, stimulus_id=stimulus
        )
        return [ts.key for ts in lost]
