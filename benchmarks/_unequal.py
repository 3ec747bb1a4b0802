"""A steady load over workers of unequal speed, one of which becomes slow: what a strategy makes of them."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import _programs
from benchmarks._sent import ROW_SECONDS, crawl, set_row_seconds

#: Worker -> seconds of a row: speeds 1 : 1 : 2 : 4.
SPEEDS = {"one": 0.02, "same": 0.02, "twice": 0.01, "fourfold": 0.005}
#: Who becomes how many times slower: the one that every good strategy gives most.
SLOWED, TIMES = "fourfold", 10
#: Seconds that the last answers may take, beyond those of the run.
PATIENCE = 120.0


@dataclass(frozen=True)
class Run:
    """One run of one strategy.

    Attributes
    ----------
    rate, possible : float
        Rows a second that the workers did and that were answered, and that they could have done.
    p99 : float
        Seconds that 99 of 100 requests took at most.
    """

    rate: float
    possible: float
    p99: float

    @property
    def share(self) -> float:
        """Percent."""
        return 100 * self.rate / self.possible


@contextmanager
def flow_over(folder: Path) -> Iterator[Any]:
    """A flow over programs of these speeds."""
    import altlas_flow as af

    environments = {name: {ROW_SECONDS: repr(seconds)} for name, seconds in SPEEDS.items()}
    with (
        _programs.cluster(folder, environments) as programs,
        af.connect(programs.scheduler_file) as flow,
    ):
        yield flow


def measure(flow: Any, strategy: str, outstanding: int, seconds: float, warm_up: float, revision: str) -> Run:
    """Load the workers for `warm_up` seconds, then for `seconds`, of which one is slow the second half.

    There are `outstanding` requests that wait for their answers at any time. The model has a `revision`
    of its own, so that nothing is known of it from another run.

    Raises
    ------
    ValueError
        Where an answer is not the one to its request.
    """
    import altlas_flow as af

    spec = af.ModelSpec(id=f"crawl-{revision}", runtime="function", source=crawl, revision=revision)
    flow.register(spec)
    try:
        return asyncio.run(_run(flow, spec.id, strategy, outstanding, seconds, warm_up))
    finally:
        _set_speed(flow, SPEEDS[SLOWED])


def _set_speed(flow: Any, row_seconds: float) -> float:
    workers = flow.client.sync(flow.client.scheduler.identity, n_workers=-1)["workers"]
    (address,) = [address for address, about in workers.items() if about["name"] == SLOWED]
    at: float = flow.client.run(set_row_seconds, row_seconds, workers=[address])[address]
    return at


async def _run(flow: Any, model: str, strategy: str, outstanding: int, seconds: float, warm_up: float) -> Run:
    # When its worker had done the row, for the answer comes with its batch, which may be seconds later;
    # and how long the request took.
    answered: list[tuple[float, float]] = []
    numbers, going = itertools.count(), True

    async def ask() -> None:
        while going:
            number = next(numbers)
            response = await flow.submit(model, number, strategy=strategy)
            row, done = response.outputs
            if row != number:
                raise ValueError(f"{strategy}: {row!r} for {number}")
            answered.append((done, response.latency))

    async with asyncio.timeout(warm_up + seconds + PATIENCE), asyncio.TaskGroup() as group:
        for _ in range(outstanding):
            group.create_task(ask())
        await asyncio.sleep(warm_up)
        start = time.time()
        await asyncio.sleep(seconds / 2)
        slowed = await asyncio.to_thread(_set_speed, flow, SPEEDS[SLOWED] * TIMES)
        await asyncio.sleep(start + seconds - time.time())
        end = time.time()
        going = False
        # what is left on the slow one would take minutes
        await asyncio.to_thread(_set_speed, flow, SPEEDS[SLOWED])
    rows = sum(start <= done < end for done, _ in answered)
    before = sum(1 / row_seconds for row_seconds in SPEEDS.values())
    after = before - (1 - 1 / TIMES) / SPEEDS[SLOWED]
    possible = before * (slowed - start) + after * (end - slowed)
    latencies = sorted(took for done, took in answered if done >= start)
    p99 = latencies[min(len(latencies) - 1, int(0.99 * len(latencies)))]
    return Run(rows / (end - start), possible / (end - start), p99)
