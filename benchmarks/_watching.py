"""What counting and a page cost the scheduler: seconds of CPU for requests, and a share of a core."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import _programs
from benchmarks._looker import looking
from benchmarks._sent import identity
from benchmarks._swarm import swarm

#: Schedulers that differ in nothing else.
OFF, CLOSED, OPEN = "metrics off", "page closed", "page open"
STATES = (OFF, CLOSED, OPEN)
#: Seconds that one answer may take.
LIMIT = 120.0
#: Requests that figures are told for.
PER = 10_000
#: Of Linux's clocks of processes, the one of all its threads: see clock_getcpuclockid(3).
_SCHEDULED = 2
#: Of the large cluster: models, and requests a second.
MODELS, RATE = 50, 200.0


@dataclass(frozen=True)
class Watched:
    """A cluster of which the scheduler's process is watched.

    Attributes
    ----------
    flow : altlas_flow.Flow
    page : str
        Address of the page, also where there is none.
    used : callable
        Seconds of CPU that the scheduler's process has used so far.
    """

    flow: Any
    page: str
    used: Callable[[], float]


def dashboard(flow: Any) -> str:
    """Address of a cluster's page."""
    return f"{flow.client.dashboard_link.removesuffix('/status')}/altlas"


def _used(process: int) -> Callable[[], float]:
    """Reads the clock of a process's CPU time: ``/proc`` has hundredths of a second only."""
    clock = (~process << 3) | _SCHEDULED
    return lambda: time.clock_gettime(clock)


@contextmanager
def _small(folder: Path, state: str) -> Iterator[Watched]:
    import altlas_flow as af

    here = folder / state.replace(" ", "-")
    here.mkdir()
    settings = {"DASK_ALTLAS__METRICS": "false"} if state == OFF else {}
    with ExitStack() as stack:
        programs = stack.enter_context(_programs.cluster(here, {"a": {}, "b": {}}, settings))
        flow = stack.enter_context(closing(af.connect(str(programs.scheduler_file))))
        flow.register(af.ModelSpec(id="identity", source=identity))
        page = dashboard(flow)
        if state == OPEN:
            stack.enter_context(looking(page))
        yield Watched(flow, page, _used(programs.scheduler))


def requests(folder: Path, runs: int, count: int) -> Iterator[dict[str, float]]:
    """The CPU seconds of a scheduler for 10,000 requests: of each state, run by run, in turn.

    Each state has a cluster of its own, of a scheduler and two workers: a page that was closed stays
    open on its server for a while, and whether anything is counted is said as a scheduler starts.
    """
    with ExitStack() as stack:
        clusters = {state: stack.enter_context(_small(folder, state)) for state in STATES}
        for watched in clusters.values():
            _burst(watched, count)  # everything is loaded, compiled and connected
        for run in range(runs):
            turn = STATES[run % len(STATES) :] + STATES[: run % len(STATES)]
            found = {state: _burst(clusters[state], count) for state in turn}
            yield {state: found[state] for state in STATES}


def _burst(watched: Watched, count: int) -> float:
    before = watched.used()
    handles = [watched.flow.submit("identity", number) for number in range(count)]
    for number, handle in enumerate(handles):
        if handle.result(LIMIT).outputs != number:
            raise ValueError("an answer is not the one to its request")
    return (watched.used() - before) * PER / count


@contextmanager
def large(folder: Path, nodes: int, models: int = MODELS) -> Iterator[Watched]:
    """A cluster of many nodes that have many models loaded."""
    import altlas_flow as af

    with ExitStack() as stack:
        programs = stack.enter_context(_programs.cluster(folder, {}))
        flow = stack.enter_context(closing(af.connect(str(programs.scheduler_file))))
        stack.enter_context(swarm(programs.scheduler_file, nodes))
        for number in range(models):
            flow.register(af.ModelSpec(id=f"model-{number:02d}", source=identity, revision=str(number)))
        load(flow, models, 4 * nodes)
        yield Watched(flow, dashboard(flow), _used(programs.scheduler))


def load(flow: Any, models: int, count: int) -> None:
    """Send requests to all models, in turn over the nodes, and wait for the answers."""
    handles = [
        flow.submit(f"model-{number % models:02d}", number, strategy="ROUND_ROBIN") for number in range(count)
    ]
    for handle in handles:
        handle.result(LIMIT)


def core(watched: Watched, seconds: float) -> float:
    """The share of a core that the scheduler uses at a steady rate of requests to all models."""
    before, start = watched.used(), time.monotonic()
    sent, handles = 0, []
    while (now := time.monotonic() - start) < seconds:
        due = int(now * RATE)
        handles += [watched.flow.submit(f"model-{at % MODELS:02d}", at) for at in range(sent, due)]
        sent = max(sent, due)
        time.sleep(0.02)  # the rate is what is wanted
    used, took = watched.used() - before, time.monotonic() - start
    for handle in handles:
        handle.result(LIMIT)
    return used / took


def cores(folder: Path, nodes: int, runs: int, seconds: float) -> Iterator[tuple[str, float]]:
    """The same with the page closed, and then with the page open, so many times each."""
    with large(folder, nodes) as watched:
        for _ in range(runs):
            yield CLOSED, core(watched, seconds)
        with looking(watched.page):
            for _ in range(runs):
                yield OPEN, core(watched, seconds)
