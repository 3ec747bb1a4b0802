"""The first of three models: how soon it is answered, beside plain Dask and beside a lone request."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import _programs
from benchmarks._sent import dawdle, identity

#: Model -> seconds that it waits. The first of them should answer first.
WAITS = {"slowest": 1.0, "quickest": 0.05, "slower": 0.2}
QUICKEST = "quickest"
#: A worker of one thread for each.
WORKERS = ("north", "east", "south")
#: Lone requests of each contestant in a round.
LONE = 5
#: Seconds that anything may take.
LIMIT = 60.0


@dataclass(frozen=True)
class Run:
    """One contestant in one run.

    Attributes
    ----------
    first, worst, lone : float
        Seconds: the median and the largest time to the first of three answers, and the median of a lone
        request to an identity.
    others : int
        Rounds in which another model than the quickest was first.
    """

    first: float
    worst: float
    lone: float
    others: int

    @property
    def beyond(self) -> float:
        """Times a lone request that the first answer took beyond what its model waits."""
        return (self.first - WAITS[QUICKEST]) / self.lone


class Contest:
    """Both contestants over the same three workers.

    Parameters
    ----------
    flow : Flow
    """

    def __init__(self, flow: Any) -> None:
        import altlas_flow as af

        self.flow, self.client = flow, flow.client
        self._numbers = itertools.count()
        flow.register(af.ModelSpec(id="identity", runtime="function", source=identity))
        for name, seconds in WAITS.items():
            flow.register(
                af.ModelSpec(id=name, runtime="function", source=dawdle, parameters={"seconds": seconds})
            )
        for name in WORKERS:
            at = af.ModelSpec(id=f"at-{name}", runtime="function", source=identity, labels={"worker": name})
            flow.register(at)
        self._addresses = [*flow.client.scheduler_info(n_workers=-1)["workers"]]
        # everybody loads everything, and times of loading are nobody's latency
        self.rest()
        for _ in range(2):
            for name in WAITS:
                flow.submit_many(name, list(range(len(WORKERS)))).result(LIMIT)
        flow.submit_many("identity", list(range(len(WORKERS)))).result(LIMIT)

    def rest(self) -> None:
        """Wait until no worker does anything: what nobody wants any more goes on there."""
        requests = [self.flow.submit(f"at-{name}", next(self._numbers)) for name in WORKERS]
        tasks = [
            self.client.submit(identity, next(self._numbers), workers=[address], pure=False)
            for address in self._addresses
        ]
        for waited in (*requests, *tasks):
            waited.result(LIMIT)
            if waited in tasks:
                waited.release()

    def run(self, rounds: int) -> tuple[Run, Run]:
        """Rounds in which both have their turn; ours, then Dask's."""
        sides: tuple[tuple[Callable[[Any], Any], Callable[[Any], str]], ...] = (
            (self._lone, self._first),
            (self._lone_raw, self._first_raw),
        )
        firsts: list[list[float]] = [[], []]
        lones: list[list[float]] = [[], []]
        others = [0, 0]
        for number in range(rounds):
            for at in (0, 1) if number % 2 else (1, 0):
                lone, first = sides[at]
                self.rest()
                for _ in range(LONE):
                    lones[at].append(_timed(lone, next(self._numbers))[0])
                self.rest()
                took, who = _timed(first, next(self._numbers))
                firsts[at].append(took)
                others[at] += who != QUICKEST
        ours, raw = (
            Run(statistics.median(firsts[at]), max(firsts[at]), statistics.median(lones[at]), others[at])
            for at in (0, 1)
        )
        return ours, raw

    def _lone(self, item: int) -> None:
        _check(self.flow.submit("identity", item).result(LIMIT).outputs, item)

    def _first(self, item: int) -> str:
        found = self.flow.ask(list(WAITS), item, combine="FIRST_RESPONSE", deadline=LIMIT)
        _check(found.outputs, item)
        name: str = found[0].model_id
        return name

    def _lone_raw(self, item: int) -> None:
        _check(self.client.submit(identity, item, pure=False).result(LIMIT), item)

    def _first_raw(self, item: int) -> str:
        from distributed import as_completed

        names = {
            self.client.submit(dawdle, [item], seconds=seconds, pure=False): name
            for name, seconds in WAITS.items()
        }
        done, answer = next(as_completed(list(names), with_results=True, timeout=LIMIT))
        self.client.cancel([task for task in names if task is not done], force=True)
        _check(answer, [item])
        return names[done]


def _timed(ask: Callable[[Any], Any], item: int) -> tuple[float, Any]:
    start = time.perf_counter()
    found = ask(item)
    return time.perf_counter() - start, found


def _check(answer: Any, item: Any) -> None:
    if answer != item:
        raise ValueError(f"{answer!r} for {item!r}")


@contextmanager
def contest_over(folder: Path) -> Iterator[Contest]:
    """The contest over programs of these workers."""
    import altlas_flow as af

    with (
        _programs.cluster(folder, {name: _programs.labelled(worker=name) for name in WORKERS}) as programs,
        af.connect(programs.scheduler_file) as flow,
    ):
        yield Contest(flow)
