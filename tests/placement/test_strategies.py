"""Strategies: what each promises, alone and through a whole decision."""

from __future__ import annotations

import heapq
import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altlas_flow.placement.decide import ASIDE, decide
from altlas_flow.placement.health import Health
from altlas_flow.placement.latency import Latency
from altlas_flow.placement.node import Asked, Needs, Node, refusal
from altlas_flow.placement.roster import TRIED, Roster
from altlas_flow.placement.strategies import (
    STRATEGIES,
    Memory,
    adapt,
    capability_based,
    latency_optimized,
    least_loaded,
    model_specific,
    round_robin,
)

GIB = 2**30
every = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)

latencies = st.dictionaries(
    st.sampled_from("mn"), st.floats(0.001, 10).map(lambda seconds: timed(seconds)), max_size=2
)
nodes = st.lists(
    st.builds(
        Node,
        address=st.uuids().map(str),
        name=st.sampled_from(["", "x", "y"]),
        slots=st.integers(0, 4),
        resources=st.dictionaries(st.sampled_from(["GPU", "TPU"]), st.integers(0, 4).map(float)),
        labels=st.dictionaries(st.sampled_from(["zone", "rack"]), st.sampled_from("ab")),
        memory=st.none() | st.integers(0, 4 * GIB),
        loaded=st.dictionaries(st.sampled_from("mn"), st.integers(0, 2 * GIB)),
        available=st.sampled_from([True, True, True, False]),
        rows=st.integers(0, 9),
        tasks=st.integers(0, 9),
        backlog=st.floats(0, 9),
        latency=latencies,
    ),
    min_size=1,
    max_size=12,
)
asked = st.builds(
    Asked,
    model=st.sampled_from("mno"),
    needs=st.builds(
        Needs.of,
        st.dictionaries(st.sampled_from(["GPU", "TPU"]), st.integers(0, 2).map(float), max_size=1),
        st.dictionaries(st.just("zone"), st.sampled_from("ab")),
        st.integers(0, GIB),
    ),
    rows=st.integers(1, 100),
    bytes=st.integers(0, GIB),
    now=st.floats(0, 1000),
)


def timed(*seconds: float, at: float = 0.0) -> Latency:
    latency = Latency()
    for each in seconds:
        latency.observe(each, at)
    return latency


def memory(seed: int = 0) -> Memory:
    return Memory(random.Random(seed))


def roster_of(some: list[Node]) -> Roster:
    roster = Roster()
    for node in some:
        roster.add(node)
    return roster


def first(strategy, request, some, remembered) -> Node:
    return strategy(request, some, remembered)[0].node


# ---------------------------------------------------------------- what holds for each of them


@every
@given(request_=asked, some=nodes)
def test_all_nodes_are_ranked_by_scores_that_rise(strategy, request_, some):
    ranked = strategy(request_, some, memory())
    assert sorted(id(node) for _, node in ranked) == sorted(map(id, some))
    scores = [score for score, _ in ranked]
    assert scores == sorted(scores)
    assert not any(math.isnan(score) for score in scores)


@every
@given(request_=asked, some=nodes)
def test_what_cannot_serve_is_never_chosen(strategy, request_, some):
    choice = decide(request_, strategy, roster_of(some), Health(), memory())
    able = [node for node in some if refusal(request_.needs, node) is None]
    assert (choice is None) == (not able)
    if choice is not None:
        assert choice.node in able
        assert choice.candidates == len(able)
        assert sum(choice.refused.values()) == len(some) - len(able)
        assert len(choice.runners_up) == min(3, len(able) - 1)


@every
@pytest.mark.parametrize("count", [2, 5, 40])
def test_between_equals_each_gets_some(strategy, count):
    some, remembered = [Node(str(index)) for index in range(count)], memory()
    request = Asked("m", Needs())
    chosen = {first(strategy, request, some, remembered).address for _ in range(200)}
    assert len(chosen) == count if count < 40 else len(chosen) >= 35


