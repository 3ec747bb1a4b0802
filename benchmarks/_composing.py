"""The sections of the benchmark of composing models: their metrics, their bars, how they are run."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

from benchmarks import _bounded, _chain, _first, _hedging, _losers
from benchmarks._findings import Findings
from benchmarks._report import OURS, Bar

RAW = "raw dask same workers"
FIRST, LONE, BEYOND = "first of three, ms", "lone request, ms", "beyond 50 ms, lone requests"
#: Contestants of `losers`: who is stopped.
WAITING, WRITING, DEAF = f"{OURS} waiting", f"{OURS} generating", f"{OURS} in a call"
RAN, FREE, ALONE = "losers that ran", "slot answers after the verdict, ms", "slot answers alone, ms"
#: Contestant of `memory` without a bound.
UNBOUNDED = f"{OURS} unbounded"
GROWTH, EACH = "peak of most / fewest inputs", "of each further MB of intermediates"


def rate(inputs: int) -> str:
    """The metric of a chain over so many inputs."""
    return f"inputs/s of {inputs:,}"


def growth(many: int, few: int) -> str:
    """The metric of what an input costs among many and among few."""
    return f"cost among {many:,} / {few:,}"


def peak(inputs: int) -> str:
    """The metric of the workers' memory."""
    return f"peak for {inputs:,}, MiB"


def rise(inputs: int) -> str:
    """The metric of what of it is there beyond what idle workers have."""
    return f"beyond idle for {inputs:,}, MiB"


#: Inputs of `chain`, and of `memory`; those of --quick are fewer.
SIZES, QUICK_SIZES = (1_000, 10_000, 100_000), (1_000, 10_000)
MEMORY, QUICK_MEMORY = (200, 800), (100, 400)
#: Inputs of a run of `chain` at least: fewer are sent again, and the median counts.
REPEATED = 7_000
#: Those who are given chunks, as plain Dask is; and with them who makes a handle for each input.
IN_CHUNKS = (_chain.MAP, _chain.LISTS)
PIPELINES = (*IN_CHUNKS, _chain.EACH)
BARS = {
    "first": (Bar(BEYOND, 2.0, at_most=True),),
    "losers": (
        Bar(RAN, 0.0, at_most=True, of=WAITING),
        Bar(FREE, 100.0, at_most=True, of=WRITING),
    ),
    "chain": (
        *(Bar(rate(inputs), 0.7, _chain.CHUNKED, of=name) for inputs in SIZES for name in IN_CHUNKS),
        *(Bar(rate(inputs), 5.0, _chain.RAW, of=name) for inputs in SIZES for name in PIPELINES),
        *(
            Bar(growth(many, SIZES[0]), 1.2, at_most=True, of=name)
            for many in SIZES[1:]
            for name in PIPELINES
        ),
    ),
    "memory": (Bar(GROWTH, 1.15, at_most=True), Bar(EACH, 0.1, at_most=True)),
    "hedging": _hedging.BARS,
}


def _first_of_three(args: argparse.Namespace, folder: Path, found: Findings) -> None:
    waits = ", ".join(f"{1000 * seconds:,.0f}" for seconds in sorted(_first.WAITS.values()))
    found.title = f"FIRST_RESPONSE over models that wait {waits} ms, three slots, medians of {args.rounds}"
    pairs = []
    with _first.contest_over(folder) as contest:
        for _ in range(args.runs):
            ours, raw = contest.run(args.rounds)
            pairs.append((ours, raw))
            print(
                f"first: {1000 * ours.first:.1f} ms and {1000 * ours.lone:.2f} ms alone: {ours.beyond:.2f} "
                f"lone requests beyond; raw dask {1000 * raw.first:.1f} and {1000 * raw.lone:.2f} ms",
                flush=True,
            )
    for at, name in enumerate((OURS, RAW)):
        runs = [pair[at] for pair in pairs]
        found.add(name, FIRST, "ms", [1000 * run.first for run in runs], True)
        found.add(name, "at worst, ms", "ms", [1000 * run.worst for run in runs])
        found.add(name, LONE, "ms", [1000 * run.lone for run in runs], True)
        found.add(name, BEYOND, "1", [run.beyond for run in runs])
        found.add(name, "another was first", "1", [sum(run.others for run in runs)])


