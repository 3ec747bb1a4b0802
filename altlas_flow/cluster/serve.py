"""A scheduler, and workers, as programs: what ``altlas-flow scheduler`` and ``altlas-flow worker`` run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any

import dask
from distributed import Nanny, Scheduler
from distributed.comm.addressing import get_address_host
from distributed.core import rpc
from distributed.security import Security

from altlas_flow.cluster.discovery import Announcement, find, wanted_name
from altlas_flow.cluster.preload import install
from altlas_flow.cluster.scheduler.dashboard import lock
from altlas_flow.cluster.secure import check_exposure, dashboard_tls, listens_on_loopback, security_of
from altlas_flow.errors import ConnectError, describe
from altlas_flow.security.roles import Role
from altlas_flow.settings import Settings

logger = logging.getLogger(__name__)

#: Seconds that closing may take.
CLOSE_LIMIT = 10.0
#: Seconds that a scheduler gets to say who it is.
LOOK = 5.0
#: Longest pause, in seconds, between two tries to reach a scheduler that is not there.
LONGEST = 30.0
#: Of a dashboard's token.
TOKEN_BYTES = 24


async def serve_scheduler(
    *,
    host: str,
    port: int,
    dashboard: str | None,
    scheduler_file: str | None = None,
    tls: str | None = None,
    announce: bool = False,
    insecure: bool = False,
    ready: Callable[[str], None] = lambda address: None,
    linked: Callable[[str, str], None] = lambda link, token: None,
) -> None:
    """Run a scheduler of ours until it is asked to stop.

    Parameters
    ----------
    host, port
        Where it listens; port 0: any that is free.
    dashboard : str, optional
        ``host:port`` of the dashboard; None: there is none. Beyond loopback, with TLS, it speaks HTTPS
        and asks for ``altlas.dashboard-token``, or a token made here.
    scheduler_file : path, optional
        Written when it runs: others find it by that.
    tls : path, optional
        Folder of certificates.
    announce : bool
        Tell the network, by the name ``altlas.cluster-name``.
    insecure : bool
        Listen beyond loopback, or announce, without TLS all the same.
    ready : callable
        Called with its address.
    linked : callable
        Then called with the link of a dashboard that asks for a token, and the token.

    Raises
    ------
    Exposed, CertificateError, ConnectError
    """
    check_exposure(host, tls=tls is not None, announced=announce, insecure=insecure)
    if dashboard is not None:
        check_exposure(dashboard.rpartition(":")[0], tls=tls is not None, announced=False, insecure=insecure)
    security = security_of(tls, Role.SCHEDULER) or Security()
    locked, tls_settings = False, {}
    if tls is not None and dashboard is not None and not listens_on_loopback(dashboard.rpartition(":")[0]):
        locked, tls_settings = True, dashboard_tls(tls)
    token = Settings.current().dashboard_token or secrets.token_urlsafe(TOKEN_BYTES)
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "protocol": "tls" if tls is not None else "tcp",
        "security": security,
        "dashboard": dashboard is not None,
        # without a dashboard Dask listens all the same, by default on all addresses
        "dashboard_address": dashboard or "127.0.0.1:0",
        "scheduler_file": scheduler_file,
    }
    try:
        with dask.config.set(tls_settings):
            scheduler = Scheduler(**options)
            if locked:
                # no await since it began to listen: nobody has been answered yet
                lock(scheduler.http_server, token)
            await scheduler
    except (OSError, ValueError) as error:
        raise ConnectError(f"the scheduler cannot listen on {host}:{port} ({describe(error)})") from error
    announcement = Announcement(Settings.current().cluster_name, scheduler.address) if announce else None
    try:
        await install(scheduler)
        if announcement is not None:
            await announcement.begin()
        ready(scheduler.address)
        if locked:
            linked(_link(scheduler), token)
        await _until_stopped(scheduler.finished())
    finally:
        if announcement is not None:
            await announcement.end()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(scheduler.close(), CLOSE_LIMIT)


def _link(scheduler: Any) -> str:
    """Address of the dashboard's first page."""
    host, port = scheduler.http_server.address, scheduler.http_server.port
    if ip_address(host).is_unspecified:
        host = get_address_host(scheduler.address)
    return f"https://{f'[{host}]' if ':' in host else host}:{port}/status"


