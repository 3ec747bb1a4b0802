"""The worker plugin: owns the `ModelHost` and tells the scheduler that it is there."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any

from distributed import Worker, get_worker
from distributed.diagnostics.plugin import WorkerPlugin

from altlas_flow._version import __version__
from altlas_flow.cluster.control import TOPIC
from altlas_flow.errors import HostClosed
from altlas_flow.models.host import ModelHost
from altlas_flow.models.memory import keep_freed_memory
from altlas_flow.settings import Settings

NAME = "altlas-host"


class HostPlugin(WorkerPlugin):
    """Gives a worker its host. Light: models load when they are asked for.

    Parameters
    ----------
    settings : Settings
        Of the client that registered it.
    """

    name = NAME
    idempotent = True

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.host: ModelHost | None = None

    def setup(self, worker: Worker) -> None:
        """Called by Dask on each worker, also on those that join later."""
        threads = worker.state.nthreads
        slots = min(self.settings.slots or threads, threads)
        limit = worker.memory_manager.memory_limit
        resources = dict(worker.state.total_resources)
        keep_freed_memory()
        self.host = ModelHost(
            node=str(worker.name),
            slots=slots,
            gpus=resources.get("GPU", 0),
            # slots x torch threads never exceed the threads that the worker was given
            threads=max(1, threads // slots),
            memory_budget=int(limit * self.settings.model_memory_fraction) if limit else None,
            memory_limit=limit or None,
            parts=self.settings.parts_in_flight,
            load_timeout=self.settings.load_timeout,
            retry_delay=self.settings.load_retry_delay,
        )
        worker.metrics["altlas"] = self._metrics
        worker.log_event(
            TOPIC,
            {
                "address": worker.address,
                "name": str(worker.name),
                "version": __version__,
                "slots": slots,
                "resources": resources,
            },
        )

    def teardown(self, worker: Worker) -> None:
        """Called by Dask when the worker closes."""
        worker.metrics.pop("altlas", None)
        if self.host is not None:
            # Waiting for batches and freeing weights takes seconds, which the worker's event loop has not:
            # its nanny kills it after a few. What waits on the host is told first of all.
            Thread(target=self.host.close, name="altlas-close", daemon=True).start()

    def _metrics(self, worker: Worker) -> dict[str, Any]:
        assert self.host is not None
        return {"version": __version__, **self.host.state()}


def current_host() -> ModelHost:
    """The host of the worker that runs the current task.

    Raises
    ------
    HostClosed
        Where the worker has none.
    """
    worker = get_worker()
    plugin = worker.plugins.get(NAME)
    if not isinstance(plugin, HostPlugin) or plugin.host is None:
        raise HostClosed(f"{worker.name} has no host: connect to its cluster with af.connect() first")
    return plugin.host


def still_wanted() -> Callable[[], bool]:
    """Tells, at any time later, whether the current task is still wanted or was cancelled meanwhile."""
    worker = get_worker()
    key = worker.get_current_task()

    def wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state in ("executing", "long-running")

    return wanted
