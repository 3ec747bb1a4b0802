"""What altlas_flow adds to Dask: an identity model, Parquet to Parquet, and the memory of the client.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --input rows/*.parquet --column text --quick

Contestants, each on a warm cluster of its own with the same workers (processes of one thread):

altlas_flow
    ``flow.run`` of an identity function; writes the input's columns and the prediction.
raw dask
    ``map_partitions`` of the identity (the partition itself), written with ``to_parquet``.
raw dask same columns
    As before, with the input column written once more as the prediction: what is written is what
    `altlas_flow` writes.
dask list and back
    As before, with the column turned into a list and back, which every model over rows needs.

Client memory: the peak resident memory (VmHWM) of a fresh client process, workers not counted, through
``flow.run`` of N rows and of ten times N.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Run as a file, Python looks for modules in benchmarks/, not beside it; and there, whoever wants the HTTP
# package `requests` would find our requests.py.
if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import _contest
from benchmarks._report import OURS, Bar, Measurement, installed, machine, show, write_json

BENCHMARK = "overhead"
SECONDS, RATE, GROWTH = "seconds", "rows/s", "client memory growth"
RAW, SAME, LISTS = "raw dask", "raw dask same columns", "dask list and back"
BARS = (
    Bar(SECONDS, 1.5, RAW, at_most=True),
    Bar(GROWTH, 20.0, at_most=True, strict=True),
)
SENTENCE = (
    "the model answers a question about rows and tokens where every worker reads its own part of the table "
    "then writes what it found beside the others so that nothing is lost when one of them stops early"
)


def identity(rows: list[Any]) -> list[Any]:
    """The model: what comes in goes out."""
    return rows


def same(part: Any) -> Any:
    return part


def same_column(part: Any, column: str) -> Any:
    return part.assign(prediction=part[column])


def list_and_back(part: Any, column: str) -> Any:
    import pandas as pd

    values = identity(part[column].tolist())
    return part.assign(prediction=pd.Series(values, index=part.index, dtype=part[column].dtype))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code: 0, 1 where a contestant failed, 2 for a wrong argument."""
    args = _arguments(argv)
    if args.client:
        _client(args)
        return 0
    names = (OURS, RAW, SAME, LISTS)
    chosen = args.contestants.split(",") if args.contestants else list(names)
    wrong = [name for name in chosen if name not in names]
    if wrong:
        print(f"overhead: unknown contestant {wrong[0]!r}: choose from {', '.join(names)}", file=sys.stderr)
        return 2
    if args.json and not Path(args.json).absolute().parent.is_dir():
        print(f"overhead: {args.json}: its folder does not exist", file=sys.stderr)
        return 2
    _contest.adopt_orphans()
    before = _contest.children()
    try:
        with tempfile.TemporaryDirectory(prefix="altlas-", ignore_cleanup_errors=True) as folder:
            here = Path(folder)
            try:
                files, rows = _input(args, here)
            except ValueError as error:
                print(f"overhead: {error}", file=sys.stderr)
                return 2
            measured, failures = _contest_of(chosen, here, args, rows)
            if OURS in chosen:
                found, failed = _memory(here, files, rows, args)
                measured, failures = measured + found, failures + failed
    finally:
        _contest.sweep(before)
    notes = [f"{rows:,} rows in {len(files)} files, {args.workers} workers of one thread", *failures]
    notes.append(machine(installed(("dask", "distributed", "pandas", "pyarrow"))))
    show(f"{BENCHMARK}: an identity over {rows:,} rows, Parquet to Parquet", measured, BARS, notes)
    if args.json:
        write_json(args.json, measured)
    return 1 if failures else 0


