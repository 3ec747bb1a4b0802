"""Running contestants: each is a program of its own, runs alone, and leaves nothing behind."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PEERS = Path(__file__).resolve().parent / "peers"

#: The same for every contestant: no downloads, no telemetry, no progress bars, no thread count from outside.
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "DAFT_ANALYTICS_ENABLED": "0",
    "DAFT_PROGRESS_BAR": "0",
    "DO_NOT_TRACK": "1",
}
THREAD_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class ContestantFailed(RuntimeError):
    """A contestant's program ended with an error, or not in time; the text is one line."""


@dataclass(frozen=True)
class Outcome:
    """What one run of a program gave: its report, and seconds from its start to `committed_at`."""

    report: dict[str, Any]
    cold_s: float


def adopt_orphans() -> None:
    """Make this process the parent of what its children leave behind, so that `sweep` finds it (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def children() -> set[Any]:
    """The processes that this one started, or adopted, and that are alive."""

    # one that had ended when it was adopted stays as a zombie until it is reaped
    return {child for child in _below() if child.is_running() and not _has_ended(child)}


def _below() -> set[Any]:
    """The same, and what of them has ended and is not reaped."""
    import psutil

    return set(psutil.Process().children())


def _has_ended(process: Any) -> bool:
    import psutil

    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def sweep(spare: Collection[Any] = ()) -> int:
    """Kill and reap every process below this one, but for `spare` and theirs; return how many there were."""
    import psutil

    left = []
    for child in _below() - set(spare):
        try:
            left += [child, *child.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    for process in left:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(left, timeout=10)
    return len(left)


def run(
    python: str | Path,
    program: Path,
    arguments: Sequence[str],
    *,
    folder: Path,
    timeout: float,
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Run one contestant's program to its end.

    Parameters
    ----------
    python : path
        The interpreter of the contestant's environment.
    program : path
        Gets `arguments` and ``--report FILE``, and writes one JSON object there, with
        ``committed_at`` (Unix time at which the first pass's output was complete).
    folder : path
        For the report and the program's output; exists.
    timeout : float
        Seconds after which the program and all it started are killed.

    Raises
    ------
    ContestantFailed
    """
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    variables = {k: v for k, v in os.environ.items() if k not in THREAD_COUNTS}
    variables |= QUIET | dict(environment or {})
    before = children()
    with open(folder / "log.txt", "wb") as log:
        started = time.time()
        process = subprocess.Popen(
            [str(python), str(program), *arguments, "--report", str(report)],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=variables,
            cwd=folder,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ContestantFailed(f"took longer than {timeout:.0f} s and was stopped") from None
        finally:
            # whatever way it ended: its process group, then what left the group (Ray's daemons do)
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                process.poll()
            process.wait(10)
            sweep(before)
    if code != 0 or not report.is_file():
        raise ContestantFailed(f"exit code {code}: {last_line(folder / 'log.txt')}")
    found = json.loads(report.read_text(encoding="utf-8"))
    return Outcome(found, found["committed_at"] - started)


def last_line(log: Path) -> str:
    """The last line of a log that says something, at most 300 characters."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    errors = [line for line in lines if "Error" in line and not line.startswith(("File ", "warnings."))]
    return (errors or [line for line in lines if line] or ["it printed nothing"])[-1][:300]


def one_line(error: BaseException) -> str:
    """An error as its type and the first line of its text."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def has_modules(python: str | Path, modules: Sequence[str]) -> bool:
    """Whether the interpreter exists and its environment has all these modules."""
    if not os.access(python, os.X_OK):
        return False
    code = f"import importlib.util as u, sys; sys.exit(not all(u.find_spec(m) for m in {list(modules)!r}))"
    return subprocess.run([str(python), "-c", code], timeout=60, check=False).returncode == 0


def versions(python: str | Path, names: Sequence[str]) -> dict[str, str]:
    """Versions of packages in another environment; those that it lacks are left out."""
    code = (
        "import json, importlib.metadata as m\n"
        "found = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
        f"print(json.dumps({{n: found[n] for n in {list(names)!r} if n in found}}))"
    )
    answer = subprocess.run([str(python), "-c", code], capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, str] = json.loads(answer.stdout)
    return found
