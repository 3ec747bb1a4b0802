"""What keeping a history costs, and how fast tasks are written behind."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks._sent import identity

#: Requests of one envelope at most, as altlas_flow is set.
ENVELOPE = 512
WORKERS = 2


@dataclass(frozen=True)
class Pair:
    """Two bursts, one after the other.

    Attributes
    ----------
    on, off : float
        Requests a second with a history, and without.
    behind : float
        Seconds from the last answer until all of the burst was in the file.
    """

    on: float
    off: float
    behind: float

    @property
    def ratio(self) -> float:
        """What is left of the rate with a history."""
        return self.on / self.off


def pairs(folder: Path, count: int, requests: int, timeout: float) -> Iterator[Pair]:
    """Send so many pairs of bursts to two clusters, both alive all the time: one with a history.

    Both are alike, and only one of them is used at a time; who is first alternates. The next burst begins
    when all that the one before left to be written is written.

    Raises
    ------
    ValueError
        Where an answer is wrong, or the history has another number of rows at the end than were sent.
    """
    import dask

    import altlas_flow as af
    from altlas_flow.history.store import Store

    file = folder / "history.sqlite"
    spec = af.ModelSpec(id="identity", runtime="function", source=identity)
    with ExitStack() as stack:
        flows = {}
        for on in (True, False):
            # read once, when the scheduler's plugin starts
            with dask.config.set({"altlas.history": str(file) if on else None}):
                flow = af.connect(workers=WORKERS, threads_per_worker=1, models=[spec])
            flows[on] = stack.enter_context(flow)
        for number in range(-1, count):
            rates, behind = {}, 0.0
            for on in (True, False) if number % 2 else (False, True):
                rates[on], took = _burst(flows[on], spec.id, requests, timeout, on)
                behind = took if on else behind
            if number >= 0:  # the first pair warms up
                yield Pair(rates[True], rates[False], behind)
    store = Store(file)  # only now has the cluster let go of it
    try:
        found, sent = store.count(), (count + 1) * requests
    finally:
        store.close()
    if found != sent:
        raise ValueError(f"the history has {found:,} rows of {sent:,} requests")


def _burst(flow: Any, model: str, requests: int, timeout: float, on: bool) -> tuple[float, float]:
    """Requests a second, and seconds until they were written."""
    items = list(range(requests))
    gc.collect()  # nobody pays for what another left
    start = time.perf_counter()
    found = flow.submit_many(model, items).result(timeout)
    took = time.perf_counter() - start
    answered = time.perf_counter()
    flow.tasks(limit=1)  # has clients tell what is over
    if on:
        flow.history(limit=1)  # is answered when all before it is written
    behind = time.perf_counter() - answered
    if [response.outputs for response in found] != items:
        raise ValueError(f"wrong answers among {requests:,}")
    return requests / took, behind


@dataclass(frozen=True)
class Written:
    """One run of writing.

    Attributes
    ----------
    rate : float
        Tasks a second, from the first message to the last commit.
    told : float
        Seconds that the scheduler's event loop was held by each task.
    """

    rate: float
    told: float


def write(file: Path, tasks: int, timeout: float) -> Written:
    """Give the scheduler's record of tasks what clients would tell of so many, and wait for the file.

    The messages are those of full envelopes; they all come at once.

    Raises
    ------
    ValueError
        Where not every task is in the file afterwards, as a good row.
    """
    from altlas_flow.cluster.scheduler.tasks import Tasks
    from altlas_flow.history.store import Store
    from altlas_flow.nodes.audit import Audit
    from altlas_flow.nodes.unusual import Unusual

    messages = [_message(min(ENVELOPE, tasks - at)) for at in range(0, tasks, ENVELOPE)]
    # no client is asked anything, and nobody asks: what is left of the scheduler is not used
    scheduler: Any = SimpleNamespace(client_comms={})
    kept = Tasks(scheduler, SimpleNamespace(), Audit(None, time.time), Unusual(), str(file))  # type: ignore[arg-type]
    writer = kept.writer
    assert writer is not None
    try:
        writer.ask("count").result(timeout)  # the file is open
        start = time.perf_counter()
        for message in messages:
            kept.over("client", [message])
        told = time.perf_counter() - start
        found = writer.ask("count").result(timeout)
        took = time.perf_counter() - start
    finally:
        kept.close()
    if found != tasks or writer.dropped or writer.fault:
        raise ValueError(f"{found:,} of {tasks:,} tasks written, {writer.dropped:,} dropped: {writer.fault}")
    store = Store(file)
    try:
        rows, bad = store.read(limit=tasks)
    finally:
        store.close()
    sent = {task for message in messages for task in message["ids"]}
    if bad or {row[0] for _, row in rows} != sent:
        raise ValueError(f"{len(rows):,} of {tasks:,} tasks are read again, and {bad:,} bad rows")
    return Written(tasks / took, told / tasks)


def _message(tasks: int) -> dict[str, Any]:
    """What a client tells of one envelope that is answered."""
    return {
        "model": "identity",
        "node": "worker-0",
        "status": "completed",
        "ids": [os.urandom(16).hex() for _ in range(tasks)],
        "submitted": [0.2 + 1e-6 * number for number in range(tasks)],
        "started": [0.1 + 1e-6 * number for number in range(tasks)],
        "ended": 0.01,
        "tries": 1,
        "error": None,
    }
