"""Leases: how many envelopes each client may have in flight, so that nobody asks before sending.

What a client may have in flight is granted ahead of need, and what was granted counts as used until
the client is known to have given it up. So clients that act on old leases still never overfill
the slots together.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import NamedTuple

#: Seconds that a client keeps its turn, where there are more clients than room.
TURN = 0.5


class Lease(NamedTuple):
    """How many envelopes a client may have in flight; a higher version replaces a lower one."""

    count: int  # type: ignore[assignment]  # hides the method of tuples, which nobody needs here
    version: int


@dataclass(slots=True, eq=False)
class _Client:
    """What is known of a client.

    `grants` are leases that it may be acting on: from the last one that it has taken over to the last
    one given, without those that a later one outdoes, so the first is the largest.
    """

    held: int = 0
    flying: int = 0
    grants: list[Lease] = field(default_factory=lambda: [Lease(0, 0)])
    turn: float | None = None  # since when it has its turn
    place: int = 0  # in the queue for turns: a counter
    since: float | None = None  # when it was first seen not to have taken over its last lease
    told: bool = False  # of a lease, and has said nothing since
    due: float | None = None  # since when a word of it is awaited
    silent: bool = False  # it did not come

    @property
    def granted(self) -> int:
        return self.grants[-1].count

    @property
    def exposed(self) -> int:
        """The most that it may have in flight now, as far as is known."""
        return max(self.grants[0].count, self.flying)

    @property
    def active(self) -> bool:
        return not self.silent and (self.held > 0 or self.flying > 0)

    def speaks(self) -> None:
        """It is there, whatever was thought of it."""
        self.told, self.due, self.silent = False, None, False

    def look(self, now: float, patience: float) -> None:
        """See whether it may be stopped: then nothing that it does not take over is waited for."""
        if not (self.told or self.held > 0 or self.flying > 0):
            self.due = None  # one with nothing to do says nothing
        elif self.due is None:
            self.due = now
        elif now - self.due > patience:
            self.silent = True
        if len(self.grants) == 1:
            self.since = None
        elif self.since is None:
            self.since = now
        if self.silent or (self.since is not None and now - self.since > patience):
            self.grants, self.since = self.grants[-1:], None


class Leases:
    """Shares a pool of slots among clients, by credits that are leased ahead of need.

    Clients that have something to do share the capacity evenly; an idle one keeps one envelope, so
    that a lone request makes no extra trip. Where more clients have something to do than there is
    room, each gets one in turn, for at least half a second. What one has is taken from it
    only where another needs it. One that should speak and is silent gets nothing until it speaks.

    Parameters
    ----------
    capacity : int
        Envelopes in flight, over all clients. May be set at any time; what was granted before it
        shrank is waited for.
    patience : float
        Seconds after which a client that does not take over a lease is not waited for. One that says
        nothing for so long, though it was told of a lease or has something to do, is silent: it may be
        stopped.
    """

    def __init__(self, capacity: int, patience: float = inf) -> None:
        self.capacity, self.patience = capacity, patience
        self._clients: dict[str, _Client] = {}
        self._left: Counter[str] = Counter()  # in flight still, of clients that have left
        self._versions, self._places = count(1), count()
        self._latest = 0

    def __len__(self) -> int:
        return len(self._clients)

    @property
    def exposed(self) -> int:
        """The most that may be in flight now over all clients, as far as is known."""
        return sum(client.exposed for client in self._clients.values()) + self._left.total()

    def join(self, client: str) -> None:
        """A client is there. Nothing happens where it was already."""
        if client not in self._clients:
            # behind those that wait already, or clients that come and go would starve them
            self._clients[client] = _Client(place=next(self._places))

    def rejoin(self, client: str) -> None:
        """A client that has left goes on, by a lease that it had: it gets a new one, which replaces that."""
        self.join(client)
        self._grant(self._clients[client], 0)

    def leave(self, client: str) -> None:
        """A client has gone; what it has in flight keeps its room until that ends."""
        known = self._clients.pop(client, None)
        if known is not None and known.flying:
            self._left[client] += known.flying

    def sent(self, client: str) -> None:
        """The scheduler has seen an envelope of this client begin."""
        if (known := self._clients.get(client)) is not None:
            known.speaks()
            known.flying += 1
        elif client in self._left:
            self._left[client] += 1

    def ended(self, client: str) -> None:
        """The scheduler has seen an envelope of this client end, in whatever way."""
        known = self._clients.get(client)
        if known is not None and known.flying:
            # where it has left and come back this may be an old one: the sum is right, and too much is
            # counted as used rather than too little
            known.flying -= 1
        elif client in self._left:
            self._left[client] -= 1
            if self._left[client] <= 0:
                del self._left[client]

    def report(self, client: str, held: int, version: int) -> None:
        """A client holds back `held` requests, and acts on no lease older than `version`.

        All that it sent before it said so has been seen.
        """
        known = self._clients.get(client)
        if known is None:
            return
        known.speaks()
        known.held = max(held, 0)
        if version <= self._latest:  # else it is of another scheduler, and says nothing of ours
            while len(known.grants) > 1 and known.grants[0].version < version:
                known.grants.pop(0)
                known.since = None

    def knows(self, client: str) -> bool:
        """Whether a client is there."""
        return client in self._clients

    def lease(self, client: str) -> Lease:
        """The last lease given to a client; ``Lease(0, 0)`` for one that is not there."""
        known = self._clients.get(client)
        return Lease(0, 0) if known is None else known.grants[-1]

    def rebalance(self, now: float) -> dict[str, Lease]:
        """Leases that have changed and must be sent, at time `now` (seconds)."""
        for client in self._clients.values():
            client.look(now, self.patience)
        targets = self._targets(now)
        clients = self._clients
        before = {name: client.granted for name, client in clients.items()}
        wanting = any(
            clients[name].granted < target and (clients[name].held > 0 or clients[name].granted == 0)
            for name, target in targets.items()
        )
        if wanting or sum(before.values()) > self.capacity:
            for name, target in targets.items():
                if target < clients[name].granted:
                    self._grant(clients[name], target)
        free = self.capacity - self.exposed
        # first one for each that has none, those with something to do before the others
        needy = sorted(
            targets, key=lambda name: (clients[name].granted, not clients[name].held, clients[name].place)
        )
        for most in (1, self.capacity):
            for name in needy:
                client = clients[name]
                exposed = client.exposed
                # what it may have in flight anyway is granted without taking anything
                reach = min(targets[name], most, exposed + max(free, 0))
                if reach > client.granted:
                    free -= max(reach - exposed, 0)
                    self._grant(client, reach)
        return {
            name: clients[name].grants[-1] for name, was in before.items() if clients[name].granted != was
        }

    def _grant(self, client: _Client, size: int) -> None:
        self._latest = next(self._versions)
        while client.grants and (client.silent or client.grants[-1].count <= size):
            client.grants.pop()
        client.grants.append(Lease(size, self._latest))
        client.told = True

    def _targets(self, now: float) -> dict[str, int]:
        """What each client should be granted; never more than the capacity together."""
        clients, room = self._clients, max(self.capacity, 0)
        targets = dict.fromkeys(clients, 0)
        active = [name for name, client in clients.items() if client.active]
        idle = [name for name, client in clients.items() if not (client.active or client.silent)]
        if len(active) > room:
            return targets | dict.fromkeys(self._turns(active, room, now), 1)
        if len(active) + len(idle) > room:
            # too few for all: whoever has one may as well keep it
            idle.sort(key=lambda name: clients[name].granted == 0)
        elif active:
            targets |= dict.fromkeys(idle, 1)
            room -= len(idle)
        if sharing := active or idle:
            each, rest = divmod(room, len(sharing))
            targets |= {name: each + (place < rest) for place, name in enumerate(sharing)}
        return targets

    def _turns(self, active: list[str], room: int, now: float) -> list[str]:
        """Whose turn it is, of the clients that have something to do."""
        clients = self._clients
        for client in clients.values():
            if client.turn is None:
                continue
            if client.active and not client.granted:
                client.turn = now  # it begins when it is granted
            elif not client.active or now - client.turn >= TURN:
                client.turn, client.place = None, next(self._places)
        chosen = sorted(active, key=lambda name: (clients[name].turn is None, clients[name].place))[:room]
        for name in active:
            client = clients[name]
            client.turn = (now if client.turn is None else client.turn) if name in chosen else None
        return chosen
