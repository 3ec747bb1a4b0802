"""A learner as bytes and back, and in a file: written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from altlas_flow.errors import StateError
from altlas_flow.selection.codec import pack, unpack
from altlas_flow.selection.features import Columns
from altlas_flow.selection.goal import Goal
from altlas_flow.selection.guard import Verdict
from altlas_flow.selection.learner import Learner
from altlas_flow.selection.seen import ARRAYS
from altlas_flow.selection.wire import from_parts, to_parts


def to_bytes(learner: Learner, more: dict[str, Any] | None = None) -> bytes:
    """All that a learner knows, as bytes.

    Parameters
    ----------
    learner : Learner
    more : dict, optional
        What else is to be kept, as JSON holds it.
    """
    seen, size = learner.seen, len(learner.seen)
    meta, arrays = to_parts(learner.snapshot)
    verdict = learner.verdict
    arrays = {f"snapshot.{name}": array for name, array in arrays.items()}
    arrays |= {f"seen.{name}": getattr(seen, name)[:size] for name in ARRAYS}
    arrays |= {"declared": learner.declared, "since": learner.since, "suspected": learner.suspected}
    goal = {name: (None if value == float("inf") else value) for name, value in asdict(learner.goal).items()}
    kept = {
        "goal": goal,
        "seed": learner.seed,
        "arms": learner.arms,
        "columns": learner.columns.names,
        "wide": learner.columns.wide,
        "most": seen.most,
        "total": seen.total,
        "names": seen.names,
        "noted": learner.noted,
        "unfitted": learner._unfitted,
        "fresh": learner._fresh,
        "verdict": None if verdict is None else [verdict.best, verdict.gain, verdict.error, verdict.trusted],
        "snapshot": meta,
        "more": more or {},
    }
    return pack(kept, arrays)


def from_bytes(data: bytes) -> tuple[Learner, dict[str, Any]]:
    """A learner of its bytes, and what else was kept.

    Raises
    ------
    StateError
    """
    meta, arrays = unpack(data)
    try:
        goal: dict[str, Any] = {
            name: (float("inf") if value is None else value) for name, value in meta["goal"].items()
        }
        learner = Learner(Goal(**{**goal, "said": tuple(goal["said"])}), seed=meta["seed"], most=meta["most"])
        learner.arms, learner.declared, learner.since = meta["arms"], arrays["declared"], arrays["since"]
        learner.suspected = arrays["suspected"]
        learner.columns = Columns(meta["columns"], meta["wide"])
        seen = learner.seen
        seen.names, seen.total = meta["names"], meta["total"]
        seen.ids = {name: place for place, name in enumerate(seen.names)}
        for name in ARRAYS:
            setattr(seen, name, arrays[f"seen.{name}"])
        learner.noted, learner._unfitted, learner._fresh = meta["noted"], meta["unfitted"], meta["fresh"]
        learner.verdict = None if meta["verdict"] is None else Verdict(*meta["verdict"])
        held = {
            name.removeprefix("snapshot."): array
            for name, array in arrays.items()
            if name.startswith("snapshot.")
        }
        learner.snapshot = from_parts(meta["snapshot"], held)
        return learner, meta["more"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateError(f"something of it is missing: {error!r}") from error


def write(path: Path, data: bytes) -> None:
    """Write a file whole, or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise


def read(path: Path) -> bytes:
    """What a file holds.

    Raises
    ------
    StateError
        Where it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise StateError(f"{path} cannot be read ({error.strerror})") from error
