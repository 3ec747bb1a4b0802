"""The scheduler plugin: the catalog that all clients see, and who may send what where.

It is told by Dask what happens, by hosts what runs, by clients what they want; `Placer` places,
`Lessor` says how much may be in flight, `Watchman` notices who is silent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Container, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from distributed.comm.core import Comm
from distributed.diagnostics.plugin import SchedulerPlugin

from altlas_flow._version import __version__
from altlas_flow.cluster.client.journal import OVER, TOLD
from altlas_flow.cluster.keys import ANNOTATION, JOB, TAUGHT, is_envelope, is_passage, model_of
from altlas_flow.cluster.ledger import Ledger, shorten
from altlas_flow.cluster.scheduler.admission import Admission, is_closed
from altlas_flow.cluster.scheduler.catalog import SharedCatalog
from altlas_flow.cluster.scheduler.guard import Guard, who_is
from altlas_flow.cluster.scheduler.hearing import Hearing
from altlas_flow.cluster.scheduler.learning import Learning
from altlas_flow.cluster.scheduler.lessor import Lessor
from altlas_flow.cluster.scheduler.nodes import Nodes
from altlas_flow.cluster.scheduler.placer import Placer
from altlas_flow.cluster.scheduler.showing import Showing
from altlas_flow.cluster.scheduler.streams import Streams
from altlas_flow.cluster.scheduler.tasks import Tasks
from altlas_flow.cluster.scheduler.watchman import Watchman
from altlas_flow.cluster.worker.gate import REFUSALS
from altlas_flow.cluster.worker.plugin import CANCEL, LISTEN, TOPIC
from altlas_flow.cluster.worker.plugin import NAME as HOST_NAME
from altlas_flow.cluster.worker.words import OPERATION
from altlas_flow.errors import describe
from altlas_flow.logs import event, install
from altlas_flow.models.spec import ModelSpec
from altlas_flow.nodes.audit import Audit
from altlas_flow.nodes.registry import Registry, entry_of
from altlas_flow.nodes.unusual import Unusual
from altlas_flow.settings import Settings

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

logger = logging.getLogger(__name__)

NAME = "altlas-control"
#: Operation on a client's stream: the worker that holds the answers of an envelope is silent.
FELL = "altlas-fell"


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
    roles : bool
        Whether the cluster's certificates bear roles, and these are to be looked at.
    ours : bool
        Whether the scheduler's own program puts it in place, not a client.
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
        roles: bool = False,
        ours: bool = False,
    ) -> None:
        self.patience, self.join_timeout = patience, join_timeout
        self.heartbeat_timeout, self.strategy, self.seed = heartbeat_timeout, strategy, seed
        self.roles, self.ours = roles, ours

    @classmethod
    def of(cls, settings: Settings, *, roles: bool = False, ours: bool = False) -> ControlPlugin:
        """As the settings say."""
        return cls(
            patience=settings.no_workers_timeout,
            join_timeout=settings.join_timeout,
            heartbeat_timeout=settings.heartbeat_timeout,
            strategy=settings.default_distribution_strategy,
            roles=roles,
            ours=ours,
        )

    async def start(self, scheduler: Scheduler) -> None:
        """Called by Dask once the scheduler runs."""
        self.scheduler = scheduler
        self.loop = asyncio.get_running_loop()
        self.hosts: dict[str, dict[str, Any]] = {}  # by worker address: what its host said of itself
        self.strangers: dict[str, str] = {}  # workers of another version
        self.faults = 0  # of this plugin: Dask only logs them
        self.last_fault = ""
        self._came = asyncio.Event()
        self.hearing = Hearing(scheduler, self._guard, lambda *said: self.showing.predicted(*said))
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
        self.catalog = SharedCatalog(scheduler, self.placer)
        await self._begin_operations(scheduler)
        scheduler.handlers.update(
            {
                "identity": self.identity,
                "altlas_info": self.info,
                "altlas_ready": self.ready,
                "altlas_register": self.catalog.register,
                "altlas_models": self.catalog.models,
                "altlas_eligible": self.catalog.eligible,
                "altlas_strategy": self.guard.code(
                    "strategy",
                    "function",
                    "register it as an entry point of altlas_flow.strategies, and name it",
                    self.catalog.add_strategy,
                ),
                "altlas_open": self.open,
                "altlas_lost": self.lost,
                OPERATION: self.hearing.listen,
            }
        )
        scheduler.stream_handlers.update(
            {
                "altlas-report": self.report,
                CANCEL: self.cancel,
                LISTEN: self.listen,
                "altlas-leave": self.leave,
                OVER: self.over,
                TOLD: self.told,
                JOB: self.showing.job,
            }
        )
        self.guard.wrap(scheduler)
        Streams(scheduler, self.guard, self.placer.assignments).wrap()

    async def _begin_operations(self, scheduler: Scheduler) -> None:
        """What operators may do, and who may join: as the scheduler's own settings say, not a client's."""
        settings = Settings.current()
        install(settings.log_format)
        self.audit = Audit(settings.audit, time.time)
        guard = self.guard = Guard(self.roles, self._refused)
        unusual = Unusual()
        registry = Registry(closed=is_closed(scheduler, settings.admission, roles=self.roles, ours=self.ours))
        for text in settings.registered:
            registry.put(entry_of(text))
        self.admission = Admission(scheduler, registry, guard, self.audit, unusual)
        self.nodes = Nodes(
            scheduler,
            self.placer,
            self.watchman,
            self.admission,
            self.catalog,
            self._nodes_changed,
            settings.load_timeout,
        )
        for name, operation in self.nodes.operations().items():
            scheduler.handlers[name] = guard.operators(name.removeprefix("altlas_"), operation)
        scheduler.handlers["altlas_nodes"] = guard.everybody(self.nodes.known)
        scheduler.handlers["altlas_retired"] = guard.everybody(self.nodes.retired)
        self.tasks = Tasks(scheduler, guard, self.audit, unusual, settings.history)
        scheduler.handlers["altlas_tasks"] = guard.everybody(self.tasks.known)
        scheduler.handlers["altlas_task"] = guard.everybody(self.tasks.get)
        scheduler.handlers["altlas_cancel_task"] = guard.everybody(self.tasks.cancel)
        scheduler.handlers["altlas_history"] = guard.everybody(self.tasks.read)
        self._begin_learning(scheduler, settings.history)
        self.showing = Showing(self, self._guard, wanted=settings.metrics)
        if registry.closed:
            await self.admission.evict_strangers()

    def _begin_learning(self, scheduler: Scheduler, history: str | None) -> None:
        """Which model to choose is learned for all clients together."""
        self.learning = Learning(scheduler, self.catalog, self.placer, history)
        for name in ("choices", "feedback", "report", "course", "decisions"):
            operation = "altlas_learned" if name == "report" else f"altlas_{name}"
            scheduler.handlers[operation] = self.guard.everybody(getattr(self.learning, name))
        scheduler.stream_handlers[TAUGHT] = partial(self._guard, "what was told", self._taught)

    def _taught(self, lessons: list[Any], **kwargs: Any) -> None:
        self.learning.taught(lessons, **kwargs)
        self.showing.taught(lessons)

    def _refused(self, name: str, comm: Comm) -> None:
        who = who_is(comm)
        logger.warning("refused: %s asked for %s", " ".join(who.values()), name)
        self.audit.note("forbidden", **who, operation=name)

    @property
    def drained(self) -> Container[str]:
        """Names of the workers that operators have retired."""
        return self.nodes.drained

    async def close(self) -> None:
        """Called by Dask when the scheduler closes."""
        self.watchman.close()
        self.showing.close()
        try:
            # it may have much to write, and the loop has connections to close
            await asyncio.to_thread(self._close_files)
        except RuntimeError:
            self._close_files()  # no new threads: the interpreter ends
        self.audit.close()

    def _close_files(self) -> None:
        try:
            self.learning.close()
        finally:
            self.tasks.close()

    # -- what clients ask ---------------------------------------------------------------------

    def identity(self, n_workers: int = -1) -> dict[str, Any]:
        """As of Dask's scheduler; who connects sees that the plugin is there, and asks nothing in vain."""
        return {**self.scheduler.identity(n_workers), "altlas_flow": __version__}

    async def info(self) -> dict[str, Any]:
        """Version, hosts, what is under way on them, what clients hold back, and the plugin's own faults."""
        placer = self.placer
        return {
            "version": __version__,
            "strangers": self.strangers,
            "host_plugin": HOST_NAME in self.scheduler.worker_plugins,
            "hosts": self.hosts,
            "in_flight": {node.address: node.tasks for node in placer.roster if node.tasks},
            "parked": len(placer.parked),
            "held": self.lessor.held,
            "silent": sorted(self.watchman.silent),
            "envelopes": len(self.lessor.envelopes),
            "page": self.showing.has_page,
            "dashboard": self.showing.dashboard,
            "dashboard_locked": self.showing.dashboard_locked,
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

    async def open(self, client: str, transport: int, spec: str, memory: int = 0) -> dict[str, Any]:
        """A client is about to send requests for a model: its pool and its lease."""
        model = ModelSpec.model_validate_json(spec)
        self.placer.note(model, memory)
        if client in self.scheduler.clients:
            self.tasks.clients.add(client)
        return self.lessor.open(client, transport, model.resources, model.labels)

    async def lost(self, key: str) -> dict[str, Any] | None:
        """What ran of an envelope that was lost together with the inputs that were sent ahead for it."""
        return await self.placer.losses.what_was_lost(key)

    def report(
        self, client: str, pulse: int, pools: Mapping[str, Any], held: Mapping[str, int], **kwargs: Any
    ) -> None:
        """A client's pulse: what it holds back; told by its stream."""
        self.tasks.clients.add(client)
        self._guard("a report", self.lessor.report, client, pools, held)
        # in any case: a client that hears nothing takes the scheduler for lost
        self._guard("an answer", self.lessor.answer, client, pulse=pulse, faults=self.faults)

    def cancel(self, client: str, key: Any, requests: list[int], **kwargs: Any) -> None:
        """A client no longer wants some requests of an envelope; told by its stream."""
        assignment = self.placer.assignments.get(key)
        if assignment is not None and assignment.address in self.scheduler.stream_comms:
            self.scheduler.worker_send(assignment.address, {"op": CANCEL, "key": key, "requests": requests})

    def listen(self, client: str, key: Any, request: int, on: bool, **kwargs: Any) -> None:
        """A client listens to a request of an envelope, or no more; told by its stream."""
        assignment = self.placer.assignments.get(key)
        if assignment is not None and assignment.address in self.scheduler.stream_comms:
            message = {"op": LISTEN, "key": key, "request": request, "on": on}
            self.scheduler.worker_send(assignment.address, message)

    def over(self, client: str, parts: list[Mapping[str, Any]], **kwargs: Any) -> None:
        """Requests of a client are over; told by its stream."""
        self._guard("what is over", self.tasks.over, client, parts)
        self.showing.over(client, parts)

    def told(self, client: str, ask: int, tasks: list[Any], **kwargs: Any) -> None:
        """A client says what it has under way; told by its stream."""
        self._guard("what is under way", self.tasks.told, client, ask, tasks)

    def leave(self, client: str, transport: int, **kwargs: Any) -> None:
        """The flows of a client are closed; told by its stream."""
        self._guard("a client's leaving", self.lessor.leave, client, transport)
        if self.lessor.transports.get(client, 0) > transport:  # no later one has taken its place
            self.tasks.left(client)

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
        elif topic == REFUSALS:
            self._guard("a refusal", self.audit.note, "forbidden", **msg)
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
            self.nodes.came(ws)
            self.showing.came(ws)
            text, name, slots = "node %s is there, with %d slots", str(ws.name), msg["slots"]
            event(logger, logging.INFO, "node ready", text, name, slots, node=name, slots=slots)
            self.lessor.nodes_changed()
        self._came.set()

    def _nodes_changed(self) -> None:
        self.lessor.nodes_changed()
        self.placer.unpark()

    def _status(self, address: str) -> None:
        self.placer.status(address)
        if (ws := self.scheduler.workers.get(address)) is not None:
            name, status = str(ws.name), ws.status.name
            event(logger, logging.INFO, f"node {status}", "node %s is %s", name, status, node=name)
        self.lessor.nodes_changed()

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Dask has taken a worker in."""
        self._guard("a joining", self.admission.joined, worker)

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        """A worker is gone, and its host with it."""
        self.hosts.pop(worker, None)
        self.strangers.pop(worker, None)
        self._guard("a worker's going", self._worker_left, worker)
        self._came.set()

    def _worker_left(self, address: str) -> None:
        self.watchman.forget(address)
        self.showing.left(address)
        self.nodes.left(address)
        self.hearing.left(address)
        self.placer.left(address)
        self.lessor.nodes_changed()

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """A client is gone: what it had leased is free."""
        self._guard("a client's going", self.lessor.gone, client)
        self.tasks.left(client)
        self.showing.client_left(client)

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """A task changes its state: place it, or what waits for it, right before Dask does."""
        try:
            model = model_of(key)
            if model is not None:
                self.placer.follow(key, model, start, finish)
                if is_envelope(key):
                    self._count(key, finish)
                elif finish == "forgotten" and is_passage(key):
                    self._guard("forgetting", self.ledger.ended)
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