@every
@given(request_=asked, some=nodes, seed=st.integers())
def test_with_a_seed_the_decisions_are_the_same(strategy, request_, some, seed):
    def decisions() -> list[str]:
        remembered = memory(seed)
        return [first(strategy, request_, some, remembered).address for _ in range(20)]

    assert decisions() == decisions()


# ---------------------------------------------------------------- round robin


@given(
    st.integers(1, 8),
    st.lists(st.sampled_from(["ask", "ask", "ask", "join", "leave"]), max_size=80),
    st.randoms(use_true_random=False),
)
def test_round_robin_is_fair_within_one_from_whenever_nodes_joined_or_left(count, steps, rng):
    some, remembered = [Node(str(index)) for index in range(count)], memory()
    served, names = dict.fromkeys(some, 0), itertools.count()
    for step in steps:
        if step == "ask":
            rng.shuffle(some)
            served[first(round_robin, Asked("m", Needs()), some, remembered)] += 1
        elif step == "join":
            some.append(Node(f"late-{next(names)}"))
        elif len(some) > 1:
            remembered.forget(some.pop().address)
        if step != "ask":  # others may be one ahead now: from here on it is fair again
            served = dict.fromkeys(some, 0)
        assert max(served.values()) - min(served.values()) <= 1


def test_round_robin_takes_turns_for_each_model_by_itself():
    some, remembered = [Node("a"), Node("b")], memory()
    chosen = [first(round_robin, Asked(model, Needs()), some, remembered).address for model in "mnmn"]
    assert chosen == ["a", "b", "b", "a"], "and they do not all begin on the first node"


@pytest.mark.parametrize("models", [1, 2])
def test_round_robin_is_fair_over_thousands(models):
    roster = roster_of([Node(str(index)) for index in range(1000)])
    remembered, served = memory(), {f"m{index}": dict.fromkeys(roster, 0) for index in range(models)}
    for _ in range(2500):
        for model, counts in served.items():
            choice = decide(Asked(model, Needs()), round_robin, roster, Health(), remembered)
            counts[choice.node] += 1
            choice.node.begin(1, 0.1)
            roster.moved(choice.node.address)
    for counts in served.values():
        assert max(counts.values()) - min(counts.values()) <= 1


def test_models_that_nobody_asks_for_any_more_are_forgotten():
    remembered = memory()
    for index in range(3000):
        round_robin(Asked(f"m{index}", Needs()), [Node("a")], remembered)
    assert len(remembered.served) == 1000
    assert "m2999" in remembered.served
    remembered.forget("a")
    assert not any(remembered.served.values())


# ---------------------------------------------------------------- least loaded


@given(nodes, st.integers(), st.lists(st.integers(0, 3), min_size=12, max_size=12))
def test_least_loaded_takes_fewest_rows_a_slot_then_most_of_the_inputs(some, seed, there):
    local = {node.address: size for node, size in zip(some, there, strict=False)}
    chosen = first(least_loaded, Asked("m", Needs(), local=local), some, memory(seed))
    assert chosen.load == min(node.load for node in some)
    equals = [node for node in some if node.load == chosen.load]
    assert local[chosen.address] == max(local[node.address] for node in equals)


@pytest.mark.parametrize("seed", range(5))
def test_of_idle_nodes_the_one_that_has_the_model_is_taken(seed):
    cold, warm = Node("tcp://a", name="a"), Node("tcp://b", name="b", loaded={"m": 1})
    asked = Asked(model="m", needs=Needs())
    memory = Memory(random.Random(seed))
    assert least_loaded(asked, [cold, warm], memory)[0].node is warm
    warm.begin(1, 0.1, now=1.0)
    assert least_loaded(asked, [cold, warm], memory)[0].node is cold, "whoever is idle goes before"
    cold.begin(1, 0.1, now=0.5)
    assert least_loaded(asked, [cold, warm], memory)[0].node is cold, "it was given something longer ago"


