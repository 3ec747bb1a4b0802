"""How soon it is known that a worker has stopped, or has been killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import _commands

#: Of the cluster that is measured: the default of 10 s would only make the benchmark longer.
HEARTBEAT_TIMEOUT = 2.0
VICTIM = "victim"


@dataclass(frozen=True)
class Noticed:
    """Seconds until `flow.nodes()` said it: stopped (SIGSTOP), and killed (SIGKILL)."""

    stopped: float
    killed: float


def measure(folder: Path, runs: int) -> Iterator[Noticed]:
    """Stop a worker's process, let it go on, and kill it; its nanny starts another one.

    Raises
    ------
    ContestantFailed
        Where it is not noticed at all, or the worker does not come back.
    """
    import altlas_flow as af

    settings = {"heartbeat_timeout": f"{HEARTBEAT_TIMEOUT}s"}
    with (
        _commands.cluster(folder, [VICTIM], settings=settings) as cluster,
        af.connect(cluster.address) as flow,
    ):
        for _ in range(runs):
            cluster.await_online(flow, VICTIM)
            pid, address = _process(flow)
            start = time.perf_counter()
            os.kill(pid, signal.SIGSTOP)
            try:
                cluster.until("OFFLINE", lambda: flow.node(VICTIM).status == "OFFLINE")
                stopped = time.perf_counter() - start
            finally:
                os.kill(pid, signal.SIGCONT)
            cluster.await_online(flow, VICTIM)
            start = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            cluster.until("gone", lambda gone=address: gone not in _serving(flow))
            killed = time.perf_counter() - start
            yield Noticed(stopped, killed)


def _process(flow: Any) -> tuple[int, str]:
    """Process id and address of the worker."""
    address = flow.node(VICTIM).address
    return flow.client.run(os.getpid, workers=[address])[address], address


def _serving(flow: Any) -> set[str]:
    """Addresses of the nodes that are not OFFLINE."""
    return {info.address for info in flow.nodes() if info.status != "OFFLINE"}
