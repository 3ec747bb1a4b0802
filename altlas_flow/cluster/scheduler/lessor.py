"""Leases: how many envelopes each client may have in flight, at most two for each slot over all clients.

Leased ahead of need, so that a lone request makes no trip for it. The rules are in
`altlas_flow.placement.leases`; here are the messages.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from altlas_flow.placement.leases import Lease, Leases
from altlas_flow.placement.node import Needs, Node, refusal

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

    from altlas_flow.placement.roster import Roster

#: Envelopes in flight for each slot: one that runs, one that waits beside it.
PER_SLOT = 2
#: Operation on a client's stream: its leases.
LEASE = "altlas-lease"


def pool_of(resources: Mapping[str, float], labels: Mapping[str, str]) -> str:
    """Name of the pool of slots that can do what has these needs."""
    return json.dumps([sorted(resources.items()), sorted(labels.items())])


class Lessor:
    """Keeps the leases of each pool of slots."""

    def __init__(self, scheduler: Scheduler, roster: Roster, patience: float) -> None:
        self.scheduler, self.roster, self.patience = scheduler, roster, patience
        self.loop = asyncio.get_running_loop()
        self.pools: dict[str, tuple[Needs, Leases]] = {}
        self.envelopes: dict[Any, tuple[str, str]] = {}  # in flight: key -> pool, client
        self.held: dict[str, dict[str, int]] = {}  # by client: what it holds back, by model id
        self.transports: dict[str, int] = {}  # by client: the first of its transports that may hold leases

    def open(
        self, client: str, transport: int, resources: Mapping[str, float], labels: Mapping[str, str]
    ) -> dict[str, Any]:
        """A client will send requests with these needs: its lease.

        It is asked on another connection than the one that tells of all else, and may come after its
        transport has left, or after the client has: what is leased then would never come back.
        """
        pool = pool_of(resources, labels)
        if pool not in self.pools:
            needs = Needs.of(resources, labels, 0)
            self.pools[pool] = needs, Leases(self._capacity(needs), self.patience)
        leases = self.pools[pool][1]
        if client in self.scheduler.clients and transport >= self.transports.get(client, 0):
            self.transports[client] = transport
            leases.join(client)
        mine = self._balance(pool).get(client)
        if mine is None:
            mine = leases.lease(client)
        return {"pool": pool, "lease": [mine.count, mine.version]}

    def report(
        self,
        client: str,
        pools: Mapping[str, tuple[int, int]],
        held: Mapping[str, int],
    ) -> None:
        """A client says what it holds back, and which leases it has taken over."""
        if held:
            self.held[client] = dict(held)
        else:
            self.held.pop(client, None)
        changed: dict[str, Lease] = {}
        for pool, (count, version) in pools.items():
            if pool in self.pools:
                leases = self.pools[pool][1]
                if not leases.knows(client):
                    leases.rejoin(client)  # its connection broke, and it has made another
                leases.report(client, count, version)
                self._balance(pool)
                if (mine := leases.lease(client)).version > version:
                    changed[pool] = mine  # once more: it may not have heard
        if changed:
            self._push(client, changed)

    def answer(self, client: str, pulse: int, faults: int) -> None:
        """Show a client that somebody listens."""
        self._push(client, {}, pulse=pulse, faults=faults)

    def sent(self, key: Any, client: str, pool: str) -> None:
        """An envelope is seen for the first time."""
        if pool in self.pools and key not in self.envelopes:
            self.envelopes[key] = pool, client
            self.pools[pool][1].sent(client)

    def ended(self, key: Any) -> None:
        """It is over."""
        found = self.envelopes.pop(key, None)
        if found is not None:
            pool, client = found
            self.pools[pool][1].ended(client)
            self._balance(pool)

    def leave(self, client: str, transport: int) -> None:
        """A transport of a client is closed: the client goes, unless a later one has taken its place."""
        if transport >= self.transports.get(client, 0):
            self._part(client)
            self.transports[client] = transport + 1

    def gone(self, client: str) -> None:
        """A client's connection is closed."""
        self._part(client)
        self.transports.pop(client, None)

    def _part(self, client: str) -> None:
        self.held.pop(client, None)
        for pool, (_, leases) in self.pools.items():
            leases.leave(client)
            self._balance(pool)

    def nodes_changed(self) -> None:
        """Nodes came, went, or changed what they are."""
        for pool, (needs, leases) in self.pools.items():
            leases.capacity = self._capacity(needs)
            self._balance(pool)

    def _capacity(self, needs: Needs) -> int:
        slots = sum(slots_for(needs, node) for node in self.roster if refusal(needs, node) is None)
        # where nobody can, a request goes out all the same, and comes back with the reasons
        return max(1, PER_SLOT * slots)

    def _balance(self, pool: str) -> dict[str, Lease]:
        """Divide anew, and tell the clients whose share has changed."""
        changed = self.pools[pool][1].rebalance(self.loop.time())
        for client, lease in changed.items():
            self._push(client, {pool: lease})
        return changed

    def _push(self, client: str, leases: Mapping[str, Lease], **more: Any) -> None:
        comm = self.scheduler.client_comms.get(client)
        if comm is not None and not comm.closed():
            pools = {pool: [lease.count, lease.version] for pool, lease in leases.items()}
            comm.send({"op": LEASE, "pools": pools, **more})


def slots_for(needs: Needs, node: Node) -> int:
    """Batches of such a model that a node runs at once."""
    gpus = dict(needs.resources).get("GPU", 0.0)
    if gpus <= 0:
        return max(1, node.slots)
    have = node.resources.get("GPU", 0.0)
    # CUDA work of one worker runs one at a time, but for models that ask for a part of a GPU
    return max(1, int(min(have, 1.0) / gpus)) if gpus < 1 else 1
