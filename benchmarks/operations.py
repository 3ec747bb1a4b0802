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
from benchmarks._sections import Size, parse, run

BENCHMARK = "operations"
_SIZES = (
    Size("runs", 3, 1, "of each section without a number of its own"),
    Size("pairs", 10, 3, "of bursts of history"),
    Size("requests", 50_000, 5_000, "of a burst"),
    Size("tasks", 500_000, 50_000, "that are written"),
    Size("detections", 10, 1, "of each kind"),
    Size("timeout", 600.0, 600.0, "seconds for one burst, or one run of writing"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code: 0, 1 where a section failed, 2 for a wrong argument."""
    return run(BENCHMARK, _arguments(argv), SECTIONS, BARS)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    args = parse("Operating a cluster: its history, its workers, TLS.", argv, BARS, _SIZES)
    args.lone, args.rested = (50, 20) if args.quick else (300, 100)
    return args


if __name__ == "__main__":
    sys.exit(main())
