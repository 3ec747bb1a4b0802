"""What the page remembers, after very many events of all kinds."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass

from altlas_flow.dashboard.choices import Choices
from altlas_flow.dashboard.counts import Counts
from altlas_flow.dashboard.jobs import Jobs
from altlas_flow.dashboard.timeline import Timeline

TENTHS = 10
#: Names that events bear: far more than are counted by themselves.
MODELS, NODES, TASKS, JOBS, KINDS = 1_000, 500, 100, 1_000, 300
#: Seconds that go by with an event: of a million, more than a day.
STEP = 0.1


@dataclass(frozen=True)
class Tenth:
    """After so many events.

    Attributes
    ----------
    events : int
    size : float
        MiB that are in use.
    """

    events: int
    size: float


def measure(count: int, seed: int = 0) -> Iterator[Tenth]:
    """Note events, and what is in use after each tenth of them."""
    chance = random.Random(seed)
    tracemalloc.start()
    try:
        counts, jobs = Counts(), Jobs()
        timeline, choices = Timeline(counts), Choices(counts)
        now, looked = 0.0, 0.0
        for number in range(1, count + 1):
            now += STEP
            _event(chance, counts, jobs, now)
            if now - looked >= 0.5:
                timeline.take(now)
                choices.take(now)
                looked = now
            if number * TENTHS % count == 0:
                yield Tenth(number, tracemalloc.get_traced_memory()[0] / 2**20)
    finally:
        tracemalloc.stop()


def _event(chance: random.Random, counts: Counts, jobs: Jobs, now: float) -> None:
    what = chance.random()
    model = f"model-{int(MODELS * chance.random() ** 2)}"
    node = f"node-{chance.randrange(NODES)}"
    if what < 0.7:
        wrong = what < 0.1
        part = {
            "ids": [f"{now:.1f}"],
            "model": model,
            "node": node,
            "status": "error" if wrong else "completed",
            "submitted": [chance.expovariate(1.0)],
            "started": [0.0],
            "ended": 0.0,
            "tries": [1 + wrong],
            "error": f"failed at {now}" if wrong else None,
            "kind": f"Kind{chance.randrange(KINDS)}" if wrong else None,
            "trace": [f"line {line} at {now}" for line in range(10)] if wrong else (),
        }
        counts.ended(part, f"client-{chance.randrange(50)}", now)
    elif what < 0.8:
        counts.predicted(model, 8, 0.01)
    elif what < 0.9:
        counts.decided(f"task-{chance.randrange(TASKS)}", model)
    else:
        done = chance.randrange(1_000)
        job = {
            "id": f"job-{chance.randrange(JOBS)}",
            "model": model,
            "output": f"folder-{now}",
            "state": "running",
            "done": done,
            "skipped": 0,
            "dead": 0,
            "total": 1_000,
            "seconds": 1.0,
        }
        jobs.told(f"client-{chance.randrange(50)}", job, now)


def drift(sizes: list[float]) -> float:
    """Percent by which any later tenth is above the second, at most: by then everything has its size."""
    return max(100 * (size / sizes[1] - 1) for size in sizes[2:])
