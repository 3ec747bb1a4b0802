"""What TLS costs a lone request."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import _commands
from benchmarks._sent import identity

#: Requests of one cluster after another, before the other has its turn.
BLOCK = 25


def measure(folder: Path, runs: int, requests: int) -> Iterator[tuple[float, float]]:
    """Median milliseconds of a lone request with TLS, and without; of two clusters alive all the time.

    They take turns in blocks: Dask's client sends nothing for 10 ms after it has sent anything, so
    request by request, what one client says afterwards would count for the other.

    Raises
    ------
    ContestantFailed, ValueError
        Where a cluster does not come up, or an answer is wrong.
    """
    import dask

    import altlas_flow as af
    from altlas_flow.security.certificates import make_authority, make_certificate
    from altlas_flow.security.roles import Role

    certificates = make_authority(folder / "certificates")
    make_certificate(certificates, Role.NODE, "node")
    make_certificate(certificates, Role.CLIENT, "client")
    spec = af.ModelSpec(id="identity", runtime="function", source=identity)
    with ExitStack() as stack:
        flows: dict[bool, Any] = {}
        for tls in (certificates, None):
            here = folder / ("tls" if tls else "plain")
            cluster = stack.enter_context(_commands.cluster(here, ["worker"], tls=tls))
            # read once, where it connects
            with dask.config.set({"altlas.tls": str(tls) if tls else None}):
                flow = stack.enter_context(af.connect(cluster.address, models=[spec]))
            if cluster.address.startswith("tls://") is not (tls is not None):
                raise ValueError(f"{cluster.address} is not what was asked for")
            cluster.await_online(flow, "worker")
            flows[tls is not None] = flow
        for run in range(-1, runs):
            seconds: dict[bool, list[float]] = {True: [], False: []}
            for block in range(-(-requests // BLOCK) if run >= 0 else 1):
                for tls in (True, False) if (run + block) % 2 else (False, True):
                    seconds[tls] += [_timed(flows[tls], spec.id, number) for number in range(BLOCK)]
            if run >= 0:  # the first one warms up
                yield 1000 * statistics.median(seconds[True]), 1000 * statistics.median(seconds[False])


def _timed(flow: Any, model: str, item: int) -> float:
    """Seconds of one request, whose answer is checked."""
    start = time.perf_counter()
    answer = flow.submit(model, item).result(_commands.LIMIT).outputs
    took = time.perf_counter() - start
    if answer != item:
        raise ValueError(f"{answer!r} for {item}")
    return took
