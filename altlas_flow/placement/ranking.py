"""What a strategy is: its type, its memory, and how a function of the user's becomes one."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from numbers import Real
from typing import Any, NamedTuple

from altlas_flow.errors import one_line
from altlas_flow.placement.node import Asked, Needs, Node

#: Models whose turns are remembered.
MODELS = 1_000
#: Kinds of needs for which it is remembered how well the nodes fit.
KINDS = 64

#: Resources and labels of a node, and the points that they cost.
Fit = tuple[Mapping[str, float], Mapping[str, str], float]


class Scored(NamedTuple):
    """A node with its score: smaller is better."""

    score: float
    node: Node


class Memory:
    """What strategies remember from one decision to the next.

    Attributes
    ----------
    rng : random.Random
        For the choice between equals.
    served : dict of str to dict of str to int
        By model and address, when it was last served: a counter, not a time. The models asked for
        last are kept, 1,000 of them.
    latest : dict of str to int
        By address, when it was last served with any model.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.served: dict[str, dict[str, int]] = {}
        self.latest: dict[str, int] = {}
        self._stamps = count()
        self._fits: dict[Needs, dict[str, Fit]] = {}

    def turns(self, model: str) -> dict[str, int]:
        """When each node was last served with a model, by address."""
        served = self.served.pop(model, None)
        self.served[model] = served = {} if served is None else served
        if len(self.served) > MODELS:
            del self.served[next(iter(self.served))]
        return served

    def serve(self, model: str, address: str) -> None:
        """Note that a node has had its turn."""
        self.turns(model)[address] = self.latest[address] = next(self._stamps)

    def fits(self, needs: Needs) -> dict[str, Fit]:
        """By address, how much of a node these needs would waste, as it was computed last."""
        fits = self._fits.get(needs)
        if fits is None:
            if len(self._fits) >= KINDS:
                self._fits.clear()
            fits = self._fits[needs] = {}
        return fits

    def forget(self, address: str) -> None:
        """The node has left."""
        self.latest.pop(address, None)
        for served in self.served.values():
            served.pop(address, None)
        for fits in self._fits.values():
            fits.pop(address, None)


Strategy = Callable[[Asked, Sequence[Node], Memory], list[Scored]]


def adapt(function: Callable[..., Any]) -> Strategy:
    """Make a strategy of a user's function ``f(request, nodes)`` or ``f(request, nodes, memory)``.

    It returns a node or a ranking, best first: nodes, their addresses or their names. With scores,
    as ``(node, score)`` or ``(score, node)``, the order is that of the scores, smaller ones first.
    Nodes that it leaves out come last. What it raises goes to the caller.

    Raises
    ------
    ValueError
        By the strategy, where the function returns nothing, or something that is none of the nodes.
    """
    with_memory = _takes_memory(function)
    name = getattr(function, "__name__", type(function).__name__)

    def strategy(asked: Asked, nodes: Sequence[Node], memory: Memory) -> list[Scored]:
        given = tuple(nodes)
        result = function(asked, given, memory) if with_memory else function(asked, given)
        return _validated(result, given, name)

    strategy.__name__ = strategy.__qualname__ = name
    strategy.__doc__ = function.__doc__
    return strategy


def _takes_memory(function: Callable[..., Any]) -> bool:
    """Whether a third argument is called ``memory``, or has to be given."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # some builtins do not tell
        return False
    places = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    return len(places) > 2 and (places[2].name == "memory" or places[2].default is places[2].empty)


def _validated(result: Any, nodes: Sequence[Node], name: str) -> list[Scored]:
    """What a user's function returned, as a full ranking."""
    one = isinstance(result, (str, Node)) or _is_pair(result)
    if not one and not isinstance(result, Iterable):
        raise ValueError(f"the strategy {name} returned {one_line(repr(result), 60)}, which is no ranking")
    entries: list[Any] = [result] if one else list(result)
    if not entries:
        raise ValueError(f"the strategy {name} returned no node")
    pairs = [_is_pair(entry) for entry in entries]
    if any(pairs) and not all(pairs):
        raise ValueError(f"the strategy {name} returned scores for some nodes and none for others")
    # addresses last: where one node is named like another's address, the address counts
    known = {node.name: node for node in nodes if node.name} | {node.address: node for node in nodes}
    ranked: dict[str, Scored] = {}
    for place, entry in enumerate(entries):
        score, what = float(place), entry
        if pairs[place]:
            score, what = (entry[1], entry[0]) if isinstance(entry[0], (str, Node)) else entry
            if math.isnan(score):
                raise ValueError(f"the strategy {name} returned a score that is not a number")
        what = what.address if isinstance(what, Node) else what
        node = known.get(what) if isinstance(what, str) else None
        if node is None:
            raise ValueError(
                f"the strategy {name} returned {one_line(repr(what), 60)}, "
                f"which is none of the {len(nodes)} nodes that it was given"
            )
        ranked.setdefault(node.address, Scored(float(score), node))
    inside = sorted(ranked.values(), key=lambda scored: scored.score)
    return inside + [Scored(math.inf, node) for node in nodes if node.address not in ranked]


def _is_pair(entry: Any) -> bool:
    """Whether it is a node with a score, either way round."""
    if not isinstance(entry, tuple) or len(entry) != 2:
        return False
    return any(
        isinstance(what, (str, Node)) and isinstance(score, Real) for what, score in (entry, entry[::-1])
    )
