"""Very many requests, one scheduler: whether it remembers what has ended."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import _programs
from benchmarks._sent import identity

TENTHS = 10
#: Requests that wait for their answers at any time, at most, so that this process does not grow either; and
#: half a tenth of them all, so that the first tenth is like the others.
WINDOW = 5_000


@dataclass(frozen=True)
class Growth:
    """What a run left behind.

    Attributes
    ----------
    resident : tuple of float
        MiB of the scheduler's process after each tenth.
    rate : float
        Requests a second.
    """

    resident: tuple[float, ...]
    rate: float

    @property
    def drift(self) -> float:
        """Percent by which any later tenth differs from the first, at most."""
        first = self.resident[0]
        return max(abs(100 * (later / first - 1)) for later in self.resident[1:])


def measure(folder: Path, count: int, rows: int | None, timeout: float, say: Callable[[str], None]) -> Growth:
    """Send `count` requests, check each answer, and look at the scheduler after each tenth.

    Parameters
    ----------
    rows : int, optional
        Requests in an envelope at most; by default as altlas_flow is set.
    timeout : float
        Seconds that one answer may take.

    Raises
    ------
    ValueError
        Where an answer is not the one to its request, or has no trace.
    """
    import dask
    import psutil

    import altlas_flow as af

    settings = {} if rows is None else {"altlas.envelope-rows": rows}
    workers: dict[str, dict[str, str]] = {"a": {}, "b": {}}
    spec = af.ModelSpec(id="identity", runtime="function", source=identity)
    with (
        _programs.cluster(folder, workers) as programs,
        dask.config.set(settings),
        af.connect(programs.scheduler_file, models=[spec]) as flow,
    ):
        scheduler, client = psutil.Process(programs.scheduler), psutil.Process(os.getpid())
        waiting: deque[tuple[int, Any]] = deque()
        resident: list[float] = []
        bounds = [count * tenth // TENTHS for tenth in range(1, TENTHS + 1)]
        start = time.perf_counter()

        def take() -> None:
            _check(*waiting.popleft(), timeout)
            answered = sent - len(waiting)
            if answered == bounds[len(resident)]:
                resident.append(scheduler.memory_info().rss / 2**20)
                mine = client.memory_info().rss / 2**20
                rate = answered / (time.perf_counter() - start)
                say(
                    f"{answered:,} requests: scheduler {resident[-1]:.0f} MiB, client {mine:.0f} MiB, "
                    f"{rate:,.0f} requests/s"
                )

        sent, window = 0, max(1, min(WINDOW, count // (2 * TENTHS)))
        while sent < count:
            if len(waiting) == window:
                take()
            waiting.append((sent, flow.submit(spec.id, sent)))
            sent += 1
        while waiting:
            take()
        return Growth(tuple(resident), count / (time.perf_counter() - start))


def _check(number: int, handle: Any, timeout: float) -> None:
    response = handle.result(timeout)
    if response.outputs != number or response.trace is None:
        raise ValueError(f"{response.outputs!r} for {number}, with the trace {response.trace!r}")
