"""The roster: all nodes, and for each kind of needs those that can serve it, kept up to date."""

from __future__ import annotations

import math
import random
import sys
from collections import Counter, OrderedDict
from collections.abc import Iterator

import numpy as np

from altlas_flow.placement.members import Floats, Members, least
from altlas_flow.placement.node import Asked, Needs, Node, refusal

#: Kinds of needs that are kept up to date; one that is not costs a look at every node.
POOLS = 64
#: Models of a pool whose place in the round is remembered.
CURSORS = 1_000
#: Nodes that a strategy is given at most.
LIMIT = 64
#: Nodes that are sampled where there are more: a decision has 100 µs.
SAMPLE = 48
TRIED = "tried already"


class _Pool:
    """The nodes that can serve certain needs, and how many cannot, for which reasons."""

    __slots__ = ("able", "cursors", "needs", "reasons", "refused")

    def __init__(self, needs: Needs) -> None:
        self.needs, self.able = needs, Members()
        self.reasons: dict[int, str] = {}  # by row
        self.refused: Counter[str] = Counter()
        self.cursors: dict[str, int] = {}  # by model: with one for all, several models skip nodes

    def judge(self, row: int, node: Node) -> None:
        """Look at a node that is new or has changed."""
        reason = refusal(self.needs, node)
        if reason is None and self.able.position(row) >= 0:
            return
        self.dismiss(row)
        if reason is None:
            self.able.add(row, node)
        else:
            self.reasons[row] = reason = sys.intern(reason)
            self.refused[reason] += 1

    def dismiss(self, row: int) -> None:
        """Forget a node."""
        if not self.able.discard(row) and (reason := self.reasons.pop(row, None)) is not None:
            self.refused[reason] -= 1
            if not self.refused[reason]:
                del self.refused[reason]

    def turn(self, model: str) -> int:
        """Position from which a model goes on with its round; it moves on by one."""
        here = self.cursors.pop(model, 0) % len(self.able)
        self.cursors[model] = here + 1
        if len(self.cursors) > CURSORS:
            del self.cursors[next(iter(self.cursors))]
        return here


