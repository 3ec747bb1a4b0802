"""What has been seen of a task: a row for each decision, its outcome as it comes, in any order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]

#: What an outcome may say of.
OBJECTIVES = ("quality", "latency", "cost", "failed")
#: What there is of each row.
ARRAYS = (
    "arms", "chances", "order", "rows", "vectors", "values", "residuals", "expected", "wished", "got"
)  # fmt: skip
#: Rows that are kept; the oldest go.
ROWS = 8192


class Seen:
    """Rows of one task, bounded. Written by one thread.

    Parameters
    ----------
    most : int
        Rows that are kept.
    """

    def __init__(self, most: int = ROWS) -> None:
        self.most, self.total = most, 0
        self.ids: dict[str, int] = {}  # id of a decision -> its place
        self.names: list[str] = []  # by place
        self.arms = np.zeros(0, dtype=np.int32)
        self.chances = np.zeros(0, dtype=np.float32)
        self.order = np.zeros(0, dtype=np.int64)  # by place: which decision it was, the first is 0
        self.rows = np.zeros((0, 0), dtype=np.float32)
        self.vectors = np.zeros((0, 0), dtype=np.float32)
        self.values = np.zeros((0, len(OBJECTIVES)), dtype=np.float64)
        # what was foretold, before it was learned: by how much it was wrong; of all models, what they are
        # worth
        # and the chances with which the learner alone would have chosen them; and what was got
        self.residuals = np.zeros((0, len(OBJECTIVES)), dtype=np.float64)
        self.expected = np.zeros((0, 0), dtype=np.float64)
        self.wished = np.zeros((0, 0), dtype=np.float64)
        self.got = np.zeros(0, dtype=np.float64)

    def __len__(self) -> int:
        return len(self.names)

    def add(self, decision: str, arm: int, chance: float, row: Floats, vector: Floats | None) -> bool:
        """Take in a decision; False where it is known already."""
        if decision in self.ids:
            return False
        if len(self.names) < self.most:
            place = len(self.names)
            self.names.append(decision)
            self._reserve(place + 1)
        else:
            place = self.total % self.most
            del self.ids[self.names[place]]
            self.names[place] = decision
        self._widen("rows", len(row))
        self._widen("vectors", 0 if vector is None else len(vector))
        self.ids[decision] = place
        self.arms[place], self.chances[place], self.order[place] = arm, chance, self.total
        self.rows[place] = np.nan
        self.rows[place, : len(row)] = row
        if self.vectors.shape[1]:
            self.vectors[place] = np.nan if vector is None else vector
        for unknown in (self.values, self.residuals, self.expected, self.wished, self.got):
            unknown[place] = np.nan
        self.total += 1
        return True

    def tell(self, decision: str, values: Mapping[str, float]) -> bool:
        """What came of a decision; False where it is not known, or no longer."""
        place = self.ids.get(decision)
        if place is None:
            return False
        for name, value in values.items():
            if name == "failed" and self.values[place, OBJECTIVES.index(name)] == 1.0:
                continue  # in whatever order it is said
            self.values[place, OBJECTIVES.index(name)] = value
        return True

    def known(self, objective: str) -> Ints:
        """Places of the rows whose outcome says something of an objective, in the order of the decisions."""
        places = np.flatnonzero(~np.isnan(self.values[: len(self), OBJECTIVES.index(objective)]))
        return np.asarray(places[np.argsort(self.order[places], kind="stable")])

    def value(self, objective: str, places: Ints) -> Floats:
        """Of rows."""
        return np.asarray(self.values[places, OBJECTIVES.index(objective)])

    def judged(self, arms: int) -> Ints:
        """Places of the rows of which is known what was foretold of so many models, in their order."""
        size = len(self)
        if self.expected.shape[1] < arms:
            return np.zeros(0, dtype=np.int64)
        places = np.flatnonzero(
            ~np.isnan(self.got[:size]) & ~np.isnan(self.expected[:size, :arms]).any(axis=1)
        )
        return np.asarray(places[np.argsort(self.order[places], kind="stable")])

    def judge(self, place: int, expected: Floats, wished: Floats, got: float) -> None:
        """What was foretold of a row, and what was got."""
        self._widen("expected", len(expected))
        self._widen("wished", len(wished))
        self.expected[place, : len(expected)], self.wished[place, : len(wished)] = expected, wished
        self.got[place] = got

    def _reserve(self, size: int) -> None:
        if size > len(self.arms):
            new = min(self.most, max(64, 2 * len(self.arms), size))
            for name in ARRAYS:
                old = getattr(self, name)
                grown = np.zeros((new, *old.shape[1:]), dtype=old.dtype)
                grown[: len(old)] = old
                setattr(self, name, grown)

    def _widen(self, name: str, wide: int) -> None:
        old = getattr(self, name)
        if wide > old.shape[1]:
            grown = np.full((len(old), wide), np.nan, dtype=old.dtype)
            grown[:, : old.shape[1]] = old
            setattr(self, name, grown)
