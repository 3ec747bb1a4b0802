"""Run by test_job_killed.py: a job that is killed, from outside or by itself at a chosen step.

Prints the ids of all its processes once its cluster is there. With STEP (``replace``, ``append`` or
``appended``), N and WHO it sends SIGKILL right before the N-th rename, right before or right after the
N-th part line of the manifest: to all its processes (``all``), or to itself alone (``client``). What it
runs is a ``model`` or a ``pipeline``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import psutil

import altlas_flow as af
from altlas_flow.dataframe import manifest
from altlas_flow.pipeline.pipeline import Pipeline
from altlas_flow.pipeline.stage import Stage
from tests.dataframe.jobs import no_bad, spec

PART_ROWS = 10


def stages_of() -> Pipeline:
    """A pipeline of two stages, the first of which fails on bad rows."""
    upper = Stage("upper", model=spec(no_bad, batch=PART_ROWS))
    return Pipeline([upper, Stage("length", function=len, after="upper")], id="words")


def die(who: str) -> None:
    if who == "all":
        for process in psutil.Process().children(recursive=True):
            process.send_signal(signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(step: str, n: int, who: str) -> None:
    count = 0
    replace, append = os.replace, manifest.Manifest.append

    def counted() -> bool:
        nonlocal count
        count += 1
        return count == n

    def replacing(source, target):
        if str(target).endswith(".parquet") and step == "replace" and counted():
            die(who)
        replace(source, target)

    def appending(self, line):
        now = line["kind"] == "part" and step != "replace" and counted()
        if now and step == "append":
            die(who)
        append(self, line)
        if now:
            die(who)

    os.replace = replacing
    manifest.Manifest.append = appending


def main(source: str, out: str, step: str = "", n: str = "0", who: str = "all", what: str = "model") -> None:
    with af.connect(workers=2, threads_per_worker=1) as flow:
        ids = [process.pid for process in psutil.Process().children(recursive=True)]
        print(json.dumps(ids), flush=True)
        if step:
            die_at(step, int(n), who)
        runs = stages_of() if what == "pipeline" else spec(no_bad, batch=PART_ROWS)
        flow.run(Path(source), runs, input="text", to=out, part_rows=PART_ROWS)


if __name__ == "__main__":
    main(*sys.argv[1:])
