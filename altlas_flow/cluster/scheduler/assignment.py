"""`Assignment`: what the scheduler plugin knows of one task that predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from altlas_flow.errors import NodeLost
from altlas_flow.placement.decide import Choice
from altlas_flow.placement.node import Asked, Needs

if TYPE_CHECKING:
    from distributed.scheduler import TaskState


@dataclass(slots=True)
class Assignment:
    """A task that predicts, from when it is first seen until it is over."""

    key: Any
    model: str
    since: float
    said: Mapping[str, Any]  # by its sender
    address: str | None = None
    name: str = ""
    rows: int = 1
    seconds: float = 0.0
    begun: set[int] = field(default_factory=set)  # members that have begun on its node
    lost: bool = False  # its node is gone, and its sender is about to be told
    verdict: NodeLost | None = None  # what its sender is to be told, once what it depends on was made anew
    trial: str | None = None  # address of a node that was set aside, and that this one tries
    apart: str = ""  # node of the first try, where this is the second
    answered: bool = False  # its answers are in memory

    @property
    def members(self) -> range:
        """Positions of the requests in it, where it is an envelope."""
        return range(int(self.said.get("count", 1)))

    def asks(
        self, ts: TaskState, needs: Needs, exclude: frozenset[str], bandwidth: float, now: float
    ) -> Asked:
        """What it asks of a node, with where its inputs are."""
        local: dict[str, int] = {}
        size = 0
        for dependency in ts.dependencies:
            weight = dependency.get_nbytes()
            size += weight
            for ws in dependency.who_has or ():
                local[ws.address] = local.get(ws.address, 0) + weight
        return Asked(
            model=self.model,
            needs=needs,
            rows=self.rows,
            exclude=exclude,
            local=local,
            bytes=size,
            bandwidth=bandwidth,
            now=now,
        )

    def because(self, choice: Choice, strategy: str, notes: list[str], now: float) -> dict[str, Any]:
        """What its sender said, and why it goes where it goes: it travels with the task."""
        trace = {
            "strategy": strategy,
            "node": choice.node.name,
            "score": choice.score,
            "runners_up": choice.runners_up,
            "refused": choice.refused,
            "placing": now - self.since,
            "notes": notes,
            **({"apart": self.apart} if self.apart else {}),
        }
        return {**self.said, "trace": trace}
