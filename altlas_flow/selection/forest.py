"""Extremely randomised trees, all grown at once, level by level.

One forest of a library's own takes as long as all of these together: a selector fits a small forest for
each model
again and again, and what that costs is the number of calls, not of rows. Here each level of all trees is a
dozen calls of NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Forest:
    """Trees in flat arrays. A leaf leads to itself, so that a walk needs no condition.

    Attributes
    ----------
    feature, left : int32 array, shape (n_nodes,)
        What a node asks for, and where it goes with "not above"; "above" is the node after that.
    threshold, value : float32 array, shape (n_nodes,)
    roots : int32 array, shape (n_trees,)
    depth : int
        Steps that lead from any root to a leaf.
    """

    feature: Ints
    left: Ints
    threshold: Floats
    value: Floats
    roots: Ints
    depth: int

    def predict(self, rows: Floats, trees: Ints | None = None) -> Floats:
        """What trees say of rows.

        Parameters
        ----------
        rows : array, shape (n_rows, n_features)
        trees : int array, shape (n_rows, n_asked), optional
            Which trees each row asks; by default all.

        Returns
        -------
        array, shape (n_rows, n_asked)
        """
        node = (
            np.repeat(self.roots[None, :], len(rows), axis=0) if trees is None else self.roots[trees]
        ).astype(np.int64)
        # flat positions: one plain take is several times faster than indexing by two arrays
        flat, first = np.ascontiguousarray(rows).ravel(), (np.arange(len(rows)) * rows.shape[1])[:, None]
        for _ in range(self.depth):
            above = flat.take(first + self.feature.take(node)) > self.threshold.take(node)
            node = self.left.take(node) + above
        return self.value.take(node)


def grow(
    rows: Floats,
    targets: Floats,
    samples: Sequence[Ints],
    rng: np.random.Generator,
    *,
    candidates: int,
    by: Floats | None = None,
    leaf: int = 2,
    depth: int = 24,
) -> Forest:
    """Grow a tree for each of `samples`.

    Parameters
    ----------
    rows : array, shape (n_rows, n_features)
        Finite.
    targets : array, shape (n_rows,)
    samples : sequence of int arrays
        The rows of each tree, with repetitions where it is a bootstrap; none is empty.
    rng : Generator
    candidates : int
        Splits that are looked at in each node: a feature and a threshold, both by chance.
    by : array, shape (n_rows,), optional
        What the rows of a node shall be alike in; by default the targets.
    leaf : int
        Rows that a leaf holds at least.
    depth : int
        Of any tree at most.

    Returns
    -------
    Forest

    Notes
    -----
    Geurts, Ernst, Wehenkel: "Extremely randomized trees", Machine Learning 63 (2006).
    """
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    targets = np.asarray(targets, dtype=np.float64)
    by = targets if by is None else np.asarray(by, dtype=np.float64)
    columns = np.flatnonzero(np.ptp(rows, axis=0) > 0)  # what is always the same tells nothing apart
    counts = np.array([len(sample) for sample in samples], dtype=np.int64)
    members = np.concatenate(samples).astype(np.int64)  # rows, node after node
    nodes = np.arange(len(samples), dtype=np.int64)  # that may still be split, in the order of members
    made = len(samples)
    parts: dict[str, list[Any]] = {"at": [], "feature": [], "threshold": [], "left": []}
    values = [_means(targets[members], counts)]
    levels = 0
    while len(nodes) and len(columns) and levels < depth:
        split, feature, threshold, above = _best(rows, columns, by, members, counts, rng, candidates, leaf)
        if not split.any():
            break
        levels += 1
        kept = np.repeat(split, counts)
        members, above = members[kept], above[kept]
        nodes, counts = nodes[split], counts[split]
        ups = np.add.reduceat(above, _starts(counts), dtype=np.int64)
        # rows of the lower child first, then those of the upper: by node and side, in their order
        order = np.argsort(2 * np.repeat(np.arange(len(nodes)), counts) + above, kind="stable")
        members = members[order]
        left = made + 2 * np.arange(len(nodes))
        for name, what in (
            ("at", nodes),
            ("feature", feature[split]),
            ("threshold", threshold[split]),
            ("left", left),
        ):
            parts[name].append(what)
        counts = np.column_stack([counts - ups, ups]).ravel()
        nodes = np.arange(made, made + 2 * len(left))
        made += len(nodes)
        values.append(_means(targets[members], counts))
    return _assembled(parts, values, made, len(samples), levels)


def _assembled(
    parts: dict[str, list[Any]], values: list[Floats], made: int, trees: int, levels: int
) -> Forest:
    feature = np.zeros(made, dtype=np.int32)
    left = np.arange(made, dtype=np.int32)
    threshold = np.full(made, np.inf, dtype=np.float32)
    for at, asked, limit, lower in zip(
        *(parts[name] for name in ("at", "feature", "threshold", "left")), strict=True
    ):
        feature[at], threshold[at], left[at] = asked, limit, lower
    value = np.concatenate(values).astype(np.float32)
    return Forest(feature, left, threshold, value, np.arange(trees, dtype=np.int32), levels)


def _starts(counts: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(counts)[:-1]])


def _means(targets: Floats, counts: Ints) -> Floats:
    return np.asarray(np.add.reduceat(targets, _starts(counts)) / counts)


def _best(
    rows: Floats,
    columns: Ints,
    targets: Floats,
    members: Ints,
    counts: Ints,
    rng: np.random.Generator,
    candidates: int,
    leaf: int,
) -> tuple[npt.NDArray[np.bool_], Ints, Floats, npt.NDArray[np.bool_]]:
    """Of each node: whether it is split, by what, where; and for each member whether it goes up."""
    starts, wide, n = _starts(counts), rows.shape[1], len(counts)
    mine = targets[members]
    total = np.add.reduceat(mine, starts)
    top = total**2 / counts + 1e-9 * np.abs(np.add.reduceat(mine**2, starts)) + 1e-300
    feature, threshold = np.zeros(n, dtype=np.int64), np.zeros(n)
    goes = np.zeros(len(members), dtype=bool)
    flat, at = rows.ravel(), members * wide
    for _ in range(candidates):
        asked = columns[rng.integers(len(columns), size=n)]
        seen = flat.take(at + np.repeat(asked, counts))
        low, high = np.minimum.reduceat(seen, starts), np.maximum.reduceat(seen, starts)
        # never at the top: something has to lie above
        limit = np.minimum(low + rng.random(n, dtype=np.float32) * (high - low), np.nextafter(high, low))
        above = seen > np.repeat(limit, counts)
        ups = np.add.reduceat(above, starts, dtype=np.int64)
        downs = counts - ups
        upper = np.add.reduceat(np.where(above, mine, 0.0), starts)
        fits = (ups >= leaf) & (downs >= leaf)
        with np.errstate(divide="ignore", invalid="ignore"):
            gained = np.where(fits, upper**2 / ups + (total - upper) ** 2 / downs, -np.inf)
        better = gained > top
        if better.any():
            top = np.where(better, gained, top)
            feature, threshold = np.where(better, asked, feature), np.where(better, limit, threshold)
            goes = np.where(np.repeat(better, counts), above, goes)
    split = np.add.reduceat(goes, starts, dtype=np.int64) > 0
    return split, feature, threshold, goes
