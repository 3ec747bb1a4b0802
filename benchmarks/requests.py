"""Requests: one alone, bursts of them, where they are placed, and what a long run of them leaves behind.

    python benchmarks/requests.py --json out.jsonl
    python benchmarks/requests.py --sections burst --contestants "altlas_flow,raw dask,ray serve" --quick

Sections (`benchmarks/README.md` says how each is measured):

lone
    One request at a time, each of them waited for; at once after the one before, and after a pause.
burst
    10,000 requests to an identity model, each submitted by itself with a handle of its own.
placement
    One decision over 100 and 10,000 simulated nodes, for every strategy; the only section that uses names
    which are not public.
unequal
    A steady load over workers of unequal speed, one of which becomes ten times slower half-way.
million
    1,000,000 requests, and 200,000 in envelopes of one: the scheduler's memory. Long: only where asked for.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

# Run as a file, Python looks for modules in benchmarks/, not beside it; and there, whoever wants the HTTP
# package `requests` would find this file, in the workers, too, which inherit the path.
if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import _contest
from benchmarks._exchange import CHUNKED, RAW, RAY, SAME_WORKERS, Exchange
from benchmarks._findings import Findings
from benchmarks._report import OURS, Bar, Measurement, installed, machine, show, write_json

BENCHMARK = "requests"
LONE, RESTED, BURST = "lone request", "lone request after a rest", "burst requests/s"
#: Seconds of that rest: by then, everybody has said all there is to say.
REST = 0.06
SHARE, ROWS, P99 = "share of the possible, %", "rows/s", "p99 latency"
DRIFT, RATE = "scheduler memory drift, %", "requests/s"
SIZES = {100: 100.0, 10_000: 300.0}  # nodes -> µs at most
STRATEGIES = ("ROUND_ROBIN", "LEAST_LOADED", "CAPABILITY_BASED", "LATENCY_OPTIMIZED", "MODEL_SPECIFIC")
UNDER_LOAD = ("LATENCY_OPTIMIZED", "LEAST_LOADED", "ROUND_ROBIN")
ENVELOPES = {f"{OURS} envelopes": (1_000_000, None), f"{OURS} envelopes of one": (200_000, 1)}
LONE_NAMES = (OURS, RAW, SAME_WORKERS)
BURST_NAMES = (OURS, RAW, *CHUNKED, *RAY)


def decision(nodes: int) -> str:
    """The metric of a placement decision."""
    return f"decision of {nodes:,} nodes, µs"


def under(strategy: str) -> str:
    """The contestant that we are with a strategy."""
    return f"{OURS} {strategy}"


BARS = {
    "lone": tuple(
        Bar(lone, 1.3, raw, at_most=True) for lone in (LONE, RESTED) for raw in (RAW, SAME_WORKERS)
    ),
    "burst": (
        Bar(BURST, 20.0, RAW),
        *(Bar(BURST, 0.6, chunked) for chunked in CHUNKED),
        Bar(BURST, 30.0, "ray serve"),
    ),
    "placement": tuple(
        Bar(decision(nodes), most, at_most=True, of=under(strategy))
        for nodes, most in SIZES.items()
        for strategy in STRATEGIES
    ),
    "unequal": tuple(Bar(SHARE, 85.0, of=under(strategy)) for strategy in UNDER_LOAD[:2]),
    "million": tuple(Bar(DRIFT, 10.0, at_most=True, of=name) for name in ENVELOPES),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code: 0, 1 where a contestant failed, 2 for a wrong argument."""
    args = _arguments(argv)
    known = dict.fromkeys((*LONE_NAMES, *BURST_NAMES))
    wrong = [f"section {name!r}: choose from {', '.join(BARS)}" for name in args.sections if name not in BARS]
    for name in args.contestants or ():
        if name not in known:
            wrong.append(f"contestant {name!r}: choose from {', '.join(known)}")
    if wrong:
        print(f"requests: unknown {wrong[0]}", file=sys.stderr)
        return 2
    if args.json and not Path(args.json).absolute().parent.is_dir():
        print(f"requests: {args.json}: its folder does not exist", file=sys.stderr)
        return 2
    _contest.adopt_orphans()
    before = _contest.children()
    measured: list[Measurement] = []
    failed = False
    print(machine(installed(("dask", "distributed"))), flush=True)
    try:
        # a short path: Ray puts sockets below it, and their paths are limited to 107 characters
        with (
            tempfile.TemporaryDirectory(prefix="altlas-", ignore_cleanup_errors=True) as folder,
            closing(Exchange(Path(folder), args)) as exchange,
        ):
            for name in (name for name in BARS if name in args.sections):
                if name not in ("lone", "burst"):
                    exchange.close()  # nobody else is measured beside its clusters
                found = _SECTIONS[name](args, Path(folder), exchange)
                failed = failed or bool(found.failures)
                measured += found.measured
                notes = [*found.notes, *found.failures]
                show(f"{BENCHMARK}, {name}: {found.title}", found.measured, BARS[name], notes)
    finally:
        _contest.sweep(before)
    if args.json:
        write_json(args.json, measured)
    return 1 if failed else 0


