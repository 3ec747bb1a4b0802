"""Requests at half load over four workers, one of which becomes ten times slower: what hedging makes of it.

python benchmarks/_hedging.py --quick
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:  # run as a file: see requests.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import _contest, _programs
from benchmarks._report import OURS, Bar, Measurement, installed, machine, show, write_json
from benchmarks._sent import ROW_SECONDS, crawl, set_row_seconds

BENCHMARK = "hedging"
#: Workers of one thread, and seconds that a row takes on each: the model only waits.
WORKERS, SERVICE = ("north", "east", "south", "west"), 0.04
#: Who becomes how many times slower.
SLOWED, TIMES = "west", 10
#: Of what the workers can do together, what is asked of them.
LOAD = 0.5
STRATEGY = "LATENCY_OPTIMIZED"
#: Requests that are answered before anything is measured: so many times in a row, one for each worker.
WARM_UP = 20
#: Seconds that the last answers may take.
PATIENCE = 60.0

HEALTHY, PLAIN, HEDGED = "healthy", "one slow", f"{OURS} one slow, hedged"
CONTESTANTS = (HEALTHY, PLAIN, HEDGED)
P50, P99, P99_SLOW, P999 = "p50 latency", "p99 latency", "p99 of the second half", "p99.9 of the second half"
EXTRA = "extra requests, %"
BARS = (
    Bar(P99, 2.0, HEALTHY, at_most=True, of=HEDGED),
    Bar(P99_SLOW, 2.0, HEALTHY, at_most=True, of=HEDGED),
    Bar(EXTRA, 5.0, at_most=True, of=HEDGED),
)


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes
    ----------
    p50, p99 : float
        Seconds from when a request was due to its answer that 50 and 99 of 100 took at most.
    p99_slow, p999_slow : float
        The same for 990 and 999 of 1,000 that were due in the second half, in which a worker may be slow.
    requests, extra, won : int
        Requests, those that were sent twice, and those whose second try was faster.
    """

    p50: float
    p99: float
    p99_slow: float
    p999_slow: float
    requests: int
    extra: int
    won: int

    @property
    def share(self) -> float:
        """Percent of the requests that were sent twice."""
        return 100 * self.extra / self.requests


@contextmanager
def flow_over(folder: Path) -> Iterator[Any]:
    """A flow over programs of these workers."""
    import altlas_flow as af

    environments = {name: {ROW_SECONDS: repr(SERVICE)} for name in WORKERS}
    with (
        _programs.cluster(folder, environments) as programs,
        af.connect(programs.scheduler_file) as flow,
    ):
        yield flow


def measure(flow: Any, contestant: str, seconds: float, revision: str, seed: int) -> Run:
    """Ask for `seconds` at half load; in the second half one worker is slow, but for the healthy cluster.

    The model has a `revision` of its own, so that nothing is known of it from another run. Requests come at
    random (Poisson), at the same times for the same `seed`, whether the ones before are answered or not.

    Raises
    ------
    ValueError
        Where an answer is not the one to its request.
    """
    import altlas_flow as af

    spec = af.ModelSpec(id=f"crawl-{revision}", runtime="function", source=crawl, revision=revision)
    flow.register(spec)
    try:
        return asyncio.run(_run(flow, spec.id, contestant, seconds, seed))
    finally:
        _set_speed(flow, SERVICE)


def _set_speed(flow: Any, row_seconds: float) -> None:
    workers = flow.client.scheduler_info(n_workers=-1)["workers"]
    (address,) = [address for address, about in workers.items() if about["name"] == SLOWED]
    flow.client.run(set_row_seconds, row_seconds, workers=[address])