async def serve_worker(
    address: str,
    *,
    tls: str | None = None,
    ready: Callable[[str], None] = lambda address: None,
    **options: Any,
) -> None:
    """Run a worker, with its nanny, until it is asked to stop or retired.

    Where its scheduler goes, it looks for it again, at the same place or by its announcement.

    Parameters
    ----------
    address : str
        Of the scheduler, or ``discover`` and maybe ``:NAME``.
    tls : path, optional
        Folder of certificates.
    ready : callable
        Called with the address of its nanny each time when it has joined.
    **options
        Of `distributed.Nanny`.

    Raises
    ------
    CertificateError, ConnectError
        Where it is refused, or the address is none.
    """
    security = security_of(tls, Role.NODE) or Security()
    interval = Settings.current().discovery_interval
    stopped = asyncio.create_task(_signals())
    pause = 1.0
    try:
        while not stopped.done():
            try:
                place = await _place(address)
            except ConnectError as error:
                logger.warning("%s; looking again in %.0f s", error, interval)
                await asyncio.wait({stopped}, timeout=interval)
                continue
            if await _live(place, security, stopped, ready, options):
                return
            await asyncio.wait({stopped}, timeout=pause)
            pause = min(2 * pause, LONGEST)
    finally:
        stopped.cancel()


async def _place(address: str) -> str:
    name = wanted_name(address)
    return address if name is None else await find(name)


async def _live(
    address: str,
    security: Security,
    stopped: asyncio.Task[None],
    ready: Callable[[str], None],
    options: dict[str, Any],
) -> bool:
    """One life of a worker: whether it is not to have another."""
    # its status page asks nobody who they are, and would listen where the worker does
    nanny = Nanny(address, security=security, dashboard_address="127.0.0.1:0", **options)
    starting = asyncio.ensure_future(_started(nanny))
    await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if not starting.done():
            starting.cancel()
            return True
        error = starting.exception()
        if error is not None:
            if "does not admit it" in str(error):
                raise ConnectError(f"{address} refuses this worker: {describe(error)}") from error
            logger.warning("no scheduler at %s yet (%s)", address, describe(error))
            return False
        joined = await _identity(address, security)
        ready(nanny.address)
        finished = asyncio.ensure_future(nanny.finished())
        await asyncio.wait({finished, stopped}, return_when=asyncio.FIRST_COMPLETED)
        # the scheduler that it had is there still: it has retired this worker
        return stopped.done() or await _identity(address, security) == joined
    finally:
        with contextlib.suppress(TimeoutError, OSError):
            await asyncio.wait_for(nanny.close(timeout=CLOSE_LIMIT / 2), CLOSE_LIMIT)


async def _identity(address: str, security: Security) -> str | None:
    """Which scheduler answers there; None where none does."""
    try:
        arguments = security.get_connection_args("worker")
        async with rpc(address, connection_args=arguments, timeout=LOOK) as remote:
            return str((await asyncio.wait_for(remote.identity(), LOOK))["id"])
    except (OSError, TimeoutError):
        return None


async def _started(nanny: Nanny) -> None:
    await nanny


async def _until_stopped(over: Awaitable[Any]) -> None:
    stopped, ended = asyncio.create_task(_signals()), asyncio.ensure_future(over)
    await asyncio.wait({stopped, ended}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()


async def _signals() -> None:
    """Until this program is asked to end."""
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.set)
    await asked.wait()


def worker_config(labels: dict[str, str], memory_budget: str | None = None) -> Any:
    """Sets what the worker's own process reads, since it inherits this program's configuration."""
    known = dict(dask.config.get("altlas.labels", default={}) or {})
    budget = {} if memory_budget is None else {"altlas.memory-budget": memory_budget}
    return dask.config.set({"altlas.labels": {**known, **labels}, **budget})
