"""How long one placement decision takes, over simulated nodes that are unequal.

The one place where a benchmark uses names that are not public: a decision has no public name of its own.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from altlas_flow.placement.decide import decide
from altlas_flow.placement.health import Health
from altlas_flow.placement.latency import Latency
from altlas_flow.placement.node import Asked, Needs, Node
from altlas_flow.placement.roster import Roster
from altlas_flow.placement.strategies import STRATEGIES, Memory

GIB = 2**30
MODEL, OTHER = "a" * 16, "b" * 16
ROW_SECONDS = 0.01
#: Seconds of the simulation between two decisions.
STEP = 0.001
#: Pieces of work that are under way, beside those that never end, before the oldest ends.
UNDER_WAY = 200

NAMES = tuple(STRATEGIES)


@dataclass(frozen=True)
class Timing:
    """Seconds of one decision: the median, and what 99 of 100 stay below."""

    median: float
    p99: float


def measure(strategy: str, count: int, decisions: int, seed: int) -> Timing:
    """Decide so many times over `count` nodes.

    What is timed is the decision and counting its work in, without which the next one would be another.
    Work ends, and its node's latency is learnt, between the decisions.
    """
    rng = random.Random(seed)
    roster, health = Roster(), Health()
    for node in _nodes(count, rng):
        roster.add(node)
    for node in list(roster)[::50]:
        for _ in range(health.limit):
            health.failed(node.address, 0.0)
    memory = Memory(random.Random(seed))
    asked = Asked(MODEL, Needs.of({"GPU": 1}, {}, GIB // 2))
    under_way: deque[tuple[Node, int, float]] = deque()
    seconds = []
    warm_up = min(100, decisions)  # the first one looks at every node, once for each kind of needs
    for number in range(warm_up + decisions):
        asked = replace(asked, rows=rng.choice((1, 8, 64)), now=number * STEP)
        start = time.perf_counter()
        choice = decide(asked, STRATEGIES[strategy], roster, health, memory)
        if choice is None:
            raise ValueError(f"{strategy}: no node, though there are some with a GPU")
        node = choice.node
        seen = node.latency.get(MODEL)
        expected = asked.rows * seen.expect(asked.now) if seen is not None else 0.0
        node.begin(asked.rows, expected)
        roster.moved(node.address)
        took = time.perf_counter() - start
        if not node.resources.get("GPU"):
            raise ValueError(f"{strategy}: chose {node.name}, which has no GPU")
        if number >= warm_up:
            seconds.append(took)
        under_way.append((node, asked.rows, expected))
        if len(under_way) > UNDER_WAY:
            _end(*under_way.popleft(), roster, rng, asked.now)
    seconds.sort()
    return Timing(statistics.median(seconds), seconds[min(len(seconds) - 1, int(0.99 * len(seconds)))])


def _end(node: Node, rows: int, expected: float, roster: Roster, rng: random.Random, now: float) -> None:
    node.end(rows, expected)
    roster.moved(node.address)
    node.latency.setdefault(MODEL, Latency()).observe(ROW_SECONDS * rng.uniform(0.5, 4.0), now)


def _nodes(count: int, rng: random.Random) -> Iterator[Node]:
    """A quarter without a GPU, a half with the model loaded, most with a latency, all with some work."""
    for number in range(count):
        node = Node(
            address=f"tcp://10.{number >> 16}.{number >> 8 & 255}.{number & 255}:8786",
            name=f"node-{number}",
            slots=rng.choice((1, 1, 2, 4)),
            resources={} if number % 4 == 0 else {"GPU": rng.choice((1.0, 2.0))},
            labels={"zone": rng.choice("abc")},
            memory=rng.choice((2, 4, 8)) * GIB,
            loaded={OTHER: GIB} | ({MODEL: GIB // 2} if rng.random() < 0.5 else {}),
        )
        if rng.random() < 0.9:
            latency = node.latency[MODEL] = Latency()
            for _ in range(3):
                latency.observe(ROW_SECONDS * rng.uniform(0.5, 4.0), -rng.uniform(0.0, 60.0))
        for _ in range(rng.randrange(4)):
            rows = rng.choice((1, 8, 64))
            node.begin(rows, rows * ROW_SECONDS)
        yield node