async def _run(flow: Any, model: str, contestant: str, seconds: float, seed: int) -> Run:
    hedge = contestant == HEDGED
    options = {"strategy": STRATEGY, "hedge": hedge}
    for _ in range(WARM_UP):
        await flow.submit_many(model, list(range(len(WORKERS))), **options)
    rate = LOAD * len(WORKERS) / SERVICE
    gaps = np.random.default_rng(seed).exponential(1 / rate, size=int(2 * seconds * rate) + 100)
    due = [at for at in np.cumsum(gaps).tolist() if at < seconds]
    before = flow.hedges

    async def ask(number: int, start: float, at: float) -> float:
        await asyncio.sleep(start + at - time.monotonic())
        late = time.monotonic() - start - at
        response = await flow.submit(model, number, **options)
        if response.outputs[0] != number:
            raise ValueError(f"{contestant}: {response.outputs!r} for {number}")
        return float(response.latency) + max(0.0, late)

    async with asyncio.timeout(seconds + PATIENCE), asyncio.TaskGroup() as group:
        start = time.monotonic()
        asked = [group.create_task(ask(number, start, at)) for number, at in enumerate(due)]
        await asyncio.sleep(start + seconds / 2 - time.monotonic())
        if contestant != HEALTHY:
            await asyncio.to_thread(_set_speed, flow, SERVICE * TIMES)
    took = [task.result() for task in asked]
    slow = [each for at, each in zip(due, took, strict=True) if at >= seconds / 2]
    after = flow.hedges
    return Run(
        statistics.median(took),
        _most(took, 0.99),
        _most(slow, 0.99),
        _most(slow, 0.999),
        len(took),
        after.sent - before.sent,
        after.won - before.won,
    )


def _most(took: Sequence[float], share: float) -> float:
    return sorted(took)[min(len(took) - 1, int(share * len(took)))]


def contest(folder: Path, runs: int, seconds: float) -> list[Measurement]:
    """All contestants in turn, `runs` times, each time with the same arrivals; prints each run."""
    found: dict[str, list[Run]] = {}
    with flow_over(folder) as flow:
        for number in range(runs):
            turn = number % len(CONTESTANTS)
            for contestant in (*CONTESTANTS[turn:], *CONTESTANTS[:turn]):
                revision = f"{CONTESTANTS.index(contestant)}-{number}"
                run = measure(flow, contestant, seconds, revision, number)
                found.setdefault(contestant, []).append(run)
                print(
                    f"{contestant}: {run.requests} requests, p50 {1000 * run.p50:.0f} ms, "
                    f"p99 {1000 * run.p99:.0f} ms, in the second half {1000 * run.p99_slow:.0f} ms, "
                    f"p99.9 {1000 * run.p999_slow:.0f} ms; "
                    f"{run.extra} sent twice ({run.share:.1f} %), of which {run.won} answered first",
                    flush=True,
                )
    measured = []
    for contestant in CONTESTANTS:
        done = found[contestant]
        for metric, unit, values in (
            (P50, "s", [run.p50 for run in done]),
            (P99, "s", [run.p99 for run in done]),
            (P99_SLOW, "s", [run.p99_slow for run in done]),
            (P999, "s", [run.p999_slow for run in done]),
            (EXTRA, "%", [run.share for run in done]),
        ):
            compared = metric != EXTRA
            measured.append(Measurement(BENCHMARK, contestant, metric, unit, tuple(values), compared))
    return measured


def main(argv: Sequence[str] | None = None) -> int:
    """Run it by itself; returns the exit code."""
    parser = argparse.ArgumentParser(description="Hedging: half load, and one of four workers becomes slow.")
    parser.add_argument("--runs", type=int, help="interleaved runs (default: 3; quick: 1)")
    parser.add_argument("--seconds", type=float, help="of one run (default: 40; quick: 12)")
    parser.add_argument("--json", help="file for the figures, one JSON object a line")
    parser.add_argument("--quick", action="store_true", help="within a minute")
    args = parser.parse_args(argv)
    runs = args.runs or (1 if args.quick else 3)
    seconds = args.seconds or (12.0 if args.quick else 40.0)
    if runs < 1 or seconds < 1:
        parser.error("--runs and --seconds are at least 1")
    _contest.adopt_orphans()
    before = _contest.children()
    print(machine(installed(("dask", "distributed"))), flush=True)
    try:
        with tempfile.TemporaryDirectory(prefix="altlas-", ignore_cleanup_errors=True) as folder:
            measured = contest(Path(folder), runs, seconds)
    finally:
        _contest.sweep(before)
    show(f"{BENCHMARK}: {seconds:g} s at {LOAD:.0%} load, {STRATEGY}", measured, BARS, [])
    if args.json:
        write_json(args.json, measured)
    return 0


if __name__ == "__main__":
    sys.exit(main())