def _stopped(args: argparse.Namespace, folder: Path, found: Findings) -> None:
    found.title = f"two losers each of {args.rounds} verdicts: they wait, generate, or are in a call"
    writer = None
    if _losers.can_write():
        writer = _losers.build_writer(folder / "writer")
    else:
        found.notes.append(f"skipped {WRITING}: it needs {', '.join(_losers.NEEDED)}")
    with _losers.losers_over(folder, writer) as losers:
        ran = [losers.queued() for _ in range(args.rounds)]
        found.add(WAITING, RAN, "1", [sum(ran)])
        kinds = [(DEAF, _losers.SLEEPERS, {})]
        if writer is not None:
            kinds.insert(0, (WRITING, _losers.WRITERS, {"max_new_tokens": _losers.TOKENS}))
        for name, models, parameters in kinds:
            count = 2 if name == DEAF else args.rounds
            freed = [losers.running(models, **parameters) for _ in range(count)]
            found.add(name, FREE, "ms", [1000 * statistics.median(one.seconds for one in freed)])
            found.add(name, f"at worst: {FREE}", "ms", [1000 * max(one.seconds for one in freed)])
            found.add(name, ALONE, "ms", [1000 * statistics.median(one.lone for one in freed)])


def _three_stages(args: argparse.Namespace, folder: Path, found: Findings) -> None:
    found.title = f"three identities, {args.chunk} inputs to a piece, two workers of one thread"
    sizes = QUICK_SIZES if args.quick else SIZES
    rates: dict[tuple[str, int], list[float]] = {}
    with _chain.chain(args.chunk, args.timeout) as chain:
        for name in _chain.NAMES:
            chain.seconds(name, sizes[0])
        for run in range(args.runs):
            for inputs in sizes:
                turn = (run + sizes.index(inputs)) % len(_chain.NAMES)
                for name in (*_chain.NAMES[turn:], *_chain.NAMES[:turn]):
                    # once a run is enough for what gets no more inputs
                    if chain.count(name, inputs) != inputs:
                        continue
                    # a few hundredths of a second tell little
                    times = 1 if name == _chain.RAW else max(1, REPEATED // inputs)
                    several = [1 / chain.seconds(name, inputs) for _ in range(times)]
                    rates.setdefault((name, inputs), []).append(statistics.median(several))
                    print(f"{name}: {rates[name, inputs][-1]:,.0f} inputs/s of {inputs:,}", flush=True)
    for inputs in sizes:
        for name in _chain.NAMES:
            # as a rate it stands beside all
            values = rates.get((name, inputs)) or rates[name, _chain.FEWER]
            found.add(name, rate(inputs), "inputs/s", values, True)
    for many in sizes[1:]:
        for name in PIPELINES:
            few = statistics.median(rates[name, sizes[0]])
            found.add(name, growth(many, sizes[0]), "1", [few / each for each in rates[name, many]])
    found.notes.append(f"{_chain.RAW}: its rate over {_chain.FEWER:,} inputs, for all sizes")


def _intermediates(args: argparse.Namespace, folder: Path, found: Findings) -> None:
    sizes = QUICK_MEMORY if args.quick else MEMORY
    found.title = (
        f"1 MB an input between three stages, {_bounded.ROWS} inputs to a piece, "
        f"max_in_flight={_bounded.PIECES}"
    )
    runs: dict[tuple[str, int], list[_bounded.Peak]] = {}
    for run in range(args.memory_runs):
        for name in (OURS, UNBOUNDED) if run % 2 == 0 else (UNBOUNDED, OURS):
            here = folder / f"{run}{'' if name == OURS else '-unbounded'}"
            here.mkdir()
            for inputs, measured in zip(sizes, _bounded.measure(here, sizes, name == OURS), strict=True):
                runs.setdefault((name, inputs), []).append(measured)
                print(
                    f"{name}: {measured.most:.0f} MiB for {inputs:,} inputs, {measured.idle:.0f} before; "
                    f"{measured.seconds:.1f} s",
                    flush=True,
                )
    for name in (OURS, UNBOUNDED):
        for inputs in sizes:
            found.add(name, peak(inputs), "MiB", [run.most for run in runs[name, inputs]])
            found.add(name, rise(inputs), "MiB", [run.rise for run in runs[name, inputs]])
        few, many = (runs[name, inputs] for inputs in sizes)
        pairs = list(zip(few, many, strict=True))
        found.add(name, GROWTH, "1", [b.most / a.most for a, b in pairs])
        found.add(name, EACH, "1", [(b.most - a.most) / (sizes[1] - sizes[0]) for a, b in pairs])


def _hedged(args: argparse.Namespace, folder: Path, found: Findings) -> None:
    found.title = f"{args.hedging_seconds:g} s at {_hedging.LOAD:.0%} load, {_hedging.STRATEGY}"
    for one in _hedging.contest(folder, args.runs, args.hedging_seconds):
        found.add(one.contestant, one.metric, one.unit, one.values, one.compared)


#: Section -> what runs it, and notes its figures.
SECTIONS: dict[str, Callable[[argparse.Namespace, Path, Findings], None]] = {
    "first": _first_of_three,
    "losers": _stopped,
    "chain": _three_stages,
    "memory": _intermediates,
    "hedging": _hedged,
}
