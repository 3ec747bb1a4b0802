"""What the tests of jobs share: cheap models, sources, and ways to look at a folder and a cluster."""

from __future__ import annotations

import gc
import json
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

import altlas_flow as af

LIMIT = 30.0  # seconds that any one wait may take: far more than it needs


# ---------------------------------------------------------------- models


def upper(rows: list[str]) -> list[str]:
    return [row.upper() for row in rows]


def lengths(rows: list[str], *, times: int = 1) -> list[int]:
    return [len(row) * times for row in rows]


def embed(rows: list[str]) -> np.ndarray:
    return np.array([[len(row), row.count("a"), 1.0, 0.5] for row in rows], np.float32)


def classify(rows: list[str]) -> list[dict[str, Any]]:
    return [{"label": "long" if len(row) > 6 else "short", "score": len(row) / 10} for row in rows]


def join(rows: list[dict[str, Any]]) -> list[str]:
    return ["+".join(str(value) for value in row.values()) for row in rows]


def no_bad(rows: list[str]) -> list[str]:
    """Fails on a whole batch that has a bad row in it."""
    if any("bad" in row for row in rows):
        raise ValueError("cannot stand bad")
    return upper(rows)


class Slow:
    """Takes a known time for each batch."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, rows: list[Any]) -> list[Any]:
        threading.Event().wait(self.seconds)
        return list(rows)


class Logged:
    """Writes a line for each call: the process, how many rows, when it began and ended."""

    def __init__(self, path: Path, seconds: float = 0.0) -> None:
        self.path, self.seconds = str(path), seconds

    def __call__(self, rows: list[Any]) -> list[Any]:
        began = time.monotonic()
        if self.seconds:
            threading.Event().wait(self.seconds)
        line = json.dumps([os.getpid(), len(rows), began, time.monotonic()]) + "\n"
        with open(self.path, "a") as stream:
            stream.write(line)
        return list(rows)


def calls(path: Path) -> list[tuple[int, int, float, float]]:
    """What `Logged` models wrote."""
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


class Meet:
    """Answers once `count` processes have called it."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = str(folder), count

    def __call__(self, rows: list[Any]) -> list[Any]:
        Path(self.folder, str(os.getpid())).touch()
        end = time.monotonic() + LIMIT
        while len(os.listdir(self.folder)) < self.count:
            if time.monotonic() > end:
                raise TimeoutError("nobody came")
            threading.Event().wait(0.02)
        return list(rows)


def spec(model: Callable[..., Any], **fields: Any) -> af.ModelSpec:
    """A function as a model, under an id of its own."""
    return af.ModelSpec(id=f"test-{uuid.uuid4().hex[:12]}", source=model, **fields)


# ---------------------------------------------------------------- sources


def frame(rows: int, start: int = 0) -> pd.DataFrame:
    numbers = range(start, start + rows)
    return pd.DataFrame({"n": list(numbers), "text": [f"row {'a' * (n % 5)} {n}" for n in numbers]})


def write(path: Path, data: pd.DataFrame, **options: Any) -> Path:
    """Write a frame in the format of the path's name."""
    if path.suffix == ".parquet":
        data.to_parquet(path, index=False, **options)
    elif path.suffix == ".csv":
        data.to_csv(path, index=False)
    else:
        data.to_json(path, orient="records", lines=True)
    return path


# ---------------------------------------------------------------- looking


def read(path: Path, by: str = "n") -> pd.DataFrame:
    return pd.read_parquet(path).sort_values(by, ignore_index=True)


def manifest(path: Path) -> list[dict[str, Any]]:
    lines = (path / "_manifest").read_text().splitlines()
    return [json.loads(line) for line in lines]


def part_lines(path: Path) -> Counter[str]:
    """How many times each part was committed."""
    return Counter(line["part"] for line in manifest(path) if line["kind"] == "part")


def stamps(path: Path) -> dict[str, tuple[int, int]]:
    """Of each part's file what changes when it is written anew."""
    return {f.name: (f.stat().st_ino, f.stat().st_mtime_ns) for f in path.glob("part-*.parquet")}


def committed(path: Path) -> int:
    """Whole part lines in a manifest that may be growing, or not be there."""
    try:
        return (path / "_manifest").read_bytes().count(b'"kind": "part"')
    except FileNotFoundError:
        return 0


def until(
    true: Callable[[], Any],
    limit: float = LIMIT,
    pause: float = 0.005,
    instead: Callable[[], Any] | None = None,
) -> Any:
    """Wait for what nothing announces; fails loudly at the limit, with what is there instead."""
    end = time.monotonic() + limit
    while not (found := true()):
        assert time.monotonic() < end, instead() if instead else f"not within {limit} s: {true}"
        time.sleep(pause)
    return found


def tasks_of(flow: af.Flow) -> list[str]:
    """Keys of all tasks that the scheduler knows.

    An error that was caught may hold its future, in a cycle with its traceback: these go first.
    """
    gc.collect()
    return flow.client.run_on_scheduler(lambda dask_scheduler: [str(key) for key in dask_scheduler.tasks])


def states_of(flow: af.Flow) -> list[str]:
    """The tasks that the scheduler knows: state, who wants it, what depends on it."""

    def states(dask_scheduler: Any) -> list[str]:
        return [
            f"{key}: {task.state}, wanted by {[client.client_key for client in task.who_wants or ()]}, "
            f"for {[str(other.key) for other in task.dependents]}"
            for key, task in dask_scheduler.tasks.items()
        ]

    found: list[str] = flow.client.run_on_scheduler(states)
    return found


def schema_of(path: Path) -> Any:
    return pq.read_schema(next(path.glob("part-*.parquet")))


def nodes_of(path: Path) -> Counter[str]:
    return Counter(line["node"] for line in manifest(path) if line["kind"] == "part")


def is_one_line(error: BaseException) -> bool:
    text = str(error)
    return bool(text) and "\n" not in text and len(text) <= 2000


def parts(path: Path) -> Iterator[Path]:
    return iter(sorted(path.glob("part-*.parquet")))
