"""A scheduler, and workers, as programs: what ``altlas-flow scheduler`` and ``altlas-flow worker`` run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
import secrets
import signal
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import dask
from distributed import Nanny, Scheduler
from distributed.comm.addressing import get_address_host
from distributed.core import rpc
from distributed.security import Security
from distributed.worker_memory import parse_memory_limit

from altlas_flow.cluster.discovery import Announcement, find, wanted_name
from altlas_flow.cluster.preload import install
from altlas_flow.cluster.quiet import QuietWorker, hush
from altlas_flow.cluster.scheduler.admission import REFUSED, TAKEN
from altlas_flow.cluster.scheduler.dashboard import lock
from altlas_flow.cluster.secure import (
    check_exposure,
    check_free,
    check_protocol,
    dashboard_tls,
    listens_on_loopback,
    security_of,
)
from altlas_flow.errors import BadRequest, ConnectError, describe, root_cause
from altlas_flow.nodes.registry import name_problem
from altlas_flow.security.roles import Role
from altlas_flow.settings import Settings

logger = logging.getLogger(__name__)

#: Seconds that closing may take.
CLOSE_LIMIT = 10.0
#: Seconds that a scheduler gets to say who it is.
LOOK = 5.0
#: Seconds that it gets to say whether it has retired a worker: one that is busy must not get it back.
ASK = 60.0
#: Longest pause, in seconds, between two tries to reach a scheduler that is not there.
LONGEST = 30.0
#: In errors of TLS: time does not mend them.
_STRANGE = re.compile("CERTIFICATE_VERIFY_FAILED|UNKNOWN_CA|BAD_CERTIFICATE", re.IGNORECASE)
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
    linked: Callable[[str, str, bool], None] = lambda link, token, alone: None,
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
        Then called with the link of its dashboard, the token that it asks for (empty where it asks for none),
        and whether only this machine reaches it.

    Raises
    ------
    Exposed, CertificateError, ConnectError
    """
    check_exposure(host, tls=tls is not None, announced=announce, insecure=insecure)
    if dashboard is not None:
        check_exposure(dashboard.rpartition(":")[0], tls=tls is not None, announced=False, insecure=insecure)
        check_free(dashboard)
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
    except (OSError, ValueError, RuntimeError) as error:
        raise ConnectError(
            f"the scheduler cannot listen on {host}:{port} ({describe(root_cause(error))}): see whether "
            "another program has that port, and whether the address is one of this machine"
        ) from error
    announcement = Announcement(Settings.current().cluster_name, scheduler.address) if announce else None
    try:
        await install(scheduler)
        if announcement is not None:
            await announcement.begin()
        ready(scheduler.address)
        if dashboard is not None:
            # by where it listens: its link may have another host
            alone = listens_on_loopback(_listens(scheduler)[0])
            linked(_link(scheduler, "https" if locked else "http"), token if locked else "", alone)
        await _until_stopped(scheduler.finished())
    finally:
        if announcement is not None:
            await announcement.end()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(scheduler.close(), CLOSE_LIMIT)


def _listens(scheduler: Any) -> tuple[str, int]:
    """Where its dashboard does."""
    return scheduler.http_server.address, scheduler.http_server.port


def _link(scheduler: Any, scheme: str) -> str:
    """Address of the dashboard's first page."""
    host, port = _listens(scheduler)
    if ip_address(host).is_unspecified:
        host = get_address_host(scheduler.address)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/status"


