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
from benchmarks._sections import names, run

BENCHMARK = "observe"
#: Argument -> its default, and that of --quick.
_SIZES = {
    "runs": (10, 2),
    "requests": (50_000, 5_000),
    "nodes": (100, 20),
    "looks": (3, 1),
    "paints": (5, 2),
    "events": (1_000_000, 100_000),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code: 0, 1 where a section failed, 2 for a wrong argument."""
    return run(BENCHMARK, _arguments(argv), SECTIONS, BARS)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Being watched: what counting and the page cost.")
    parser.add_argument(
        "--sections", type=names, default=[*BARS], help=f"some of {','.join(BARS)} (default: all)"
    )
    parser.add_argument("--runs", type=int, help="of requests, in turn (default: 10; quick: 2)")
    parser.add_argument("--requests", type=int, help="of a run (default: 50,000; quick: 5,000)")
    parser.add_argument("--nodes", type=int, help="of the large cluster (default: 100; quick: 20)")
    parser.add_argument("--looks", type=int, help="at its scheduler (default: 3; quick: 1)")
    parser.add_argument("--paints", type=int, help="of the page (default: 5; quick: 2)")
    parser.add_argument("--events", type=int, help="that are remembered (default: 1,000,000; quick: 100,000)")
    parser.add_argument("--json", help="file for the figures, one JSON object a line")
    parser.add_argument("--quick", action="store_true", help="within a minute: small")
    args = parser.parse_args(argv)
    for name, (full, quick) in _SIZES.items():
        if getattr(args, name) is None:
            setattr(args, name, quick if args.quick else full)
    if min(getattr(args, name) for name in _SIZES) < 1:
        parser.error("--runs, --requests, --nodes, --looks, --paints and --events are at least 1")
    if args.events < 30:
        parser.error("--events is at least 30")
    args.seconds = 5.0 if args.quick else 30.0
    return args


if __name__ == "__main__":
    sys.exit(main())
