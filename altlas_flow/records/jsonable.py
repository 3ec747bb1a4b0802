"""Values as JSON and back: arrays, bytes and Arrow data beside what JSON knows. Never pickle.

What JSON does not know is an object with one key, its mark::

    {"$array": {"dtype": "<f4", "shape": [2, 3], "data": base64}}    NumPy; "scalar": true for a scalar
    {"$bytes": base64}
    {"$arrow": {"kind": "table", "data": base64 of an IPC stream}}   or "batch", "array", "chunked"
    {"$float": "nan"}                                                or "inf", "-inf"
    {"$pairs": [[1, "a"], …]}                                        a dict whose keys are not all texts
    {"$dict": {"$bytes": "…"}}                                       a dict that looks like one of these

    {"$tuple": [1, 2]}                                               an input or answer that is one tuple
    {"$file": {"path": "clip.wav", "on_worker": true}}               a `File`; not what is in it

Other tuples become lists, and paths texts. `encode_exact` marks all tuples, and refuses what
would change its type.
"""

from __future__ import annotations

import binascii
import math
import os
import sys
from collections.abc import Mapping
from typing import Any

from altlas_flow.errors import BadRequest, one_line
from altlas_flow.records import arrays
from altlas_flow.records.file import File

#: How deep a value may be nested: readers of JSON give up at about three times that.
DEPTH = 60
#: What `encode` writes so that `decode` makes the same type of it.
_SCALARS = frozenset({type(None), bool, int, float, str, bytes})
_HINT = "use texts, numbers, lists, mappings, bytes, NumPy arrays and Arrow tables"


def encode(value: Any, place: str, depth: int = DEPTH) -> Any:
    """What JSON can hold, from which `decode` makes `value` again.

    Parameters
    ----------
    value : Any
    place : str
        The field's name, for the error.

    Raises
    ------
    BadRequest
        Where it holds what cannot be written without pickle.
    """
    if value is None or value is True or value is False:
        return value
    kind = type(value)
    if kind is str:
        return _text(value, place)
    if kind is int:
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": str(value)}
    if depth == 0:
        raise BadRequest(f"{place} is nested deeper than {DEPTH} levels: flatten it")
    if isinstance(value, (list, tuple)):
        return [encode(item, place, depth - 1) for item in value]
    if isinstance(value, Mapping):
        return _encode_mapping(value, place, depth - 1)
    return _encode_other(value, place)


def encode_rows(value: Any, place: str) -> Any:
    """As `encode`, of inputs or answers: a list is many of them, and a tuple is one.

    Raises
    ------
    BadRequest
    """
    if type(value) is list and any(isinstance(item, tuple) for item in value):
        return [
            encode_rows(item, place) if isinstance(item, tuple) else encode(item, place) for item in value
        ]
    encoded = encode(value, place)
    return {"$tuple": encoded} if isinstance(value, tuple) else encoded


def encode_exact(value: Any, place: str, depth: int = DEPTH) -> Any:
    """As `encode`, of what `decode` gives back with the same types all through: tuples have their mark.

    Raises
    ------
    BadRequest
        Also where `encode` would write something like it: a list for a named tuple, a text for a path.
    """
    kind = type(value)
    if kind in _SCALARS:
        return encode(value, place)
    if depth == 0:
        raise BadRequest(f"{place} is nested deeper than {DEPTH} levels: flatten it")
    if kind is list or kind is tuple:
        items = [encode_exact(item, place, depth - 1) for item in value]
        return items if kind is list else {"$tuple": items}
    if kind is dict:
        if all(type(key) is str for key in value):
            named = {_text(key, place): encode_exact(item, place, depth - 1) for key, item in value.items()}
            return {"$dict": named} if _mark(named) else named
        pairs = value.items()
        return {"$pairs": [[encode_exact(part, place, depth - 1) for part in pair] for pair in pairs]}
    if kind is File or kind.__module__.partition(".")[0] in ("numpy", "pyarrow"):
        # an array keeps its type, unless it is of a class of its own that numpy has beside
        numpy = sys.modules.get("numpy")
        if numpy is None or kind is numpy.ndarray or not isinstance(value, numpy.ndarray):
            return encode(value, place)
    raise BadRequest(f"{place} holds a {kind.__name__}, which JSON does not give back as one: {_HINT}")


