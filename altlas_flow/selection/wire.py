"""A snapshot as names and arrays, and back: it travels to clients, and is kept."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from altlas_flow.errors import StateError
from altlas_flow.selection.blend import Blend
from altlas_flow.selection.codec import Arrays, pack, unpack
from altlas_flow.selection.features import Columns
from altlas_flow.selection.forest import Forest
from altlas_flow.selection.guard import Verdict
from altlas_flow.selection.kernel import Kernel
from altlas_flow.selection.means import Means
from altlas_flow.selection.snapshot import Snapshot
from altlas_flow.selection.trees import Trees


def to_parts(snapshot: Snapshot) -> tuple[dict[str, Any], Arrays]:
    """Names and arrays of a snapshot."""
    verdict = snapshot.verdict
    meta: dict[str, Any] = {
        "version": snapshot.version,
        "arms": list(snapshot.arms),
        "columns": snapshot.columns.names,
        "wide": snapshot.columns.wide,
        "scales": dict(snapshot.scales),
        "noted": list(snapshot.noted),
        "aims": list(snapshot.aims),
        "verdict": None if verdict is None else [verdict.best, verdict.gain, verdict.error, verdict.trusted],
        "blends": {},
    }
    arrays: Arrays = {"usual": snapshot.usual, "tries": snapshot.tries, "failures": snapshot.failures}
    arrays["ratios"] = np.concatenate([np.zeros(0), *snapshot.ratios])
    arrays["ratio_counts"] = np.array([len(one) for one in snapshot.ratios], dtype=np.int64)
    for name, blend in snapshot.blends.items():
        meta["blends"][name] = {"noise": blend.means.noise}
        _put(arrays, f"{name}.means", blend.means)
        if blend.trees is not None:
            meta["blends"][name]["depths"] = [blend.trees.own.depth, blend.trees.shared.depth]
            _put(arrays, f"{name}.own", blend.trees.own)
            _put(arrays, f"{name}.shared", blend.trees.shared)
            arrays[f"{name}.codes"] = blend.trees.codes
        if blend.kernel is not None:
            _put(arrays, f"{name}.kernel", blend.kernel)
    return meta, arrays


def from_parts(meta: dict[str, Any], arrays: Arrays) -> Snapshot:
    """A snapshot of its names and arrays.

    Raises
    ------
    StateError
        Where something is missing.
    """
    try:
        blends = {name: _blend(name, said, arrays) for name, said in meta["blends"].items()}
        ends = np.cumsum(arrays["ratio_counts"])[:-1]
        verdict = meta["verdict"]
        return Snapshot(
            version=meta["version"],
            arms=tuple(meta["arms"]),
            columns=Columns(meta["columns"], meta["wide"]),
            usual=arrays["usual"],
            blends=blends,
            scales=meta["scales"],
            ratios=tuple(np.split(arrays["ratios"], ends)) if len(meta["arms"]) else (),
            tries=arrays["tries"],
            failures=arrays["failures"],
            verdict=None if verdict is None else Verdict(*verdict),
            noted=tuple(meta["noted"]),
            aims=tuple(meta["aims"]),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise StateError(f"something of it is missing: {error!r}") from error


def to_bytes(snapshot: Snapshot) -> bytes:
    """A snapshot as bytes."""
    return pack(*to_parts(snapshot))


def from_bytes(data: bytes) -> Snapshot:
    """A snapshot of its bytes.

    Raises
    ------
    StateError
    """
    return from_parts(*unpack(data))


def _blend(name: str, said: dict[str, Any], arrays: Arrays) -> Blend:
    given = {one: arrays[f"{name}.means.{one}"] for one in ("means", "deviations", "known")}
    means = Means(**given, noise=said["noise"])
    trees = kernel = None
    if "depths" in said:
        own, shared = (
            Forest(**_get(arrays, f"{name}.{which}", Forest), depth=depth)
            for which, depth in zip(("own", "shared"), said["depths"], strict=True)
        )
        trees = Trees(own, shared, arrays[f"{name}.codes"])
    if f"{name}.kernel.rows" in arrays:
        kernel = Kernel(**_get(arrays, f"{name}.kernel", Kernel))
    return Blend(means, trees, kernel)


def _put(arrays: Arrays, name: str, thing: Any) -> None:
    for field in fields(thing):
        value = getattr(thing, field.name)
        if isinstance(value, np.ndarray):
            arrays[f"{name}.{field.name}"] = value


def _get(arrays: Arrays, name: str, kind: Any) -> dict[str, Any]:
    return {field.name: arrays[f"{name}.{field.name}"] for field in fields(kind) if field.name != "depth"}
