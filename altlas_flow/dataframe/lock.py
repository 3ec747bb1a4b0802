"""The lock of an output folder: an flock, so that it dies with the process that holds it."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

from altlas_flow.dataframe.manifest import refusals
from altlas_flow.errors import OutputLocked, OutputNotWritable

__all__ = ["LOCK", "release_lock", "take_lock"]

LOCK = "_lock"

_held: set[int] = set()


def _let_go_in_child() -> None:
    """A forked child must not keep its parent's lock alive."""
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)


def take_lock(path: Path) -> int:
    """Lock a folder for this process; returns the handle for `release_lock`.

    Raises
    ------
    OutputLocked
        Another process holds it.
    OutputNotWritable
        The lock file cannot be written, or the file system has no locks.
    """
    with refusals(path):
        lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    _held.add(lock)
    try:
        with refusals(path):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    except OutputNotWritable as error:
        owner = ""
        if isinstance(error.__cause__, BlockingIOError):
            owner = os.pread(lock, 300, 0).decode("utf-8", "replace").strip() or "its process is not known"
        release_lock(lock)
        if owner:
            raise OutputLocked(
                f"another job works on {path} ({owner}): wait for it to end, or choose another folder"
            ) from error
        raise
    except BaseException:
        release_lock(lock)
        raise
    return lock


def release_lock(lock: int) -> None:
    """Let go of a lock."""
    _held.discard(lock)
    os.close(lock)