def _lone(args: argparse.Namespace, folder: Path, exchange: Exchange) -> Findings:
    found = Findings(
        BENCHMARK,
        f"one at a time, medians of {args.lone} in turn a run, {args.rested} after {1000 * REST:g} ms",
    )
    chosen = [name for name in LONE_NAMES if name in (args.contestants or LONE_NAMES)]
    for metric, pause in ((LONE, 0.0), (RESTED, REST)):
        for name, values in exchange.lone(chosen, pause).items():
            found.add(name, metric, "ms", values, True)
        found.failures += exchange.failures
    return found


def _burst(args: argparse.Namespace, folder: Path, exchange: Exchange) -> Findings:
    found = Findings(
        BENCHMARK, f"{args.requests:,} requests at once through an identity, two workers of one thread"
    )
    names = [name for name in BURST_NAMES if not (args.quick and name in RAY)]
    chosen = [name for name in BURST_NAMES if name in (args.contestants or names)]
    for name, values in exchange.bursts(chosen).items():
        found.add(name, BURST, "requests/s", values, True)
    found.notes += exchange.notes
    found.failures += exchange.failures
    return found


def _placement(args: argparse.Namespace, folder: Path, exchange: Exchange) -> Findings:
    found = Findings(BENCHMARK, f"one decision, with its work counted in; {args.decisions:,} a run")
    try:
        from benchmarks import _placing

        missing = set(_placing.NAMES) ^ set(STRATEGIES)
        if missing:
            raise ValueError(f"the strategies are not those of the benchmark: {', '.join(sorted(missing))}")
        timings = {
            (nodes, strategy): [
                _placing.measure(strategy, nodes, args.decisions, seed) for seed in range(args.runs)
            ]
            for nodes in SIZES
            for strategy in STRATEGIES
        }
    except Exception as error:
        found.failures.append(f"placement: failed: {_contest.one_line(error)}")
        return found
    for (nodes, strategy), runs in timings.items():
        found.add(under(strategy), decision(nodes), "µs", [1e6 * run.median for run in runs], False)
        found.add(under(strategy), f"p99 of {nodes:,}, µs", "µs", [1e6 * run.p99 for run in runs], False)
    return found


