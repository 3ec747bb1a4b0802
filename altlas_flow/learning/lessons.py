"""Lessons: what a cluster's clients tell of their decisions, as plain data that travels and is kept.

==============================================================  ========================================
``(ARMS, task, [[id, quality, latency, cost], ...])``           models that serve a task, and what is
                                                                declared of them
``(CHOSE, task, aims, id, model, chances, features, vector)``   a decision; the vector is float32 as bytes
``(TOLD, id, values)``                                          what came of one
==============================================================  ========================================
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from altlas_flow.errors import ReplayError, SelectionError
from altlas_flow.records.decision import Decision
from altlas_flow.selection.features import COLUMNS, LARGEST, NAME_LIMIT, WIDEST, Known
from altlas_flow.selection.replay import Logged

ARMS, CHOSE, TOLD = "arms", "chose", "told"
#: Models of one task at most.
ARMS_LIMIT = 1000
#: Features that are there by themselves, at most.
BESIDE = 16
#: How large what came of a decision may be.
MOST = {"quality": 1.0, "failed": 1.0, "latency": 1e9, "cost": 1e12}

Lesson = tuple[Any, ...]


def chose(decision: Decision, aims: Sequence[float], features: Known) -> Lesson:
    """The lesson of a decision."""
    vector = None if features.vector is None else np.asarray(features.vector, dtype="<f4").tobytes()
    return (
        CHOSE,
        decision.task,
        list(aims),
        decision.id,
        decision.model,
        dict(decision.probabilities),
        dict(features),
        vector,
    )


def features_of(lesson: Sequence[Any]) -> Known:
    """The features of a decision."""
    found = Known(lesson[6])
    if lesson[7] is not None:
        found.vector = np.frombuffer(lesson[7], dtype="<f4")
    return found


def checked(lesson: Any) -> Lesson:
    """What a client sent, looked at: it may be anything.

    Raises
    ------
    SelectionError
    """
    try:
        kind, *rest = lesson
        if kind == TOLD:
            name, values = rest
            found: Lesson = (TOLD, name, {key: float(value) for key, value in values.items()})
            good = _is_name(name) and all(0.0 <= value <= MOST[key] for key, value in found[2].items())
        elif kind == CHOSE:
            task, aims, name, model, chances, features, vector = rest
            found = (CHOSE, task, list(map(float, aims)), name, model, dict(chances), dict(features), vector)
            good = (
                all(map(_is_name, (task, name, model)))
                and len(found[2]) == 3
                and all(0.0 <= aim <= LARGEST for aim in found[2])
                and model in chances
                and len(chances) <= ARMS_LIMIT
                and all(_is_name(key) and 0.0 < float(one) <= 1.0 + 1e-9 for key, one in chances.items())
                and len(features) <= COLUMNS + BESIDE
                and all(_is_name(key) and _is_figure(value) for key, value in features.items())
                and (vector is None or _is_vector(vector))
            )
        else:
            good, found = False, ()
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise SelectionError(f"what was told of a decision cannot be used: {error!r}") from error
    if not good:
        raise SelectionError("what was told of a decision cannot be used: a figure is out of range")
    return found


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= NAME_LIMIT


def _is_figure(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= NAME_LIMIT
    return isinstance(value, (int, float)) and abs(value) <= LARGEST


def _is_vector(data: bytes) -> bool:
    vector = np.frombuffer(data, dtype="<f4")
    return 0 < len(vector) <= WIDEST and bool((np.abs(vector) <= LARGEST).all())


def to_text(lesson: Lesson) -> str:
    """A lesson as JSON, to be kept."""
    plain = list(lesson)
    if lesson[0] == CHOSE and lesson[7] is not None:
        plain[7] = base64.b64encode(lesson[7]).decode()
    return json.dumps(plain)


def of_text(text: str) -> Lesson:
    """The lesson again.

    Raises
    ------
    ValueError, TypeError, LookupError
        Where it is none.
    """
    found = json.loads(text)
    if found[0] == CHOSE and found[7] is not None:
        found[7] = base64.b64decode(found[7])
    return tuple(found)


def logged_of(lessons: Iterable[Sequence[Any]], objective: str) -> list[Logged]:
    """Decisions with what came of them, in their order, as `replay` takes them.

    Parameters
    ----------
    lessons : iterable
        Of decisions and outcomes; of several outcomes of one decision the last counts.
    objective : "quality", "latency" or "cost"

    Raises
    ------
    ReplayError
    """
    if objective not in ("quality", "latency", "cost"):
        raise ReplayError(f"objective={objective!r}: give quality, latency or cost")
    chosen: dict[str, Sequence[Any]] = {}
    values: dict[str, float] = {}
    for lesson in lessons:
        if lesson[0] == CHOSE:
            chosen.setdefault(lesson[3], lesson)
        elif lesson[0] == TOLD:
            told = lesson[2]
            if objective in told:
                values[lesson[1]] = told[objective]
            elif objective == "quality" and told.get("failed"):
                values.setdefault(lesson[1], 0.0)
    return [
        Logged(dict(lesson[6]), dict(lesson[5]), lesson[4], values[id])
        for id, lesson in chosen.items()
        if id in values
    ]
