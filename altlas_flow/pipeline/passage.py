"""`Passage`: one piece of rows on its way through a pipeline; what failed with its node goes elsewhere.

Lives on the event loop of Dask's client. It alone decides what is tried again; the scheduler plugin, where.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import Any

from distributed import Client, Future
from distributed.scheduler import KilledWorker

from altlas_flow.cluster.packed import Packed
from altlas_flow.cluster.plain import scatter_soon, submit_task
from altlas_flow.errors import (
    AltlasError,
    BadRequest,
    ClusterError,
    ClusterLost,
    HostClosed,
    NodeFault,
    NodeLost,
    describe,
    root_cause,
)
from altlas_flow.models.faults import of_the_node
from altlas_flow.pipeline.graph import Way, send
from altlas_flow.pipeline.rows import Fault, Note, StageRows, together
from altlas_flow.pipeline.stage import INPUT
from altlas_flow.pipeline.step import Compiled
from altlas_flow.settings import Settings

#: Seconds between two looks whether the scheduler is there.
LOOK = 1.0
#: Seconds that a report of what came before a failure may take.
REPORT = 5.0
#: How often a piece may be sent again because nodes went away with it.
MOVES = 20


class Died(Exception):
    """A worker died under a piece, or fell silent.

    Parameters
    ----------
    stage : str
    rows : tuple of int
        That were running there.
    error : NodeLost
    """

    def __init__(self, stage: str, rows: tuple[int, ...], error: NodeLost) -> None:
        self.stage, self.rows, self.error = stage, rows, error
        super().__init__(stage, rows, error)


class Unreadable(Exception):
    """Something in a piece cannot be opened where it is needed: each request has to go by itself."""


class Passage:
    """Takes a piece of rows through a pipeline.

    Parameters
    ----------
    client : distributed.Client
    settings : Settings
    compiled : Compiled
    rows : StageRows
        What the pipeline is given.
    way : Way
    wanted : iterable of str
        Steps whose outputs are fetched, beside the last ones.
    several : bool
        Whether it holds more than one request: what cannot be opened may be that of one of them.
    sent : callable
        Called when tasks have been sent.
    let_go : callable, optional
        Releases futures when all is over; by default at once.

    Attributes
    ----------
    futures : dict of str to Future
        Of the steps under way.
    """

    def __init__(
        self,
        client: Client,
        settings: Settings,
        compiled: Compiled,
        rows: StageRows,
        way: Way,
        wanted: Iterable[str] = (),
        *,
        several: bool = False,
        sent: Callable[[], None] = lambda: None,
        let_go: Callable[[Iterable[Future[Any]]], None] | None = None,
    ) -> None:
        self.client, self.settings, self.compiled, self.rows, self.way = client, settings, compiled, rows, way
        self.futures: dict[str, Future[Any]] = {}
        self._fetched = {*wanted, *compiled.ends, *compiled.last}
        self._done: dict[str, StageRows] = {}  # fetched, or failed as a whole
        self._known: dict[str, Any] = {}
        self._tries: Counter[str] = Counter()
        self._moves = 0
        self._sent, self._let_go, self._several = sent, let_go or release, several
        self._spent: list[Future[Any]] = []

    async def go(self, weight: float = 0.0) -> dict[str, StageRows]:
        """Outcomes of the wanted and the last steps; with `weight` bytes of inputs, about.

        Raises
        ------
        Died
        AltlasError
            Where the cluster is gone, or nothing can be sent at all.
        """
        try:
            self._known[INPUT] = await self._given(weight)
            todo = list(self.compiled.steps)
            while todo:
                self._send(todo)
                await self._fetch_all(todo)
                todo = await self._mend(todo)
            outcomes = {name: self._done[name] for name in self._fetched}
        except BaseException:
            # nobody wants what still runs: that is told at once
            release([*self.futures.values(), *self._spent])
            self.futures, self._spent = {}, []
            raise
        self._let_go([*self.futures.values(), *self._spent])
        self.futures, self._spent = {}, []
        return outcomes

    async def _given(self, weight: float) -> Any:
        """The inputs, packed; large ones are sent to a worker first, in a thread."""
        try:
            if weight < self.settings.scatter_size:
                return Packed.of(self.rows)
            packed = await asyncio.to_thread(Packed.of, self.rows)
        except Exception as error:
            # what people pass may refuse to be pickled with any error
            raise BadRequest(f"an input cannot be sent to a worker: {describe(error)}") from error
        return await scatter_soon(self.client, packed, patient=False) or packed

    def _send(self, todo: list[str]) -> None:
        try:
            sent = send(self.client, self.compiled, self._known, self.way, steps=todo)
        except Exception as error:
            # a client that was closed meanwhile says so in several ways
            raise ClusterLost(
                f"the scheduler cannot be reached ({describe(error)}): connect again"
            ) from error
        self._spent += [self.futures[name] for name in sent if name in self.futures]
        self.futures.update(sent)
        self._tries.update(todo)
        self._sent()

    async def _fetch_all(self, todo: list[str]) -> None:
        """Wait until every step that is fetched has its outcome, or failed."""
        names = [name for name in todo if name in self._fetched]
        found = await asyncio.gather(
            *(fetch(self.client, self.futures[name], self.settings) for name in names), return_exceptions=True
        )
        for name, outcome in zip(names, found, strict=True):
            if isinstance(outcome, StageRows):
                self._done[name] = outcome
            elif isinstance(outcome, (ClusterLost, asyncio.CancelledError)):
                raise outcome
            elif self.futures[name].status == "finished":
                # it was made, and cannot be opened here
                if self._several:
                    raise Unreadable(name)
                error = ClusterError(f"the output of stage {name!r} cannot be read: {describe(outcome)}")
                self._done[name] = self._failed(name, error)

    # -- what failed as a whole ----------------------------------------------------------------

    async def _mend(self, todo: list[str]) -> list[str]:
        """Steps that are to be sent again: those whose nodes failed, and what comes after those that did not
        get done. The outcome of a step that failed for good is known here."""
        origins = self._origins(todo)
        if not origins:
            left = [name for name in todo if name in self._fetched and name not in self._done]
            if left:
                raise ClusterLost(f"the output of stage {left[0]!r} was lost: ask again")
            return []
        again: set[str] = set()
        failed: set[str] = set()
        for name in todo:
            needs = set(self.compiled.steps[name].needs)
            if name in origins:
                error = await self._error_of(name)
                if self._elsewhere(name, error):
                    again.add(name)
                else:
                    self._done[name] = self._failed(name, error, await self._notes(name))
                    failed.add(name)
            elif not needs & (again | failed):
                continue
            elif not needs & again and (outcome := self._inherited(name, needs & failed)) is not None:
                self._done[name] = outcome
                failed.add(name)
            else:
                again.add(name)
        for name in failed:
            self._known[name] = Packed.of(self._done[name])
        for name, future in self.futures.items():
            if future.status == "finished":
                self._known[name] = future
        return [name for name in todo if name in again]

    def _origins(self, todo: list[str]) -> list[str]:
        """Steps that failed themselves, not because of others."""
        bad = {name for name in todo if self.futures[name].status in ("error", "cancelled", "lost")}
        return [name for name in todo if name in bad and not bad & set(self.compiled.steps[name].needs)]

    async def _error_of(self, name: str) -> AltlasError:
        future = self.futures[name]
        if future.status != "error":
            return HostClosed("its worker went away: ask again")
        error = await future._exception()
        if isinstance(error, KilledWorker):
            node = str(getattr(error.last_worker, "name", "?"))
            error = NodeLost(node, "died", tuple(range(len(self.rows))))
        if isinstance(error, NodeLost) and error.cause != "left":
            raise Died(name, error.started, error)
        if isinstance(error, AltlasError):
            return error
        if self._several:
            raise Unreadable(name)
        return ClusterError(f"it failed on a worker: {describe(error) if error else 'with no error'}")

    def _elsewhere(self, name: str, error: AltlasError) -> bool:
        """Whether a step is to be tried on another node."""
        if type(error) is HostClosed or isinstance(error, NodeLost):
            self._moves += 1
            return self._moves <= MOVES
        if not of_the_node(error):
            return False
        if self._tries[name] >= self.settings.tries:
            return False
        if isinstance(node := getattr(error, "node", None), str):
            exclude = dict(self.way.exclude or {})
            exclude[name] = exclude.get(name, frozenset()) | {node}
            self.way = replace(self.way, exclude=exclude)
        return True

    def _failed(self, name: str, error: AltlasError, notes: Mapping[str, Note] | None = None) -> StageRows:
        step = self.compiled.steps[name]
        cause = root_cause(error)
        node = str(getattr(error, "node", "") or getattr(cause, "node", ""))
        fault = Fault(name, step.spec.id, node, error)
        return StageRows.failed(len(self.rows), fault, optional=step.optional, notes=notes or {})

    def _inherited(self, name: str, failed: Iterable[str]) -> StageRows | None:
        """The outcome of a step that cannot be done for any row, as what it needs has failed."""
        step = self.compiled.steps[name]
        needed = [self._done[need] for need in failed]
        for one in needed:
            if len(one.faults) == len(self.rows):
                note = Note(step.spec.id, "", forgiven=dict(one.faults) if step.optional else {})
                faults = {} if step.optional else dict(one.faults)
                return StageRows([None] * len(self.rows), faults, notes={**together(needed), name: note})
        return None

    async def _notes(self, name: str) -> dict[str, Note]:
        """Notes of the steps before one that failed: of their outputs none is fetched."""
        needs = [need for need in self.compiled.steps[name].needs if need != INPUT]
        there = [self.futures[need] for need in needs if self.futures[need].status == "finished"]
        known = [self._done[need] for need in needs if need in self._done]
        found = together(known)
        if there:
            task = submit_task(self.client, notes_of, *there)
            self._spent.append(task)
            try:
                found.update(await asyncio.wait_for(fetch(self.client, task, self.settings), REPORT))
            except (AltlasError, CancelledError, OSError, TimeoutError):
                return found  # a report lacks them, the answers do not
        return found


def release(futures: Iterable[Future[Any]]) -> None:
    """Have the cluster forget what futures stand for."""
    for future in futures:
        future.release()


def notes_of(*rows: StageRows) -> dict[str, Note]:
    """Notes of all that came before; runs on a worker."""
    return together(rows)


async def fetch(client: Client, future: Future[Any], settings: Settings) -> Any:
    """The result of a task. Dask waits for ever for a worker that has it and is silent.

    Raises
    ------
    ClusterLost
        Where the scheduler has gone.
    Exception
        What the task raised.
    """
    # Dask's own tasks that wait would complain when they are cancelled: first its word is waited for
    state: Any = future._state
    said = asyncio.ensure_future(state.wait())
    try:
        while not future.done():
            await asyncio.wait({said}, timeout=LOOK)
            if client.status != "running":
                raise ClusterLost("the scheduler went away: connect again with af.connect(), and ask again")
    finally:
        said.cancel()
    if future.status == "error":
        exception: Any = await future._exception()
        raise exception
    limit = 1.5 * settings.heartbeat_timeout
    while True:
        gathering, finished = asyncio.ensure_future(client._gather(future)), 0.0
        try:
            while future.status not in ("cancelled", "lost") and finished <= limit:
                await asyncio.wait({gathering}, timeout=LOOK)
                if gathering.done():
                    return gathering.result()
                if client.status != "running":
                    raise ClusterLost(
                        "the scheduler went away: connect again with af.connect(), and ask again"
                    )
                # by then the scheduler plugin has had it made anew, or given up
                finished = finished + LOOK if future.status == "finished" else 0.0
        finally:
            gathering.cancel()
        if future.status in ("cancelled", "lost"):
            if client.status != "running":
                raise ClusterLost("the scheduler went away: connect again with af.connect(), and ask again")
            raise NodeFault("?", "the task was cancelled, or lost with its worker")
        limit *= 2  # it may be that there is much to fetch
