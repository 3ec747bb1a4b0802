"""The scheduler plugin: the catalog that all clients see, and where predictions run.

It restricts a task that predicts to one worker in the same step in which Dask is about to place it,
once all its inputs are in memory: decided on the cluster as it is then, with no extra trip.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import random
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin

from altlas_flow._version import __version__
from altlas_flow.cluster.keys import DIGITS, model_of
from altlas_flow.errors import ModelConflict, NoEligibleNode
from altlas_flow.models.spec import ModelSpec
from altlas_flow.placement import Node, least_loaded, refusal

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

logger = logging.getLogger(__name__)

NAME = "altlas-control"
TOPIC = "altlas-hosts"
#: Says to clients that the recipe of an id was replaced.
CATALOG_TOPIC = "altlas-catalog"
#: No worker has this address: a task restricted to it waits until we know better.
NOWHERE = "altlas://nowhere"


class ControlPlugin(SchedulerPlugin):
    """Catalog and placement, on the scheduler.

    Parameters
    ----------
    patience : float
        Seconds that a task waits for a node which can do it, where there is or was one.
    seed : int
        For the choice between equal nodes.
    """

    name = NAME
    idempotent = True

    def __init__(self, patience: float = 30.0, seed: int = 0) -> None:
        self.patience, self.seed = patience, seed

    async def start(self, scheduler: Scheduler) -> None:
        """Called by Dask once the scheduler runs."""
        self.scheduler = scheduler
        self.loop = asyncio.get_running_loop()
        self.rng = random.Random(self.seed)
        self.catalog: dict[str, ModelSpec] = {}
        self.needs: dict[str, Mapping[str, float]] = {}  # by the digits that keys carry
        self.ids: dict[str, str] = {}
        self.hosts: dict[str, dict[str, Any]] = {}  # by worker address: what its host said of itself
        self.strangers: dict[str, str] = {}  # workers of another version
        self.gone: list[tuple[float, Mapping[str, float]]] = []  # when hosts left, and their resources
        self.in_flight: Counter[str] = Counter()
        self.placed: dict[Any, str] = {}
        self.parked: dict[Any, asyncio.TimerHandle] = {}  # tasks that nobody can do now
        self.faults = 0  # of this plugin: Dask only logs them
        self._came = asyncio.Event()
        scheduler.handlers.update(
            altlas_info=self.info,
            altlas_ready=self.ready,
            altlas_register=self.register,
            altlas_models=self.models,
            altlas_eligible=self.eligible,
        )

    # -- what clients ask ---------------------------------------------------------------------

    async def info(self) -> dict[str, Any]:
        """Version, hosts, what is under way on them, and the plugin's own faults."""
        return {
            "version": __version__,
            "hosts": self.hosts,
            "in_flight": {address: count for address, count in self.in_flight.items() if count},
            "parked": len(self.parked),
            "faults": self.faults,
        }

    async def ready(self, timeout: float) -> list[str]:
        """Wait until the hosts of all workers have said that they are there; names of those that have not."""
        ends = self.loop.time() + timeout
        while True:
            missing = [
                str(ws.name)
                for ws in self.scheduler.workers.values()
                if ws.address not in self.hosts and ws.address not in self.strangers
            ]
            if not missing or self.loop.time() >= ends:
                return missing
            self._came.clear()
            try:
                await asyncio.wait_for(self._came.wait(), ends - self.loop.time())
            except TimeoutError:
                continue  # the next look says who is missing

    async def register(self, spec: str, replace: bool = False) -> dict[str, Any]:
        """Put a spec (as JSON) into the catalog; the same id with another recipe is a conflict."""
        model = ModelSpec.model_validate_json(spec)
        known = self.catalog.get(model.id)
        if known is not None and known.fingerprint != model.fingerprint:
            if not replace:
                return {"error": pickle.dumps(ModelConflict(model.id))}
            self.scheduler.log_event(CATALOG_TOPIC, {"id": model.id})
        self.catalog[model.id] = model
        self._note(model)
        return {"error": None}

    async def models(self) -> dict[str, str]:
        """The catalog: id -> spec as JSON."""
        return {name: spec.model_dump_json() for name, spec in self.catalog.items()}

    async def eligible(self, spec: str) -> dict[str, Any]:
        """Addresses of the nodes that can serve a spec, with their slots, and why others cannot."""
        model = ModelSpec.model_validate_json(spec)
        self._note(model)
        nodes = [self._node(ws) for ws in self.scheduler.workers.values()]
        refused = {node.name: refusal(model.resources, node) for node in nodes}
        return {
            "nodes": {node.address: node.slots for node in nodes if refused[node.name] is None},
            "refused": {name: why for name, why in refused.items() if why},
        }

    def _note(self, model: ModelSpec) -> None:
        """Keep what a key's digits stand for."""
        digits = model.fingerprint[:DIGITS]
        self.needs[digits], self.ids[digits] = dict(model.resources), model.id

    # -- what Dask tells ----------------------------------------------------------------------

    def log_event(self, topic: str, msg: Any) -> None:
        """A host says that it is there, or a worker that it works again."""
        if not isinstance(msg, dict):
            return
        if topic == TOPIC:
            if msg.get("version") == __version__:
                self.hosts[msg["address"]] = msg
            else:
                self.strangers[msg["address"]] = str(msg.get("version"))
                logger.warning(
                    "worker %s runs altlas_flow %s, not %s", msg["address"], msg.get("version"), __version__
                )
            self._came.set()
            self._unpark()
        elif msg.get("action") == "worker-status-change" and msg.get("status") == Status.running.name:
            # told right before the worker counts as running
            self.loop.call_soon(self._unpark)

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        """A worker is gone, and its host with it."""
        host = self.hosts.pop(worker, None)
        if host is not None:
            self.gone.append((self.loop.time(), host["resources"]))
        self.strangers.pop(worker, None)
        self.in_flight.pop(worker, None)
        self._came.set()

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """A task changes its state: place it, or what waits for it, right before Dask does."""
        try:
            if model_of(key) is not None:
                self._follow(key, finish)
                if finish == "waiting":
                    self._place_if_ready(self.scheduler.tasks[key])
            if finish == "memory":
                for dependent in self.scheduler.tasks[key].dependents:
                    if dependent.state == "waiting" and model_of(dependent.key) is not None:
                        self._place_if_ready(dependent)
        except Exception:
            # an exception here is only logged by Dask; it is counted, and the task runs unplaced
            self.faults += 1
            logger.exception("placing %r failed", key)

    # -- placement ----------------------------------------------------------------------------

    def _release(self, key: Any) -> None:
        """Count a task out of the worker where it was placed."""
        address = self.placed.pop(key, None)
        if address is not None and self.in_flight[address] > 0:
            self.in_flight[address] -= 1

    def _follow(self, key: Any, finish: str) -> None:
        """Keep count of what is in flight on each worker."""
        self._release(key)
        if finish == "processing":
            ws = self.scheduler.tasks[key].processing_on
            if ws is not None:
                self.placed[key] = ws.address
                self.in_flight[ws.address] += 1
        if finish != "no-worker" and (timer := self.parked.pop(key, None)) is not None:
            timer.cancel()

    def _node(self, ws: WorkerState, ts: TaskState | None = None) -> Node:
        host = self.hosts.get(ws.address)
        local = sum(dep.get_nbytes() for dep in ts.dependencies if ws in (dep.who_has or ())) if ts else 0
        return Node(
            address=ws.address,
            name=str(ws.name),
            slots=host["slots"] if host else 1,
            resources=ws.resources,
            in_flight=self.in_flight[ws.address],
            local_bytes=local,
            available=host is not None and ws.status == Status.running,
        )

    def _place_if_ready(self, ts: TaskState) -> bool:
        """Restrict a task whose inputs are all there to the node that shall do it; whether there is one."""
        if ts.waiting_on:
            return False
        needs = self.needs.get(model_of(ts.key) or "", {})
        nodes = [self._node(ws, ts) for ws in self.scheduler.workers.values()]
        feasible = [node for node in nodes if refusal(needs, node) is None]
        if feasible:
            chosen = least_loaded(feasible, self.rng).address
            self.scheduler.set_restrictions({ts.key: [chosen]})
            # it counts from here: its siblings are placed before any of them counts as processing
            self._release(ts.key)
            self.placed[ts.key] = chosen
            self.in_flight[chosen] += 1
            return True
        self.scheduler.set_restrictions({ts.key: [NOWHERE]})
        if ts.key not in self.parked:
            # not at once even where nobody will come: a task cannot be failed within its own transition
            delay = self.patience if self._may_come(needs) else 0.0
            self.parked[ts.key] = self.loop.call_later(delay, self._give_up, ts.key)
        return False

    def _may_come(self, needs: Mapping[str, float]) -> bool:
        """Whether a node that could is paused, was there a moment ago, or none has come yet."""
        since = self.loop.time() - self.patience
        self.gone = [(at, resources) for at, resources in self.gone if at >= since]
        known = [host["resources"] for host in self.hosts.values()] + [
            resources for _, resources in self.gone
        ]
        return not known or any(
            all(have.get(name, 0) >= amount for name, amount in needs.items()) for have in known
        )

    def _give_up(self, key: Any) -> None:
        """End a parked task with an error that says why nobody can do it."""
        ts = self.scheduler.tasks.get(key)
        if self.parked.pop(key, None) is None or ts is None or ts.state != "no-worker":
            return
        digits = model_of(key) or ""
        needs = self.needs.get(digits, {})
        nodes = [self._node(ws) for ws in self.scheduler.workers.values()]
        reasons = {node.name: refusal(needs, node) or "it has just come" for node in nodes}
        error = NoEligibleNode(self.ids.get(digits, digits), reasons)
        stimulus = f"altlas-no-eligible-node-{key}"
        recommendations = self.scheduler.transition(
            key, "erred", exception=pickle.dumps(error), cause=key, stimulus_id=stimulus
        )
        self.scheduler.transitions(recommendations, stimulus_id=stimulus)

    def _unpark(self) -> None:
        """A node came, or works again: place what waited for one."""
        for key in list(self.parked):
            ts = self.scheduler.tasks.get(key)
            if ts is not None and ts.state == "no-worker" and self._place_if_ready(ts):
                self.scheduler.transitions({key: "processing"}, stimulus_id=f"altlas-host-came-{key}")
