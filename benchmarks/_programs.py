"""A Dask cluster of programs on loopback, as people start it by hand: `dask scheduler`, `dask worker`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import _contest

#: Seconds that all programs together get to start.
START_TIMEOUT = 60.0


@dataclass(frozen=True)
class Programs:
    """A running cluster.

    Attributes
    ----------
    scheduler_file : path
        What `af.connect` takes.
    scheduler : int
        Process id of the scheduler, which runs nothing else.
    """

    scheduler_file: Path
    scheduler: int


def labelled(**labels: str) -> dict[str, str]:
    """Environment variables of a worker that has these labels."""
    return {"DASK_ALTLAS__LABELS": repr(labels)}


@contextmanager
def cluster(
    folder: Path, workers: Mapping[str, Mapping[str, str]], scheduler: Mapping[str, str] | None = None
) -> Iterator[Programs]:
    """Start a scheduler and workers of one thread; end them.

    Parameters
    ----------
    folder : path
        For the scheduler file, the logs and the workers' spill folders; exists.
    workers : mapping
        Name of a worker -> its environment variables.
    scheduler : mapping, optional
        Environment variables of the scheduler.

    Raises
    ------
    ContestantFailed
        Where they do not come up; its text has the last line of a log.
    """
    from distributed import Client

    file = folder / "scheduler.json"
    common = ["--host", "127.0.0.1", "--scheduler-file", str(file), "--dashboard-address", "127.0.0.1:0"]
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        processes["scheduler"] = _start(
            "scheduler", ["scheduler", "--port", "0", *common], folder, scheduler or {}
        )
        for name, environment in workers.items():
            # without a nanny: one process a worker, which is the one that the variables are for
            arguments = ["worker", *common, "--name", name, "--nthreads", "1", "--no-nanny"]
            arguments += ["--local-directory", str(folder)]
            processes[name] = _start(name, arguments, folder, environment)
        ends = time.monotonic() + START_TIMEOUT
        while not (file.exists() and file.stat().st_size):  # Dask writes it in place
            _see(processes, folder, ends)
            time.sleep(0.05)
        with Client(scheduler_file=str(file), set_as_default=False) as client:
            while len(client.sync(client.scheduler.identity, n_workers=-1)["workers"]) < len(workers):
                _see(processes, folder, ends)
                time.sleep(0.05)
        yield Programs(file, processes["scheduler"].pid)
    finally:
        # the scheduler first: it asks its workers to close
        _end(list(processes.values()))


def _start(
    name: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    # PYTHONPATH: the workers import what benchmarks._sent has
    variables = {**os.environ, "PYTHONPATH": str(_contest.ROOT), **environment}
    with open(folder / f"{name}.log", "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=variables,
            cwd=folder,
            start_new_session=True,
        )


def _see(processes: Mapping[str, subprocess.Popen[bytes]], folder: Path, ends: float) -> None:
    """Raise where a program has ended, or time is up."""
    for name, process in processes.items():
        if process.poll() is not None:
            said = _contest.last_line(folder / f"{name}.log")
            raise _contest.ContestantFailed(f"dask {name} ended with code {process.returncode}: {said}")
    if time.monotonic() > ends:
        raise _contest.ContestantFailed(f"the Dask programs did not start within {START_TIMEOUT:.0f} s")


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
