"""The output folder of a checkpointed job: who may write, and what counts.

::

    part-00000.parquet …      the committed rows; the only names that do not start with "_"
    _manifest                 JSON lines; only parts in it count (see manifest.py)
    _dead_letters/<part>.rows the rows of a part that were put aside (Parquet, too)
    _attempts/<job>/          what workers write; nobody reads it
    _lock                     flock of the job's owner; the file stays

Workers only ever write attempts. The owner of the lock commits them: dead letters, then the part (a
rename), then the manifest line, each durable before the next. So a worker left over from a killed job
can commit nothing, and a kill between any two steps leaves a part that does not count and is removed
by the next owner.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

from altlas_flow.dataframe.attempts import DEAD_LETTER_SCHEMA, Attempt, read_dead_letters, write_attempt
from altlas_flow.dataframe.lock import LOCK, release_lock, take_lock
from altlas_flow.dataframe.manifest import (
    DEAD_LETTERS,
    MANIFEST,
    PART,
    Header,
    Manifest,
    PartRecord,
    committed_parts,
    dead_letters_of,
    drop_line,
    is_there,
    read_header,
    refusals,
    sync_folder,
)
from altlas_flow.errors import OutputMismatch, OutputNotWritable, names

__all__ = [
    "DEAD_LETTER_SCHEMA",
    "Attempt",
    "Header",
    "OutputFolder",
    "PartRecord",
    "committed_parts",
    "read_dead_letters",
    "read_header",
    "write_attempt",
]

ATTEMPTS = "_attempts"


class OutputFolder:
    """The folder, held by the one job that may commit to it. Made by `open`; a context manager.

    Attributes
    ----------
    path, attempts : Path
        The folder, and where this job's workers write.
    header : Header
        What the folder holds.
    committed : dict of str to PartRecord
        The parts that count.
    """

    def __init__(self, path: Path, header: Header, lock: int) -> None:
        self.path, self.header, self._lock = path, header, lock
        self.attempts = path / ATTEMPTS / uuid.uuid4().hex
        self.committed: dict[str, PartRecord] = {}
        self._manifest = Manifest(path, header)
        try:
            self._take_over()
        except BaseException:
            self._manifest.close()
            raise

    @classmethod
    def open(cls, path: str | Path, header: Header) -> OutputFolder:
        """Take the folder for one job: make it if it is missing, lock it, remove what dead jobs left.

        Raises
        ------
        OutputLocked
            Another job works on it.
        OutputMismatch
            It holds something else: nothing is changed.
        OutputNotWritable
            It cannot be written, or is no local path.
        """
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", str(path)):
            raise OutputNotWritable(
                f"cannot write to {path}: it has to be a folder on a local or shared file system"
            )
        folder = Path(path).expanduser().absolute()
        with refusals(folder):
            _refuse_strangers(folder, header)
            folder.mkdir(parents=True, exist_ok=True)
        lock = take_lock(folder)
        try:
            with refusals(folder):
                _refuse_strangers(folder, header)  # again: the last owner may have changed it
                return cls(folder, header, lock)
        except BaseException:
            release_lock(lock)
            raise

    def commit(
        self, record: PartRecord, attempt_path: str | Path, dead_path: str | Path | None = None
    ) -> None:
        """Make an attempt count.

        Parameters
        ----------
        record : PartRecord
            What it is; `bytes` is the size of the attempt's file.
        attempt_path, dead_path : path
            What workers of this job wrote: the rows, and the dead letters if there are any.

        Raises
        ------
        OutputNotWritable
            Full disk, rights, or an attempt that cannot be seen from here. The part does not count;
            what was committed stays.
        """
        if not PART.fullmatch(record.part):
            raise ValueError(f"a part is named like part-00000.parquet, not {record.part!r}")
        if (dead_path is not None) != (record.dead_letters > 0):
            raise ValueError(f"{record.part}: {record.dead_letters} dead letters, dead_path={dead_path!r}")
        attempt = self._own(attempt_path, record.bytes)
        dead = None if dead_path is None else self._own(dead_path, None)
        if record.part in self.committed:
            self.drop([record.part])  # its old line must not vouch for the new file
        target, dead_target = self.path / record.part, dead_letters_of(self.path, record.part)
        with refusals(self.path):
            try:
                if dead is None:
                    dead_target.unlink(missing_ok=True)
                else:
                    os.replace(dead, dead_target)
                sync_folder(dead_target.parent)
                os.replace(attempt, target)
                sync_folder(self.path)
                self._manifest.append(record.line())
            except OSError:
                with contextlib.suppress(OSError):  # the next owner removes what is left
                    target.unlink(missing_ok=True)
                    dead_target.unlink(missing_ok=True)
                raise
        self.committed[record.part] = record

    def stale(self, wanted: Mapping[str, tuple[str, str]]) -> set[str]:
        """Committed parts that do not match `wanted` (part to unit and model fingerprints)."""
        return {part for part, r in self.committed.items() if wanted.get(part) != (r.unit, r.model)}

    def drop(self, parts: Iterable[str]) -> None:
        """Withdraw parts: first from the manifest, then their files."""
        gone = set(parts) & set(self.committed)
        if not gone:
            return
        with refusals(self.path):
            self._manifest.append(drop_line(gone))
            for part in sorted(gone):
                del self.committed[part]
                (self.path / part).unlink(missing_ok=True)
                dead_letters_of(self.path, part).unlink(missing_ok=True)
            sync_folder(self.path)
            sync_folder(self.path / DEAD_LETTERS)

    def close(self) -> None:
        """Remove this job's attempts and release the lock; may be called twice."""
        if self._lock < 0:
            return
        try:
            # A worker may still be writing there: what is left is removed by the next owner.
            shutil.rmtree(self.attempts, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.attempts.parent.rmdir()
        finally:  # interrupted, too: this process may go on with the folder
            self._manifest.close()
            release_lock(self._lock)
            self._lock = -1

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _own(self, path: str | Path, size: int | None) -> Path:
        """The attempt's path as seen from here, checked to be this job's and whole."""
        given = Path(path)
        if given.parent.name != self.attempts.name:
            raise OutputMismatch(f"{given} was written for another job: it cannot be committed here")
        own = self.attempts / given.name
        try:
            found = os.stat(own).st_size
        except OSError as error:
            raise OutputNotWritable(
                f"{own}, written by a worker, is not there on {socket.gethostname()}: "
                "put the output folder on a file system that client and workers share"
            ) from error
        if size is not None and found != size:
            raise OutputNotWritable(f"{own} has {found} bytes where {size} were written: run the job again")
        return own

    def _take_over(self) -> None:
        """Find what counts, and remove what killed jobs left: attempts, and files that do not count."""
        parts = self._manifest.parts
        self.committed = {part: record for part, record in parts.items() if is_there(self.path, record)}
        if lost := parts.keys() - self.committed.keys():
            self._manifest.append(drop_line(lost))  # their lines must not vouch for later files
        shutil.rmtree(self.path / ATTEMPTS, ignore_errors=True)
        for entry in list(self.path.iterdir()):
            orphan = PART.fullmatch(entry.name) and entry.name not in self.committed
            if orphan or entry.name.startswith(f"{MANIFEST}."):
                entry.unlink()
        letters = {dead_letters_of(self.path, part) for part, r in self.committed.items() if r.dead_letters}
        for entry in set((self.path / DEAD_LETTERS).glob("*")) - letters:
            entry.unlink()
        (self.path / DEAD_LETTERS).mkdir(exist_ok=True)
        self.attempts.mkdir(parents=True)
        _probe(self.attempts)
        sync_folder(self.path)


def _refuse_strangers(path: Path, header: Header) -> None:
    """Refuse a folder that is not ours, or another job's; changes nothing."""
    if not path.exists():
        return
    entries = [entry.name for entry in path.iterdir()]
    if MANIFEST not in entries:
        # A job killed while it made the manifest leaves these two.
        known = (f"{MANIFEST}.", ".")
        strange = [n for n in entries if n not in (LOCK, "lost+found") and not n.startswith(known)]
        if strange:
            raise OutputMismatch(
                f"{path} holds files but no {MANIFEST} ({names(sorted(strange), 3)}): "
                "choose an empty or new folder"
            )
        return
    found = read_header(path)
    if found is None:
        raise OutputMismatch(f"{path}/{MANIFEST} is not a manifest that can be read: choose another folder")
    for kind, theirs, ours in (
        ("input columns", found.columns, header.columns),
        ("output columns", found.outputs, header.outputs),
    ):
        if theirs != ours:
            raise OutputMismatch(
                f"{path} holds a job with other {kind}, {json.dumps(theirs)} where this one has "
                f"{json.dumps(ours)}: choose another folder, or delete that one"
            )


def _probe(path: Path) -> None:
    """Really write something: rights and mount options promise more than they keep."""
    probe = path / "probe"
    with open(probe, "xb") as stream:
        stream.write(b"\0" * 512)
        stream.flush()
        os.fsync(stream.fileno())
    probe.unlink()
