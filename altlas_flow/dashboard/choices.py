"""`Choices`: which models the selector chose for each task, over a day, and what it expects of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from altlas_flow.dashboard.counts import Counts, Floats, label

#: Seconds of a step, and steps that are kept: an hour, a day.
LEVELS = ((10.0, 360), (300.0, 288))
#: Tasks, and models of each, that are shown.
TASKS, MODELS = 20, 50
#: What is shown of a model beside its share: of the rows of `altlas_flow.learning.report.report`.
FIGURES = (
    "decisions",
    "outcomes",
    "latency_p50",
    "latency_p95",
    "errors",
    "cost",
    "cost_error",
    "quality",
    "quality_error",
)

#: Those of them of which it is kept how they were, and of how many times that they were told.
ESTIMATED, KEPT = ("quality", "latency_p50", "latency_p95", "cost"), 361

#: Of the numbers that are kept.
LARGEST = float(np.finfo(np.float32).max)

_Choices = dict[tuple[str, str], int]


class Choices:
    """What `Counts` counted of decisions, over time.

    Parameters
    ----------
    counts : Counts
    """

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self._steps: list[deque[tuple[float, _Choices]]] = [deque(maxlen=kept) for _, kept in LEVELS]
        self._marks: list[tuple[float, _Choices] | None] = [None for _ in LEVELS]
        self._told: dict[str, list[dict[str, Any]]] = {}
        # by task: when, of which models, and a row for each
        self._estimates: dict[str, deque[tuple[float, tuple[str, ...], npt.NDArray[np.float32]]]] = {}

    @property
    def tasks(self) -> list[str]:
        """Tasks for which models were chosen, those with most decisions first."""
        totals: dict[str, int] = {}
        for (task, _), count in self.counts.decisions.items():
            totals[task] = totals.get(task, 0) + count
        return sorted(totals, key=lambda task: (-totals[task], task))[:TASKS]

    def take(self, now: float) -> None:
        """Note what was chosen since the last time; `now` is of a monotonic clock."""
        for at, (step, _) in enumerate(LEVELS):
            mark = self._marks[at]
            if mark is not None and now - mark[0] < step * 0.95:
                continue
            totals = dict(self.counts.decisions)
            if mark is not None:
                changed = {key: count - mark[1].get(key, 0) for key, count in totals.items()}
                self._steps[at].append((now, {key: count for key, count in changed.items() if count}))
            self._marks[at] = now, totals

    def told(self, task: str, rows: Sequence[Mapping[str, Any]], now: float) -> None:
        """What came of the choices of a task, model by model; `now` is of a monotonic clock."""
        name = label(task)
        told = self._told[name] = [
            {"model": label(row.get("model")), **{figure: row.get(figure) for figure in FIGURES}}
            for row in rows[:MODELS]
        ]
        kept = self._estimates.setdefault(name, deque(maxlen=KEPT))
        models = tuple(row["model"] for row in told)
        if kept and kept[-1][1] == models:
            models = kept[-1][1]  # one text for all times
        values = [[_number(row[one]) for one in ESTIMATED] for row in told]
        kept.append((now, models, np.array(values, dtype=np.float32).reshape(len(models), len(ESTIMATED))))
        for known in (self._told, self._estimates):
            for gone in set(known) - {*self.tasks, name}:
                del known[gone]

    def estimates(
        self, task: str, figure: str, seconds: float, models: Sequence[str]
    ) -> tuple[Floats, dict[str, Floats]]:
        """One of `ESTIMATED` as it was told: times, and values by model, NaN where there is none."""
        at = ESTIMATED.index(figure)
        kept = list(self._estimates.get(task, ()))
        kept = [one for one in kept if one[0] >= kept[-1][0] - seconds]
        times = np.array([time for time, *_ in kept], dtype=np.float64)
        found = {model: np.full(len(kept), np.nan) for model in models}
        for step, (_, names, values) in enumerate(kept):
            for model in models:
                if model in names:
                    found[model][step] = values[names.index(model), at]
        return times, found

    def shares(self, task: str, seconds: float) -> tuple[list[float], dict[str, list[float]]]:
        """Shares of the models of a task over time: times of steps, and values by model.

        Steps without decisions are left out.
        """
        at = 0 if seconds <= LEVELS[0][0] * LEVELS[0][1] else 1
        steps = [(time, _of(task, choices)) for time, choices in self._steps[at]]
        steps = [step for step in steps if step[1]]
        if steps:
            steps = [step for step in steps if step[0] >= steps[-1][0] - seconds]
        models = sorted({model for _, chosen in steps for model in chosen})[:MODELS]
        totals = [sum(chosen.values()) for _, chosen in steps]
        values = {
            model: [chosen.get(model, 0) / total for (_, chosen), total in zip(steps, totals, strict=True)]
            for model in models
        }
        return [time for time, _ in steps], values

    def latest(self) -> list[dict[str, Any]]:
        """Of each task its models: shares of all decisions, and what came of them where that was asked."""
        found = []
        for task in self.tasks:
            chosen = _of(task, self.counts.decisions)
            total = sum(chosen.values())
            told = {row["model"]: row for row in self._told.get(task, ())}
            models = sorted({*chosen, *told}, key=lambda model: (-chosen.get(model, 0), model))[:MODELS]
            found.append(
                {
                    "task": task,
                    "decisions": total,
                    "models": [
                        {
                            **dict.fromkeys(FIGURES),
                            **told.get(model, {}),
                            "model": model,
                            "decisions": chosen.get(model, 0),
                            "share": chosen.get(model, 0) / total,
                        }
                        for model in models
                    ],
                }
            )
        return found


def _number(value: Any) -> float:
    # what is beyond what is kept is no estimate
    return float(value) if isinstance(value, (int, float)) and abs(value) < LARGEST else np.nan


def _of(task: str, choices: Mapping[tuple[str, str], int]) -> dict[str, int]:
    return {model: count for (one, model), count in choices.items() if one == task and count}
