"""Composing models: the first of several, pipelines, what lies between their stages, hedging.

    python benchmarks/composition.py --json out.jsonl
    python benchmarks/composition.py --sections first,chain --quick

Sections (`benchmarks/README.md` says how each is measured):

first
    FIRST_RESPONSE over three models: how soon it is answered.
losers
    Models whose answers are not needed any more: those that wait, and those that run.
chain
    A pipeline of three identities, beside the same graph by hand.
memory
    The workers' memory while a pipeline has 1 MB between its stages for each input.
hedging
    Requests at half load, where one of four workers becomes ten times slower.
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

from benchmarks._composing import BARS, SECTIONS
from benchmarks._sections import names, run

BENCHMARK = "composition"
#: Argument -> its default, and that of --quick.
_SIZES: dict[str, tuple[float, float]] = {
    "runs": (3, 1),
    "rounds": (6, 3),
    "chunk": (256, 256),
    "memory_runs": (2, 1),
    "hedging_seconds": (10.0, 5.0),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code: 0, 1 where a section failed, 2 for a wrong argument."""
    return run(BENCHMARK, _arguments(argv), SECTIONS, BARS)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Composing models: the first of several, pipelines, hedging."
    )
    parser.add_argument(
        "--sections", type=names, default=[*BARS], help=f"some of {','.join(BARS)} (default: all)"
    )
    parser.add_argument("--runs", type=int, help="of first, chain and hedging (default: 3; quick: 1)")
    parser.add_argument("--rounds", type=int, help="of a run of first, and of losers (default: 6; quick: 3)")
    parser.add_argument("--chunk", type=int, help="inputs to a piece of chain (default: 256)")
    parser.add_argument("--memory-runs", type=int, help="of memory (default: 2; quick: 1)")
    parser.add_argument(
        "--hedging-seconds", type=float, help="of a run of each contestant of hedging (default: 10; quick: 5)"
    )
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one run of chain")
    parser.add_argument("--json", help="file for the figures, one JSON object a line")
    parser.add_argument("--quick", action="store_true", help="small, within two minutes")
    args = parser.parse_args(argv)
    for name, (full, quick) in _SIZES.items():
        if getattr(args, name) is None:
            setattr(args, name, quick if args.quick else full)
    if min(args.timeout, *(getattr(args, name) for name in _SIZES)) < 1:
        parser.error("--runs, --rounds, --chunk, --memory-runs and all seconds are at least 1")
    return args


if __name__ == "__main__":
    sys.exit(main())
