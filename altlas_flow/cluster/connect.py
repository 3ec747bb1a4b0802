"""Connecting: an embedded cluster, an address, a scheduler file, or a client that is there already."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dask.utils import parse_bytes
from distributed import Client, Status
from distributed.deploy.cluster import Cluster

from altlas_flow._version import __version__
from altlas_flow.cluster.daskclient import join, leave, why_not
from altlas_flow.cluster.discovery import find, wanted_name
from altlas_flow.cluster.embedded import (
    Layout,
    await_workers,
    layout,
    machine,
    restart_workers,
    start_cluster,
)
from altlas_flow.cluster.scheduler.control import ControlPlugin
from altlas_flow.cluster.secure import check_dashboard, check_protocol, check_scheduler, security_of
from altlas_flow.cluster.worker.plugin import HostPlugin
from altlas_flow.errors import AltlasError, ClusterLost, ConnectError, VersionMismatch, describe, one_line
from altlas_flow.logs import hold, release
from altlas_flow.models.memory import estimate
from altlas_flow.models.spec import ModelSpec
from altlas_flow.security.roles import Role
from altlas_flow.settings import Settings

if TYPE_CHECKING:
    from distributed.deploy.spec import SpecCluster

logger = logging.getLogger(__name__)

#: Seconds that the scheduler gets to answer: it is alive, or the connection would be closed.
CONTROL_TIMEOUT = 60.0
#: Seconds in which a scheduler that has begun to write its file has written it.
WRITING = 2.0
#: Embedded clusters of this program.
_started: weakref.WeakSet[SpecCluster] = weakref.WeakSet()
#: Run by value on schedulers and workers, so that it works where altlas_flow is missing.
_PROBE = """
def probe():
    try:
        from altlas_flow._version import __version__
    except ImportError:
        return None
    return __version__
