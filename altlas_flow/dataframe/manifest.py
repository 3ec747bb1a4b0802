"""The manifest of an output folder: JSON lines that say which parts are committed.

The first line is the header, then one line for each commit (``part``) and for each withdrawal
(``drop``); the last line about a part wins. A line counts once it is whole, so killing its writer at
any instant leaves either the line or nothing. Reading needs no lock; only the owner of the folder's
lock may write.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from altlas_flow.errors import OutputMismatch, OutputNotWritable, describe

__all__ = ["DEAD_LETTERS", "MANIFEST", "Header", "Manifest", "PartRecord", "committed_parts", "read_header"]

MANIFEST = "_manifest"
DEAD_LETTERS = "_dead_letters"
VERSION = 1
#: What a part is called.
PART = re.compile(r"part-[\w-]+\.parquet")


@dataclass(frozen=True)
class Header:
    """What a folder holds.

    Parameters
    ----------
    columns : tuple of str
        The input's columns, which the parts keep.
    outputs : tuple of str
        The columns that the model adds.
    input : object
        What is fed to the model, as JSON; kept for people to read.
    part_rows : int
        At how many rows the input is cut, so that a resumed job cuts it alike.
    """

    columns: tuple[str, ...]
    outputs: tuple[str, ...]
    input: Any = None
    part_rows: int = 0

    def line(self) -> dict[str, Any]:
        """The header as it stands in the manifest."""
        return {
            "kind": "header",
            "version": VERSION,
            "columns": list(self.columns),
            "outputs": list(self.outputs),
            "input": self.input,
            "part_rows": self.part_rows,
        }


@dataclass(frozen=True)
class PartRecord:
    """One committed part.

    Parameters
    ----------
    part : str
        File name in the folder.
    unit, model : str
        Fingerprints of the piece of input it was made from, and of the model with its parameters.
    rows_in, rows, dead_letters : int
        Rows read, written, and put aside; the first is the sum of the others.
    bytes : int
        Size of the part's file.
    stats : mapping
        Anything else worth keeping (seconds, tokens, …); JSON values.
    """

    part: str
    unit: str
    model: str
    rows_in: int
    rows: int
    dead_letters: int
    bytes: int
    stats: Mapping[str, Any] = field(default_factory=dict)

    def line(self) -> dict[str, Any]:
        """The record as it stands in the manifest."""
        own = {name: getattr(self, name) for name in _FIELDS}
        return {**self.stats, "kind": "part", **own}


_FIELDS = ("part", "unit", "model", "rows_in", "rows", "dead_letters", "bytes")


def not_writable(path: object, error: OSError) -> OutputNotWritable:
    """The typed error for an operating system's refusal to write below `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        why = "the disk is full: free some space and run the same job again; what was committed stays"
    elif error.errno == errno.EROFS:
        why = "the file system is read-only: choose another folder"
    elif error.errno in (errno.EACCES, errno.EPERM):
        why = "you may not write there: change its rights, or choose another folder"
    elif error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
        why = "a file is in the way: choose another folder, or move the file"
    else:
        why = f"{describe(error)}: mend that, or choose another folder"
    return OutputNotWritable(f"cannot write to {path}: {why}")


@contextlib.contextmanager
def refusals(path: object) -> Iterator[None]:
    """Raise what the operating system refuses below `path` as `OutputNotWritable`."""
    try:
        yield
    except OSError as error:
        raise not_writable(path, error) from error


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems know no fsync of folders
            raise
    finally:
        os.close(handle)


def parse(data: bytes) -> tuple[Header | None, dict[str, PartRecord], int]:
    """Header, records and length in bytes of what is whole; what is torn or garbled does not count."""
    header: Header | None = None
    parts: dict[str, PartRecord] = {}
    whole = data.rfind(b"\n") + 1
    for number, raw in enumerate(data[:whole].split(b"\n")[:-1]):
        line: Any = None
        with contextlib.suppress(ValueError):
            line = json.loads(raw)
        kind = line.get("kind") if isinstance(line, dict) else None
        if kind == "header":
            header = _header(line) or header
        elif kind == "part":
            record = _record(line)
            parts.pop(str(line.get("part")), None)
            if record is not None:
                parts[record.part] = record
        elif kind == "drop" and isinstance(line.get("parts"), list):
            for part in line["parts"]:
                parts.pop(str(part), None)
        if number == 0 and header is None:
            return None, {}, whole
    return header, parts, whole


