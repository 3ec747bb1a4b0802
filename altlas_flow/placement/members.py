"""A set of nodes that can be picked from by load without looking at each."""

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray

from altlas_flow.placement.node import Node

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


class Members:
    """Nodes in an order of their own: adding and discarding take constant time.

    Attributes
    ----------
    nodes : list of Node
    rows : array of int
        Where each stands in the roster's arrays; the first ``len(nodes)`` are valid.
    place : array of int
        The other way round: by row, the position in `nodes`, or -1.
    """

    __slots__ = ("nodes", "place", "rows")

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.rows: Ints = np.zeros(8, np.intp)
        self.place: Ints = np.full(8, -1, np.intp)

    def __len__(self) -> int:
        return len(self.nodes)

    def position(self, row: int) -> int:
        """Position of the node with that row; -1 where it is no member."""
        return int(self.place[row]) if row < len(self.place) else -1

    def positions(self, others: Members) -> Ints:
        """Positions here of those of `others` that are members."""
        self._reach(len(others.place))
        found: Ints = self.place.take(others.rows[: len(others)])
        # mostly all of them are: one look is cheaper than a copy
        return found[found >= 0] if len(found) and found.min() < 0 else found

    def add(self, row: int, node: Node) -> None:
        """Append a node that is no member yet."""
        here = len(self.nodes)
        if here == len(self.rows):
            self.rows = np.concatenate([self.rows, np.zeros(here, np.intp)])
        self._reach(row + 1)
        self.nodes.append(node)
        self.rows[here] = row
        self.place[row] = here

    def discard(self, row: int) -> bool:
        """Take a node out; the last one takes its position. Whether it was a member."""
        here = self.position(row)
        if here < 0:
            return False
        last, moved = self.nodes.pop(), int(self.rows[len(self.nodes)])
        self.place[row] = -1
        if moved != row:
            self.nodes[here] = last
            self.rows[here] = moved
            self.place[moved] = here
        return True

    def _reach(self, rows: int) -> None:
        """Let `place` have room for so many rows."""
        if rows > len(self.place):
            more = max(rows, 2 * len(self.place)) - len(self.place)
            self.place = np.concatenate([self.place, np.full(more, -1, np.intp)])


def least(loads: Floats, count: int, rng: random.Random) -> list[int]:
    """Positions of the `count` smallest finite values; a random stretch of those that are equal."""
    if len(loads) <= count:
        return [here for here, load in enumerate(loads.tolist()) if load < np.inf]
    bar = np.partition(loads, count - 1)[count - 1]
    found = np.flatnonzero(loads <= bar)
    equal = loads[found] == bar
    below: list[int] = found[~equal].tolist()
    if bar == np.inf:
        return below
    ties: list[int] = found[equal].tolist()
    missing, start = count - len(below), int(rng.random() * len(ties))
    return below + ties[start : start + missing] + ties[: max(start + missing - len(ties), 0)]
