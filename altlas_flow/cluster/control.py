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
from typing import TYPE_CHECKING, Any

from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin

from altlas_flow._version import __version__
from altlas_flow.cluster.keys import DIGITS, model_of
from altlas_flow.errors import AltlasError, ModelConflict, NoEligibleNode
from altlas_flow.models.spec import ModelSpec
from altlas_flow.placement import Node, least_loaded, refusal

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

logger = logging.getLogger(__name__)

NAME = "altlas-control"
TOPIC = "altlas-hosts"
#: No worker has this address: a task restricted to it waits until we know better.
NOWHERE = "altlas://nowhere"


class ControlPlugin(SchedulerPlugin):
    """Catalog and placement, on the scheduler.

    Parameters
    ----------
    seed : int
        For the choice between equal nodes.
    """

    name = NAME
    idempotent = True

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    async def start(self, scheduler: Scheduler) -> None:
        """Called by Dask once the scheduler runs."""
        self.scheduler = scheduler
        self.rng = random.Random(self.seed)
        self.catalog: dict[str, ModelSpec] = {}
        self.needs: dict[str, dict[str, float]] = {}  # by the digits that keys carry
        self.ids: dict[str, str] = {}
        self.hosts: dict[str, dict[str, Any]] = {}  # by worker address: what its host said of itself
        self.in_flight: Counter[str] = Counter()
        self.placed: dict[Any, str] = {}
        self.parked: set[Any] = set()
        self.faults = 0  # of this plugin: Dask only logs them
        scheduler.handlers.update(
            altlas_info=self.info,
            altlas_register=self.register,
            altlas_models=self.models,
            altlas_eligible=self.eligible,
        )

    # -- what clients ask ---------------------------------------------------------------------

    async def info(self) -> dict[str, Any]:
        """Version, hosts and the plugin's own faults."""
        return {"version": __version__, "hosts": self.hosts, "faults": self.faults}

    async def register(self, spec: str, replace: bool = False) -> dict[str, Any]:
        """Put a spec (as JSON) into the catalog; the same id with another recipe is a conflict."""
        model = ModelSpec.model_validate_json(spec)
        known = self.catalog.get(model.id)
        if known is not None and known.fingerprint != model.fingerprint and not replace:
            return {"error": pickle.dumps(ModelConflict(model.id))}
        self.catalog[model.id] = model
        self.needs[model.fingerprint[:DIGITS]] = dict(model.resources)
        self.ids[model.fingerprint[:DIGITS]] = model.id
        return {"error": None}

    async def models(self) -> dict[str, str]:
        """The catalog: id -> spec as JSON."""
        return {name: spec.model_dump_json() for name, spec in self.catalog.items()}

    async def eligible(self, spec: str) -> dict[str, Any]:
        """Addresses of the nodes that can serve a spec, with their slots, and why others cannot."""
        model = ModelSpec.model_validate_json(spec)
        self.needs[model.fingerprint[:DIGITS]] = dict(model.resources)
        self.ids[model.fingerprint[:DIGITS]] = model.id
        nodes = [self._node(ws) for ws in self.scheduler.workers.values()]
        refused = {node.name: refusal(model.resources, node) for node in nodes}
        return {
            "nodes": {node.address: node.slots for node in nodes if refused[node.name] is None},
            "refused": {name: why for name, why in refused.items() if why},
        }

    # -- what Dask tells ----------------------------------------------------------------------

    def log_event(self, topic: str, msg: Any) -> None:
        """A host says that it is there."""
        if topic != TOPIC or not isinstance(msg, dict):
            return
        if msg.get("version") == __version__:
            self.hosts[msg["address"]] = msg
            self._unpark()
        else:
            logger.warning("worker %s runs altlas_flow %s, not %s", msg.get("address"), msg.get("version"), __version__)

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        """A worker is gone, and its host with it."""
        self.hosts.pop(worker, None)
        self.in_flight.pop(worker, None)

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

    def _follow(self, key: Any, finish: str) -> None:
        """Keep count of what is in flight on each worker."""
        address = self.placed.pop(key, None)
        if address is not None and self.in_flight[address] > 0:
            self.in_flight[address] -= 1
        if finish == "processing":
            ws = self.scheduler.tasks[key].processing_on
            if ws is not None:
                self.placed[key] = ws.address
                self.in_flight[ws.address] += 1
        elif finish in ("forgotten", "released", "erred", "memory"):
            self.parked.discard(key)

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

    def _place_if_ready(self, ts: TaskState) -> None:
        """Restrict a task whose inputs are all there to the node that shall do it."""
        if ts.waiting_on:
            return
        digits = model_of(ts.key)
        assert digits is not None
        needs = self.needs.get(digits, {})
        nodes = [self._node(ws, ts) for ws in self.scheduler.workers.values()]
        feasible = [node for node in nodes if refusal(needs, node) is None]
        if feasible:
            self.parked.discard(ts.key)
            self.scheduler.set_restrictions({ts.key: [least_loaded(feasible, self.rng).address]})
            return
        self.scheduler.set_restrictions({ts.key: [NOWHERE]})
        able = any(all(n.resources.get(r, 0) >= a for r, a in needs.items()) for n in nodes if n.address in self.hosts)
        if able or not self.hosts:
            # those that could are paused or on their way: it waits for them, not for ever
            self.parked.add(ts.key)
            return
        reasons = {node.name: refusal(needs, node) or "" for node in nodes}
        asyncio.get_running_loop().call_soon(
            self._fail, ts.key, NoEligibleNode(self.ids.get(digits, digits), reasons)
        )

    def _fail(self, key: Any, error: AltlasError) -> None:
        """End a parked task with an error. Not from within a transition: Dask would only log it."""
        ts = self.scheduler.tasks.get(key)
        if ts is None or ts.state != "no-worker":
            return
        stimulus = f"altlas-no-eligible-node-{key}"
        recommendations = self.scheduler.transition(
            key, "erred", exception=pickle.dumps(error), cause=key, stimulus_id=stimulus
        )
        self.scheduler.transitions(recommendations, stimulus_id=stimulus)

    def _unpark(self) -> None:
        """A host came: place what waited for one."""
        for key in list(self.parked):
            ts = self.scheduler.tasks.get(key)
            if ts is None or ts.state != "no-worker":
                self.parked.discard(key)
                continue
            self._place_if_ready(ts)
            if key not in self.parked:
                self.scheduler.transitions({key: "processing"}, stimulus_id=f"altlas-host-joined-{key}")
