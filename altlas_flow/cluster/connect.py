"""Connecting: an embedded cluster, an address, a scheduler file, or a client that is there already."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distributed import Client
from distributed.deploy import Cluster

from altlas_flow._version import __version__
from altlas_flow.cluster.control import ControlPlugin
from altlas_flow.cluster.embedded import layout, machine, start_cluster
from altlas_flow.cluster.worker import HostPlugin
from altlas_flow.errors import AltlasError, ConnectError, VersionMismatch, one_line
from altlas_flow.models.memory import estimate
from altlas_flow.models.spec import ModelSpec
from altlas_flow.settings import Settings

if TYPE_CHECKING:
    from distributed.deploy.spec import SpecCluster

logger = logging.getLogger(__name__)

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
    """A Dask client, and what `close` has to end with it."""

    client: Client
    cluster: SpecCluster | None = None
    owns_client: bool = True

    @property
    def embedded(self) -> bool:
        """Whether the cluster was started for this connection."""
        return self.cluster is not None

    def close(self) -> None:
        """Close what this connection started, and nothing else."""
        if self.owns_client:
            self.client.close()
        if self.cluster is not None:
            self.cluster.close()


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
    ConnectError, VersionMismatch
    """
    settings = settings or Settings.current()
    if address is None:
        connection = _embed(settings, workers, threads_per_worker, memory_limit, models)
    else:
        if workers is not None or threads_per_worker is not None:
            raise ConnectError(
                "workers= and threads_per_worker= are for the embedded cluster: leave them out with an address"
            )
        connection = _join(address, settings)
    try:
        if not connection.embedded:
            check_versions(connection.client)
        connection.client.register_plugin(ControlPlugin())
        connection.client.register_plugin(HostPlugin(settings))
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
    cores, memory = machine()
    for count, name in ((workers, "workers"), (threads, "threads_per_worker")):
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ConnectError(f"{name}={count!r} is not a number of at least 1: give one, or leave it out")
    workers = workers or settings.workers
    if workers is None:
        sizes = [estimate(model.resolved()) for model in models]
        workers, automatic = layout(cores, memory, settings.worker_memory, sizes)
    else:
        automatic = max(1, cores // workers)
    if memory_limit == "auto":
        memory_limit = memory // workers
    try:
        cluster = start_cluster(
            settings, workers=workers, threads=threads or automatic, memory_limit=memory_limit
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ConnectError(f"the embedded cluster did not start: {one_line(error)}") from error
    try:
        client = Client(cluster)
        client.wait_for_workers(workers, timeout=settings.start_timeout)
    except BaseException as error:
        cluster.close()
        if isinstance(error, TimeoutError):
            raise ConnectError(
                f"{workers} embedded workers did not join within {settings.start_timeout:.0f} s: look at what "
                "they printed, or raise altlas.start-timeout"
            ) from error
        raise
    return Connection(client, cluster)


def _join(address: str | os.PathLike[str] | Client | Cluster, settings: Settings) -> Connection:
    if isinstance(address, Client):
        if address.asynchronous:
            raise ConnectError("an asynchronous Client cannot be used: give a plain Client, or its address")
        if address.status != "running":
            raise ConnectError(f"the Client given is {address.status}: give one that runs")
        return Connection(address, owns_client=False)
    try:
        if isinstance(address, Cluster):
            return Connection(Client(address))
        text = os.fspath(address)
        if "://" in text or (":" in text and not os.path.exists(text)):
            return Connection(Client(text, timeout=settings.start_timeout, set_as_default=True))
        if not os.path.exists(text):
            raise ConnectError(
                f"no scheduler file {text!r}: give an address such as tcp://host:8786, or a file that the "
                "scheduler wrote"
            )
        return Connection(Client(scheduler_file=text, timeout=settings.start_timeout))
    except ConnectError:
        raise
    except (OSError, TimeoutError, ValueError) as error:
        raise ConnectError(f"no scheduler answers at {address!s}: {one_line(error)}") from error


def check_versions(client: Client) -> None:
    """See that scheduler and workers run this version of altlas_flow.

    Raises
    ------
    VersionMismatch
        Its text names the first that does not, and both versions.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(_PROBE, namespace)
    probe = namespace["probe"]
    found = {"the scheduler": client.run_on_scheduler(probe)}
    found.update({f"worker {address}": version for address, version in client.run(probe).items()})
    for where, version in found.items():
        if version is None:
            raise VersionMismatch(
                f"{where} cannot import altlas_flow: pip install altlas-flow=={__version__} there, and start it again"
            )
        if version != __version__:
            raise VersionMismatch(
                f"{where} runs altlas_flow {version} and this client {__version__}: install the same on both"
            )


def call_control(client: Client, operation: str, **arguments: Any) -> Any:
    """Ask the scheduler plugin; errors that it sends back are raised here.

    Raises
    ------
    AltlasError
        What the plugin answered, or `ConnectError` where there is no plugin.
    """
    import pickle

    handler = getattr(client.scheduler, operation)
    answer = client.sync(handler, **arguments)
    if isinstance(answer, dict) and answer.get("error") is not None:
        error = pickle.loads(answer["error"])
        assert isinstance(error, AltlasError)
        raise error
    return answer
