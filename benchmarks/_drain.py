"""Draining a worker while requests flow: whether any is lost, and whether it gets new ones."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import SchedulerPlugin

from benchmarks import _commands, _contest
from benchmarks._commands import audited
from benchmarks._sent import stamp

STAY = ("stays-a", "stays-b")
#: Requests under way at any time: enough for full envelopes that run, and that wait, on each worker.
OUTSTANDING = 300
#: Answers from a worker before it is drained; and answers of all after that, of which some were asked then.
BEFORE, AFTER = 200, 400


@dataclass(frozen=True)
class Drained:
    """What came of draining one worker.

    Attributes
    ----------
    requests, failed, again : int
        Requests of the run; those without the right answer; those that were tried more than once.
    assigned : int
        Tasks that the scheduler gave to the worker after the order.
    asked : int
        Requests that were submitted after the order was seen, and answered by the worker.
    begun : int
        Rows that began there after the order: handed over before it.
    seconds : float
        From the call to its return, when the worker is retired.
    """

    requests: int
    failed: int
    again: int
    assigned: int
    asked: int
    begun: int
    seconds: float


class Witness(SchedulerPlugin):
    """Counts, on the scheduler, the tasks that Dask gives to a node after its drain was ordered.

    Being given is what counts: what a node had before may still begin there. The order is there from its
    line in the audit log on, which the scheduler writes in the same step in which it bars the node, and
    in the thread that calls this; so before and after are exact.
    """

    name = "altlas-bench-witness"

    def __init__(self, audit: Path) -> None:
        self.audit = audit
        self.given: Counter[tuple[str, bool]] = Counter()  # (node, whether after the order) -> tasks

    async def start(self, scheduler: Any) -> None:
        """Called by Dask."""
        self.scheduler = scheduler

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """Called by Dask: a task may have got a worker."""
        worker = self.scheduler.tasks[key].processing_on if finish == "processing" else None
        if worker is not None:
            name = str(worker.name)
            self.given[name, any(line["node"] == name for line in audited(self.audit, "draining"))] += 1


def witnessed(dask_scheduler: Any) -> dict[tuple[str, bool], int]:
    """On the scheduler: (node, whether after the order) -> tasks that it was given."""
    return dict(dask_scheduler.plugins[Witness.name].given)


def measure(folder: Path, runs: int) -> Iterator[Drained]:
    """Keep three workers loaded and drain one of them, so many times; each time a new one takes its place.

    Raises
    ------
    ContestantFailed, ClusterError, ValueError
        Where a wait takes too long, or the drained worker's program does not end well.
    """
    import altlas_flow as af

    spec = af.ModelSpec(id="stamp", runtime="function", source=stamp)
    with (
        _commands.cluster(folder, STAY) as cluster,
        af.connect(cluster.address, models=[spec]) as flow,
    ):
        flow.client.register_plugin(Witness(cluster.audit))
        for run in range(runs):
            name = f"drained-{run}"
            cluster.add(name)
            cluster.await_online(flow, *STAY, name)
            yield asyncio.run(_run(cluster, flow, spec.id, name))
            cluster.remove(name)


async def _run(cluster: _commands.Cluster, flow: Any, model: str, name: str) -> Drained:
    answered: list[tuple[float, Any]] = []  # when it was submitted, and the response
    failed: list[str] = []
    numbers, going = itertools.count(), True

    async def ask() -> None:
        while going:
            number, submitted = next(numbers), time.time()
            try:
                async with asyncio.timeout(_commands.LIMIT):
                    response = await flow.submit(model, number)
            except Exception as error:
                failed.append(_contest.one_line(error))
                if len(failed) > OUTSTANDING:
                    raise  # nothing works: it would fail again and again
                continue
            if response.outputs[0] != number:
                failed.append(f"{response.outputs[0]!r} for {number}")
            answered.append((submitted, response))

    async def until(what: str, true: Callable[[], Any]) -> Any:
        # on this loop: a thread would go on after Ctrl-C
        ends = time.monotonic() + _commands.LIMIT
        while not (found := true()):
            cluster.check(what, ends, may_end=name)
            await asyncio.sleep(_commands.LOOK)
        return found

    def by_it() -> list[tuple[float, Any]]:
        return [(at, response) for at, response in list(answered) if response.node_id == name]

    async with asyncio.timeout(4 * _commands.LIMIT), asyncio.TaskGroup() as group:
        for _ in range(OUTSTANDING):
            group.create_task(ask())
        try:
            await until(f"answers of {name}", lambda: len(by_it()) >= BEFORE)
            start = time.perf_counter()
            drain = group.create_task(asyncio.to_thread(flow.drain, name, timeout=_commands.LIMIT))
            ordered = await until("the order", lambda: cluster.noted("draining", name))
            seen = time.time()
            await drain
            took = time.perf_counter() - start
            count = len(answered)
            await until("answers of the others", lambda: len(answered) >= count + AFTER)
        finally:
            going = False  # also where this is cancelled
    if any(info.node_id == name for info in flow.nodes()):
        raise ValueError(f"{name} is drained, and still there")
    if code := await asyncio.to_thread(cluster.programs[name].wait, _commands.LIMIT):
        raise ValueError(f"the program of {name} ended with code {code}")
    given = flow.client.run_on_scheduler(witnessed)
    if not given.get((name, False)):
        raise ValueError(f"nobody has seen that {name} was given anything")
    for text in failed:
        print(f"failed: {text}", flush=True)
    return Drained(
        requests=len(answered) + len(failed),
        failed=len(failed),
        again=sum(response.tries > 1 for _, response in answered),
        assigned=given.get((name, True), 0),
        asked=sum(at > seen for at, _ in by_it()),
        begun=sum(response.outputs[1] > ordered for _, response in by_it()),
        seconds=took,
    )