def _encode_mapping(value: Mapping[Any, Any], place: str, depth: int) -> Any:
    if not all(isinstance(key, str) for key in value):
        return {"$pairs": [[_key(key, place), encode(item, place, depth)] for key, item in value.items()]}
    items = {_text(str.__str__(key), place): encode(item, place, depth) for key, item in value.items()}
    return {"$dict": items} if _mark(items) else items


def _encode_other(value: Any, place: str) -> Any:
    """What is neither plain nor a container; an array is there only where its library is loaded."""
    numpy, arrow = sys.modules.get("numpy"), sys.modules.get("pyarrow")
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        return {"$array": arrays.pack_array(value, place)}
    if arrow is not None and isinstance(
        value, (arrow.Table, arrow.RecordBatch, arrow.ChunkedArray, arrow.Array)
    ):
        return {"$arrow": arrays.pack_arrow(value)}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"$bytes": arrays.to_base64(value)}
    if isinstance(value, File):
        return {"$file": {"path": _text(value.path, place), "on_worker": value.on_worker}}
    # enumerations and other subclasses: the plain value
    if isinstance(value, str):
        return _text(str.__str__(value), place)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return encode(float(value), place)
    if isinstance(value, os.PathLike):
        return encode(os.fspath(value), place)
    shown = f"{type(value).__name__} {one_line(repr(value), 60)}"
    raise BadRequest(f"{place} holds {shown}, which cannot be written as JSON: {_HINT}")


def _text(value: str, place: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise BadRequest(
                f"{place} holds text that is not Unicode ({one_line(error)}): send it as bytes"
            ) from error
    return value


def _key(key: Any, place: str) -> Any:
    if key is None or isinstance(key, (str, int, float)):
        return encode(key, place)
    raise BadRequest(f"{place} holds the key {one_line(repr(key), 60)}: write keys as texts or numbers")


def _mark(items: Mapping[str, Any]) -> str | None:
    """The mark of a dict that has one key, and that one."""
    if len(items) == 1:
        [key] = items
        return key if key in _DECODERS else None
    return None


def decode(value: Any, place: str) -> Any:
    """What `encode` was given; other JSON stays what it is.

    Raises
    ------
    BadRequest
        Where what follows a mark is not what belongs there; sizes are checked.
    """
    if isinstance(value, list):
        return [decode(item, place) for item in value]
    if not isinstance(value, dict):
        return value
    mark = _mark(value)
    if mark is None:
        return {key: decode(item, place) for key, item in value.items()}
    try:
        return _DECODERS[mark](value[mark], place)
    except (ValueError, TypeError, KeyError, OverflowError, binascii.Error) as error:
        raise BadRequest(
            f"{place}: {mark} is wrong ({type(error).__name__}: {one_line(error, 200)}): "
            "write it with model_dump_json"
        ) from error


def _decode_float(value: Any, place: str) -> float:
    if value not in ("nan", "inf", "-inf"):
        raise ValueError('it is "nan", "inf" or "-inf"')
    return float(value)


def _decode_pairs(value: Any, place: str) -> dict[Any, Any]:
    return {decode(key, place): decode(item, place) for key, item in value}


def _decode_tuple(value: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise TypeError("a list is needed")
    return tuple(decode(item, place) for item in value)


def _decode_file(value: Any, place: str) -> File:
    if not isinstance(value, dict) or not {"path"} <= value.keys() <= {"path", "on_worker"}:
        raise TypeError("a path is needed, and on_worker")
    return File(**value)


def _decode_dict(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("a mapping is needed")
    return {key: decode(item, place) for key, item in value.items()}


_DECODERS = {
    "$array": lambda value, _: arrays.unpack_array(value),
    "$bytes": lambda value, _: arrays.from_base64(value),
    "$arrow": lambda value, _: arrays.unpack_arrow(value),
    "$float": _decode_float,
    "$pairs": _decode_pairs,
    "$dict": _decode_dict,
    "$file": _decode_file,
    "$tuple": _decode_tuple,
}


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal as JSON sees them.

    Arrays by type, shape and content; NaN equals NaN; a tuple equals the list of its items.
    """
    if left is right:
        return True
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(item, right[key]) for key, item in left.items())
    if isinstance(left, float) and isinstance(right, float) and left != left:
        return right != right
    known = arrays.equal(left, right)
    return bool(left == right) if known is None else known
