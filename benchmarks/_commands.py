"""A cluster as operators run it: `altlas-flow scheduler` and `altlas-flow worker`, as programs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks import _contest

#: Seconds that any one wait may take, and a program to end.
LIMIT, END_LIMIT = 60.0, 10.0
#: Seconds between two looks at what nothing announces.
LOOK = 0.005


class Cluster:
    """The programs of one cluster.

    Attributes
    ----------
    address : str
        Of the scheduler.
    audit : path
        Where the scheduler notes who joined, and what was ordered.
    programs : dict of str to Popen
        By name; a worker's is that of its nanny.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str], tls: Path | None) -> None:
        self.folder, self.tls, self.audit = folder, tls, folder / "audit.jsonl"
        self.programs: dict[str, subprocess.Popen[bytes]] = {}
        kept = {key: value for key, value in os.environ.items() if key not in _contest.THREAD_COUNTS}
        self._environment = {
            **kept,
            **_contest.QUIET,
            "PYTHONPATH": str(_contest.ROOT),  # they import what benchmarks._sent has
            "DASK_TEMPORARY_DIRECTORY": str(folder),
            "DASK_ALTLAS__AUDIT": str(self.audit),
            **{f"DASK_ALTLAS__{key.upper()}": value for key, value in settings.items()},
        }
        self.address = ""

    def start(self, program: str, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `altlas-flow PROGRAM`; its output goes to a log."""
        tls = ["--tls", str(self.tls)] if self.tls is not None else []
        with open(self.folder / f"{name}.log", "wb") as log:
            self.programs[name] = subprocess.Popen(
                [sys.executable, "-m", "altlas_flow.cli", program, *arguments, *tls],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self._environment,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C is for the benchmark, which ends its programs
            )
        return self.programs[name]

    def add(self, name: str) -> subprocess.Popen[bytes]:
        """Start a worker of one thread; it joins by itself."""
        return self.start("worker", name, self.address, "--name", name, "--nthreads", "1")

    def remove(self, name: str) -> None:
        """End a program, and all that it started."""
        _end([self.programs.pop(name)])

    def until(self, what: str, true: Callable[[], Any]) -> Any:
        """Wait for what nothing announces; what `true` gives at last.

        Parameters
        ----------
        what : str
            For the error's text.

        Raises
        ------
        ContestantFailed
            Where time is up, or a program has ended.
        """
        ends = time.monotonic() + LIMIT
        while not (found := true()):
            self.check(what, ends)
            time.sleep(LOOK)
        return found

    def check(self, what: str, ends: float, *, may_end: str = "") -> None:
        """Raise where it is later than `ends`, or a program has ended, but for that which may."""
        for name, process in self.programs.items():
            if name != may_end and process.poll() is not None:
                said = _contest.last_line(self.folder / f"{name}.log")
                raise _contest.ContestantFailed(f"{name} ended with code {process.returncode}: {said}")
        if time.monotonic() > ends:
            raise _contest.ContestantFailed(f"not within {LIMIT:g} s: {what}")

    def await_online(self, flow: Any, *names: str) -> None:
        """Wait until these nodes take work."""
        self.until(
            f"{', '.join(names)} online",
            lambda: {*names} <= {info.node_id for info in flow.nodes() if info.status == "ONLINE"},
        )

    def noted(self, event: str, name: str) -> float | None:
        """When the scheduler last noted such an event of a node, seconds since 1970; None: it has not."""
        times = [line["time"] for line in audited(self.audit, event) if line.get("node") == name]
        return datetime.fromisoformat(times[-1]).timestamp() if times else None


def audited(audit: Path, event: str) -> list[dict[str, Any]]:
    """Lines of an audit log about such an event."""
    text = audit.read_text(encoding="utf-8") if audit.exists() else ""
    # what has no end of line is not written to its end yet
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in lines if line["event"] == event]


@contextmanager
def cluster(
    folder: Path,
    workers: Sequence[str],
    *,
    settings: Mapping[str, str] | None = None,
    tls: Path | None = None,
) -> Iterator[Cluster]:
    """Start a scheduler, and workers of one thread, which join while others go on; end them all.

    Parameters
    ----------
    folder : path
        For logs, the audit log and what workers spill; is made.
    workers : sequence of str
        Their names.
    settings : mapping, optional
        Of altlas_flow, for all programs, such as ``{"heartbeat_timeout": "2s"}``.
    tls : path, optional
        Folder of certificates.

    Raises
    ------
    ContestantFailed
        Where the scheduler does not come up; its text has the last line of its log.
    """
    folder.mkdir(exist_ok=True)
    made = Cluster(folder, settings or {}, tls)
    log = folder / "scheduler.log"
    try:
        made.start("scheduler", "scheduler", "--port", "0", "--dashboard", "none")

        def address() -> str:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            said = [line for line in lines if line.startswith("scheduler at ") and line.endswith("\n")]
            return said[0].removeprefix("scheduler at ").strip() if said else ""

        made.address = made.until("the scheduler", address)
        for name in workers:
            made.add(name)
        yield made
    finally:
        _end(list(made.programs.values()))


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask them to end, all at once; kill what does not, and what they leave in their groups."""
    try:
        for process in processes:
            process.terminate()
        ends = time.monotonic() + END_LIMIT
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, ends - time.monotonic()))
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(END_LIMIT)
