"""The sections of the benchmark of being watched: their metrics, their bars, how they are run."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks._findings import Findings
from benchmarks._report import OURS, Bar
from benchmarks._sections import Section
from benchmarks._watching import CLOSED, MODELS, OFF, OPEN, RATE, STATES


def named(state: str) -> str:
    """The contestant that we are in a state."""
    return f"{OURS}, {state}"


CPU = "scheduler CPU, s for 10,000 requests"
CLOSED_OFF, OPEN_OFF = "closed / off", "open / off"
CORE, PAGE = "scheduler, share of a core", "the page's share of a core"
FIRST, WHOLE = "first paint, s", "all panels drawn, s"
MEMORY, DRIFT = "in use, MiB", "growth after the second tenth, %"

BARS: dict[str, tuple[Bar, ...]] = {
    "requests": (Bar(CLOSED_OFF, 1.05, at_most=True), Bar(OPEN_OFF, 1.15, at_most=True)),
    "nodes": (Bar(PAGE, 0.05, at_most=True),),
    "paint": (Bar(FIRST, 1.5, at_most=True, strict=True),),
    "memory": (Bar(DRIFT, 1.0, at_most=True),),
}


def _ratios(found: Findings, name: str, values: Sequence[float]) -> None:
    found.add(OURS, name, "1", values)
    found.notes.append(f"{name}: from {min(values):.3f} to {max(values):.3f}, run by run")


def _requests(args: argparse.Namespace, folder: Path, found: Findings) -> None:
    from benchmarks import _watching

    found.title = (
        f"{args.runs} times {args.requests:,} requests to an identity, in turn on clusters of two workers"
    )
    runs = []
    for run in _watching.requests(folder, args.runs, args.requests):
        runs.append(run)
        print("requests: " + ", ".join(f"{state} {run[state]:.3f} s" for state in STATES), flush=True)
    for state in STATES:
        found.add(named(state), CPU, "s", [run[state] for run in runs])
    _ratios(found, CLOSED_OFF, [run[CLOSED] / run[OFF] for run in runs])
    _ratios(found, OPEN_OFF, [run[OPEN] / run[OFF] for run in runs])


def _nodes(args: argparse.Namespace, folder: Path, found: Findings) -> None:
    from benchmarks import _watching

    found.title = (
        f"{args.nodes} nodes, {MODELS} models, {RATE:g} requests/s for {args.seconds:g} s, "
        f"{args.looks} times with the page closed and then open"
    )
    shares: dict[str, list[float]] = {CLOSED: [], OPEN: []}
    for state, share in _watching.cores(folder, args.nodes, args.looks, args.seconds):
        shares[state].append(share)
        print(f"nodes: {state}: {share:.3f} of a core", flush=True)
    for state, values in shares.items():
        found.add(named(state), CORE, "1", values)
    found.add(OURS, PAGE, "1", [statistics.median(shares[OPEN]) - statistics.median(shares[CLOSED])])


def _paint(args: argparse.Namespace, folder: Path, found: Findings) -> None:
    from benchmarks import _painting

    found.title = f"the page of {args.nodes} nodes and {MODELS} models in Chromium, {args.paints} times"
    if lacking := _painting.missing():
        found.notes.append(lacking)
        return
    paints = []
    for paint in _painting.measure(folder, args.nodes, args.paints):
        paints.append(paint)
        print(f"paint: first {paint.first:.2f} s, all {paint.whole:.2f} s", flush=True)
    found.add(OURS, FIRST, "s", [paint.first for paint in paints])
    found.add(OURS, WHOLE, "s", [paint.whole for paint in paints])


def _memory(args: argparse.Namespace, folder: Path, found: Findings) -> None:
    from benchmarks import _remembered

    found.title = (
        f"{args.events:,} events of all kinds, of {_remembered.MODELS:,} models and {_remembered.NODES} nodes"
    )
    sizes = []
    for tenth in _remembered.measure(args.events):
        sizes.append(tenth.size)
        print(f"memory: {tenth.size:.2f} MiB after {tenth.events:,} events", flush=True)
    found.add(OURS, MEMORY, "MiB", sizes)
    found.add(OURS, DRIFT, "%", [_remembered.drift(sizes)])


SECTIONS: dict[str, Section] = {
    "requests": _requests,
    "nodes": _nodes,
    "paint": _paint,
    "memory": _memory,
}
