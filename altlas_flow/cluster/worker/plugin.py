"""The worker plugin: owns the `ModelHost`, and tells the scheduler plugin what becomes of the work."""

from __future__ import annotations

import asyncio
import logging
import pickle
import platform
import socket
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.metadata import version
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Protocol

from distributed import Worker, get_worker
from distributed.diagnostics.plugin import WorkerPlugin

from altlas_flow._version import __version__
from altlas_flow.cluster.keys import DIGITS, HANG_UP, is_envelope
from altlas_flow.cluster.worker.gate import close_worker
from altlas_flow.cluster.worker.gauges import Gauges
from altlas_flow.cluster.worker.gpus import claim_gpus
from altlas_flow.cluster.worker.speaker import Speaker
from altlas_flow.cluster.worker.words import Words
from altlas_flow.dashboard.metrics import Family, of_worker
from altlas_flow.dashboard.prometheus import expose
from altlas_flow.errors import AltlasError, HostClosed
from altlas_flow.logs import install
from altlas_flow.models.host import ModelHost
from altlas_flow.models.memory import keep_freed_memory
from altlas_flow.models.spec import ModelSpec
from altlas_flow.models.tallies import KINDS, SIZES
from altlas_flow.settings import Settings

if TYPE_CHECKING:
    from altlas_flow.cluster.choosing import Choosing
    from altlas_flow.models.watch import Watch

logger = logging.getLogger(__name__)

NAME = "altlas-host"
#: Topic of the event by which a host says that it is there.
TOPIC = "altlas-hosts"
#: Operation on a worker's stream: requests of an envelope are no longer wanted.
CANCEL = "altlas-cancel"
#: The same: somebody listens to a request of an envelope while it is answered, or no more.
LISTEN = "altlas-listen"
#: Envelopes that have not begun, of which it is kept what was said of them before.
EARLY = 1000

#: Seconds that unloading a model waits until nobody uses it.
UNLOAD_LIMIT = 30.0


class Members(Protocol):
    """Knows which rows of a call to the host belong to which requests."""

    def requests(self, rows: Any) -> list[int]:
        """Positions of the requests that `rows` belong to."""

    def rows_of(self, requests: Sequence[int]) -> list[int]:
        """Rows of the requests at some positions."""