@pytest.mark.parametrize("strategy", [least_loaded, capability_based, latency_optimized, model_specific])
def test_between_nodes_that_are_equally_busy_the_one_that_was_given_something_longest_ago(strategy):
    some = [Node(name) for name in "abc"]
    for now, node in enumerate(some[::-1], 1):
        node.begin(1, 0.5, float(now))
    assert first(strategy, Asked("m", Needs(), now=4.0), some, memory()).address == "c"
    some[2].begin(1, 0.5, 4.0)
    some[2].end(1, 0.5)  # what it was given first is over, the newest is not
    assert first(strategy, Asked("m", Needs(), now=5.0), some, memory()).address == "b"
    for node in some:
        node.end(1, 0.5)
    assert {first(strategy, Asked("m", Needs()), some, memory(seed)).address for seed in range(40)} == set(
        "abc"
    )


# ---------------------------------------------------------------- capabilities


@given(nodes)
def test_work_for_the_cpu_stays_off_other_hardware_while_a_cpu_node_is_not_busy(some):
    plain = Node("plain", slots=2, tasks=3, memory=0, labels={str(index): "" for index in range(20)})
    bare = [node for node in some if not any(node.resources.values())]
    equipped = [node for node in some if any(node.resources.values())]
    request = Asked("m", Needs(memory=GIB))
    assert first(capability_based, request, [*some, plain], memory()) in [*bare, plain]
    plain.begin(1, 0.1)
    for node in equipped:
        node.tasks, node.slots = 0, 1
    if equipped:
        assert first(capability_based, request, [*equipped, plain], memory()) in equipped


def test_the_best_fit_is_the_smallest_that_is_good_enough():
    def chosen(*some: Node, needs: Needs) -> str:
        return first(capability_based, Asked("m", needs), list(some), memory()).address

    gpu = Needs.of({"GPU": 1}, {}, 0)
    one, four = Node("one", resources={"GPU": 1.0}), Node("four", resources={"GPU": 4.0})
    assert chosen(four, one, needs=gpu) == "one"
    model = Needs(memory=GIB)
    small, large = Node("small", memory=2 * GIB), Node("large", memory=8 * GIB)
    full = Node("full", memory=2 * GIB, loaded={"other": 2 * GIB})
    held = Node("held", memory=8 * GIB, loaded={"m": GIB})
    assert chosen(large, full, small, needs=model) == "small"
    assert chosen(full, large, needs=model) == "large"
    assert chosen(small, held, needs=model) == "held"
    assert chosen(Node("labelled", labels={"zone": "a"}), Node("bare"), needs=model) == "bare"
    assert chosen(Node("loaded", rows=3), Node("idle"), needs=model) == "idle"


# ---------------------------------------------------------------- latency


def test_a_node_that_becomes_ten_times_slower_is_avoided_and_tried_again_after_silence():
    some = [Node(str(index), latency={"m": timed(*[1.0] * 20)}) for index in range(3)]
    slow, remembered = some[0], memory()
    after = []
    for now in range(40):
        chosen = first(latency_optimized, Asked("m", Needs(), now=float(now)), some, remembered)
        chosen.latency["m"].observe(10.0 if chosen is slow else 1.0, float(now))
        after.append(chosen is slow)
    assert sum(after) <= 3
    later = first(latency_optimized, Asked("m", Needs(), now=20_000.0), some, remembered)
    for now in range(40, 400):
        for node in some[1:]:
            node.latency["m"].observe(1.0, float(now))
        later = first(latency_optimized, Asked("m", Needs(), now=float(now)), some, remembered)
        if later is slow:
            break
    assert later is slow


def test_a_node_without_a_record_is_tried_but_does_not_get_everything():
    fast, new = Node("fast", latency={"m": timed(1.0)}), Node("new")
    slow = Node("slow", latency={"m": timed(5.0)})
    request, remembered = Asked("m", Needs()), memory()
    chosen = []
    for _ in range(10):
        node = first(latency_optimized, request, [slow, fast, new], remembered)
        node.begin(1, node.latency["m"].mean if "m" in node.latency else 0.0)
        chosen.append(node.address)
    assert 4 <= chosen.count("new") <= 6


