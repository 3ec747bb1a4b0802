"""One decision: which node gets this piece of work, with what a trace says of it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass

from altlas_flow.placement.health import Health
from altlas_flow.placement.node import Asked, Node
from altlas_flow.placement.ranking import Memory, Strategy
from altlas_flow.placement.roster import SAMPLE, Roster

ASIDE = "set aside for failures"
RUNNERS_UP = 3


@dataclass(slots=True)
class Choice:
    """What was decided, and against what.

    Attributes
    ----------
    node : Node
    score : float
        As the strategy gave it: smaller is better; the unit is the strategy's.
    runners_up : list of (name, score)
        The next best ones, at most three.
    refused : dict of str to int
        Nodes that were out of the question, by reason. Those set aside are counted among the
        candidates only.
    candidates : int
        Nodes that were ranked.
    trial : bool
        Whether it tries a node that was set aside.
    """

    node: Node
    score: float
    runners_up: list[tuple[str, float]]
    refused: dict[str, int]
    candidates: int
    trial: bool = False


def decide(asked: Asked, strategy: Strategy, roster: Roster, health: Health, memory: Memory) -> Choice | None:
    """Choose a node; None where no node can serve it.

    Who cannot serve it is out. Those on which it failed, and those set aside for failures, come
    back in only where nobody else is left. Nothing is counted in here: that is for whoever sends it.
    """
    nodes, refused = _healthy(asked, roster, health, memory)
    if not nodes:
        return None
    ranked = strategy(asked, nodes, memory)
    score, node = ranked[0]
    trial = health.probe(node.address, asked.now)
    runners_up = [(each.name or each.address, points) for points, each in ranked[1 : 1 + RUNNERS_UP]]
    return Choice(node, score, runners_up, dict(refused), len(nodes), trial)


def _healthy(asked: Asked, roster: Roster, health: Health, memory: Memory) -> tuple[list[Node], Counter[str]]:
    """The candidates that are not set aside, and how many nodes are out, by reason."""
    nodes, refused = roster.candidates(asked, memory.rng)
    healthy = health.pick_out(nodes, asked.now)
    if len(nodes) == SAMPLE and health.aside(healthy[0].address, asked.now):
        # all that were sampled are set aside; others may be well
        aside = health.all_aside(asked.now)
        others, why = roster.candidates(dataclasses.replace(asked, exclude=asked.exclude | aside), memory.rng)
        if aside.isdisjoint(node.address for node in others):
            return others, why
    if len(healthy) < len(nodes):
        refused[ASIDE] = len(nodes) - len(healthy)
    return healthy, refused