class HostPlugin(WorkerPlugin):
    """Gives a worker its host. Light: models load when they are asked for.

    Parameters
    ----------
    settings : Settings
        Of the client that registered it.
    roles : bool
        Whether the cluster's certificates bear roles, and the worker is to look at them.
    """

    name = NAME
    idempotent = True

    def __init__(self, settings: Settings, *, roles: bool = False) -> None:
        self.settings, self.roles = settings, roles
        self.host: ModelHost | None = None
        self.worker: Worker | None = None
        self.choosing: Choosing | None = None  # where pipelines choose models on this worker

    async def setup(self, worker: Worker) -> None:
        """Called by Dask on each worker, also on those that join later."""
        self.worker = worker
        own = Settings.current()  # the worker's, as are its labels
        install(self.settings.log_format if own.log_format == "text" else own.log_format)
        threads = worker.state.nthreads
        slots = min(self.settings.slots or threads, threads)
        limit = worker.memory_manager.memory_limit
        resources = dict(worker.state.total_resources)
        if "GPU" not in resources and (found := await claim_gpus()):
            resources["GPU"] = found
            await worker.set_resources(GPU=found)
        budget = own.memory_budget
        if budget is None and limit:
            budget = int(limit * self.settings.model_memory_fraction)
        self._gpus = Gauges(bool(resources.get("GPU")))
        keep_freed_memory()
        self._lock = Lock()
        self._under_way: dict[str, tuple[Watch, Members]] = {}
        self._cancelled: dict[str, list[int]] = {}  # of envelopes that have not begun
        self._listened: dict[str, set[int]] = {}  # the same
        self._arrived: dict[Any, float] = {}  # when they came, in seconds of the host's clock
        self.words = Words(worker)
        await self.words.open()
        self.speaker = Speaker(worker.loop.asyncio_loop, self.words.say)  # type: ignore[attr-defined]
        self.host = ModelHost(
            node=str(worker.name),
            slots=slots,
            gpus=resources.get("GPU", 0),
            # slots x torch threads never exceed the threads that the worker was given
            threads=max(1, threads // slots),
            memory_budget=budget,
            memory_limit=limit or None,
            parts=self.settings.parts_in_flight,
            load_timeout=self.settings.load_timeout,
            retry_delay=self.settings.load_retry_delay,
            announce=self._announce,
            idle=lambda slot: self.words.say("idle", slot=slot),
            loading=self._loading,
            changed=self._models_changed,
        )
        worker.metrics["altlas"] = self._metrics
        self._end_metrics = expose("worker", self._families)
        hang_up = partial(_hang_up, worker)
        worker.stream_handlers.update({CANCEL: self.cancel, LISTEN: self.listen, HANG_UP: hang_up})
        worker.handlers.update({"altlas_load": self.load, "altlas_unload": self.unload})
        if self.roles:
            close_worker(worker)
        worker.log_event(
            TOPIC,
            {
                "address": worker.address,
                "name": str(worker.name),
                "version": __version__,
                "slots": slots,
                "resources": resources,
                # the worker's own configuration says what it is
                "labels": dict(own.labels),
                "memory": budget,
                "hostname": socket.gethostname(),
                "gpus": self._gpus.describe(),
                "versions": {
                    "altlas_flow": __version__,
                    "distributed": version("distributed"),
                    "python": platform.python_version(),
                },
            },
        )

    def teardown(self, worker: Worker) -> None:
        """Called by Dask when the worker closes."""
        worker.metrics.pop("altlas", None)
        self._end_metrics()
        for operation in (CANCEL, LISTEN, HANG_UP):
            worker.stream_handlers.pop(operation, None)
        if self.choosing is not None:
            self.choosing.close()
        if self.host is not None:
            # Waiting for batches and freeing weights takes seconds, which the worker's event loop has not:
            # its nanny kills it after a few. What waits on the host is told first of all.
            Thread(target=self._close, args=(self.host,), name="altlas-close", daemon=True).start()

    def _close(self, host: ModelHost) -> None:
        try:
            host.close()
        finally:
            self.words.close()

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        """A task changes its state: note when an envelope comes, and forget it when it goes."""
        if start == "released" and is_envelope(key) and self.host is not None:
            self._arrived[key] = self.host.clock()
        elif finish in ("released", "forgotten"):
            self._arrived.pop(key, None)

    # -- models, as operators ask for them ------------------------------------------------------

    async def load(self, spec: str) -> dict[str, Any]:
        """Load a model, as JSON; errors are sent back."""
        assert self.host is not None
        try:
            found = await asyncio.to_thread(self.host.describe, ModelSpec.model_validate_json(spec))
        except AltlasError as error:
            return {"error": pickle.dumps(error)}
        return {"error": None, "result": int(found["memory"])}

    async def unload(self, digits: str) -> dict[str, Any]:
        """Unload the model whose fingerprint begins so; whether it is not there any more."""
        assert self.host is not None
        for fingerprint in self.host.shelf.loaded():
            if fingerprint.startswith(digits):
                gone = await asyncio.to_thread(self.host.shelf.unload, fingerprint, UNLOAD_LIMIT)
                return {"error": None, "result": gone}
        return {"error": None, "result": True}

    # -- envelopes ----------------------------------------------------------------------------

    def arrived(self, key: str, now: float) -> float:
        """When an envelope came: since then it may have waited for a thread, or for inputs from elsewhere."""
        return self._arrived.get(key, now)

    def begin(self, key: str, watch: Watch, delivery: Members) -> None:
        """An envelope is about to wait in the host."""
        with self._lock:
            self._under_way[key] = watch, delivery
            early = self._cancelled.pop(key, None)
            listened = self._listened.pop(key, ())
        if early:
            watch.cancel(delivery.rows_of(early))
        for request in listened:
            self._speak(key, request, watch, delivery)

    def end(
        self, key: str, *, rows: int, seconds: float | None, faults: int, closing: bool, took: float
    ) -> None:
        """It has its outcomes: say how long its rows took, whether the node failed, how long it was here."""
        with self._lock:
            found = self._under_way.pop(key, None)
            self._cancelled.pop(key, None)
            self._listened.pop(key, None)
        self.speaker.forget(key)
        faults = 0 if closing else faults
        lingers = found is not None and found[0].lingers
        self.words.say("done", key=key, rows=rows, seconds=seconds, faults=faults, took=took, lingers=lingers)

    def forget(self, key: str) -> None:
        """What was begun is over; `told` says what came of it."""
        with self._lock:
            self._under_way.pop(key, None)
            self._listened.pop(key, None)
        self.speaker.forget(key)

    def cancel(self, key: str, requests: Sequence[int], **kwargs: Any) -> None:
        """Requests of an envelope are no longer wanted; called on the worker's event loop."""
        with self._lock:
            found = self._under_way.get(key)
            if found is None:
                # it may still be on its way; what never comes must not be kept for ever
                self._cancelled.setdefault(key, []).extend(requests)
                while len(self._cancelled) > EARLY:
                    del self._cancelled[next(iter(self._cancelled))]
                return
        watch, delivery = found
        watch.cancel(delivery.rows_of(requests))
        assert self.host is not None
        self.host.prune()

    def listen(self, key: str, request: int, on: bool, **kwargs: Any) -> None:
        """Somebody listens to a request that is answered, or no more; called on the worker's event loop."""
        with self._lock:
            found = self._under_way.get(key)
            if found is None:
                # as for what is cancelled
                early = self._listened.setdefault(key, set())
                early.add(request) if on else early.discard(request)
                while len(self._listened) > EARLY:
                    del self._listened[next(iter(self._listened))]
                return
        if on:
            self._speak(key, request, *found)
        else:
            self.speaker.stop(key, request)

    def _speak(self, key: str, request: int, watch: Watch, delivery: Members) -> None:
        rows = delivery.rows_of([request])
        if len(rows) == 1:  # what comes in pieces is the answer to one input
            self.speaker.listen(key, request, watch, rows[0])

    def told(self, key: str, rows: int, seconds: float) -> None:
        """A part of a frame is predicted."""
        self.words.say("done", key=key, rows=rows, seconds=seconds, faults=0, lingers=False)

    def _announce(self, slot: str, pieces: Sequence[tuple[str, Any]]) -> bool:
        """A batch is about to begin: say which requests are in it, before they can kill this worker."""
        runs = []
        with self._lock:
            for tag, rows in pieces:
                found = self._under_way.get(tag)
                if found is not None:
                    runs.append([tag, found[1].requests(rows)])
        return not runs or self.words.say_now("begin", slot=slot, runs=runs)

    def _loading(self, fingerprint: str, begins: bool) -> None:
        # that it is over as well: what kills this worker next must not be taken for the loading
        self.words.say_now("loading", model=fingerprint[:DIGITS], begins=begins)

    def _models_changed(self, fingerprint: str, size: int | None) -> None:
        self.words.say("model", model=fingerprint[:DIGITS], bytes=size)

    def _metrics(self, worker: Worker) -> dict[str, Any]:
        assert self.host is not None
        state = self.host.state()
        return {
            "version": __version__,
            "words_lost": self.words.lost,
            "gpu_usage": self._gpus.read(),
            **state,
        }

    def _families(self) -> Iterable[Family]:
        """What Prometheus is told."""
        assert self.host is not None
        return of_worker(self.host.state(), self.host.shelf.tallies.sizes(), KINDS, SIZES)


def _hang_up(worker: Worker, address: str, **kwargs: Any) -> None:
    """End what is being fetched from a worker that is silent: what waits for it is made anew."""
    worker.rpc.remove(address, reason="it is silent")


def current_plugin() -> HostPlugin:
    """The plugin of the worker that runs the current task.

    Raises
    ------
    HostClosed
        Where the worker has none.
    """
    worker = get_worker()
    plugin = worker.plugins.get(NAME)
    if not isinstance(plugin, HostPlugin) or plugin.host is None:
        raise HostClosed(f"{worker.name} has no host: connect to its cluster with af.connect() first")
    return plugin


def current_host() -> ModelHost:
    """Its host.

    Raises
    ------
    HostClosed
        Where the worker has none.
    """
    host = current_plugin().host
    assert host is not None
    return host


def still_wanted() -> Callable[[], bool]:
    """Tells, at any time later, whether the current task is still wanted or was cancelled meanwhile."""
    worker = get_worker()
    key = worker.get_current_task()

    def wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state in ("executing", "long-running")

    return wanted