def test_fetching_the_inputs_counts_by_the_bandwidth():
    near, far = Node("near", latency={"m": timed(2.0)}), Node("far", latency={"m": timed(1.0)})
    request = Asked("m", Needs(), local={"near": 300}, bytes=300, bandwidth=100.0)
    assert first(latency_optimized, request, [far, near], memory()) is near
    request.bandwidth = 1000.0
    assert first(latency_optimized, request, [far, near], memory()) is far


@pytest.mark.parametrize("strategy", [latency_optimized, least_loaded])
@pytest.mark.parametrize("rates", [(1, 2, 4, 8), (1, 1, 1, 1), (1, 1, 1, 4), (3, 5, 7, 9)])
def test_four_unequal_nodes_together_reach_nearly_the_sum_of_their_rates(strategy, rates):
    assert simulated_rate(strategy, rates) >= 0.85 * sum(rates)


def simulated_rate(strategy, rates, works=3000) -> float:
    """Rows a second of nodes with one slot each and two pieces of work in flight a slot, over all."""
    some = [Node(str(index)) for index in range(len(rates))]
    rate, ends = dict(zip(some, rates, strict=True)), dict.fromkeys(some, 0.0)
    rng, remembered, now = random.Random(1), memory(), 0.0
    events: list[tuple[float, int, Node, float, float]] = []
    for number in range(works):
        if number >= 2 * len(some):
            now, _, node, expected, took = heapq.heappop(events)
            node.end(1, expected)
            node.latency.setdefault("m", Latency()).observe(took, now)
        node = first(strategy, Asked("m", Needs(), now=now), some, remembered)
        expected = node.latency["m"].mean if "m" in node.latency else 0.0
        node.begin(1, expected)
        took = rng.uniform(0.7, 1.3) / rate[node]
        ends[node] = max(ends[node], now) + took
        heapq.heappush(events, (ends[node], number, node, expected, took))
    return works / max(ends.values())


# ---------------------------------------------------------------- models


@given(nodes)
def test_model_specific_goes_where_it_is_loaded_else_where_least_is_evicted(some):
    needed = GIB
    chosen = first(model_specific, Asked("m", Needs(memory=needed)), some, memory())

    def evicted(node: Node) -> float:
        if "m" in node.loaded:
            return -1.0
        return max(0, needed - node.free) if node.free is not None else 0

    assert evicted(chosen) == min(map(evicted, some))
    equals = [node for node in some if evicted(node) == evicted(chosen)]
    assert chosen.load == min(node.load for node in equals)


# ---------------------------------------------------------------- a whole decision


def test_a_node_that_fails_is_set_aside_then_tried_by_one_request_and_let_in_again():
    roster, health, remembered = roster_of([Node("a", "sick"), Node("b", "well", rows=5)]), Health(), memory()
    for _ in range(5):
        health.failed("a", 0.0)

    def chosen(now: float) -> tuple[str, bool]:
        choice = decide(Asked("m", Needs(), now=now), least_loaded, roster, health, remembered)
        return choice.node.name, choice.trial

    assert [chosen(1.0) for _ in range(10)] == [("well", False)] * 10
    assert [chosen(10.0) for _ in range(3)] == [("sick", True), ("well", False), ("well", False)]
    health.succeeded("a")
    assert [chosen(11.0) for _ in range(3)] == [("sick", False)] * 3


def test_what_was_left_out_is_counted_by_reason():
    some = [Node(each, f"node-{each}") for each in "abcd"] + [Node("e", barred="it is cordoned")]
    health = Health()
    for _ in range(5):
        health.failed("a", 0.0)
    choice = decide(
        Asked("m", Needs(), exclude=frozenset("b")), round_robin, roster_of(some), health, memory()
    )
    assert choice.refused == {"it is cordoned": 1, TRIED: 1, ASIDE: 1}
    assert choice.candidates == 2
    assert choice.node.name == "node-c"
    assert choice.runners_up == [("node-d", -1.0)]


