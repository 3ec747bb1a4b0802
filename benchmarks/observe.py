"""Being watched: what counting and the page on the dashboard cost.

    python benchmarks/observe.py --json out.jsonl
    python benchmarks/observe.py --sections requests --quick

Sections (`benchmarks/README.md` says how each is measured):

requests
    Seconds of CPU of the scheduler for 10,000 requests: metrics off, page closed, page open.
nodes
    The share of a core that an open page uses, with 100 nodes and 50 models.
paint
    How soon that page is there, in Chromium.
memory
    What the page remembers after 1,000,000 events.
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

from benchmarks._observing import BARS, SECTIONS
from benchmarks._sections import Size, parse, run

BENCHMARK = "observe"
_SIZES = (
    Size("runs", 10, 2, "of requests, in turn"),
    Size("requests", 50_000, 5_000, "of a run"),
    Size("nodes", 100, 20, "of the large cluster"),
    Size("looks", 3, 1, "at its scheduler"),
    Size("paints", 5, 2, "of the page"),
    Size("events", 1_000_000, 100_000, "that are remembered"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code: 0, 1 where a section failed, 2 for a wrong argument."""
    return run(BENCHMARK, _arguments(argv), SECTIONS, BARS)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    args = parse("Being watched: what counting and the page cost.", argv, BARS, _SIZES)
    if args.events < 30:
        print(f"{BENCHMARK}: --events is at least 30", file=sys.stderr)
        sys.exit(2)
    args.seconds = 5.0 if args.quick else 30.0
    return args


if __name__ == "__main__":
    sys.exit(main())
