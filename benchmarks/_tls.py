"""What TLS costs a lone request."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import _commands
from benchmarks._sent import identity

#: Requests of one cluster after another, before the other has its turn.
BLOCK = 25
#: Seconds of a rest: by then, everybody has said all there is to say.
REST = 0.06


@dataclass(frozen=True)
class Lone:
    """Median milliseconds of a lone request: at once after the one before, and after a rest."""

    at_once: float
    rested: float


def measure(folder: Path, runs: int, requests: int, rested: int) -> Iterator[dict[bool, Lone]]:
    """Of each run, what it takes with TLS (True), and without; of two clusters alive all the time.

    At once after one another, they take turns in blocks: Dask's client sends nothing for 10 ms after it has
    sent anything, so request by request, what one client says afterwards would count for the other. After a
    rest they take turns request by request.

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
        _in_turn(flows, spec.id, BLOCK, BLOCK, 0.0)  # it warms them up
        for _ in range(runs):
            at_once = _in_turn(flows, spec.id, requests, BLOCK, 0.0)
            after = _in_turn(flows, spec.id, rested, 1, REST)
            yield {tls: Lone(at_once[tls], after[tls]) for tls in flows}


def _in_turn(
    flows: dict[bool, Any], model: str, requests: int, block: int, pause: float
) -> dict[bool, float]:
    """Median milliseconds of each flow."""
    seconds: dict[bool, list[float]] = {tls: [] for tls in flows}
    for number in range(-(-requests // block)):
        for tls in flows if number % 2 else reversed(flows):
            seconds[tls] += [_timed(flows[tls], model, item, pause) for item in range(block)]
    return {tls: 1000 * statistics.median(values) for tls, values in seconds.items()}


def _timed(flow: Any, model: str, item: int, pause: float) -> float:
    """Seconds of one request, after so many of nothing; its answer is checked."""
    time.sleep(pause)
    start = time.perf_counter()
    answer = flow.submit(model, item).result(_commands.LIMIT).outputs
    took = time.perf_counter() - start
    if answer != item:
        raise ValueError(f"{answer!r} for {item}")
    return took