"""


@dataclass
class Connection:
    """A Dask client, and what `close` has to end with it.

    Attributes
    ----------
    cluster : distributed.deploy.spec.SpecCluster, optional
        Started for this connection.
    plan : Layout, optional
        Of that cluster, where nobody asked for another number of workers or another memory limit.
    address : str
        Of the scheduler.
    """

    client: Client
    settings: Settings
    cluster: SpecCluster | None = None
    plan: Layout | None = None
    owns_client: bool = True
    holds: bool = False  # lines of the kind that its settings name, see `altlas_flow.logs.hold`

    @property
    def embedded(self) -> bool:
        """Whether the cluster was started for this connection."""
        return self.cluster is not None

    def __post_init__(self) -> None:
        # asked once: later nobody may be there to say
        self.address = str(self.client.scheduler_info(n_workers=0)["address"])

    def fit(self, spec: ModelSpec) -> None:
        """Start fewer, larger workers where the model does not fit into those there are."""
        size = estimate(spec)
        fraction = self.settings.model_memory_fraction
        if self.cluster is None or self.plan is None or size <= self.plan.memory_limit * fraction:
            return
        cores, memory = machine()
        plan = layout(cores, memory, self.settings.worker_memory, [size], fraction)
        if plan.workers >= self.plan.workers:
            return  # one worker is all there is; loading says what is missing
        logger.warning(
            "model %r takes %.1f GiB: the %d embedded workers are replaced by %d with more memory each",
            spec.id,
            size / 2**30,
            self.plan.workers,
            plan.workers,
        )
        self.plan = plan
        restart_workers(self.cluster, self.client, plan, self.settings.start_timeout)
        await_hosts(self.client, self.settings.start_timeout)

    def close(self) -> None:
        """Close what this connection started, and nothing else."""
        try:
            try:
                if self.owns_client:
                    leave(self.client)
            finally:
                if self.cluster is not None:
                    self.cluster.close()
        finally:
            if self.holds:  # until here, since closing is logged, too
                self.holds = False
                release(self.settings.log_format)


def open_connection(
    address: str | os.PathLike[str] | Client | Cluster | None = None,
    *,
    workers: int | None = None,
    threads_per_worker: int | None = None,
    memory_limit: int | str = "auto",
    models: Sequence[ModelSpec] = (),
    settings: Settings | None = None,
) -> Connection:
    """Join a cluster, or start one on this machine; put our plugins in place.

    See `altlas_flow.connect`.

    Raises
    ------
    ConnectError, VersionMismatch, Exposed
    """
    settings = settings or Settings.current()
    hold(settings.log_format)
    try:
        connection = _open(address, settings, workers, threads_per_worker, memory_limit, models)
    except BaseException:
        release(settings.log_format)
        raise
    connection.holds = True
    return connection


def _open(
    address: str | os.PathLike[str] | Client | Cluster | None,
    settings: Settings,
    workers: int | None,
    threads_per_worker: int | None,
    memory_limit: int | str,
    models: Sequence[ModelSpec],
) -> Connection:
    if address is None:
        connection = _embed(settings, workers, threads_per_worker, memory_limit, models)
    else:
        if workers is not None or threads_per_worker is not None or memory_limit != "auto":
            raise ConnectError(
                "workers=, threads_per_worker= and memory_limit= are for the embedded cluster: leave them "
                "out with an address"
            )
        connection = _join(address, settings)
    try:
        found = None if connection.embedded else _installed(connection.client, settings.start_timeout)
        if found is None:
            if not connection.embedded:
                check_versions(connection.client, settings.start_timeout)
            connection.client.register_plugin(ControlPlugin.of(settings))
        if found is None or not found["host_plugin"]:
            connection.client.register_plugin(HostPlugin(settings))
        await_hosts(connection.client, settings.start_timeout)
    except BaseException:
        connection.close()
        raise
    return connection


def _embed(
    settings: Settings,
    workers: int | None,
    threads: int | None,
    memory_limit: int | str,
    models: Sequence[ModelSpec],
) -> Connection:
    check_dashboard(settings.dashboard)
    cores, memory = machine()
    for count, name in ((workers, "workers"), (threads, "threads_per_worker")):
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ConnectError(f"{name}={count!r} is not a number of at least 1: give one, or leave it out")
    automatic = workers is None and settings.workers is None and memory_limit == "auto"
    wanted = workers or settings.workers
    if wanted is None:
        sizes = [estimate(model.resolved()) for model in models]
        plan = layout(cores, memory, settings.worker_memory, sizes, settings.model_memory_fraction)
    else:
        plan = Layout(wanted, max(1, cores // wanted), memory // wanted)
    if threads is not None or memory_limit != "auto":
        limit = plan.memory_limit if memory_limit == "auto" else _bytes(memory_limit)
        plan = Layout(plan.workers, threads or plan.threads, limit)
    if hasattr(sys, "ps1") and any(one.status == Status.running for one in _started):
        logger.warning(
            "an embedded cluster that this session started is open still, beside the one that starts now: "
            "close it with flow.close(), or both take cores and memory"
        )
    try:
        cluster = start_cluster(settings, plan)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConnectError(f"the embedded cluster did not start: {one_line(error)}") from error
    _started.add(cluster)
    try:
        client = Client(cluster)
        await_workers(cluster, client, plan.workers, settings.start_timeout)
    except BaseException:
        cluster.close()
        raise
    return Connection(client, settings, cluster, plan if automatic else None)


def _bytes(limit: int | str) -> int:
    try:
        return parse_bytes(limit)
    except ValueError:
        raise ConnectError(f'memory_limit={limit!r} is no size: give bytes, "4 GiB", or "auto"') from None


def _join(address: str | os.PathLike[str] | Client | Cluster, settings: Settings) -> Connection:
    if isinstance(address, Client):
        if address.asynchronous:
            raise ConnectError("an asynchronous Client cannot be used: give a plain Client, or its address")
        if address.status != "running":
            raise ConnectError(f"the Client given is {address.status}: give one that runs")
        return Connection(address, settings, owns_client=False)
    target = address if isinstance(address, Cluster) else address_of(address)
    security = security_of(settings.tls, Role.OPERATOR, Role.CLIENT)
    check_protocol(target, security)
    options = {} if security is None else {"security": security}
    try:
        connection = Connection(join(target, timeout=settings.start_timeout, **options), settings)
    except (OSError, TimeoutError, ValueError, AssertionError, MemoryError) as error:
        # what answers may be anything: of other protocols Dask reads huge lengths of messages
        raise ConnectError(
            f"no Dask scheduler answers at {address!s} ({why_not(target, error)}): check the address, and "
            "that the scheduler runs"
        ) from error
    if security is not None:
        try:
            check_scheduler(connection.client)
        except BaseException:
            connection.close()
            raise
    return connection


def address_of(given: str | os.PathLike[str]) -> str:
    """The address that was given, or that is in the scheduler file that was given, or that is found.

    Raises
    ------
    ConnectError
    """
    try:
        text = os.fspath(given)
    except TypeError:
        raise ConnectError(
            f"a {type(given).__name__} is no cluster: give an address, a scheduler file, a Client or "
            "a Cluster"
        ) from None
    name = wanted_name(text)
    if name is not None:
        # in a thread: the caller may be in an event loop
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, find(name)).result()
    if os.path.exists(text):
        try:
            return str(_said_in(text)["address"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConnectError(
                f"{text} is not a file that a Dask scheduler wrote ({type(error).__name__}): give that of "
                "dask scheduler --scheduler-file"
            ) from error
    if "://" in text or (":" in text and os.sep not in text):
        return text
    raise ConnectError(
        f"no scheduler file {text!r}: give an address such as tcp://host:8786, or a file that the "
        "scheduler wrote"
    )


def _said_in(path: str) -> Any:
    """What a scheduler's file holds.

    Dask writes it in place: whoever sees it in that moment finds half of it, and looks again.
    """
    ends = time.monotonic() + WRITING
    while True:
        written = os.stat(path).st_mtime
        try:
            with open(path, encoding="utf-8") as file:
                return json.load(file)
        except ValueError:
            if time.monotonic() >= ends or abs(time.time() - written) > WRITING:
                raise
            time.sleep(WRITING / 100)


def await_hosts(client: Client, timeout: float) -> None:
    """Wait until the plugin on the scheduler knows the hosts of all workers."""
    missing = call_control(client, "altlas_ready", timeout=timeout)
    if missing:
        raise ConnectError(
            f"no host came up on worker {missing[0]} within {timeout:.0f} s: look at the worker's log, or "
            "raise altlas.start-timeout"
        )


def _installed(client: Client, timeout: float) -> dict[str, Any] | None:
    """What the plugin on the scheduler says of itself; None where there is none.

    Raises
    ------
    VersionMismatch
        Where it, or a worker, is of another version.
    """
    scheduler: Any = client.scheduler
    said: Any = _within(client, timeout, "the scheduler", scheduler.identity, n_workers=0)
    if not isinstance(said, dict) or "altlas_flow" not in said:
        return None  # where nobody knows what is asked for Dask logs a traceback
    found: Any = _within(client, timeout, "the scheduler", scheduler.altlas_info)
    if not isinstance(found, dict) or "version" not in found:
        return None
    others = {"the scheduler": found["version"]}
    others |= {f"worker {address}": version for address, version in found.get("strangers", {}).items()}
    for where, version in others.items():
        if version != __version__:
            raise VersionMismatch(
                f"{where} runs altlas_flow {version} and this client {__version__}: install the same on both"
            )
    return found


def check_versions(client: Client, timeout: float) -> None:
    """See that scheduler and workers run this version of altlas_flow.

    Parameters
    ----------
    client : distributed.Client
    timeout : float
        Seconds that each of them gets to answer.

    Raises
    ------
    VersionMismatch
        Its text names the first that does not, and both versions.
    ConnectError
        Where one does not answer.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(_PROBE, namespace)
    probe = namespace["probe"]
    scheduler = _within(client, timeout, "the scheduler", client._run_on_scheduler, probe)
    found = {"the scheduler": scheduler}
    # not of the client's own copy: that is replaced, from time to time, by one without workers
    remote: Any = client.scheduler
    for address in client.sync(remote.identity, n_workers=-1)["workers"]:
        where = f"worker {address}"
        found[where] = _within(client, timeout, where, client._run, probe, workers=[address])[address]
    for where, version in found.items():
        if version is None:
            raise VersionMismatch(
                f"{where} cannot import altlas_flow: pip install altlas-flow=={__version__} there, and "
                "start it again"
            )
        if version != __version__:
            raise VersionMismatch(
                f"{where} runs altlas_flow {version} and this client {__version__}: install the same on both"
            )


