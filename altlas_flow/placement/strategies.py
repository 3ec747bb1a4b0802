"""The strategies: pure functions that rank the nodes which could do it, best first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from altlas_flow.placement.node import Asked, Needs, Node
from altlas_flow.placement.ranking import Memory, Scored, Strategy, adapt

__all__ = [
    "STRATEGIES",
    "Memory",
    "Scored",
    "Strategy",
    "adapt",
    "capability_based",
    "latency_optimized",
    "least_loaded",
    "model_specific",
    "round_robin",
]

GIB = 2**30

# Points of `capability_based`. One kind of hardware that lies idle outweighs all that follows it.
BUSY, WASTE, LOADING, LEFT, LABEL = 10_000.0, 100.0, 10.0, 5.0, 0.5
LABELS = 9

#: Score, what counts between equal scores, and then: a random number, or where work is in flight since when
#: the newest is, for what was given longer ago is over sooner; and which of the nodes it is.
Entry = tuple[float, float, float, int]


#: `Scored` without the detour over keywords: a decision makes 64 of them, and has 100 µs.
_scored: Callable[[tuple[float, Node]], Scored] = partial(tuple.__new__, Scored)


def _ranked(entries: list[Entry], nodes: Sequence[Node]) -> list[Scored]:
    entries.sort()
    return [_scored((entry[0], nodes[entry[3]])) for entry in entries]


def round_robin(asked: Asked, nodes: Sequence[Node], memory: Memory) -> list[Scored]:
    """In turn, for each model by itself: least recently served first.

    Of nodes that it has not been given to yet, the one that was longest without any model: or several models
    asked one after the other would all begin on the first node. A node that joins late is next, once, and
    then has its turn like all others. Bad where nodes or pieces of work are unequal: the slowest node gets as
    much as the fastest. The score is the stamp of the last turn, -1 before the first.
    """
    turns = memory.turns(asked.model)
    latest: dict[str, int] = memory.latest if any(node.address not in turns for node in nodes) else {}
    last, other = turns.get, latest.get
    ranked = _ranked(
        [(last(node.address, -1), other(node.address, -1), 0.0, i) for i, node in enumerate(nodes)], nodes
    )
    memory.serve(asked.model, ranked[0].node.address)
    return ranked


def least_loaded(asked: Asked, nodes: Sequence[Node], memory: Memory) -> list[Scored]:
    """Fewest rows in flight for its slots; between equals most bytes of the inputs, then at random.

    Of nodes that are idle one that has the model loaded: while another one loaded it, what comes later might
    have its slot first, and be long. Between nodes that are equally busy, the one that was given something
    longest ago: it is the likelier one to be done soon, and models that are asked the same at once do not
    queue behind one another.

    Bad where nodes are unequally fast and much is in flight: it counts rows, not their time. The
    score is the load, rows for each slot.
    """
    draw, local, model = memory.rng.random, asked.local, asked.model
    if not local:
        return _ranked(
            [
                (node.load, 0.0 if node.rows or model in node.loaded else 1.0, node.given or draw(), i)
                for i, node in enumerate(nodes)
            ],
            nodes,
        )
    return _ranked(
        [(node.load, -local.get(node.address, 0), node.given or draw(), i) for i, node in enumerate(nodes)],
        nodes,
    )


def capability_based(asked: Asked, nodes: Sequence[Node], memory: Memory) -> list[Scored]:
    """Best fit: the node that is just good enough, so that the others are free for what needs them.

    The score is a sum of points: 10,000 for a node that is busy (two pieces of work a slot), 100 for
    each kind of declared resource, or share of one, that is not needed, 10 for loading the model and 20 for
    evicting others for it, up to 5 for memory that is left over, half a one for each label that is not
    asked for. Between equals the least loaded, then at random. Bad where all nodes are alike
    but hold different models: a node gets all work for the model it holds until it is busy.
    """
    draw, model, memory_needed = memory.rng.random, asked.model, asked.needs.memory
    fits = memory.fits(asked.needs)
    entries: list[Entry] = []
    for i, node in enumerate(nodes):
        slots = node.slots or 1
        score = BUSY if node.tasks >= 2 * slots else 0.0
        fit = fits.get(node.address)
        if fit is None or fit[0] is not node.resources or fit[1] is not node.labels:
            fit = fits[node.address] = (node.resources, node.labels, _waste(asked.needs, node))
        score += fit[2]
        bound = node.memory
        if model in node.loaded:
            left = GIB if bound is None else bound - node.used
        elif bound is None:
            score += LOADING
            left = GIB
        else:
            left = bound - node.used - memory_needed
            score += LOADING if left >= 0 else 2 * LOADING
        if bound is None:
            score += LEFT
        elif left > 0:
            score += LEFT * left / (left + GIB)
        entries.append((score, node.rows / slots, node.given or draw(), i))
    return _ranked(entries, nodes)


def _waste(needs: Needs, node: Node) -> float:
    """Points for what a node has and nobody asks for."""
    needed = dict(needs.resources)
    points = LABEL * min(max(len(node.labels) - len(needs.labels), 0), LABELS)
    for resource, declared in node.resources.items():
        if declared > 0:
            points += WASTE * (1.0 - needed.get(resource, 0.0) / declared)
    return points


def latency_optimized(asked: Asked, nodes: Sequence[Node], memory: Memory) -> list[Scored]:
    """The node that should be done first: what waits there, the work itself, and fetching its inputs.

    A node that has not run the model counts as the fastest one known, so it is tried. Between equals
    the least loaded, then at random. Bad for throughput where a few nodes are far faster than the rest:
    it leaves the others idle as long as the fast ones are done sooner in spite of what waits there.
    Bad, too, where rows differ much in size, and for models that take long to load, which it does not
    reckon with. The score is in seconds.
    """
    draw, model, now, rows = memory.rng.random, asked.model, asked.now, asked.rows
    expected = [None if (seen := node.latency.get(model)) is None else seen.expect(now) for node in nodes]
    fastest = min((each for each in expected if each is not None), default=0.0)
    get_local, total, bandwidth = asked.local.get, asked.bytes, max(asked.bandwidth, 1.0)
    fetching = total / bandwidth
    entries: list[Entry] = []
    for i, node in enumerate(nodes):
        per_row, backlog = expected[i], node.backlog
        if per_row is None:
            per_row = fastest
            # nobody could tell what the rows there would take, and not all shall be sent there at once
            backlog = max(backlog, node.rows * per_row)
        slots = node.slots or 1
        waits = backlog / slots
        if (busy := node.busy) and len(busy) >= slots:
            # what runs for so long already will hardly be over sooner, whatever was expected of it
            waits = max(waits, now - max(busy.values()))
        score = waits + rows * per_row
        if total:
            there = get_local(node.address)
            score += fetching if there is None else max(total - there, 0) / bandwidth
        entries.append((score, node.rows / slots, node.given or draw(), i))
    return _ranked(entries, nodes)


def model_specific(asked: Asked, nodes: Sequence[Node], memory: Memory) -> list[Scored]:
    """Where the model is loaded, else where it can be with the fewest bytes evicted.

    Between equals the least loaded, then at random. Bad for one model under heavy load: nodes that
    have it loaded get all of it, while others idle. The score is 0 where it is loaded, else 1 and
    the GiB to evict.
    """
    draw, model, needed = memory.rng.random, asked.model, asked.needs.memory
    entries: list[Entry] = []
    for i, node in enumerate(nodes):
        if model in node.loaded:
            score = 0.0
        else:
            lacking = 0 if node.memory is None else needed - (node.memory - node.used)
            score = 1.0 + lacking / GIB if lacking > 0 else 1.0
        entries.append((score, node.load, node.given or draw(), i))
    return _ranked(entries, nodes)


STRATEGIES: dict[str, Strategy] = {
    "ROUND_ROBIN": round_robin,
    "LEAST_LOADED": least_loaded,
    "CAPABILITY_BASED": capability_based,
    "LATENCY_OPTIMIZED": latency_optimized,
    "MODEL_SPECIFIC": model_specific,
}