async def serve_worker(
    address: str,
    *,
    tls: str | None = None,
    ready: Callable[[str], None] = lambda address: None,
    say: Callable[[str], None] = lambda text: None,
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
        Called with its address each time when it has joined.
    say : callable
        Called with a line for people: what it looks for, that its scheduler has gone, or has retired it.
    **options
        Of `distributed.Nanny`.

    Raises
    ------
    CertificateError, ConnectError
        Where it is refused, or the address is none.
    BadRequest
        Where an option cannot be.
    """
    check_worker(options)
    security = security_of(tls, Role.NODE) or Security()
    check_protocol(address, security, side="worker")
    say(f"looking for the scheduler at {address}")
    interval = Settings.current().discovery_interval
    stopped = asyncio.create_task(_signals())
    pause = 1.0
    hush()
    try:
        while not stopped.done():
            try:
                place = await _place(address)
            except ConnectError as error:
                say(f"{error}; looking again every {interval:.0f} s")
                await asyncio.wait({stopped}, timeout=interval)
                continue
            end = await _live(place, security, stopped, ready, options)
            if end is None:
                return
            if end.joined:
                pause = 1.0
            if end.final:
                say(end.text)
                return
            say(f"{end.text}; looking again in {pause:.0f} s")
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
) -> _End | None:
    """One life of a worker, and how it ended; None: this program was asked to stop."""
    nanny = Nanny(
        address,
        security=security,
        worker_class=QuietWorker,
        # its status page asks nobody who they are, and would listen where the worker does
        dashboard_address="127.0.0.1:0",
        **options,
    )
    starting = asyncio.ensure_future(_started(nanny))
    await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if not starting.done():
            starting.cancel()
            return None
        error = starting.exception()
        if error is not None:
            cause = root_cause(error)
            if (why := _refusal(str(cause), REFUSED)) is not None:
                raise ConnectError(f"{address} refuses this worker: {why}") from error
            if isinstance(cause, ssl.SSLError) and _STRANGE.search(str(cause)):
                raise ConnectError(
                    f"{address} and this worker have certificates of different authorities: use those of one "
                    f"folder ({describe(cause)})"
                ) from error
            if (why := _refusal(str(cause), TAKEN)) is not None:
                # it may be the worker in whose place this one comes
                return _End(f"{address}: {why}")
            return _End(f"no worker could join at {address} ({describe(cause)})")
        program = nanny.address  # it has none once it has closed
        ready(nanny.worker_address or nanny.address)
        finished = asyncio.ensure_future(nanny.finished())
        await asyncio.wait({finished, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            return None
        retired = await _ask_why(address, security, program, stopped)
        if stopped.done():
            return None
        if retired is None:
            return _End(f"the scheduler at {address} has gone", joined=True)
        if retired:
            return _End(f"the scheduler at {address} has retired this worker", joined=True, final=True)
        return _End(f"the connection to the scheduler at {address} is lost", joined=True)
    finally:
        try:
            await asyncio.wait_for(nanny.close(timeout=CLOSE_LIMIT / 2), CLOSE_LIMIT)
        except (TimeoutError, OSError):
            pass  # its process ends with this one
        except AssertionError as error:
            # Dask's nanny asserts that what it kills has started
            logger.info("a worker was stopped while it started (%s)", describe(error))


@dataclass(frozen=True)
class _End:
    """How one life of a worker ended: a line for people; whether it had joined; whether it was the last."""

    text: str
    joined: bool = False
    final: bool = False


def _refusal(text: str, begin: str) -> str | None:
    """Why a worker may not join, from the error that Dask makes of the answer; None: it is another error.

    `begin` is how that answer begins.
    """
    _, refused, why = text.partition(f"{begin}: ")
    # it shows the whole answer, as Python does: a mapping whose next key is the time
    return re.sub(r"""['"], 'time': .*""", "", why) if refused else None


async def _ask_why(
    address: str, security: Security, program: str, stopped: asyncio.Task[None]
) -> bool | None:
    """Whether the scheduler let go of a worker on purpose; None where no scheduler of ours answers there."""
    asking = asyncio.ensure_future(_is_retired(address, security, program))
    await asyncio.wait({asking, stopped}, return_when=asyncio.FIRST_COMPLETED, timeout=ASK)
    if asking.done():
        return asking.result()
    asking.cancel()
    return None


async def _is_retired(address: str, security: Security, program: str) -> bool | None:
    """As `_ask_why`; for as long as the scheduler is there and says nothing."""
    arguments = security.get_connection_args("worker")
    while True:
        try:
            async with rpc(address, connection_args=arguments, timeout=LOOK) as remote:
                answer = await asyncio.wait_for(remote.altlas_retired(nanny=program), 2 * LOOK)
                return bool(answer["result"])
        except OSError as error:
            if not isinstance(root_cause(error), TimeoutError):
                return None
            # else it is busy: where there is none, a connection is refused
        except (KeyError, TypeError):
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


def check_worker(options: Mapping[str, Any]) -> None:
    """See that a worker can be as it is asked for, before anything is started.

    Parameters
    ----------
    options : mapping
        Of `distributed.Nanny`: its name, memory limit and resources are looked at.

    Raises
    ------
    BadRequest
    """
    name = options.get("name")
    if name is not None and (problem := name_problem(name)) is not None:
        raise BadRequest(f"this worker cannot start: {problem}")
    limit = options.get("memory_limit")
    try:
        parsed = parse_memory_limit(limit, options.get("nthreads") or 1, logger=logger)
    except (ValueError, TypeError, OverflowError):
        parsed = -1
    if parsed is not None and parsed < 0:
        raise BadRequest(
            f"memory limit {limit!r} is none: give one such as '8 GiB', 'auto', or 0 for no limit"
        )
    for resource, amount in (options.get("resources") or {}).items():
        if not (math.isfinite(amount) and amount >= 0):
            raise BadRequest(f"resource {resource}={amount:g}: give a number of at least 0")


def worker_config(
    labels: dict[str, str], memory_budget: str | None = None, log_format: str | None = None
) -> Any:
    """Sets what the worker's own process reads, since it inherits this program's configuration."""
    known = dict(dask.config.get("altlas.labels", default={}) or {})
    given = {"altlas.memory-budget": memory_budget, "altlas.log-format": log_format}
    said = {key: value for key, value in given.items() if value is not None}
    return dask.config.set({"altlas.labels": {**known, **labels}, **said})
