"""What a pipeline's intermediate results take on its workers, with a bound and without one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import _programs
from benchmarks._sent import NUMBERS, blow_up, double, total

WORKERS = ("north", "south")
#: Inputs of a piece, and pieces under way at once: with them, what lies between the stages is bounded.
ROWS, PIECES = 5, 4
#: As many pieces as there can be: no bound.
UNBOUNDED = 1_000_000
#: Inputs before anything is measured: all modules are imported, and the allocator has what it keeps.
WARM_UP = 40
#: Seconds between two looks at the memory.
LOOK = 0.005
MIB = 2**20


@dataclass(frozen=True)
class Peak:
    """Resident memory of all workers together.

    Attributes
    ----------
    most, idle : float
        MiB: the largest while the pipeline ran, and what it was before.
    seconds : float
        That the pipeline took.
    """

    most: float
    idle: float
    seconds: float

    @property
    def rise(self) -> float:
        """MiB."""
        return self.most - self.idle


class Sampler:
    """Looks at the resident memory of processes, until it is closed.

    Parameters
    ----------
    pids : iterable of int
    """

    def __init__(self, pids: Iterable[int]) -> None:
        import psutil

        self._processes = [psutil.Process(pid) for pid in pids]
        self._over = threading.Event()
        self.most = 0.0
        self.looks = 0
        self._thread = threading.Thread(target=self._look, name="memory", daemon=True)

    def now(self) -> float:
        """MiB of all of them together."""
        return sum(float(process.memory_info().rss) for process in self._processes) / MIB

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.is_set():
            self.most = max(self.most, self.now())
            self.looks += 1
            self._over.wait(LOOK)


def measure(folder: Path, sizes: Sequence[int], bounded: bool) -> list[Peak]:
    """The peaks of one pipeline over so many inputs, one after the other, on workers that have just started.

    Raises
    ------
    ValueError
        Where an answer is wrong.
    """
    import altlas_flow as af

    pipeline = af.Pipeline(
        [
            af.Stage("blow_up", function=blow_up),
            af.Stage("double", function=double, after="blow_up"),
            af.Stage("total", function=total, after="double"),
        ],
        id="bounded",
        outputs={"total": "double"},
    )
    # as Dask's nannies have it: what is freed goes back to the system
    environment = {"MALLOC_TRIM_THRESHOLD_": "65536"}
    with (
        _programs.cluster(folder, dict.fromkeys(WORKERS, environment)) as programs,
        af.connect(programs.scheduler_file) as flow,
    ):
        pids = flow.client.run(os.getpid).values()
        _run(flow, pipeline, WARM_UP, PIECES, pids)
        return [_run(flow, pipeline, inputs, PIECES if bounded else UNBOUNDED, pids) for inputs in sizes]


def _run(flow: Any, pipeline: Any, inputs: int, most: int, pids: Iterable[int]) -> Peak:
    frame = _frame(inputs)
    with Sampler(pids) as sampler:
        idle = sampler.now()
        start = time.perf_counter()
        found = flow.map(frame, pipeline, input="number", part_rows=ROWS, max_in_flight=most)
        took = time.perf_counter() - start
    if found["total"].tolist() != [2.0 * NUMBERS * number for number in range(inputs)]:
        raise ValueError(f"the totals of {inputs:,} inputs are wrong")
    return Peak(sampler.most, idle, took)


def _frame(inputs: int) -> Any:
    import pandas as pd

    return pd.DataFrame({"number": [float(number) for number in range(inputs)]})
