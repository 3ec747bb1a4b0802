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

import sys
from collections.abc import Sequence
from pathlib import Path

# Run as a file, Python looks for modules in benchmarks/, not beside it; and there, whoever wants the HTTP
# package `requests` would find another file, in the workers, too, which inherit the path.
if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._composing import BARS, SECTIONS
from benchmarks._sections import Size, parse, run

BENCHMARK = "composition"
_SIZES = (
    Size("runs", 3, 1, "of first, chain and hedging"),
    Size("rounds", 6, 3, "of a run of first, and of losers"),
    Size("chunk", 256, 256, "inputs to a piece of chain"),
    Size("memory-runs", 2, 1, "of memory"),
    Size("hedging-seconds", 10.0, 5.0, "of a run of each contestant of hedging"),
    Size("timeout", 300.0, 300.0, "seconds for one run of chain"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code: 0, 1 where a section failed, 2 for a wrong argument."""
    args = parse(
        "Composing models: the first of several, pipelines, hedging.",
        argv,
        BARS,
        _SIZES,
        quick="small, within two minutes",
    )
    return run(BENCHMARK, args, SECTIONS, BARS)


if __name__ == "__main__":
    sys.exit(main())
