"""Figures and names as bytes that can be trusted: versioned, with a checksum, and without pickle."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from altlas_flow.errors import StateError

#: The first bytes, and the version of what follows.
MAGIC, FORMAT = b"altlas-selection ", 3
#: Bytes that are read at most: of a file that says it holds more, nothing is.
MOST = 512 * 2**20

Arrays = dict[str, npt.NDArray[Any]]


def pack(meta: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Names and arrays as bytes: a line that says what follows, and an npz archive.

    Parameters
    ----------
    meta : mapping
        What JSON can hold.
    arrays : mapping of str to array
        Of numbers.
    """
    held = io.BytesIO()
    text = np.frombuffer(json.dumps(meta, sort_keys=True).encode(), dtype=np.uint8)
    np.savez(
        held, allow_pickle=False, meta=text, **{f"array:{name}": array for name, array in arrays.items()}
    )
    body = held.getvalue()
    head = {"format": FORMAT, "size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    return MAGIC + json.dumps(head, sort_keys=True).encode() + b"\n" + body


def unpack(data: bytes) -> tuple[dict[str, Any], Arrays]:
    """What was packed.

    Raises
    ------
    StateError
        Where it is damaged, of another version, or something else.
    """
    if not data.startswith(MAGIC):
        raise StateError("it is no state of a selector")
    line, _, body = data[len(MAGIC) :].partition(b"\n")
    try:
        head = json.loads(line)
        form, size, digest = head["format"], head["size"], head["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise StateError("its first line is damaged") from error
    if form != FORMAT:
        raise StateError(f"it is of format {form!r}, and this version reads {FORMAT}")
    if len(body) != size or len(body) > MOST or hashlib.sha256(body).hexdigest() != digest:
        raise StateError("it is damaged: its checksum is another one")
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as held:
            meta = json.loads(held["meta"].tobytes())
            arrays = {
                name.removeprefix("array:"): held[name] for name in held.files if name.startswith("array:")
            }
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise StateError(f"it is damaged: {error}") from error
    return meta, arrays
