"""What nobody wants any more and runs on: its node is not free until the batch that it is in is over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from altlas_flow.placement.latency import Latency

if TYPE_CHECKING:
    from altlas_flow.cluster.scheduler.assignment import Assignment
    from altlas_flow.cluster.scheduler.losses import Losses
    from altlas_flow.placement.node import Node


class Lingering:
    """Envelopes that were given up while a batch with members of them ran.

    Of such a batch no answers tell how long its rows took. Where it held nothing else, its end does: a node
    that has become slow, and whose requests are given up for that, would be taken for a fast one.

    Parameters
    ----------
    losses : Losses
        Knows what runs.
    release : callable
        Counts an assignment out of its node.
    let_go : callable
        Called with the key of an envelope that has run to its end now.
    """

    def __init__(
        self, losses: Losses, release: Callable[[Assignment], None], let_go: Callable[[Any], None]
    ) -> None:
        self._losses, self._release, self._let_go = losses, release, let_go
        self._kept: dict[Any, Assignment] = {}
        self._batches: dict[tuple[str, str], dict[Any, int]] = {}  # by address and slot: rows by key

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: object) -> bool:
        return key in self._kept

    def keep(self, assignment: Assignment) -> None:
        """It is given up, and runs on."""
        self._kept[assignment.key] = assignment

    def began(
        self,
        node: Node,
        slot: str,
        runs: Iterable[tuple[Any, list[int] | None]],
        assignments: Mapping[Any, Assignment],
    ) -> None:
        """A batch begins: how many rows of which envelopes are in it."""
        rows: dict[Any, int] = {}
        for key, members in runs:
            assignment = assignments.get(key)
            many = assignment.rows if assignment is not None else 1
            if assignment is not None and members is not None:
                many = max(1, many * len(members) // len(assignment.members))
            rows[key] = many
        self._batches[node.address, slot] = rows

    def batch_over(self, node: Node, slot: str, now: float) -> None:
        """The batch of a slot is over: where all of it was given up, learn how long its rows took."""
        rows, since = self._batches.pop((node.address, slot), None), node.busy.get(slot)
        if not rows or since is None or not all(key in self._kept for key in rows):
            return  # its answers tell
        models = {self._kept[key].model for key in rows}
        took = max(0.0, now - since) / sum(rows.values())
        for model in models:
            node.latency.setdefault(model, Latency()).observe(took, now)

    def settle(self, address: str, *, gone: bool = False) -> None:
        """Count out what is over on a node now."""
        over = [
            key
            for key, assignment in self._kept.items()
            if assignment.address == address and (gone or not self._losses.runs(address, key))
        ]
        for key in over:
            self._release(self._kept.pop(key))
            self._let_go(key)

    def forget(self, address: str) -> None:
        """A node has left."""
        for known in [known for known in self._batches if known[0] == address]:
            del self._batches[known]
