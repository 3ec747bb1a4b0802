"""Answers by the content of what was asked: in the memory of a worker, and in a folder where asked."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import cloudpickle
import numpy as np

from altlas_flow.errors import AltlasError
from altlas_flow.models.content import Content
from altlas_flow.models.copies import CONSTANT
from altlas_flow.models.digest import digest_callable
from altlas_flow.records.jsonable import decode, encode_exact

#: Bytes of answers that a worker remembers.
MEMORY = 256 * 2**20
#: Bytes that an answer takes beside its own: its key, and its place among the others.
PLACE = 350
#: Stands for no answer, which None may be.
ABSENT: Any = object()


def key_of(fingerprint: str, parameters: Mapping[str, Any], value: Any) -> str | None:
    """What is asked as a name: 64 hexadecimal digits; None where nothing tells it from something else."""
    walk = Content(_class_digest)
    try:
        content = walk.encode([fingerprint, dict(sorted(parameters.items())) or None, value])
    except Exception:
        # a type that is not known, or an object of the user's own that refuses with an error of its own
        return None
    return content[1:].hex()


_digests: WeakKeyDictionary[type, str] = WeakKeyDictionary()


def _class_digest(kind: type) -> str:
    """What a class of the user's own does is a part of what its objects are."""
    found = _digests.get(kind)
    if found is None:
        found = _digests[kind] = digest_callable(kind)
    return found


class _Pickled(bytes):
    """An answer that is kept pickled: so it is known what it takes, and nobody else can write into it."""


def _packed(answer: Any) -> tuple[Any, int]:
    """An answer as memory keeps it, and the bytes that this takes."""
    kind = type(answer)
    if kind in CONSTANT:
        return answer, sys.getsizeof(answer)
    if kind is np.ndarray and not answer.dtype.hasobject:
        kept = answer.copy()
        return kept, sys.getsizeof(kept)  # it owns what it shows
    pickled = _Pickled(cloudpickle.dumps(answer))
    return pickled, sys.getsizeof(pickled)


def _opened(kept: Any) -> Any:
    """What was packed, as a copy: whoever gets it may write into it."""
    kind = type(kept)
    if kind is _Pickled:
        return pickle.loads(kept)
    return kept.copy() if kind is np.ndarray else kept


class Memory:
    """The latest answers, as many as fit; copies go in, and copies come out.

    Parameters
    ----------
    room : int
        Bytes.
    """

    def __init__(self, room: int = MEMORY) -> None:
        self._room, self._used = room, 0
        self._kept: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: str) -> Any:
        """An answer, or ABSENT."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return ABSENT
            self._kept.move_to_end(key)
        return _opened(found[0])

    def put(self, key: str, answer: Any) -> None:
        """Keep an answer; the oldest go."""
        with self._lock:
            if key in self._kept:
                return
        # not under the lock: large ones take their time
        kept, size = _packed(answer)
        size += PLACE
        with self._lock:
            if key in self._kept or size > self._room:
                return
            self._kept[key] = kept, size
            self._used += size
            while self._used > self._room:
                _, (_, gone) = self._kept.popitem(last=False)
                self._used -= gone


class Folder:
    """Answers in a folder, one JSON file each; several workers may share it.

    Parameters
    ----------
    path : str
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def _file(self, key: str) -> Path:
        return self._path / key[:2] / f"{key[2:]}.json"

    def has(self, key: str) -> bool:
        """Whether there is a file for an answer."""
        return self._file(key).is_file()

    def get(self, key: str) -> Any:
        """An answer, or ABSENT, also where its file is damaged."""
        try:
            said = json.loads(self._file(key).read_text(encoding="utf-8"))
            if said["key"] != key:
                return ABSENT
            return decode(said["answer"], "answer")
        except (OSError, ValueError, KeyError, TypeError, AltlasError):
            return ABSENT  # not there, torn, or of something else: it is predicted, and written anew

    def put(self, key: str, answer: Any) -> None:
        """Write an answer, in one step.

        One that JSON would not give back as it is, types and all, or that finds no room, is left out.
        """
        file = self._file(key)
        try:
            text = json.dumps({"key": key, "answer": encode_exact(answer, "answer")})
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, aside = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
        except (OSError, ValueError, TypeError, AltlasError):
            return
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as out:
                out.write(text)
            os.replace(aside, file)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(aside)


class Cache:
    """Memory first, then a folder where there is one."""

    def __init__(self, memory: Memory, folder: Folder | None) -> None:
        self._memory, self._folder = memory, folder

    def get(self, key: str) -> Any:
        """An answer, or ABSENT."""
        found = self._memory.get(key)
        if self._folder is not None:
            if found is ABSENT:
                found = self._folder.get(key)
                if found is not ABSENT:
                    self._memory.put(key, found)
            elif not self._folder.has(key):
                self._folder.put(key, found)  # it was kept in memory alone so far
        return found

    def put(self, key: str, answer: Any) -> None:
        """Keep an answer."""
        self._memory.put(key, answer)
        if self._folder is not None:
            self._folder.put(key, answer)


_memory = Memory()


def cache_for(kept: bool | str) -> Cache | None:
    """What a stage's ``cache=`` means in this process."""
    if kept is False:
        return None
    return Cache(_memory, Folder(kept) if isinstance(kept, str) else None)
