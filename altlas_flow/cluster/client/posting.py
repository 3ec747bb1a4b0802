"""Posting: an envelope becomes a Dask task."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from typing import Any

import dask
from dask.sizeof import sizeof
from distributed import Client, Future

from altlas_flow.cluster.client.handle import Handle
from altlas_flow.cluster.client.lanes import Lane, Pool
from altlas_flow.cluster.client.spans import carriers_of
from altlas_flow.cluster.keys import ANNOTATION, request_key
from altlas_flow.cluster.ledger import IN_SPAN
from altlas_flow.cluster.packed import Packed
from altlas_flow.cluster.worker.envelope import Elsewhere, Envelope, serve
from altlas_flow.errors import BadRequest, ClusterLost, describe

logger = logging.getLogger(__name__)

#: Host priority of requests that somebody waits for; rows of a job have 0.
INTERACTIVE = 10
#: Seconds that stand for "no deadline" beside others that have one.
FOREVER = 1e9
#: Items of a collection that are looked at to tell what all of them weigh.
SAMPLE = 2000
#: Bytes that count for a number, and for a place in a collection.
ITEM = 8


def post(
    client: Client, lane: Lane, pool: Pool, handles: Sequence[Handle], now: float, *, traced: bool = False
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
    if traced:
        envelope.traces = carriers_of(handles)
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
        **({"solo": True} if lane.solo else {}),
        **({"apart": lane.apart} if lane.apart is not None else {}),
    }
    try:
        with dask.annotate(**{ANNOTATION: said, "span": IN_SPAN}):  # type: ignore[attr-defined]
            future: Future[Any] = client.submit(serve, packed, *ahead, key=key, pure=False, priority=priority)
    except Exception as error:
        # a client that was closed meanwhile says so in several ways
        raise ClusterLost(f"the scheduler cannot be reached ({describe(error)}): connect again") from error
    return key, future


def weigh(value: Any, enough: float = math.inf, items: int = SAMPLE) -> float:
    """About how many bytes an input has; quick, whatever it is, for an event loop may wait for it.

    Parameters
    ----------
    value : object
    enough : float
        Bytes beyond which it need not be known how many they are.
    items : int
        Of so many of a collection's, at equal distances, follows what all of them weigh.
    """
    kind = type(value)
    if kind is str or kind is bytes or kind is bytearray:
        return len(value)
    if kind is float or kind is int or kind is bool or value is None:
        return ITEM
    if kind is list or kind is tuple or kind is dict:
        count = len(value)
        total: float = ITEM * count
        if not count or total >= enough:
            return total
        step = max(1, count // items)
        seen = list(itertools.islice(value.values(), 0, None, step)) if kind is dict else value[::step]
        each, share = count / len(seen), max(1, items // len(seen))
        for item in seen:
            total += each * weigh(item, (enough - total) / each, share)
            if total >= enough:
                break
        return total
    size = getattr(value, "nbytes", None)
    return size if isinstance(size, int) else int(sizeof(value))


def weight_of(inputs: Any, enough: float) -> float:
    """As `weigh`; nothing where it cannot be told."""
    try:
        return weigh(inputs, enough)
    except Exception:
        # what cannot even be weighed (endless nesting, a property that raises) cannot be packed either,
        # and packing says so
        logger.debug("an input cannot be weighed", exc_info=True)
        return 0.0
