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
