"""Contestants that are asked, and answer: altlas_flow, plain Dask, and Ray in programs of its own."""

from __future__ import annotations

import argparse
import gc
import itertools
import signal
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks import _contest
from benchmarks._report import OURS
from benchmarks._sent import identity

RAW, SAME_WORKERS = "raw dask", "raw dask same workers"
#: Contestant -> items to a task, chunked by hand.
CHUNKED = {"raw dask 64": 64, "raw dask 256": 256}
#: Contestant -> the modules that its environment must have.
RAY = {
    "ray tasks": ("ray",),
    "ray actors": ("ray",),
    "ray serve": ("ray", "fastapi"),
    "ray serve open": ("ray", "fastapi"),
    "ray serve batch": ("ray", "fastapi"),
}
#: Requests of a burst at most: what takes milliseconds each is measured over fewer, as a rate.
FEWER = {RAW: 2_000, "ray serve": 2_000, "ray serve open": 2_000, "ray serve batch": 2_000}
WORKERS = 2
#: Requests of one contestant after another, before the next contestant has its turn.
BLOCK = 25


class Exchange:
    """The contestants over identity: clusters start when somebody needs them, until `close`.

    Parameters
    ----------
    folder : path
        For the programs of Ray.
    args : Namespace
        Of the benchmark.

    Attributes
    ----------
    failures, notes : list of str
        Lines about those that failed, and those that were skipped, in the last contest.
    """

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        self.folder, self.args, self._stack = folder, args, ExitStack()
        self.failures: list[str] = []
        self.notes: list[str] = []
        self._out: set[str] = set()
        self._programs, self._numbers = itertools.count(), itertools.count()
        signal.signal(signal.SIGALRM, _late)

    def close(self) -> None:
        """End the clusters; they are not started again."""
        self._stack.close()

    @cached_property
    def _flow(self) -> Any:
        import altlas_flow as af

        spec = af.ModelSpec(id="identity", runtime="function", source=identity)
        return self._stack.enter_context(af.connect(workers=WORKERS, threads_per_worker=1, models=[spec]))

    @cached_property
    def _client(self) -> Any:
        from distributed import Client, LocalCluster

        cluster = LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None)
        return self._stack.enter_context(Client(self._stack.enter_context(cluster), set_as_default=False))

    def lone(self, chosen: Sequence[str], pause: float = 0.0) -> dict[str, list[float]]:
        """Contestant -> the median milliseconds of a request, one a run; they take turns.

        Without a pause before each request in blocks: Dask's client sends nothing for 10 ms after it has sent
        anything, so what one contestant tells the scheduler afterwards would count for the next one.

        Parameters
        ----------
        pause : float
            Seconds before each request.
        """
        self._begin()
        values: dict[str, list[float]] = {name: [] for name in chosen}
        asks = {name: self._attempt(name, self._asker, name) for name in chosen}
        count, block = (self.args.rested, 1) if pause else (self.args.lone, BLOCK)
        for run in range(self.args.runs + 1):
            seconds: dict[str, list[float]] = {name: [] for name in chosen}
            for number in range(-(-count // block) if run else -(-BLOCK // block)):
                turn = number % len(chosen)
                for name in (*chosen[turn:], *chosen[:turn]):
                    for _ in range(block):
                        time.sleep(pause)
                        took = self._attempt(name, _timed, asks[name], f"request {next(self._numbers)}")
                        if took is not None:
                            seconds[name].append(took)
            for name in (name for name in chosen if run and name not in self._out):
                values[name].append(1000 * statistics.median(seconds[name]))
                rested = f" after {1000 * pause:.0f} ms of rest" if pause else ""
                print(f"{name}: {values[name][-1]:.2f} ms{rested}", flush=True)
        return {name: found for name, found in values.items() if name not in self._out}

    def bursts(self, chosen: Sequence[str]) -> dict[str, list[float]]:
        """Contestant -> requests a second, one a run; a first run is not counted."""
        self._begin()
        names = [name for name in chosen if name not in RAY or self._has_ray(name)]
        values: dict[str, list[float]] = {name: [] for name in names}
        for run in range(self.args.runs + 1):
            turn = run % max(1, len(names))
            for name in (*names[turn:], *names[:turn]):
                if run == 0 and name in RAY:
                    continue  # each of its programs warms up by itself
                rate = self._attempt(name, self._ray if name in RAY else self._burst, name)
                if run and rate is not None:
                    values[name].append(rate)
                    print(f"{name}: {rate:,.0f} requests/s", flush=True)
        fewer = [f"{name} {self._count(name):,}" for name in names if self._count(name) < self.args.requests]
        if fewer:
            self.notes.append(f"rates over fewer requests: {', '.join(fewer)}")
        return {name: found for name, found in values.items() if name not in self._out}

    def _begin(self) -> None:
        self.failures, self.notes = [], []
        self._out.clear()

    def _attempt(self, name: str, job: Callable[..., Any], *arguments: Any) -> Any:
        """What `job` gives; None where it fails, or the contestant has failed before."""
        if name in self._out:
            return None
        signal.alarm(int(self.args.timeout))
        try:
            return job(*arguments)
        except Exception as error:
            # whatever a contestant raises is its result; the others go on
            self._out.add(name)
            self.failures.append(f"{name}: failed: {_contest.one_line(error)}")
            print(self.failures[-1], flush=True)
            return None
        finally:
            signal.alarm(0)

    def _asker(self, name: str) -> Callable[[Any], Any]:
        timeout = self.args.timeout
        if name == OURS:
            flow = self._flow
            return lambda item: flow.submit("identity", item).result(timeout).outputs
        client = self._client if name == RAW else self._flow.client
        return lambda item: client.submit(identity, item, pure=False).result(timeout)

    def _burst(self, name: str) -> float:
        """One burst of a contestant in this process: requests a second, every answer checked."""
        # never the same twice: nobody may remember an answer
        items = [f"request {next(self._numbers)}" for _ in range(self._count(name))]
        sender = self._sender(name)
        gc.collect()  # nobody pays for what another left
        start = time.perf_counter()
        found = sender(items)
        took = time.perf_counter() - start
        if name == OURS:
            lacking = sum(response.trace is None for response in found)
            if lacking:
                raise ValueError(f"{lacking:,} of {len(found):,} responses have no trace")
            found = [response.outputs for response in found]
        elif name in CHUNKED:
            found = [item for chunk in found for item in chunk]
        _compare(items, found)
        return len(items) / took

    def _sender(self, name: str) -> Callable[[list[Any]], list[Any]]:
        """What sends a burst and collects what comes back."""
        if name == OURS:
            flow, timeout = self._flow, self.args.timeout

            def ours(items: list[Any]) -> list[Any]:
                handles = [flow.submit("identity", item) for item in items]
                return [handle.result(timeout) for handle in handles]

            return ours
        client, size = self._client, CHUNKED.get(name)

        def raw(items: list[Any]) -> list[Any]:
            pieces: Iterable[Any] = items
            if size is not None:
                pieces = (items[at : at + size] for at in range(0, len(items), size))
            found: list[Any] = client.gather([client.submit(identity, piece, pure=False) for piece in pieces])
            return found

        return raw

    def _ray(self, name: str) -> float:
        """One burst of a contestant of Ray, in a program that starts and ends with it."""
        here = self.folder / f"r{next(self._programs)}"
        here.mkdir()
        count = self._count(name)
        arguments = {"contestant": name, "items": count, "warm-up": max(1, count // 5)}
        outcome = _contest.run(
            self.args.peers_python,
            _contest.PEERS / "ray_requests.py",
            [part for key, value in arguments.items() for part in (f"--{key}", str(value))],
            folder=here,
            timeout=self.args.timeout,
        )
        rate: float = outcome.report["rate"]
        return rate

    def _has_ray(self, name: str) -> bool:
        python, modules = self.args.peers_python, RAY[name]
        if _contest.has_modules(python, modules):
            return True
        needed = ", ".join(modules)
        self.notes.append(f"skipped {name}: {python} has not all of {needed}: run `make bench-setup`")
        return False

    def _count(self, name: str) -> int:
        count: int = self.args.requests
        most = FEWER.get(name)
        return count if most is None else min(count, most // 4 if self.args.quick else most)


def _timed(ask: Callable[[Any], Any], item: str) -> float:
    """Seconds of one request, whose answer is checked."""
    start = time.perf_counter()
    answer = ask(item)
    took = time.perf_counter() - start
    _compare([item], [answer])
    return took


def _compare(items: list[Any], answers: list[Any]) -> None:
    if answers != items:
        wrong = sum(item != answer for item, answer in zip(items, answers, strict=False))
        raise ValueError(f"{wrong:,} wrong answers among {len(answers):,} for {len(items):,} requests")


def _late(number: int, frame: Any) -> None:
    raise TimeoutError("took longer than --timeout and was stopped")
