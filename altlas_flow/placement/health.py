"""Which nodes fail for reasons of their own, and are left alone for a while: a circuit breaker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from altlas_flow.placement.node import Node


@dataclass(slots=True)
class _Breaker:
    """A node that is set aside: until when, for how long, and since when one request tries it."""

    until: float
    seconds: float
    probed: float | None = None


class Health:
    """Sets a node aside after failures in a row, then lets one request at a time try it.

    A node that fails fast is the least loaded one, and would draw all work to itself. The circuit
    breaker of Nygard, *Release It!* (2007), with a pause that doubles.

    Parameters
    ----------
    limit : int
        Failures in a row, for reasons of the node, after which it is set aside.
    first, longest : float
        Seconds that it is set aside at first, and at most.
    """

    def __init__(self, limit: int = 5, first: float = 10.0, longest: float = 300.0) -> None:
        self.limit, self.first, self.longest = limit, first, longest
        self._failures: dict[str, int] = {}
        self._aside: dict[str, _Breaker] = {}

    def failed(self, address: str, now: float) -> None:
        """A request failed there, for a reason of the node, at time `now` (seconds)."""
        breaker = self._aside.get(address)
        if breaker is None:
            failures = self._failures[address] = self._failures.get(address, 0) + 1
            if failures >= self.limit:
                self._aside[address] = _Breaker(now + self.first, self.first)
        elif breaker.probed is not None:
            breaker.seconds = min(2 * breaker.seconds, self.longest)
            breaker.until, breaker.probed = now + breaker.seconds, None
        elif now >= breaker.until:
            # not the one that tries it, but one sent before: a reason to wait, not to wait longer
            breaker.until = now + breaker.seconds

    def succeeded(self, address: str) -> None:
        """A request succeeded there: all is forgiven."""
        self._failures.pop(address, None)
        self._aside.pop(address, None)

    def forget(self, address: str) -> None:
        """The node has left."""
        self.succeeded(address)

    def released(self, address: str) -> None:
        """The request that tried it ended in a way that says nothing of the node, as by being cancelled."""
        if (breaker := self._aside.get(address)) is not None:
            breaker.probed = None

    def aside(self, address: str, now: float) -> bool:
        """Whether it is to be left alone at time `now`."""
        breaker = self._aside.get(address)
        if breaker is None:
            return False
        if breaker.probed is not None:
            # one that never ends must not shut it out for ever
            return now < breaker.probed + self.longest
        return now < breaker.until

    def probe(self, address: str, now: float) -> bool:
        """A piece of work is sent there; whether it is the one that tries a node whose time is over.

        The node stays aside for others until that one ends.
        """
        breaker = self._aside.get(address)
        if breaker is None or self.aside(address, now):
            return False
        breaker.probed = now
        return True

    def until(self, address: str) -> float | None:
        """Time (seconds) until which it is set aside; None where it is not."""
        breaker = self._aside.get(address)
        return None if breaker is None else breaker.until

    def all_aside(self, now: float) -> frozenset[str]:
        """Addresses of all nodes that are set aside at time `now`."""
        return frozenset(address for address in self._aside if self.aside(address, now))

    def pick_out(self, nodes: Sequence[Node], now: float) -> list[Node]:
        """Those that are not set aside; all of them where none is left: the last ones are never shut out."""
        if not self._aside:
            return list(nodes)
        return [node for node in nodes if not self.aside(node.address, now)] or list(nodes)