def test_the_last_node_that_can_is_never_shut_out():
    health, roster = Health(), roster_of([Node("a"), Node("b", available=False)])
    for _ in range(5):
        health.failed("a", 0.0)
    choice = decide(Asked("m", Needs(), exclude=frozenset("a")), least_loaded, roster, health, memory())
    assert choice.node.address == "a"


def test_a_few_well_nodes_are_found_among_many_that_are_set_aside():
    roster, health = roster_of([Node(str(index)) for index in range(1000)]), Health()
    for index in range(999):
        for _ in range(5):
            health.failed(str(index), 0.0)
    remembered = memory()
    for _ in range(20):
        choice = decide(Asked("m", Needs(), now=1.0), least_loaded, roster, health, remembered)
        assert choice.node.address == "999"
    # all that is left is where it failed, and where others failed: not again where it failed
    tried = Asked("m", Needs(), now=1.0, exclude=frozenset({"999"}))
    assert decide(tried, least_loaded, roster, health, remembered).node.address != "999"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.floats(0, 9)), max_size=60))
def test_counters_of_a_node_are_never_negative_and_zero_when_all_has_ended(steps):
    node, begun = Node("a"), []
    for begin, rows, seconds in steps:
        if begin:
            node.begin(rows, seconds)
            begun.append((rows, seconds))
        else:
            node.end(*(begun.pop(0) if begun else (rows, seconds)))
        assert min(node.rows, node.tasks, node.backlog) >= 0
    for rows, seconds in begun:
        node.end(rows, seconds)
    assert (node.rows, node.tasks, node.backlog) == (0, 0, 0.0)


# ---------------------------------------------------------------- a user's own

THREE = [Node("1", "a"), Node("2", "b"), Node("3", "c")]


def order(function) -> str:
    return "".join(node.name for _, node in adapt(function)(Asked("m", Needs()), THREE, memory()))


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ([THREE[2], THREE[0], THREE[1]], "cab"),
        (["3", "1"], "cab"),
        (("b", "c"), "bca"),
        (["b", "b"], "bac"),
        ("c", "cab"),
        (THREE[1], "bac"),
        ((THREE[1], 2.0), "bac"),
        ([("a", 3), ("b", 1), ("c", 2)], "bca"),
        ([(3, "a"), (1.5, THREE[1]), (2, "3")], "bca"),
        (least_loaded(Asked("m", Needs()), THREE[:1], memory()), "abc"),
        (iter(["c", "b", "a"]), "cba"),
    ],
)
def test_a_users_function_may_answer_in_many_ways(result, expected):
    assert order(lambda request, nodes: result) == expected


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ([], "no node"),
        (None, "None, which is no ranking"),
        (3, "3, which is no ranking"),
        (["a", "nobody\nthere"], "none of the 3 nodes"),
        ([Node("4")], "'4', which is none of the 3 nodes"),
        ([None], "None, which is none of"),
        ([["a"]], "none of the 3"),
        ([("a", 1), "b"], "scores for some"),
        ([("a", float("nan"))], "not a number"),
    ],
)
def test_what_is_no_ranking_of_the_nodes_is_refused_in_one_line(result, text):
    with pytest.raises(ValueError, match=text) as caught:
        order(lambda request, nodes: result)
    assert "\n" not in str(caught.value)


def test_a_users_function_gets_the_memory_where_it_asks_for_it():
    def random_node(request, nodes, memory):
        """At random."""
        return memory.rng.choice(nodes)

    def with_option(request, nodes, most=2):
        return nodes[:most]

    assert sorted(order(random_node)) == ["a", "b", "c"]
    assert order(with_option) == "abc"
    assert adapt(random_node).__name__ == "random_node"
    assert order(lambda *both: both[1]) == "abc"
    assert order(adapt_again) == "abc"


def adapt_again(request, nodes, memory=None):
    return round_robin(request, nodes, memory)


def test_a_users_strategy_decides():
    roster = roster_of([Node(str(index), f"node-{index}") for index in range(5)])
    own = adapt(lambda request, nodes: max(nodes, key=lambda node: node.name))
    assert decide(Asked("m", Needs()), own, roster, Health(), memory()).node.name == "node-4"