def _input(args: argparse.Namespace, folder: Path) -> tuple[list[Path], int]:
    """Put the input under ``folder/small``, and ten times as much under ``folder/large``, as links."""
    import glob

    import pyarrow as pa
    import pyarrow.parquet as pq

    small, large = folder / "small", folder / "large"
    small.mkdir()
    large.mkdir()
    if args.input:
        found = [Path(name).resolve() for name in sorted(glob.glob(args.input))]
        if not found:
            raise ValueError(f"no file at {args.input!r}: give a Parquet file or a glob")
        for number, file in enumerate(found):
            (small / f"rows-{number:05d}.parquet").symlink_to(file)
    else:
        _generate(small, args.column, args.rows, args.files)
    files = sorted(small.iterdir())
    try:
        rows = sum(pq.read_metadata(file).num_rows for file in files)
        missing = [file for file in files if args.column not in pq.read_schema(file).names]
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{args.input}: not Parquet: {str(error).splitlines()[0]}") from error
    if missing:
        raise ValueError(f"{missing[0].resolve()}: no column {args.column!r}: name one with --column")
    for copy in range(10):
        for file in files:
            (large / f"{copy}-{file.name}").symlink_to(file.resolve())
    return files, rows


def _generate(folder: Path, column: str, rows: int, count: int) -> None:
    """Write `rows` rows (``id``, a text of 8 words) as `count` files; always the same."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    words = np.array(SENTENCE.split(), dtype=object)
    bounds = np.linspace(0, rows, count + 1).astype(int)
    for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
        texts = [" ".join(row) for row in words[random.integers(0, len(words), (stop - start, 8))]]
        table = pa.table({"id": pa.array(np.arange(start, stop)), column: pa.array(texts, pa.string())})
        pq.write_table(table, folder / f"rows-{number:05d}.parquet")


def _contest_of(
    chosen: Sequence[str], folder: Path, args: argparse.Namespace, rows: int
) -> tuple[list[Measurement], list[str]]:
    """Seconds of every contestant: one run to warm up, then `args.runs` interleaved ones."""
    from contextlib import ExitStack

    signal.signal(signal.SIGALRM, _late)
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    failures: dict[str, str] = {}
    with ExitStack() as stack:
        jobs: dict[str, Callable[[str], None]] = {}
        if OURS in chosen:
            jobs[OURS] = _ours(stack, str(folder / "small"), args)
        if any(name != OURS for name in chosen):
            jobs |= _dask(stack, str(folder / "small"), args)
        for number in range(args.runs + 1):
            turn = number % len(chosen)
            for name in (*chosen[turn:], *chosen[:turn]):
                if name in failures:
                    continue
                output = folder / "output"
                signal.alarm(int(args.timeout))
                start = time.perf_counter()
                try:
                    jobs[name](str(output))
                except Exception as error:
                    # whatever a contestant raises is its result; the others go on
                    failures[name] = f"{name}: failed: {_contest.one_line(error)}"
                    print(failures[name], flush=True)
                    continue
                finally:
                    took = time.perf_counter() - start
                    signal.alarm(0)
                    written = _count(output)
                    shutil.rmtree(output, ignore_errors=True)
                if written != rows:
                    failures[name] = f"{name}: failed: wrote {written:,} of {rows:,} rows"
                elif number:
                    seconds[name].append(took)
                    print(f"{name}: {took:.2f} s", flush=True)
    good = {name: tuple(values) for name, values in seconds.items() if values and name not in failures}
    measured = [Measurement(BENCHMARK, name, SECONDS, "s", values) for name, values in good.items()]
    measured += [
        Measurement(BENCHMARK, name, RATE, "rows/s", tuple(rows / value for value in values))
        for name, values in good.items()
    ]
    return measured, list(failures.values())


def _late(number: int, frame: Any) -> None:
    raise TimeoutError("took longer than --timeout and was stopped")


def _ours(stack: Any, source: str, args: argparse.Namespace) -> Callable[[str], None]:
    import altlas_flow as af

    # sent by value: the workers know nothing of this file
    spec = af.ModelSpec(id="identity", runtime="function", source=identity)
    flow = stack.enter_context(af.connect(workers=args.workers, threads_per_worker=1))
    return lambda output: flow.run(
        source + "/*.parquet", spec, input=args.column, output="prediction", to=output, progress=False
    )


def _dask(stack: Any, source: str, args: argparse.Namespace) -> dict[str, Callable[[str], None]]:
    import dask.dataframe as dd
    from distributed import Client, LocalCluster

    cluster = stack.enter_context(
        LocalCluster(n_workers=args.workers, threads_per_worker=1, dashboard_address=None)
    )
    client = stack.enter_context(Client(cluster, set_as_default=False))

    def job(function: Callable[..., Any], *more: Any) -> Callable[[str], None]:
        def run(output: str) -> None:
            with client.as_current():
                frame = dd.read_parquet(source)
                frame.map_partitions(function, *more).to_parquet(output, write_index=False)

        return run

    return {RAW: job(same), SAME: job(same_column, args.column), LISTS: job(list_and_back, args.column)}


def _count(folder: Path) -> int:
    import pyarrow.parquet as pq

    # what begins with "_" is not data, by the convention of all readers
    return sum(pq.read_metadata(file).num_rows for file in folder.glob("[!_]*.parquet"))


def _memory(
    folder: Path, files: list[Path], rows: int, args: argparse.Namespace
) -> tuple[list[Measurement], list[str]]:
    """Peak memory of the client for all rows and for ten times as many, interleaved, and its growth."""
    peaks: dict[str, list[float]] = {"small": [], "large": []}
    for number in range(1 if args.quick else args.runs):
        for size in ("small", "large"):
            here = folder / f"memory-{number}-{size}"
            here.mkdir()
            arguments = ["--client", "--input", str(folder / size / "*.parquet"), "--column", args.column]
            arguments += ["--workers", str(args.workers), "--work", str(here / "output")]
            try:
                outcome = _contest.run(
                    sys.executable,
                    Path(__file__).resolve(),
                    arguments,
                    folder=here,
                    timeout=args.timeout,
                    environment={"PYTHONPATH": str(_contest.ROOT)},
                )
            except _contest.ContestantFailed as error:
                return [], [f"client memory, {size}: failed: {error}"]
            peaks[size].append(outcome.report["peak_bytes"] / 2**20)
            print(f"client memory, {size}: {peaks[size][-1]:.0f} MiB", flush=True)
            shutil.rmtree(here)
    growth = tuple(
        100 * (large / small - 1) for small, large in zip(peaks["small"], peaks["large"], strict=True)
    )
    return [
        Measurement(BENCHMARK, OURS, f"client memory, {rows:,} rows", "MiB", tuple(peaks["small"])),
        Measurement(BENCHMARK, OURS, f"client memory, {10 * rows:,} rows", "MiB", tuple(peaks["large"])),
        Measurement(BENCHMARK, OURS, GROWTH, "%", growth),
    ], []


def _client(args: argparse.Namespace) -> None:
    """The fresh client process: one `flow.run`, then its own peak memory."""
    import altlas_flow as af

    spec = af.ModelSpec(id="identity", runtime="function", source=identity)
    with af.connect(workers=args.workers, threads_per_worker=1) as flow:
        flow.run(args.input, spec, input=args.column, output="prediction", to=args.work, progress=False)
        report = {"committed_at": time.time(), "peak_bytes": _peak()}
    Path(args.report).write_text(json.dumps(report), encoding="utf-8")


def _peak() -> int:
    """Peak resident memory of this process, in bytes."""
    # not getrusage: its figure is inherited from the process that started this one
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the peak memory of a process is read from /proc/self/status, which Linux has")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What altlas_flow adds to Dask.")
    parser.add_argument("--input", help="Parquet file or glob (default: generated rows)")
    parser.add_argument("--column", default="text", help="the model's input column (default: text)")
    parser.add_argument("--rows", type=int, help="rows to generate (default: 1,000,000; quick: 100,000)")
    parser.add_argument("--files", type=int, default=20, help="files to generate (default: 20)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, help="interleaved runs (default: 3; quick: 3, of the memory 1)")
    parser.add_argument("--contestants", help="some of them, by name, separated by commas")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one run")
    parser.add_argument("--json", help="file for the figures, one JSON object a line")
    parser.add_argument("--quick", action="store_true", help="within a minute: a tenth of the rows")
    parser.add_argument("--client", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--report", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.rows = args.rows or (100_000 if args.quick else 1_000_000)
    args.runs = args.runs or 3
    if min(args.rows, args.files, args.workers, args.runs) < 1:
        parser.error("--rows, --files, --workers and --runs are at least 1")
    args.files = min(args.files, args.rows)
    return args


if __name__ == "__main__":
    sys.exit(main())