def _within(client: Client, timeout: float, where: str, ask: Any, *args: Any, **kwargs: Any) -> Any:
    """What one of the cluster's processes answers, not waited for without end."""
    try:
        return client.sync(ask, *args, callback_timeout=timeout, **kwargs)
    except TimeoutError as error:
        raise ConnectError(
            f"{where} does not answer within {timeout:.0f} s: see whether it runs, or raise "
            "altlas.start-timeout"
        ) from error


def call_control(
    client: Client, operation: str, /, *, limit: float = CONTROL_TIMEOUT, **arguments: Any
) -> Any:
    """Ask the scheduler plugin; errors that it sends back are raised here. It gets `limit` seconds.

    Raises
    ------
    AltlasError
        What the plugin answered, or `ConnectError` where there is no plugin.
    """
    if client.status != "running" or client.scheduler is None:
        raise ClusterLost("the connection to the scheduler is closed: connect again with af.connect()")
    handler = getattr(client.scheduler, operation)
    try:
        answer = client.sync(handler, callback_timeout=limit + arguments.get("timeout", 0), **arguments)
    except TimeoutError as late:
        raise ClusterLost(
            f"the scheduler does not answer within {limit:.0f} s: see whether it runs, and run the same again"
        ) from late
    except OSError as gone:
        raise ClusterLost(
            f"the scheduler has gone ({describe(gone)}): see whether it runs, and connect again"
        ) from gone
    return unwrapped(answer)


def unwrapped(answer: Any) -> Any:
    """What the scheduler answered; an error of ours that came back is raised."""
    import pickle

    if isinstance(answer, dict) and answer.get("error") is not None:
        error = pickle.loads(answer["error"])
        assert isinstance(error, AltlasError)
        raise error
    return answer
