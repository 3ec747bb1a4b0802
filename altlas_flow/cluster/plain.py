"""Dask tasks of jobs, named so that the scheduler plugin knows them for ours; data sent ahead of them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import dask
from dask.sizeof import sizeof
from distributed import Client, Future

from altlas_flow.cluster.keys import ANNOTATION, predict_key
from altlas_flow.errors import ClusterError, ClusterLost
from altlas_flow.settings import Settings

#: Bytes a second that a way to a worker has at least.
SLOWEST = 1e6
#: Seconds between two looks whether the scheduler is there.
LOOK = 1.0
#: Workers that may fall silent while data is on its way to them.
WAYS = 3

#: What was on its way when nobody would wait any longer. The scheduler finishes what it was asked for, and
#: then keeps the data for this client: it can be let go of only when it has arrived.
_abandoned: set[asyncio.Future[Future[Any] | None]] = set()


def submit_task(client: Client, function: Callable[..., Any], *args: Any) -> Future[Any]:
    """A task that reads, writes or measures: it runs anywhere, and moves where its worker falls silent."""
    key = f"altlas-{function.__name__}-{uuid.uuid4().hex}"
    return client.submit(function, *args, key=key, pure=False)


def submit_rows(
    client: Client, function: Callable[..., Any], *args: Any, fingerprint: str, rows: int
) -> Future[Any]:
    """A task that predicts so many rows, with the model of that fingerprint."""
    with dask.annotate(**{ANNOTATION: {"rows": rows}}):  # type: ignore[attr-defined]
        return client.submit(function, *args, key=predict_key(fingerprint), pure=False)


def scatter(client: Client, value: Any) -> Future[Any]:
    """Send `value` to a worker, whichever.

    Raises
    ------
    ClusterError
        Where no worker takes it.
    ClusterLost
        Where the scheduler has gone.
    """
    sent: Future[Any] = client.sync(scatter_soon, client, value)
    return sent


async def scatter_soon(client: Client, value: Any, *, patient: bool = True) -> Future[Any] | None:
    """As `scatter`, on the client's event loop.

    Dask waits for ever for a worker that has stopped: after a while another one is asked, for by then the
    scheduler plugin has set the silent one aside.

    Parameters
    ----------
    client : distributed.Client
    value : object
    patient : bool
        Wait for a worker where none runs; otherwise None is returned then.
    """
    limit = 1.5 * Settings.current().heartbeat_timeout + sizeof(value) / SLOWEST
    for _ in range(WAYS):
        sending = asyncio.ensure_future(_scatter(client, value, patient))
        try:
            waited = 0.0
            while waited < limit:
                await asyncio.wait({sending}, timeout=LOOK)
                if sending.done():
                    return sending.result()
                if client.status != "running":
                    raise ClusterLost(
                        "the scheduler went away, or the flow was closed: connect, run it again"
                    )
                waited += LOOK
        except OSError:
            continue  # no worker runs, or it has gone; where it is the scheduler, the next look tells
        finally:
            if not sending.done():
                _abandoned.add(sending)
                sending.add_done_callback(_forget)
    raise ClusterError(f"no worker took the data ({WAYS} were asked): see whether they run")


async def _scatter(client: Client, value: Any, patient: bool) -> Future[Any] | None:
    scheduler: Any = client.scheduler
    if not patient and not await scheduler.ncores_running(workers=None):
        return None
    (future,) = await client._scatter([value], hash=False)
    return future  # type: ignore[no-any-return]


def _forget(sending: asyncio.Future[Future[Any] | None]) -> None:
    """Data has arrived that nobody wants, or will never arrive."""
    _abandoned.discard(sending)
    if not sending.cancelled() and sending.exception() is None:
        future = sending.result()
        if future is not None:
            future.release()
