"""What came of the choices of a task, model by model: for reports and pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from altlas_flow.errors import SelectionError, names
from altlas_flow.selection.learner import Learner
from altlas_flow.selection.seen import OBJECTIVES

Flags = npt.NDArray[np.bool_]

#: Slices of a number: by quarters of what was seen.
QUARTERS = (0.25, 0.5, 0.75)
#: Windows of a course at most.
WINDOWS = 200


def report(learner: Learner, by: str | None = None) -> list[dict[str, Any]]:
    """Of each model: decisions, outcomes, and quantiles and means of what came of them.

    Parameters
    ----------
    learner : Learner
    by : str, optional
        A feature: each of its words has rows of its own, and each quarter of its numbers.

    Raises
    ------
    SelectionError
        Where no decision has that feature.
    """
    size = len(learner.seen)
    slices = {"": np.ones(size, dtype=bool)} if by is None else _slices(learner, by)
    rows = []
    for label, there in slices.items():
        for arm, model in enumerate(learner.arms):
            mine = np.flatnonzero(there & (learner.seen.arms[:size] == arm))
            said = {} if by is None else {by: label}
            rows.append({"model": model, **said, **_figures(learner, mine, int(there.sum()))})
    return rows


def _figures(learner: Learner, mine: Any, all_of_them: int) -> dict[str, Any]:
    """Of some decisions for one model."""
    seen = learner.seen
    columns = {name: seen.values[mine, at] for at, name in enumerate(OBJECTIVES)}
    known = {name: column[~np.isnan(column)] for name, column in columns.items()}
    found: dict[str, Any] = {
        "decisions": len(mine),
        "outcomes": int((~np.isnan(seen.values[mine])).any(axis=1).sum()),
        "share": len(mine) / max(all_of_them, 1),
    }
    latencies = known["latency"]
    for name, part in (("latency_p50", 50), ("latency_p95", 95)):
        found[name] = float(np.percentile(latencies, part)) if len(latencies) else None
    found["errors"] = int(known["failed"].sum())
    for name in ("cost", "quality"):
        column = known[name]
        found[name] = float(column.mean()) if len(column) else None
        found[f"{name}_error"] = float(column.std(ddof=1) / len(column) ** 0.5) if len(column) > 1 else None
    return found


def _slices(learner: Learner, by: str) -> dict[str, Flags]:
    """Which rows are in which slice."""
    columns, rows = learner.columns.names, learner.seen.rows[: len(learner.seen)]
    found: dict[str, Flags] = {}
    for at, name in enumerate(columns[: rows.shape[1]]):
        if name == by:
            found.update(_quarters(rows[:, at]))
        elif name.startswith(f"{by}="):
            found[name.partition("=")[2]] = rows[:, at] == 1.0
    if not found:
        there = sorted({name.partition("=")[0] for name in columns})
        raise SelectionError(
            f"by={by!r}: no decision has that feature: there are {names(there) if there else 'none'}"
        )
    unknown = ~np.logical_or.reduce(list(found.values()))
    return {**found, "unknown": unknown} if unknown.any() else found


def _quarters(column: Any) -> dict[str, Flags]:
    known = column[~np.isnan(column)]
    limits = sorted(set(np.quantile(known, QUARTERS).tolist())) if len(known) else []
    found: dict[str, Flags] = {}
    low = -np.inf
    for high in [*limits, np.inf]:
        label = f"> {low:.4g}" if high == np.inf else f"<= {high:.4g}"
        if np.isfinite(low) and np.isfinite(high):
            label = f"{low:.4g} to {high:.4g}"
        if not limits:
            label = "any"
        inside = (column > low) & (column <= high)
        if inside.any():
            found[label] = inside
        low = high
    return found


def course(learner: Learner, windows: int = 40) -> dict[str, Any]:
    """How often each model was chosen, over the latest decisions.

    Parameters
    ----------
    learner : Learner
    windows : int
        Parts of equally many decisions, the oldest first.

    Returns
    -------
    dict
        ``models``; ``first``, the number of the first decision of each window; ``counts``, a list of
        numbers of choices by model for each window.
    """
    if isinstance(windows, bool) or not isinstance(windows, int) or not 1 <= windows <= WINDOWS:
        raise SelectionError(f"windows={windows!r}: give a whole number from 1 to {WINDOWS}")
    seen = learner.seen
    order = np.argsort(seen.order[: len(seen)], kind="stable")
    parts = [part for part in np.array_split(order, min(windows, max(1, len(order)))) if len(part)]
    n = len(learner.arms)
    return {
        "models": list(learner.arms),
        "first": [int(seen.order[part[0]]) for part in parts],
        "counts": [np.bincount(seen.arms[part], minlength=n)[:n].tolist() for part in parts],
    }
