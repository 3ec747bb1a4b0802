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
from altlas_flow.errors import ClusterError
from altlas_flow.settings import Settings

#: Bytes a second that a way to a worker has at least.
SLOWEST = 1e6
#: Workers that may fall silent while data is on its way to them.
WAYS = 3


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
    """
    sent: Future[Any] = client.sync(scatter_soon, client, value)
    return sent


async def scatter_soon(client: Client, value: Any) -> Future[Any]:
    """As `scatter`, on the client's event loop.

    Dask waits for ever for a worker that has stopped: after a while another one is asked, for by then the
    scheduler plugin has set the silent one aside.
    """
    limit = 1.5 * Settings.current().heartbeat_timeout + sizeof(value) / SLOWEST
    for _ in range(WAYS):
        try:
            sent: list[Future[Any]] = await asyncio.wait_for(client._scatter([value], hash=False), limit)
        except TimeoutError:
            continue
        return sent[0]
    raise ClusterError(f"no worker took the data within {WAYS * limit:.0f} s: see whether they run")
