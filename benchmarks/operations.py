"""Operating a cluster: what a history and TLS cost, how soon workers help, go, and are missed.

    python benchmarks/operations.py --json out.jsonl
    python benchmarks/operations.py --sections drain,detection --quick

Sections (`benchmarks/README.md` says how each is measured):

history
    Bursts of requests with a history file and without one, in pairs.
writing
    Tasks that the scheduler's record writes into that file, per second.
late
    A worker that joins while requests wait: from its joining to its first answer.
drain
    Draining a worker under load: nothing fails, and it gets nothing new.
detection
    Workers that are stopped, or killed: when `flow.nodes()` says so.
tls
    A lone request over TLS and without.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# Run as a file, Python looks for modules in benchmarks/, not beside it; and there, whoever wants the HTTP
# package `requests` would find another file, in the workers, too, which inherit the path.
if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._operating import BARS, SECTIONS
from benchmarks._sections import names, run

BENCHMARK = "operations"
#: Argument -> its default, and that of --quick.
_SIZES = {
    "runs": (3, 1),
    "pairs": (10, 3),
    "requests": (50_000, 5_000),
    "tasks": (500_000, 50_000),
    "detections": (10, 1),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code: 0, 1 where a section failed, 2 for a wrong argument."""
    return run(BENCHMARK, _arguments(argv), SECTIONS, BARS)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Operating a cluster: its history, its workers, TLS.")
    parser.add_argument(
        "--sections", type=names, default=[*BARS], help=f"some of {','.join(BARS)} (default: all)"
    )
    parser.add_argument(
        "--runs", type=int, help="of each section without a number of its own (default: 3; quick: 1)"
    )
    parser.add_argument("--pairs", type=int, help="of bursts of history (default: 10; quick: 3)")
    parser.add_argument("--requests", type=int, help="of a burst (default: 50,000; quick: 5,000)")
    parser.add_argument("--tasks", type=int, help="that are written (default: 500,000; quick: 50,000)")
    parser.add_argument("--detections", type=int, help="of each kind (default: 10; quick: 1)")
    parser.add_argument(
        "--timeout", type=float, default=600, help="seconds for one burst, or one run of writing"
    )
    parser.add_argument("--json", help="file for the figures, one JSON object a line")
    parser.add_argument("--quick", action="store_true", help="within a minute: small")
    args = parser.parse_args(argv)
    for name, (full, quick) in _SIZES.items():
        if getattr(args, name) is None:
            setattr(args, name, quick if args.quick else full)
    if min(args.timeout, *(getattr(args, name) for name in _SIZES)) < 1:
        parser.error("--runs, --pairs, --requests, --tasks, --detections and --timeout are at least 1")
    args.lone, args.rested = (50, 20) if args.quick else (300, 100)
    return args


if __name__ == "__main__":
    sys.exit(main())
