"""The trees of all objectives, walked together: a decision costs the number of calls, not of trees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from altlas_flow.selection.trees import Trees

Floats = npt.NDArray[np.floating[Any]]

#: Steps before the first look which walks are at a leaf, and between two such looks.
FIRST, STEPS = 6, 3


class Grove:
    """For one decision at a time.

    Parameters
    ----------
    grown : sequence of Trees
        Of the same models, one for each objective, not empty.
    columns : int
        Of a row.
    """

    def __init__(self, grown: Sequence[Trees], columns: int) -> None:
        self._arms, self._columns = len(grown[0].codes), columns
        forests = [forest for one in grown for forest in (one.own, one.shared)]
        starts = np.cumsum([0, *(len(forest.feature) for forest in forests)])
        self._feature, self._threshold, self._value = (
            np.concatenate([getattr(forest, name) for forest in forests])
            for name in ("feature", "threshold", "value")
        )
        self._left = np.concatenate(
            [forest.left.astype(np.int64) + start for forest, start in zip(forests, starts, strict=False)]
        )
        self._depth = max(forest.depth for forest in forests)
        # a row for each objective and model: the input, and what its shared trees know the model by
        wide = columns + max(one.codes.shape[1] for one in grown)
        self._rows = np.zeros((len(grown) * self._arms, wide), dtype=np.float32)
        nodes, rows, self._parts = [], [], []
        end = 0
        for at, one in enumerate(grown):
            mine = np.arange(at * self._arms, (at + 1) * self._arms)
            self._rows[mine, columns : columns + one.codes.shape[1]] = one.codes
            for which, forest, there in (("own", one.own, mine[:1]), ("shared", one.shared, mine)):
                nodes.append(np.tile(forest.roots + starts[2 * at + (which == "shared")], len(there)))
                rows.append(np.repeat(there * wide, len(forest.roots)))
                begin, end = end, end + len(nodes[-1])
                self._parts.append(slice(begin, end))
        self._nodes, self._first = np.concatenate(nodes).astype(np.int64), np.concatenate(rows)

    def predict(self, row: Floats) -> list[tuple[Floats, Floats]]:
        """Of each objective what is expected of each model, and how far trees differ, shape (n_arms,)."""
        rows = self._rows.copy()  # several threads may ask
        rows[:, : self._columns] = row
        flat, node, first = rows.ravel(), self._nodes, self._first
        feature, threshold, left = self._feature, self._threshold, self._left
        found, walking = node, None
        for step in range(self._depth):
            to = left.take(node) + (flat.take(first + feature.take(node)) > threshold.take(node))
            if step < FIRST or (step - FIRST) % STEPS:
                node = to
                continue
            going = np.flatnonzero(to != node)  # a leaf leads to itself
            if walking is None:
                found, walking = to.copy(), going
            else:
                found[walking] = to
                walking = walking[going]
            node, first = to[going], first[going]
            if not len(going):
                break
        if walking is None:
            found = node
        else:
            found[walking] = node
        values = self._value.take(found)
        return [
            _mixed(values[own].reshape(self._arms, -1), values[shared].reshape(self._arms, -1))
            for own, shared in zip(self._parts[::2], self._parts[1::2], strict=True)
        ]


def _mixed(own: Floats, shared: Floats) -> tuple[Floats, Floats]:
    means, spread = np.zeros(len(own)), np.zeros(len(own))
    for trees in (own, shared):
        mean = np.add.reduce(trees, axis=1) / trees.shape[1]
        means += 0.5 * mean
        # not as the mean of squares less the square of the mean, which cancels
        spread += 0.5 * np.einsum("at,at->a", apart := trees - mean[:, None], apart) / trees.shape[1]
    return means, np.sqrt(spread)