class Roster:
    """All nodes. Whoever changes one says so, and a decision looks at few of them.

    What decides who can serve what is judged when it changes (`add`, `remove`, `changed`), once for
    each kind of needs in use, not at each decision. Calls about an address that is not there are
    ignored: work ends after its node has left.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._left = ""  # the name of the last that did
        self._rows: dict[str, int] = {}
        self._spare: list[int] = []
        self._loads: Floats = np.zeros(8)
        self._pools: OrderedDict[Needs, _Pool] = OrderedDict()
        self._holders: dict[str, Members] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def get(self, address: str) -> Node | None:
        """The node at an address."""
        return self._nodes.get(address)

    def add(self, node: Node) -> None:
        """Take a node in; one that had its address goes."""
        self.remove(node.address)
        row = self._spare.pop() if self._spare else len(self._nodes)
        if row == len(self._loads):
            self._loads = np.concatenate([self._loads, np.zeros(row)])
        self._nodes[node.address], self._rows[node.address] = node, row
        self._loads[row] = node.load
        for pool in self._pools.values():
            pool.judge(row, node)
        for model in node.loaded:
            self._holders.setdefault(model, Members()).add(row, node)

    def remove(self, address: str) -> Node | None:
        """Let a node go, and give it back."""
        node = self._nodes.pop(address, None)
        if node is not None:
            self._left, row = node.name or address, self._rows.pop(address)
            self._spare.append(row)
            for pool in self._pools.values():
                pool.dismiss(row)
            for model in node.loaded:
                self._release(model, row)
        return node

    def changed(self, address: str) -> None:
        """Resources, labels, memory, slots, or whether it takes work are other than they were."""
        if (node := self._nodes.get(address)) is not None:
            row = self._rows[address]
            self._loads[row] = node.load
            for pool in self._pools.values():
                pool.judge(row, node)

    def moved(self, address: str) -> None:
        """Rows in flight are more or fewer than they were."""
        if (node := self._nodes.get(address)) is not None:
            self._loads[self._rows[address]] = node.load

    def loaded(self, address: str, fingerprint: str, size: int | None) -> None:
        """A model of so many bytes was loaded there, or, with None, unloaded."""
        node = self._nodes.get(address)
        if node is None:
            return
        row, was = self._rows[address], fingerprint in node.loaded
        node.hold(fingerprint, size)
        if size is None:
            self._release(fingerprint, row)
        elif not was:
            self._holders.setdefault(fingerprint, Members()).add(row, node)

    def candidates(
        self, asked: Asked, rng: random.Random, limit: int = LIMIT
    ) -> tuple[list[Node], Counter[str]]:
        """At most `limit` nodes that can do it, and how many cannot, by reason.

        Where there are more, `SAMPLE` of them: a quarter each of those that are next in the round, have the
        model loaded (the least loaded of them), and are least loaded, and others at random. Those on
        which it failed are left out, unless nobody else can do it.
        """
        pool = self._pool(asked.needs)
        able, refused = pool.able, pool.refused.copy()
        tried: set[int] = set()
        if asked.exclude:
            rows = [self._rows[address] for address in asked.exclude if address in self._rows]
            tried = {here for row in rows if (here := able.position(row)) >= 0}
            if len(tried) == len(able):
                tried = set()
            elif tried:
                refused[TRIED] = len(tried)
        count = len(able) - len(tried)
        if count > limit:
            return self._sample(pool, asked.model, tried, rng, min(limit, SAMPLE)), refused
        return [node for here, node in enumerate(able.nodes) if here not in tried], refused

    def reasons(self, needs: Needs) -> dict[str, str]:
        """Why each node that cannot serve these needs cannot, by name: for errors, it looks at every node."""
        if not self._nodes and self._left:
            return {self._left: "it has left, and no other is there"}
        found = {node.name or node.address: refusal(needs, node) for node in self}
        return {name: reason for name, reason in found.items() if reason is not None}

    def _pool(self, needs: Needs) -> _Pool:
        pool = self._pools.get(needs)
        if pool is None:
            pool = self._pools[needs] = _Pool(needs)
            for address, node in self._nodes.items():
                pool.judge(self._rows[address], node)
            if len(self._pools) > POOLS:
                self._pools.popitem(last=False)
        else:
            self._pools.move_to_end(needs)
        return pool

    def _release(self, model: str, row: int) -> None:
        if (members := self._holders.get(model)) is not None:
            members.discard(row)
            if not members:
                del self._holders[model]

    def _sample(self, pool: _Pool, model: str, tried: set[int], rng: random.Random, limit: int) -> list[Node]:
        able, quarter = pool.able, limit // 4
        count = len(able)
        loads = self._loads.take(able.rows[:count])
        for here in tried:
            loads[here] = np.inf
        # those of the round come first: a strategy that goes by order serves each in its turn
        start = pool.turn(model)
        chosen = dict.fromkeys(here % count for here in range(start, start + quarter))
        chosen.update(dict.fromkeys(least(loads, quarter, rng)))
        if (holders := self._holders.get(model)) is not None:
            places = able.positions(holders)
            if len(places) < count:
                chosen.update(dict.fromkeys(places[least(loads.take(places), quarter, rng)].tolist()))
        for here in tried:
            chosen.pop(here, None)
        # a random stride without a common divisor visits each position once
        stride = 1 + int(rng.random() * (count - 1))
        while math.gcd(stride, count) != 1:
            stride += 1
        here = int(rng.random() * count)
        while len(chosen) < limit:
            if here not in tried:
                chosen[here] = None
            here = (here + stride) % count
        return [able.nodes[here] for here in chosen]
