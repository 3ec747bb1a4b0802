"""What every contestant's program shares: its arguments, its passes, its report. Knows no framework.

Each program does the whole job twice over the same texts, Parquet to Parquet:

cold
    From the start of the program (the driver's clock) to the moment when the output is complete:
    imports, the cluster and loading the model are in it.
warm
    Once more into another folder, with everything loaded: from reading the input to complete
    output. Where a framework starts fresh workers for each dataset (Ray Data's actor pools, Daft's
    UDF processes), their constructors load the model, predict a small batch, and then wait for each
    other (`all_ready`); the clock runs from the moment when the last of them is ready. Their
    start-up and the reading that goes on meanwhile is not counted against them.
"""

from __future__ import annotations

import argparse
import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

WARM_UP = ["a short text", "a text that is somewhat longer than the other one " * 8] * 4


def arguments(*extra: tuple[str, dict[str, Any]]) -> argparse.Namespace:
    """Parse a contestant's command line; `extra` are (name, keywords) for `add_argument`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", required=True, help="folder of Parquet files with an id and the column")
    parser.add_argument("--column", required=True)
    parser.add_argument("--output", required=True, help="folder; gets cold/ and warm/")
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--cores", type=int, required=True)
    parser.add_argument("--report", required=True)
    for name, keywords in extra:
        parser.add_argument(name, **keywords)
    return parser.parse_args()


def passes(args: argparse.Namespace, job: Callable[[str], float | None], **more: Any) -> None:
    """Run `job` cold, then warm, and write the report.

    Parameters
    ----------
    args : Namespace
    job : callable
        Takes the output folder, does the whole job, and returns the Unix time from which a warm pass
        counts, or None: from the call.
    more
        What else the report holds; a callable is called after the passes.
    """
    cold, warm = (str(Path(args.output, name)) for name in ("cold", "warm"))
    job(cold)
    committed = time.time()
    started = time.time()
    since = job(warm) or started
    report = {"committed_at": committed, "warm_s": time.time() - since, "output": warm}
    report |= {name: value() if callable(value) else value for name, value in more.items()}
    Path(args.report).write_text(json.dumps(report), encoding="utf-8")


def read_texts(folder: str, column: str) -> tuple[Any, list[str]]:
    """The whole input as an Arrow table, and its texts: for contestants that run in one process."""
    import pyarrow.parquet as pq

    table = pq.read_table(folder)
    return table, table.column(column).to_pylist()


def write_embeddings(table: Any, embeddings: Any, folder: str) -> None:
    """Write the input's columns with an ``embedding`` column, (rows, dimensions) float32, as one file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    Path(folder).mkdir(parents=True)
    flat = pa.array(embeddings.reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, embeddings.shape[1])
    pq.write_table(table.append_column("embedding", column), Path(folder, "part-0.parquet"))


def all_ready(folder: str, workers: int, timeout: float = 120) -> None:
    """Say that one worker is ready, and wait until `workers` are; raises TimeoutError.

    Files are the one thing that the processes of any framework share.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder, uuid.uuid4().hex).touch()
    deadline = time.monotonic() + timeout
    while sum(1 for _ in Path(folder).iterdir()) < workers:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not all of {workers} workers were ready within {timeout:.0f} s")
        time.sleep(0.005)


def ready_at(folder: str) -> float:
    """Unix time at which the last worker of `all_ready` became ready."""
    return max(path.stat().st_mtime for path in Path(folder).iterdir())


def batch_rows(rows: int, workers: int, most: int = 512) -> int:
    """Rows to a call of a UDF: `most`, or fewer, so that each worker gets at least two calls."""
    return max(1, min(most, rows // (2 * workers)))
