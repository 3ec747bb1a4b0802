"""Choosing models: how well the selector chooses on recorded outcomes, and what choosing costs.

    python benchmarks/selection.py --data ../shared/data --json out.jsonl
    python benchmarks/selection.py --data FOLDER --sections routing --quick

Sections (`benchmarks/README.md` says how each is measured):

routing
    Prompts that a weak and a strong model have answered, half of them for the strong one.
algorithms
    Instances of hard problems, and algorithms that solve them; only the chosen one's time is seen.
drift
    The best model becomes ten times slower.
promise
    A promise of latency under bursts.
cluster
    Two real text models on a real cluster, chosen among in four ways.
cost
    What a decision, an update and the state cost.

The data is a folder with ``routing_*/*.parquet`` (such as RouteLLM's evaluation outcomes, with embeddings
of the
prompts) and ``aslib/*.parquet`` (scenarios of ASlib); `benchmarks/_outcomes.py` says how they are laid out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path.pop(0)  # `requests` is a package of its own
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import _contest
from benchmarks._findings import Findings
from benchmarks._report import Measurement, installed, machine, show, write_json
from benchmarks._selecting import BARS, timed
from benchmarks.peers.mabwiser_policies import POLICIES

BENCHMARK = "selection"
#: Sections that need the data.
RECORDED = ("routing", "algorithms", "cluster")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code: 0, 1 where a section failed, 2 for a wrong argument."""
    args = _arguments(argv)
    if isinstance(args, str):
        print(f"selection: {args}", file=sys.stderr)
        return 2
    measured: list[Measurement] = []
    failed = False
    print(machine(installed(("numpy", "scikit-learn", "mabwiser"))), flush=True)
    for name in (name for name in BARS if name in args.sections):
        found, bars = Findings(BENCHMARK, ""), BARS[name]
        if name in RECORDED and args.data is None:
            print(f"{BENCHMARK}, {name}: skipped: --data names no folder of recorded outcomes", flush=True)
            continue
        if name == "algorithms" and not args.peers:
            found.notes.append("without MABWiser's policies: pip install 'altlas-flow[bench]'")
        try:
            bars = tuple(timed(name, args, found))
        except Exception as error:
            found.measured.clear()
            found.failures.append(f"{name}: failed: {_contest.one_line(error)}")
        failed = failed or bool(found.failures)
        measured += found.measured
        show(f"{BENCHMARK}, {name}: {found.title}", found.measured, bars, [*found.notes, *found.failures])
    if args.json:
        write_json(args.json, measured)
    return 1 if failed else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace | str:
    parser = argparse.ArgumentParser(description="Choosing models: how well, and at what cost.")
    parser.add_argument("--data", type=Path, help="folder with routing_*/*.parquet and aslib/*.parquet")
    parser.add_argument(
        "--sections",
        type=lambda text: [name.strip() for name in text.split(",") if name.strip()],
        default=[*BARS],
        help=f"some of {','.join(BARS)} (default: all)",
    )
    parser.add_argument("--seeds", type=int, help="streams of each (default: 10; quick: 1)")
    parser.add_argument("--prompts", type=int, help="of a stream (default: all; quick: 1,000)")
    parser.add_argument("--requests", type=int, help="of the promise (default: 20,000; quick: 2,000)")
    parser.add_argument(
        "--rows", type=int, help="learned before costs are taken (default: 4,000; quick: 400)"
    )
    parser.add_argument("--plot", help="HTML file for the plot of the section cluster")
    parser.add_argument("--json", help="file for the figures, one JSON object a line")
    parser.add_argument("--quick", action="store_true", help="within a minute: small")
    args = parser.parse_args(argv)
    sizes = {"seeds": (10, 1), "prompts": (None, 1_000), "requests": (20_000, 2_000), "rows": (4_000, 400)}
    for name, (full, quick) in sizes.items():
        if getattr(args, name) is None:
            setattr(args, name, quick if args.quick else full)
    wrong = [name for name in args.sections if name not in BARS]
    if wrong:
        return f"unknown section {wrong[0]!r}: choose from {', '.join(BARS)}"
    if args.data is not None and not args.data.is_dir():
        return f"{args.data}: there is no such folder"
    if min(args.seeds, args.requests, args.rows, args.prompts or 1) < 1:
        return "--seeds, --prompts, --requests and --rows are at least 1"
    if args.json and not Path(args.json).absolute().parent.is_dir():
        return f"{args.json}: its folder does not exist"
    args.peers = POLICIES if find_spec("mabwiser") is not None and not args.quick else ()
    return args


if __name__ == "__main__":
    sys.exit(main())
