"""Draining: a node's work and its data go first, then its worker, and then its program."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from distributed.active_memory_manager import RetireWorker
from distributed.core import Status, rpc
from distributed.diagnostics.plugin import SchedulerPlugin

from altlas_flow.cluster.keys import is_envelope
from altlas_flow.cluster.scheduler.placer import Placer
from altlas_flow.cluster.scheduler.watchman import Watchman
from altlas_flow.errors import ClusterError, describe
from altlas_flow.placement.node import Node

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

logger = logging.getLogger(__name__)

#: Names of drained nodes, and nannies of retired workers, that are remembered.
KEPT = 1000
#: Seconds that clients get to fetch answers which could also be moved.
FETCH = 5.0
#: Seconds that retiring gets at least: where a node is empty it takes a moment.
GRACE = 2.0
#: Seconds that a nanny gets to end; it gives its worker five.
CLOSE_LIMIT = 15.0


class Draining:
    """Takes nodes out of the cluster, and knows who was taken out on purpose.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    placer : Placer
    watchman : Watchman
    """

    def __init__(self, scheduler: Scheduler, placer: Placer, watchman: Watchman) -> None:
        self.scheduler, self.placer, self.watchman = scheduler, placer, watchman
        self.loop = asyncio.get_running_loop()
        self.drained: dict[str, None] = {}  # by name of the node: nobody is to start it again
        self.retired: dict[str, None] = {}  # by address of the nanny: its program is to end
        self._nannies: dict[str, str] = {}  # of the workers that are here
        self._called_off: dict[str, asyncio.Event] = {}  # by name: set where a drain is to end
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by address

    def came(self, ws: WorkerState) -> None:
        """A worker is there: whatever was of its name, or its nanny, before is over."""
        self.drained.pop(str(ws.name), None)
        if ws.nanny:
            self.retired.pop(ws.nanny, None)
            self._nannies[ws.address] = ws.nanny

    def left(self, address: str) -> None:
        """A worker is gone. Where it was let go of, its program is told so when it asks."""
        nanny = self._nannies.pop(address, None)
        ends = [event for _, event in self.scheduler.get_events(address) if _is_end(event)]
        if nanny is not None and ends and ends[-1].get("expected"):
            _remember(self.retired, nanny)

    def call_off(self, name: str) -> None:
        """A node is given work again."""
        if (drain := self._called_off.pop(name, None)) is not None:
            drain.set()

    async def drain(self, node: Node, within: float) -> None:
        """Wait until what a node that is cordoned has is done, and retire its worker.

        Raises
        ------
        ClusterError
            Where it does not come to that in time, or it is given work again: its worker stays.
        """
        ends = self.loop.time() + within
        ws = self.scheduler.workers.get(node.address)
        nanny = str(ws.nanny) if ws is not None and ws.nanny else None
        called_off = self._called_off.setdefault(node.name, asyncio.Event())
        work = asyncio.ensure_future(self._work_done(node, within, ends))
        waits = [work, asyncio.ensure_future(called_off.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if called_off.is_set():
                raise ClusterError(f"node {node.name} was uncordoned while it was drained: it stays")
            work.result()
        finally:
            for wait in waits:
                wait.cancel()
        lock = self._locks.setdefault(node.address, asyncio.Lock())
        async with lock:
            await self._retire(node, nanny, within, ends)
        self._called_off.pop(node.name, None)

    # -- its work and its data -------------------------------------------------------------------

    async def _work_done(self, node: Node, within: float, ends: float) -> None:
        try:
            await asyncio.wait_for(self.placer.emptied(node.address), self._left(ends))
        except TimeoutError:
            left = len(self.placer.on.get(node.address, ()))
            if left:
                raise ClusterError(
                    f"node {node.name} is not empty after {within:.0f} s ({left} pieces of work): it stays "
                    "cordoned; drain it again, or uncordon it"
                ) from None
        await self._fetched(node.address, ends)

    async def _fetched(self, address: str, ends: float) -> None:
        """Wait until nothing lies on a node alone that cannot be moved, and clients have their answers.

        Or until the time is up: whoever retires it sees what is left.
        """
        soon = min(ends, self.loop.time() + FETCH)
        changes = _Changes()
        self.scheduler.add_plugin(changes, name=f"altlas-changes-{id(changes)}")
        try:
            while (ws := self.scheduler.workers.get(address)) is not None:
                alone = _alone(ws)
                if self._can_move(ws):
                    until = soon if any(is_envelope(ts.key) for ts in alone) else 0.0
                else:
                    until = ends if alone else 0.0
                if (left := until - self.loop.time()) <= 0:
                    return
                changes.seen.clear()
                try:
                    await asyncio.wait_for(changes.seen.wait(), left)
                except TimeoutError:
                    continue  # the next look says whether that was all
        finally:
            self.scheduler.remove_plugin(name=f"altlas-changes-{id(changes)}")

    def _can_move(self, ws: WorkerState) -> bool:
        """Whether another worker could take what this one has."""
        return ws.address not in self.watchman.silent and any(
            other is not ws and other.address not in self.watchman.silent for other in self.scheduler.running
        )

    def _left(self, ends: float) -> float:
        return max(0.0, ends - self.loop.time())

    # -- its worker ------------------------------------------------------------------------------

    async def _retire(self, node: Node, nanny: str | None, within: float, ends: float) -> None:
        address = node.address
        ws = self.scheduler.workers.get(address)
        if ws is None and nanny in self.retired:
            return  # another drain has done it
        silent = address in self.watchman.silent
        if ws is not None:
            if silent and (alone := _alone(ws)):
                raise ClusterError(
                    f"node {node.name} is silent, and holds data that no other node has ({_shown(alone)}): "
                    "it stays cordoned; drain it again when it speaks, or end its program"
                )
            await self._flush(node, ws, within, ends)
        _remember(self.drained, node.name)
        here = address in self.scheduler.workers
        if here:
            stimulus = f"altlas-drain-{time.time()}"
            await self.scheduler.remove_worker(address, expected=True, close=True, stimulus_id=stimulus)
        if nanny is not None and (silent or not here):
            # its worker died before it was told to end, or cannot be told: its nanny would start another
            await self._end_program(node, nanny)

    async def _flush(self, node: Node, ws: WorkerState, within: float, ends: float) -> None:
        """Have a worker's data moved, as Dask does; it takes nothing any more.

        Raises
        ------
        ClusterError
            Where there is nobody to take it, or the time is up: then the worker is as it was.
        """
        was, address = ws.status, ws.address
        retiring = self.scheduler.retire_workers(
            workers=[address], close_workers=False, remove=False, stimulus_id=f"altlas-drain-{time.time()}"
        )
        try:
            moved = await asyncio.wait_for(retiring, max(GRACE, self._left(ends)))
        except TimeoutError:
            self._restore(ws, was)
            raise ClusterError(
                f"node {node.name} holds data that it did not give to others within {within:.0f} s "
                f"({_shown(_alone(ws))}): it stays cordoned; drain it again, or uncordon it"
            ) from None
        except asyncio.CancelledError:
            self._restore(ws, was)
            raise
        if address not in moved and address in self.scheduler.workers:
            self._restore(ws, was)
            raise ClusterError(
                f"node {node.name} holds data that no other node can take ({_shown(_alone(ws))}): it stays "
                "cordoned; drain it again when there is another node, or when the data is no longer wanted"
            )

    def _restore(self, ws: WorkerState, was: Status) -> None:
        """What was to be retired goes on."""
        memory: Any = self.scheduler.extensions.get("amm")
        for policy in list(memory.policies) if memory is not None else ():
            if isinstance(policy, RetireWorker) and policy.address == ws.address:
                memory.policies.discard(policy)
        if ws.address not in self.scheduler.workers:
            return
        stimulus = f"altlas-stays-{time.time()}"
        change = {"op": "worker-status-change", "status": was.name, "stimulus_id": stimulus}
        self.scheduler.worker_send(ws.address, change)
        if (silent := self.watchman.silent.get(ws.address)) is not None:
            # it fell silent meanwhile: what it is to be again when it speaks
            self.watchman.silent[ws.address] = silent[0], was
        else:
            # not only once it has confirmed that: it may be stopped
            self.scheduler.handle_worker_status_change(was, ws, stimulus)

    async def _end_program(self, node: Node, nanny: str) -> None:
        _remember(self.retired, nanny)
        try:
            async with rpc(nanny, connection_args=self.scheduler.connection_args) as remote:
                await asyncio.wait_for(remote.terminate(reason="altlas-drain"), CLOSE_LIMIT)
        except TimeoutError:
            self.drained.pop(node.name, None)
            self.retired.pop(nanny, None)
            raise ClusterError(
                f"the worker of node {node.name} has gone, and its program does not answer: it stays "
                "cordoned; end its program"
            ) from None
        except Exception as error:
            # it has ended, or ends: Dask's nanny answers nobody then, or with what went wrong at its end
            logger.info("nanny %s of drained node %s: %s", nanny, node.name, describe(error))
        # it may have started a worker in the meantime, which made that forgotten when it came
        for ws in [ws for ws in self.scheduler.workers.values() if ws.nanny == nanny]:
            stimulus = f"altlas-drain-{time.time()}"
            await self.scheduler.remove_worker(ws.address, expected=True, close=True, stimulus_id=stimulus)
        _remember(self.drained, node.name)
        _remember(self.retired, nanny)


class _Changes(SchedulerPlugin):
    """Says that data may have gone, or somebody come who can take it."""

    def __init__(self) -> None:
        self.seen = asyncio.Event()

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        if start == "memory":
            self.seen.set()

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        self.seen.set()

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        self.seen.set()


def _alone(ws: WorkerState) -> list[TaskState]:
    """What only one worker has, and cannot be had elsewhere."""
    return [ts for ts in ws.has_what if len(ts.who_has or ()) == 1]


def _shown(alone: list[TaskState]) -> str:
    if not alone:
        return "an actor"
    first = str(min(str(ts.key) for ts in alone))[:80]
    return repr(first) if len(alone) == 1 else f"{len(alone)} pieces, such as {first!r}"


def _is_end(event: Any) -> bool:
    return isinstance(event, dict) and event.get("action") == "remove-worker"


def _remember(kept: dict[str, None], name: str) -> None:
    kept[name] = None
    while len(kept) > KEPT:
        del kept[next(iter(kept))]
