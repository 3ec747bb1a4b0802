"""The functions that benchmarks send to workers: in a module, so that they travel by name for everybody."""

from __future__ import annotations

import os
import time
from typing import Any

#: Environment variable of a worker's process: seconds that a row takes there.
ROW_SECONDS = "ALTLAS_BENCH_ROW_SECONDS"


def identity(item: Any) -> Any:
    """One item, or a list of them: what comes in goes out."""
    return item


def crawl(rows: list[Any]) -> list[Any]:
    """A model that only waits, as long a row as its worker's process is told; says when each row was done."""
    done, ends = [], time.time()
    for row in rows:
        # by the clock: each sleep is a little longer than asked for
        ends += float(os.environ[ROW_SECONDS])
        time.sleep(max(0.0, ends - time.time()))
        done.append([row, time.time()])
    return done


def set_row_seconds(seconds: float) -> float:
    """Make this process faster or slower from the next row on; returns the time at which it was done."""
    os.environ[ROW_SECONDS] = repr(seconds)
    return time.time()


#: Seconds that `hold` waits at most.
HOLD_LIMIT = 120.0


def hold(rows: list[str]) -> list[str]:
    """A model that keeps its slot, without using its core, until the files that are its rows exist."""
    ends = time.monotonic() + HOLD_LIMIT
    for row in rows:
        while not os.path.exists(row):
            if time.monotonic() > ends:
                raise TimeoutError(f"{row} did not come within {HOLD_LIMIT:.0f} s")
            time.sleep(0.01)
    return rows


def stamp(rows: list[Any]) -> list[Any]:
    """A model that takes 5 ms a row, and says when each of them began."""
    stamped = []
    for row in rows:
        stamped.append([row, time.time()])
        time.sleep(0.005)
    return stamped


def dawdle(rows: list[Any], *, seconds: float) -> list[Any]:
    """A model that only waits, once for all its rows, and cannot be interrupted."""
    time.sleep(seconds)
    return rows


def note(rows: list[str], *, name: str) -> list[str]:
    """A model that writes its name into the file that is its row: whoever wants to know sees that it ran."""
    for row in rows:
        with open(row, "a", encoding="utf-8") as stream:
            stream.write(f"{name}\n")
    return rows


#: Numbers of 8 bytes that `blow_up` makes of one: 1 MB.
NUMBERS = 125_000
#: Seconds that `total` takes longer for a row than the stages before it: what they make piles up, if it may.
TOTAL_SECONDS = 0.004


def blow_up(row: float) -> Any:
    """A stage whose output is 1 MB."""
    import numpy as np

    return np.full(NUMBERS, row)


def double(row: Any) -> Any:
    """A stage that takes 1 MB, and gives another."""
    return row * 2


def total(row: Any) -> float:
    """A stage that gives one number for 1 MB."""
    time.sleep(TOTAL_SECONDS)
    return float(row.sum())
