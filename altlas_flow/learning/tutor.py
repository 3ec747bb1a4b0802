"""The tutor: the learners of all tasks, and what lessons make of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from altlas_flow.errors import SelectionError, StateError, describe
from altlas_flow.learning.lessons import ARMS, CHOSE, TOLD, Lesson, features_of
from altlas_flow.learning.report import course, report
from altlas_flow.selection import keep, wire
from altlas_flow.selection.codec import pack, unpack
from altlas_flow.selection.goal import Goal
from altlas_flow.selection.learner import Arm, Learner


class Tutor:
    """Takes lessons, and gives snapshots. What it has learned depends on the lessons and the seed alone.

    Parameters
    ----------
    seed : int
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed
        self.learners: dict[str, Learner] = {}
        self.faults: list[str] = []
        self._changed: set[str] = set()

    def take(self, lesson: Lesson) -> str:
        """Take a lesson; its task, or nothing where it is of a decision that is not known, or known already.

        Raises
        ------
        SelectionError
            Where it cannot be taken, such as a vector of another length than those before.
        """
        kind, *rest = lesson
        if kind == ARMS:
            task, arms = rest
            if task not in self.learners:
                self.learners[task] = Learner(Goal(), seed=self.seed)
            self.learners[task].admit([Arm(*one) for one in arms])
            self._changed.add(task)
            return str(task)
        if kind == CHOSE:
            task, aims, id, model, chances = rest[:5]
            learner = self.learners.get(task)
            if learner is None:
                raise SelectionError(f"a decision of the task {task!r} came before its models")
            if not learner.seen.total:
                learner.goal = Goal(*aims)
            return task if learner.decided(id, model, chances[model], features_of(lesson)) else ""
        if kind == TOLD:
            id, values = rest
            for task, learner in self.learners.items():
                if learner.told(id, values):
                    self._changed.add(task)
                    return task
        return ""

    def learn(self) -> dict[str, tuple[int, bytes]]:
        """What follows from the lessons since the last time: task -> version and snapshot.

        One task that cannot be learned does not keep others from it; `faults` says what was wrong.
        """
        found = {}
        for task in sorted(self._changed):
            try:
                snapshot = self.learners[task].learn()
                found[task] = snapshot.version, wire.to_bytes(snapshot)
            except Exception as error:
                # a fault of ours, which other tasks have not to pay for
                self.faults.append(f"task {task!r} cannot be learned: {describe(error)}")
        self._changed.clear()
        return found

    def knows(self, id: str) -> bool:
        """Whether a decision is one of the latest of its task."""
        return any(id in learner.seen.ids for learner in self.learners.values())

    def report(self, task: str, by: str | None = None) -> list[dict[str, Any]]:
        """Of each model, and of each slice of what `by` names, what came of it; see `report`.

        Raises
        ------
        SelectionError
        """
        learner = self.learners.get(task)
        return [] if learner is None else report(learner, by)

    def course(self, task: str, windows: int) -> dict[str, Any]:
        """Which models were chosen over time; see `course`.

        Raises
        ------
        SelectionError
        """
        return course(self.learners.get(task) or Learner(Goal()), windows)

    def to_bytes(self, number: int) -> bytes:
        """All that has been learned.

        Parameters
        ----------
        number : int
            Of the last lesson in it.
        """
        names = sorted(self.learners)
        arrays = {
            str(at): np.frombuffer(keep.to_bytes(self.learners[name]), dtype=np.uint8)
            for at, name in enumerate(names)
        }
        return pack({"tasks": names, "number": number, "seed": self.seed}, arrays)

    @classmethod
    def of_bytes(cls, data: bytes) -> tuple[Tutor, int]:
        """The tutor again, and the number of the last lesson in it.

        Raises
        ------
        StateError
        """
        meta, arrays = unpack(data)
        try:
            made = cls(seed=meta["seed"])
            for at, name in enumerate(meta["tasks"]):
                made.learners[name], _ = keep.from_bytes(arrays[str(at)].tobytes())
            number = int(meta["number"])
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"something of it is missing: {error!r}") from error
        return made, number

    def snapshots(self) -> Mapping[str, tuple[int, bytes]]:
        """What there is of all tasks."""
        return {
            task: (learner.snapshot.version, wire.to_bytes(learner.snapshot))
            for task, learner in self.learners.items()
        }
