"""The embedded cluster: a scheduler in this process, workers as programs of their own.

A worker is started as ``python -m altlas_flow.cluster.program``, neither forked nor by importing
the user's script again, so that it works at module level without a ``__main__`` guard. It lives as
long as the pipe to its standard input is open: however its owner ends, the worker ends too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask.config
from dask.system import CPU_COUNT
from distributed import Client
from distributed.core import Status
from distributed.deploy.spec import ProcessInterface, SpecCluster
from distributed.system import MEMORY_LIMIT

from altlas_flow.errors import ConnectError

if TYPE_CHECKING:
    from altlas_flow.settings import Settings

#: Seconds between two looks whether the programs of workers that have not joined still run.
LOOK = 1.0
#: Seconds that a worker gets to close before it is killed.
CLOSE_TIMEOUT = 10.0
#: Seconds after which it is seen whether a worker that was lost is back.
AGAIN = 5.0
#: Of the machine's memory, what workers may plan with.
MEMORY_SHARE = 0.8


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """Workers of an embedded cluster.

    Attributes
    ----------
    workers, threads : int
        Workers, and threads of each.
    memory_limit : int
        Bytes of each worker; 0: no limit.
    """

    workers: int
    threads: int
    memory_limit: int


def layout(
    cores: int, memory: int, per_worker: int, models: Sequence[int] = (), model_fraction: float = 0.5
) -> Layout:
    """As many workers as cores and copies of the models allow.

    One single-threaded worker for each core measures fastest on CPUs; where memory does not hold so
    many copies of the models, there are fewer workers with more threads.

    Parameters
    ----------
    cores : int
    memory : int
        Bytes of the machine.
    per_worker : int
        Bytes that a worker takes beside its models.
    models : sequence of int
        Bytes of each model.
    model_fraction : float
        Of a worker's memory, what its models may take.

    Returns
    -------
    Layout
        At least one worker; workers times threads never exceeds the cores.
    """
    copies = sum(models)
    share = max((per_worker + copies) / MEMORY_SHARE, copies / model_fraction, 1.0)
    workers = max(1, min(cores, int(memory / share)))
    return Layout(workers, max(1, cores // workers), memory // workers)


class EmbeddedWorker(ProcessInterface):
    """A worker with its nanny, as a program of its own.

    Parameters
    ----------
    scheduler : str
        Address.
    name : str or int
    options : dict
        Keyword arguments of `distributed.Nanny`, as JSON can hold them.
    """

    def __init__(self, scheduler: str, name: str | int | None = None, options: dict[str, Any] | None = None):
        self.scheduler, self.name, self.options = scheduler, name, options or {}
        self.process: asyncio.subprocess.Process | None = None
        super().__init__()

    @property
    def exit_code(self) -> int | None:
        """Of the program, where it has ended by itself."""
        return self.process.returncode if self.process is not None else None

    async def start(self) -> None:
        """Start the program; it joins the scheduler by itself."""
        config = dict(dask.config.global_config)
        loggers = dict(config.get("logging") or {})
        if loggers.get("distributed", "info") == "info":  # Dask's default: its comings and goings
            config["logging"] = {**loggers, "distributed": "warning"}
        environment = {
            **os.environ,
            # what the client can import, workers can import
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "DASK_INTERNAL_INHERIT_CONFIG": dask.config.serialize(config),
        }
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "altlas_flow.cluster.program",
            json.dumps({"scheduler": self.scheduler, "name": self.name, **self.options}),
            stdin=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the client, who then closes its workers
        )
        await super().start()

    async def close(self) -> None:
        """Ask it to close; kill it where it does not in time."""
        process, self.process = self.process, None
        if process is not None and process.returncode is None:
            assert process.stdin is not None
            try:
                process.stdin.write(b"close\n")
                await process.stdin.drain()
                await asyncio.wait_for(process.wait(), CLOSE_TIMEOUT)
            except (TimeoutError, ConnectionError):
                with contextlib.suppress(ProcessLookupError):  # it may have ended just now
                    process.kill()  # its worker sees the nanny go, and exits
                await process.wait()
        await super().close()


class _Quiet(logging.Filter):
    """Keeps Dask's comings and goings from the screen while there is any embedded cluster.

    Each cluster of Dask's own does so by itself, by the levels of handlers, which it then sets to what they
    were for it: several that are not closed in their order leave them silent, or make all others loud.
    """

    _ROOTS = ("distributed", "bokeh")

    def __init__(self) -> None:
        super().__init__()
        self._lock, self._clusters = threading.Lock(), 0
        self._handlers: list[logging.Handler] = []

    def begin(self) -> None:
        with self._lock:
            self._clusters += 1
            if self._clusters == 1:
                found = [handler for root in self._ROOTS for handler in logging.getLogger(root).handlers]
                self._handlers = [one for one in found if isinstance(one, logging.StreamHandler)]
                for handler in self._handlers:
                    handler.addFilter(self)

    def end(self) -> None:
        with self._lock:
            self._clusters -= 1
            if not self._clusters:
                for handler in self._handlers:
                    handler.removeFilter(self)
                self._handlers = []

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a message is shown: handlers may have others' as well."""
        return record.levelno >= logging.WARNING or record.name.partition(".")[0] not in self._ROOTS