def _unequal(args: argparse.Namespace, folder: Path, exchange: Exchange) -> Findings:
    from benchmarks import _unequal

    speeds = ", ".join(f"{1 / seconds:.0f}" for seconds in _unequal.SPEEDS.values())
    found = Findings(
        BENCHMARK,
        f"{args.seconds:g} s with {args.outstanding} requests under way, workers of {speeds} rows/s; "
        f"the last {_unequal.TIMES} × slower from half-way",
    )
    runs: dict[str, list[_unequal.Run]] = {}
    here = folder / "unequal"
    here.mkdir()
    try:
        with _unequal.flow_over(here) as flow:
            for number in range(args.runs):
                turn = number % len(UNDER_LOAD)
                for strategy in (*UNDER_LOAD[turn:], *UNDER_LOAD[:turn]):
                    revision = f"{strategy.lower()}-{number}"
                    load = (args.outstanding, args.seconds, args.warm_up)
                    run = _unequal.measure(flow, strategy, *load, revision)
                    runs.setdefault(strategy, []).append(run)
                    print(
                        f"{strategy}: {run.rate:.0f} of {run.possible:.0f} rows/s, {run.share:.0f} %, "
                        f"p99 {run.p99:.2f} s",
                        flush=True,
                    )
    except Exception as error:
        # an exception group's own text says nothing of what is in it
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        found.failures.append(f"unequal: failed: {_contest.one_line(error)}")
    for strategy in (strategy for strategy in UNDER_LOAD if strategy in runs):
        measured = runs[strategy]
        found.add(under(strategy), SHARE, "%", [run.share for run in measured], False)
        found.add(under(strategy), ROWS, "rows/s", [run.rate for run in measured], False)
        found.add(under(strategy), P99, "s", [run.p99 for run in measured], False)
    return found


def _million(args: argparse.Namespace, folder: Path, exchange: Exchange) -> Findings:
    from benchmarks import _million

    found = Findings(
        BENCHMARK, "memory of the scheduler's process from the first tenth of the requests to the last"
    )
    for name, (count, rows) in ENVELOPES.items():
        here = folder / name.replace(" ", "-")
        here.mkdir()
        try:
            grown = _million.measure(here, count // (100 if args.quick else 1), rows, args.timeout, print)
        except Exception as error:
            found.failures.append(f"{name}: failed: {_contest.one_line(error)}")
            continue
        found.add(name, DRIFT, "%", [grown.drift], False)
        found.add(name, "after a tenth", "MiB", [grown.resident[0]], False)
        found.add(name, "at the end", "MiB", [grown.resident[-1]], False)
        found.add(name, RATE, "requests/s", [grown.rate], False)
    return found


_SECTIONS: dict[str, Callable[[argparse.Namespace, Path, Exchange], Findings]] = {
    "lone": _lone,
    "burst": _burst,
    "placement": _placement,
    "unequal": _unequal,
    "million": _million,
}


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Requests: alone, in bursts, placed, and very many of them.")
    parser.add_argument(
        "--sections",
        type=_names,
        default=["lone", "burst", "placement", "unequal"],
        help="some of lone,burst,placement,unequal,million (default: all but million)",
    )
    parser.add_argument("--contestants", type=_names, help="those of lone and burst, by name")
    parser.add_argument("--runs", type=int, help="interleaved runs (default: 3; quick: 1)")
    parser.add_argument("--requests", type=int, help="of a burst (default: 10,000; quick: 2,000)")
    parser.add_argument("--seconds", type=float, help="of a run of unequal (default: 24; quick: 4)")
    parser.add_argument(
        "--peers-python",
        default=str(_contest.ROOT / ".venv-bench" / "bin" / "python"),
        help="interpreter with Ray (default: the one that `make bench-setup` builds)",
    )
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one run of a contestant")
    parser.add_argument("--json", help="file for the figures, one JSON object a line")
    parser.add_argument("--quick", action="store_true", help="within a minute: small, and without Ray")
    args = parser.parse_args(argv)
    args.runs = args.runs or (1 if args.quick else 3)
    args.requests = args.requests or (2_000 if args.quick else 10_000)
    args.seconds = args.seconds or (4.0 if args.quick else 24.0)
    if min(args.runs, args.requests, args.timeout) < 1 or args.seconds < 1:
        parser.error("--runs, --requests, --timeout and --seconds are at least 1")
    args.warm_up, args.outstanding = (1.0, 100) if args.quick else (4.0, 400)
    args.lone, args.rested = (40, 20) if args.quick else (200, 50)
    args.decisions = 300 if args.quick else 2_000
    return args


if __name__ == "__main__":
    sys.exit(main())
