"""The scheduler plugin: the catalog that all clients see, and who may send what where.

It is told by Dask what happens, by hosts what runs, by clients what they want; `Placer` places,
`Lessor` says how much may be in flight, `Watchman` notices who is silent.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from distributed.diagnostics.plugin import SchedulerPlugin

from altlas_flow._version import __version__
from altlas_flow.cluster.keys import ANNOTATION, is_envelope, model_of
from altlas_flow.cluster.ledger import Ledger, shorten
from altlas_flow.cluster.scheduler.hearing import Hearing
from altlas_flow.cluster.scheduler.lessor import Lessor, slots_for
from altlas_flow.cluster.scheduler.placer import Placer
from altlas_flow.cluster.scheduler.watchman import Watchman
from altlas_flow.cluster.worker.plugin import CANCEL, TOPIC
from altlas_flow.cluster.worker.words import OPERATION
from altlas_flow.errors import ModelConflict, SpecError, describe
from altlas_flow.models.spec import ModelSpec
from altlas_flow.placement.node import Needs, refusal
from altlas_flow.placement.strategies import STRATEGIES as STRATEGY_NAMES
from altlas_flow.placement.strategies import adapt

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

logger = logging.getLogger(__name__)

NAME = "altlas-control"
#: Says to clients that the recipe of an id was replaced.
CATALOG_TOPIC = "altlas-catalog"
#: Operation on a client's stream: the worker that holds the answers of an envelope is silent.
FELL = "altlas-fell"
#: Functions of clients that are kept as strategies; the latest ones.
STRATEGIES = 1000
#: Entry points that give strategies by name.
STRATEGY_GROUP = "altlas_flow.strategies"


class ControlPlugin(SchedulerPlugin):
    """Catalog, placement and leases, on the scheduler.

    Parameters
    ----------
    patience : float
        Seconds that a task waits for a node which can do it, where there is or was one.
    join_timeout : float
        The same where there never was one.
    heartbeat_timeout : float
        Seconds after which a silent worker's work moves.
    strategy : str
        Of work that names none.
    seed : int
        For the choice between equal nodes.
    """

    name = NAME
    idempotent = True

    def __init__(
        self,
        patience: float = 30.0,
        *,
        join_timeout: float = 0.0,
        heartbeat_timeout: float = 10.0,
        strategy: str = "LEAST_LOADED",
        seed: int = 0,
    ) -> None:
        self.patience, self.join_timeout = patience, join_timeout
        self.heartbeat_timeout, self.strategy, self.seed = heartbeat_timeout, strategy, seed

    async def start(self, scheduler: Scheduler) -> None:
        """Called by Dask once the scheduler runs."""
        self.scheduler = scheduler
        self.loop = asyncio.get_running_loop()
        self.catalog: dict[str, ModelSpec] = {}
        # Number of the latest change of the catalog: to a client, answers and events may overtake each other.
        # It begins above all that a scheduler which was here before has said.
        self.changes = time.time_ns()
        self.hosts: dict[str, dict[str, Any]] = {}  # by worker address: what its host said of itself
        self.strangers: dict[str, str] = {}  # workers of another version
        self.faults = 0  # of this plugin: Dask only logs them
        self.last_fault = ""
        self._came = asyncio.Event()
        self.hearing = Hearing(scheduler, self._guard)
        self.placer = Placer(
            scheduler,
            patience=self.patience,
            join_timeout=self.join_timeout,
            default=self.strategy,
            seed=self.seed,
            fault=self._fault,
            heard_out=self.hearing.heard_out,
            let_go=lambda key: self.lessor.ended(key),
        )
        self.lessor = Lessor(scheduler, self.placer.roster, self.heartbeat_timeout)
        self.ledger = Ledger(scheduler)
        self.hearing.begin(self.placer, self.lessor)
        self.watchman = Watchman(scheduler, self.placer, self.heartbeat_timeout, self._fell)
        scheduler.handlers.update(
            {
                "altlas_info": self.info,
                "altlas_ready": self.ready,
                "altlas_register": self.register,
                "altlas_models": self.models,
                "altlas_eligible": self.eligible,
                "altlas_open": self.open,
                "altlas_strategy": self.add_strategy,
                "altlas_lost": self.lost,
                "altlas_cordon": self.cordon,
                OPERATION: self.hearing.listen,
            }
        )
        scheduler.stream_handlers.update(
            {"altlas-report": self.report, "altlas-cancel": self.cancel, "altlas-leave": self.leave}
        )

    async def close(self) -> None:
        """Called by Dask when the scheduler closes."""
        self.watchman.close()

    # -- what clients ask ---------------------------------------------------------------------

    async def info(self) -> dict[str, Any]:
        """Version, hosts, what is under way on them, what clients hold back, and the plugin's own faults."""
        placer = self.placer
        return {
            "version": __version__,
            "hosts": self.hosts,
            "in_flight": {node.address: node.tasks for node in placer.roster if node.tasks},
            "parked": len(placer.parked),
            "held": self.lessor.held,
            "silent": sorted(self.watchman.silent),
            "envelopes": len(self.lessor.envelopes),
            "faults": self.faults,
            "last_fault": self.last_fault,
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

    async def register(self, spec: str, replace: bool = False, memory: int = 0) -> dict[str, Any]:
        """Put a spec (as JSON) into the catalog; the same id with another recipe is a conflict.

        The answer holds as of the change of the catalog whose number is in it, as does that of `models`.
        """
        model = ModelSpec.model_validate_json(spec)
        known = self.catalog.get(model.id)
        if known is not None and known.fingerprint != model.fingerprint and not replace:
            return {"error": pickle.dumps(ModelConflict(model.id))}
        if known is None or known.fingerprint != model.fingerprint:
            self.changes += 1
            event = {"id": model.id, "fingerprint": model.fingerprint, "change": self.changes}
            self.scheduler.log_event(CATALOG_TOPIC, event)
        self.catalog[model.id] = model
        self.placer.note(model, memory)
        return {"error": None, "change": self.changes}

    async def models(self) -> dict[str, Any]:
        """The catalog: id -> spec as JSON."""
        models = {name: spec.model_dump_json() for name, spec in self.catalog.items()}
        return {"models": models, "change": self.changes}

    async def eligible(self, spec: str, memory: int = 0) -> dict[str, Any]:
        """Addresses of the nodes that can serve a spec, with their slots, and why others cannot."""
        model = ModelSpec.model_validate_json(spec)
        self.placer.note(model, memory)
        needs = Needs.of(model.resources, model.labels, memory)
        able = {
            node.address: slots_for(needs, node) for node in self.placer.roster if not refusal(needs, node)
        }
        return {"nodes": able, "refused": self.placer.roster.reasons(needs)}

    async def open(self, client: str, transport: int, spec: str, memory: int = 0) -> dict[str, Any]:
        """A client is about to send requests for a model: its pool and its lease."""
        model = ModelSpec.model_validate_json(spec)
        self.placer.note(model, memory)
        return self.lessor.open(client, transport, model.resources, model.labels)

    async def lost(self, key: str) -> dict[str, Any] | None:
        """What ran of an envelope that was lost together with the inputs that were sent ahead for it."""
        return await self.placer.losses.what_was_lost(key)

    async def add_strategy(self, name: str, function: bytes | None = None) -> dict[str, Any]:
        """Know a strategy: an entry point by its name, or a client's own callable."""
        if name in self.placer.strategies:
            return {"error": None}
        try:
            found = pickle.loads(function) if function is not None else _entry_point(name)
            self.placer.strategies[name] = adapt(found)
            own = [known for known in self.placer.strategies if "#" in known]
            for old in own[: max(0, len(own) - STRATEGIES)]:
                del self.placer.strategies[old]
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            # whatever importing it may raise is for whoever asked for it
            label, built_in = name.partition("#")[0], ", ".join(STRATEGY_NAMES)
            wrong = SpecError(
                f"strategy {label!r} cannot be used ({describe(error)}): built in are {built_in}"
            )
            return {"error": pickle.dumps(wrong)}
        return {"error": None}

    async def cordon(self, name: str, cordoned: bool = True) -> bool:
        """Give a node no new work, or again; whether there is one of that name."""
        found = False
        for node in self.placer.roster:
            if node.name == name:
                found, node.cordoned = True, cordoned
                self.placer.roster.changed(node.address)
        self.lessor.nodes_changed()
        self.placer.unpark()
        return found

    def report(
        self, client: str, pulse: int, pools: Mapping[str, Any], held: Mapping[str, int], **kwargs: Any
    ) -> None:
        """A client's pulse: what it holds back; told by its stream."""
        self._guard("a report", self.lessor.report, client, pools, held)
        # in any case: a client that hears nothing takes the scheduler for lost
        self._guard("an answer", self.lessor.answer, client, pulse=pulse, faults=self.faults)

    def cancel(self, client: str, key: Any, requests: list[int], **kwargs: Any) -> None:
        """A client no longer wants some requests of an envelope; told by its stream."""
        assignment = self.placer.assignments.get(key)
        if assignment is not None and assignment.address in self.scheduler.stream_comms:
            self.scheduler.worker_send(assignment.address, {"op": CANCEL, "key": key, "requests": requests})

    def leave(self, client: str, transport: int, **kwargs: Any) -> None:
        """The flows of a client are closed; told by its stream."""
        self._guard("a client's leaving", self.lessor.leave, client, transport)

    # -- what hosts say -----------------------------------------------------------------------

    def _fell(self, key: Any, clients: Iterable[str], node: str) -> None:
        """The only worker that has the answers of an envelope is silent."""
        for client in clients:
            comm = self.scheduler.client_comms.get(client)
            if comm is not None and not comm.closed():
                comm.send({"op": FELL, "key": key, "node": node})

    # -- what Dask tells ----------------------------------------------------------------------

    def log_event(self, topic: str | Iterable[str], msg: Any) -> None:
        """A host says that it is there, or a worker that it works again."""
        if not isinstance(msg, dict):
            return
        if topic == TOPIC:
            self._guard("a host's coming", self._host_came, msg)
        elif msg.get("action") == "worker-status-change" and isinstance(topic, str):
            # told right before the worker counts as running
            self.loop.call_soon(self._guard, "a worker's status", self._status, topic)

    def _host_came(self, msg: dict[str, Any]) -> None:
        address = msg["address"]
        ws = self.scheduler.workers.get(address)
        if msg.get("version") != __version__:
            self.strangers[address] = str(msg.get("version"))
            logger.warning("worker %s runs altlas_flow %s, not %s", address, msg.get("version"), __version__)
        elif ws is not None:
            self.hosts[address] = msg
            shorten(self.scheduler.stream_comms.get(address))
            self.placer.came(ws, msg)
            self.lessor.nodes_changed()
        self._came.set()

    def _status(self, address: str) -> None:
        self.placer.status(address)
        self.lessor.nodes_changed()

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        """A worker is gone, and its host with it."""
        self.hosts.pop(worker, None)
        self.strangers.pop(worker, None)
        self._guard("a worker's going", self._worker_left, worker)
        self._came.set()

    def _worker_left(self, address: str) -> None:
        self.watchman.forget(address)
        self.hearing.left(address)
        self.placer.left(address)
        self.lessor.nodes_changed()

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """A client is gone: what it had leased is free."""
        self._guard("a client's going", self.lessor.gone, client)

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """A task changes its state: place it, or what waits for it, right before Dask does."""
        try:
            model = model_of(key)
            if model is not None:
                self.placer.follow(key, model, start, finish)
                if is_envelope(key):
                    self._count(key, finish)
            if finish == "memory":
                for dependent in self.scheduler.tasks[key].dependents:
                    if dependent.state == "waiting" and model_of(dependent.key) is not None:
                        self.placer.place_if_ready(dependent)
        except Exception as error:
            # an exception here is only logged by Dask; it is counted, and the task runs unplaced
            self._fault(f"placing {key!r} failed: {describe(error)}")
            logger.exception("placing %r failed", key)

    def _count(self, key: Any, finish: str) -> None:
        """Keep count of the envelopes in flight of each client."""
        if finish == "waiting":
            said = (self.scheduler.tasks[key].annotations or {}).get(ANNOTATION) or {}
            if "client" in said:
                self.lessor.sent(key, said["client"], said["pool"])
        elif finish in ("memory", "erred", "forgotten") and key not in self.placer.lingering:
            self.lessor.ended(key)
        if finish == "forgotten":
            self._guard("forgetting", self.ledger.ended)

    def _guard(self, what: str, function: Any, *args: Any, **kwargs: Any) -> None:
        """Call; count and log what it raises: nobody else would see it."""
        try:
            function(*args, **kwargs)
        except Exception as error:
            self._fault(f"{what} failed: {describe(error)}")
            logger.exception("%s failed", what)

    def _fault(self, text: str) -> None:
        self.faults += 1
        self.last_fault = text
        logger.warning("%s", text)


def _entry_point(name: str) -> Any:
    from importlib.metadata import entry_points

    for point in entry_points(group=STRATEGY_GROUP):
        if point.name == name:
            return point.load()
    raise LookupError(f"no strategy of that name is installed (entry points of {STRATEGY_GROUP})")
