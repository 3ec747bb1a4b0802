"""Posting: an envelope becomes a Dask task."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import dask
from dask.sizeof import sizeof
from distributed import Client, Future

from altlas_flow.cluster.client.handle import Handle
from altlas_flow.cluster.client.lanes import Lane, Pool
from altlas_flow.cluster.keys import ANNOTATION, request_key
from altlas_flow.cluster.ledger import IN_SPAN
from altlas_flow.cluster.packed import Packed
from altlas_flow.cluster.worker.envelope import Elsewhere, Envelope, serve
from altlas_flow.errors import BadRequest, ClusterLost, describe

#: Host priority of requests that somebody waits for; rows of a job have 0.
INTERACTIVE = 10
#: Seconds that stand for "no deadline" beside others that have one.
FOREVER = 1e9


def post(
    client: Client, lane: Lane, pool: Pool, handles: Sequence[Handle], now: float
) -> tuple[str, Future[Any]]:
    """Send requests of one lane as one task; its key and its future.

    Raises
    ------
    BadRequest
        Where something of it cannot be pickled.
    ClusterLost
    """
    ahead = [handle._ahead for handle in handles if handle._ahead is not None]
    places = itertools.count()
    inputs = [Elsewhere(next(places)) if handle._ahead is not None else handle._inputs for handle in handles]
    counts = left = None
    if any(handle._many for handle in handles):
        counts = [handle._rows if handle._many else -1 for handle in handles]
    if any(handle._deadline is not None for handle in handles):
        left = [FOREVER if handle._deadline is None else handle._deadline - now for handle in handles]
    priority = INTERACTIVE + lane.priority
    envelope = Envelope(
        lane.spec, lane.parameters, inputs, counts, left, priority, lane.solo, lane.validator, lane.once
    )
    try:
        packed = Packed.of(envelope)
    except Exception as error:
        # what people pass may refuse to be pickled with any error
        raise BadRequest(f"the request cannot be sent to a worker: {describe(error)}") from error
    key = request_key(lane.spec.fingerprint)
    said = {
        "client": client.id,
        "pool": pool.name,
        "strategy": lane.strategy,
        "count": len(handles),
        "rows": sum(abs(count) for count in counts) if counts else len(handles),
        "exclude": sorted(lane.exclude),
        **({"careful": True} if lane.careful else {}),
    }
    try:
        with dask.annotate(**{ANNOTATION: said, "span": IN_SPAN}):  # type: ignore[attr-defined]
            future: Future[Any] = client.submit(serve, packed, *ahead, key=key, pure=False, priority=priority)
    except Exception as error:
        # a client that was closed meanwhile says so in several ways
        raise ClusterLost(f"the scheduler cannot be reached ({describe(error)}): connect again") from error
    return key, future


def weigh(value: Any) -> int:
    """About how many bytes an input has; cheap, and exact for what is large."""
    kind = type(value)
    if kind is str or kind is bytes or kind is bytearray:
        return len(value)
    if kind is list or kind is tuple:
        return sum(map(weigh, value)) + 8 * len(value)
    if kind is dict:
        return sum(map(weigh, value.values()))
    size = getattr(value, "nbytes", None)
    return size if isinstance(size, int) else int(sizeof(value))
