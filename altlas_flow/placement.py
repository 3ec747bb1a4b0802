"""Placement: which node shall do it. Pure: no Dask, no clock, no I/O."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Node:
    """What placement knows of a worker.

    Attributes
    ----------
    address, name : str
    slots : int
        Batches that it runs at once.
    resources : mapping of str to float
        Declared in total, such as ``{"GPU": 1}``.
    in_flight : int
        Pieces of work that were sent there and have not ended.
    local_bytes : int
        Bytes of the work's inputs that lie there already.
    available : bool
        Whether it takes work: running, and with a host of our version.
    """

    address: str
    name: str = ""
    slots: int = 1
    resources: Mapping[str, float] = field(default_factory=dict)
    in_flight: int = 0
    local_bytes: int = 0
    available: bool = True


def refusal(needs: Mapping[str, float], node: Node) -> str | None:
    """Why `node` cannot serve something with these `needs`; None where it can."""
    if not node.available:
        return "it is not taking work, or has no altlas_flow of this version"
    for resource, amount in needs.items():
        declared = node.resources.get(resource, 0.0)
        if declared < amount:
            return f"it declares {resource}={declared:g} and {resource}={amount:g} is needed"
    return None


def least_loaded(nodes: Sequence[Node], rng: random.Random) -> Node:
    """The node with the least in flight for its slots.

    Between equals the one that holds most of the inputs, then one at random: Dask's own choice
    between equals is always the same worker. Bad where nodes are unequally fast: it counts pieces
    of work, not their time.
    """
    ranked = [(node.in_flight / max(node.slots, 1), -node.local_bytes, rng.random(), node) for node in nodes]
    return min(ranked, key=lambda entry: entry[:3])[3]