def _header(line: dict[str, Any]) -> Header | None:
    try:
        if line["version"] != VERSION:
            return None
        return Header(
            tuple(map(str, line["columns"])),
            tuple(map(str, line["outputs"])),
            line.get("input"),
            int(line["part_rows"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _record(line: dict[str, Any]) -> PartRecord | None:
    try:
        texts = (line["part"], line["unit"], line["model"])
        counts = (line["rows_in"], line["rows"], line["dead_letters"], line["bytes"])
    except KeyError:
        return None
    if not all(isinstance(text, str) for text in texts) or not all(type(count) is int for count in counts):
        return None
    if not PART.fullmatch(texts[0]):  # a path would reach out of the folder
        return None
    stats = {name: value for name, value in line.items() if name not in (*_FIELDS, "kind")}
    return PartRecord(*texts, *counts, stats)


def read_header(path: str | Path) -> Header | None:
    """Header of the folder's manifest, or None where there is none that can be read. Needs no lock."""
    try:
        return parse((Path(path) / MANIFEST).read_bytes())[0]
    except OSError:
        return None


def committed_parts(path: str | Path) -> dict[str, PartRecord]:
    """The parts that count: in the manifest, with their files as recorded. Needs no lock.

    Raises
    ------
    OutputMismatch
        There is no manifest of ours.
    """
    try:
        header, parts, _ = parse((Path(path) / MANIFEST).read_bytes())
    except OSError as error:
        raise OutputMismatch(f"{path} holds no job's output ({describe(error)}): check the path") from error
    if header is None:
        raise OutputMismatch(f"{path}/{MANIFEST} cannot be read as a manifest: check the path")
    return {name: record for name, record in parts.items() if is_there(Path(path), record)}


def dead_letters_of(path: Path, part: str) -> Path:
    """File of a part's dead letters; not named ``.parquet``, or Dask would take it for a part."""
    return path / DEAD_LETTERS / f"{part.removesuffix('.parquet')}.rows"


def is_there(path: Path, record: PartRecord) -> bool:
    """Whether the files of a record are there: rows put aside must not get lost either."""
    try:
        whole = os.stat(path / record.part).st_size == record.bytes
    except OSError:
        return False
    return whole and (not record.dead_letters or dead_letters_of(path, record.part).is_file())


class Manifest:
    """The manifest, held open for appending by the owner of the folder's lock.

    Parameters
    ----------
    path : Path
        The folder. A missing manifest is made, at once and whole.
    header : Header
        Appended if it differs from what is there (the last header counts).
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path / MANIFEST
        if not self.path.exists():
            self._create(header)
        self._handle = os.open(self.path, os.O_RDWR | os.O_APPEND)
        with open(self._handle, "rb", closefd=False) as stream:
            found, self.parts, self._size = parse(stream.read())
        os.ftruncate(self._handle, self._size)  # a line torn by a kill
        if found is None or json.dumps(found.line()) != json.dumps(header.line()):
            self.append(header.line())

    def _create(self, header: Header) -> None:
        aside = self.path.with_name(f"{MANIFEST}.{uuid.uuid4().hex}")
        try:
            with open(aside, "xb") as stream:
                stream.write(_encode(header.line()))
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(aside, self.path)
            sync_folder(self.path.parent)
        except OSError:
            aside.unlink(missing_ok=True)
            raise

    def append(self, line: Mapping[str, Any]) -> None:
        """Append one line durably, or leave the manifest as it was and raise OSError."""
        data = _encode(line)
        os.ftruncate(self._handle, self._size)  # should an earlier failure have left something
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._handle, rest) :]
            os.fsync(self._handle)
        except OSError:
            os.ftruncate(self._handle, self._size)
            raise
        self._size += len(data)

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def drop_line(parts: Iterable[str]) -> dict[str, Any]:
    """The line that withdraws parts."""
    return {"kind": "drop", "parts": sorted(parts)}


def _encode(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line, ensure_ascii=False, default=_plain).encode("utf-8", "replace") + b"\n"


def _plain(value: Any) -> Any:
    """NumPy scalars as numbers, anything else as text."""
    return value.item() if hasattr(value, "item") else str(value)