_quiet = _Quiet()


class _LostOnPurpose(logging.Filter):
    """Drops the warning that results are lost with a worker, where it is the cluster that ends.

    What its owner lets go of at the same time may reach the scheduler a moment later.

    Parameters
    ----------
    workers : iterable of str
        Addresses.
    """

    def __init__(self, workers: Iterable[str]) -> None:
        super().__init__()
        self._addresses = frozenset(workers)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a message is shown."""
        lost = "caused the cluster to lose" in str(record.msg)
        return not (lost and any(address in record.getMessage() for address in self._addresses))


class EmbeddedCluster(SpecCluster):
    """A scheduler in this process, and workers as programs."""

    def __init__(self, **options: Any) -> None:
        _quiet.begin()
        self._hushed = True
        try:
            super().__init__(**options)
        except BaseException:
            # where it is interrupted Dask leaves the workers, and whoever called has nothing to close
            try:
                if getattr(self, "status", Status.closed) != Status.closed:
                    self.close(timeout=CLOSE_TIMEOUT + AGAIN)
            except TimeoutError:
                logger.warning("what was started of a cluster did not close in time: end this program")
            finally:
                self._loud()
            raise

    async def _close(self) -> None:
        scheduler: Any = self.scheduler
        ours = _LostOnPurpose(getattr(scheduler, "workers", ()))
        log = logging.getLogger("distributed.scheduler")
        log.addFilter(ours)
        try:
            await super()._close()
        finally:
            log.removeFilter(ours)
            self._loud()

    def _update_worker_status(self, op: str, msg: Any) -> None:
        # not as SpecCluster's, which gives up a worker that is not back 15 s after it was lost
        super(SpecCluster, self)._update_worker_status(op, msg)
        if op == "remove" and self.status == Status.running:
            asyncio.get_running_loop().call_later(AGAIN, self._start_again)

    def _start_again(self) -> None:
        """Nannies start their workers again, however often; a program that has ended itself is replaced."""
        if self.status != Status.running:
            return
        scheduler: Any = self.scheduler
        drained = getattr(scheduler.plugins.get("altlas-control"), "drained", ())
        for name, worker in list(self.workers.items()):
            if worker.exit_code is None:
                continue
            self._futures.add(asyncio.ensure_future(worker.close()))
            del self.workers[name]
            if str(name) in drained:
                self.worker_spec.pop(name, None)  # an operator has retired it
            else:
                logger.warning("the program of worker %s has ended: another one is started", name)
                self._correct_state()
        if len(self.scheduler_info["workers"]) < len(self.workers):
            asyncio.get_running_loop().call_later(AGAIN, self._start_again)

    def _loud(self) -> None:
        if self._hushed:
            self._hushed = False
            _quiet.end()


def worker_entry(plan: Layout) -> dict[str, Any]:
    """What `SpecCluster` takes for one worker."""
    options = {
        "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0",
        "nthreads": plan.threads,
        "memory_limit": plan.memory_limit,
        "silence_logs": logging.WARNING,
    }
    return {"cls": EmbeddedWorker, "options": {"options": options}}


def start_cluster(settings: Settings, plan: Layout) -> EmbeddedCluster:
    """Start a scheduler here and workers as programs; returns before the workers have joined."""
    from distributed import Scheduler

    worker = worker_entry(plan)
    return EmbeddedCluster(
        scheduler={
            "cls": Scheduler,
            "options": {
                "host": "127.0.0.1",
                "port": 0,
                "dashboard": True,
                "dashboard_address": settings.dashboard,
            },
        },
        workers=dict.fromkeys(range(plan.workers), worker),
        worker=worker,
        name="altlas-flow",
        shutdown_on_close=True,
    )


def restart_workers(cluster: SpecCluster, client: Client, plan: Layout, timeout: float) -> None:
    """Replace all workers by others: what runs on them is begun again, what they hold is lost."""
    cluster.new_spec = worker_entry(plan)
    cluster.scale(0)
    cluster.sync(cluster._correct_state)
    cluster.scale(plan.workers)
    await_workers(cluster, client, plan.workers, timeout)


def await_workers(cluster: SpecCluster, client: Client, count: int, timeout: float) -> None:
    """Wait until `count` workers have joined.

    Raises
    ------
    ConnectError
        Where they do not in time, or the program of one has ended.
    """
    ends = time.monotonic() + timeout
    while True:
        try:
            client.wait_for_workers(count, timeout=min(LOOK, max(0.01, ends - time.monotonic())))
            return
        except TimeoutError:
            pass
        ended = [worker.exit_code for worker in cluster.workers.values() if worker.exit_code is not None]
        if ended:
            raise ConnectError(f"an embedded worker ended with code {ended[0]}: what it printed says why")
        if time.monotonic() >= ends:
            raise ConnectError(
                f"{count} embedded workers did not join within {timeout:.0f} s: look at what they printed, "
                "or raise altlas.start-timeout"
            )


def machine() -> tuple[int, int]:
    """Cores and bytes of memory that this process may use."""
    return CPU_COUNT, MEMORY_LIMIT
