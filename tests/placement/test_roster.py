"""The roster: kept up to date step by step, it says what a look at every node would say."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from altlas_flow.placement.members import least
from altlas_flow.placement.node import Asked, Needs, Node, refusal
from altlas_flow.placement.roster import POOLS, TRIED, Roster

ADDRESSES = [f"tcp://{index}" for index in range(30)]
MODELS = ["m", "n"]
NEEDS = [
    Needs(),
    Needs.of({"GPU": 1}, {}, 0),
    Needs.of({}, {"zone": "a"}, 0),
    Needs.of({"GPU": 2}, {"zone": "b"}, 3 * 2**20),
]
EVERYBODY = 1_000

addresses = st.sampled_from(ADDRESSES)
models = st.sampled_from(MODELS)
fields = st.fixed_dictionaries(
    {
        "slots": st.integers(0, 3),
        "resources": st.dictionaries(st.just("GPU"), st.integers(0, 2).map(float)),
        "labels": st.dictionaries(st.just("zone"), st.sampled_from("ab")),
        "memory": st.none() | st.integers(0, 8).map(lambda size: size * 2**20),
        "available": st.sampled_from([True, True, True, False]),
        "barred": st.sampled_from(["", "", "", "it is cordoned"]),
        "rows": st.integers(0, 5),
    }
)


def able(roster: Roster, needs: Needs) -> list[Node]:
    return [node for node in roster if refusal(needs, node) is None]


class Changes(RuleBasedStateMachine):
    """Any sequence of what can happen to nodes, against a look at all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.roster, self.rng, self.nodes = Roster(), random.Random(0), {}
        self.gone = ""

    @rule(address=addresses, fields=fields, loaded=st.dictionaries(models, st.integers(0, 9)))
    def add(self, address, fields, loaded):
        self.nodes[address] = Node(address, f"name-{address}", loaded=loaded, **fields)
        self.roster.add(self.nodes[address])

    @rule(some=st.lists(addresses, unique=True), fields=fields)
    def add_many(self, some, fields):
        for address in some:
            self.add(address, fields, {})

    @rule(address=addresses)
    def remove(self, address):
        node = self.nodes.pop(address, None)
        assert self.roster.remove(address) is node
        if node is not None:
            self.gone = node.name

    @rule(address=addresses, fields=fields)
    def change(self, address, fields):
        if address in self.nodes:
            for name, value in fields.items():
                setattr(self.nodes[address], name, value)
        self.roster.changed(address)

    @rule(address=addresses, rows=st.integers(0, 9), begin=st.booleans())
    def move(self, address, rows, begin):
        if address in self.nodes:
            node = self.nodes[address]
            (node.begin if begin else node.end)(rows, 0.1)
            assert min(node.rows, node.tasks, node.backlog) >= 0
        self.roster.moved(address)

    @rule(address=addresses, model=models, size=st.none() | st.integers(0, 9))
    def load(self, address, model, size):
        self.roster.loaded(address, model, size)

    @invariant()
    def it_says_what_a_look_at_every_node_says(self):
        assert set(self.roster) == set(self.nodes.values())
        assert len(self.roster) == len(self.nodes)
        for needs in NEEDS:
            found, refused = self.roster.candidates(Asked("m", needs), self.rng, EVERYBODY)
            assert len(found) == len(set(found))
            assert set(found) == set(able(self.roster, needs))
            assert refused == Counter(filter(None, (refusal(needs, node) for node in self.roster)))
            refusing = {node.name for node in self.roster if refusal(needs, node)}
            # where nobody is left it names who went last
            assert self.roster.reasons(needs).keys() == (refusing if self.nodes else {self.gone} - {""})

    @invariant()
    def memory_left_is_what_the_loaded_models_leave(self):
        for node in self.roster:
            taken = sum(node.loaded.values())
            assert node.free == (None if node.memory is None else node.memory - taken)

    @invariant()
    def samples_hold_the_least_loaded_and_those_with_the_model(self):
        for needs in NEEDS:
            for model in MODELS:
                self.sample(needs, model, 8)

    def sample(self, needs, model, limit):
        everybody = able(self.roster, needs)
        found, _ = self.roster.candidates(Asked(model, needs), self.rng, limit)
        assert len(found) == len(set(found)) == min(limit, len(everybody))
        assert set(found) <= set(everybody)
        quarter = limit // 4
        assert_least(found, everybody, quarter)
        with_it = [node for node in everybody if model in node.loaded]
        assert_least([node for node in found if model in node.loaded], with_it, quarter)


def assert_least(found: list[Node], everybody: list[Node], count: int) -> None:
    """Those found hold the `count` least loaded ones, or as good ones."""
    smallest = sorted(node.load for node in everybody)[:count]
    assert sorted(node.load for node in found)[: len(smallest)] == smallest


TestChanges = Changes.TestCase
TestChanges.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(st.sets(addresses), st.sets(addresses), st.sets(addresses))
def test_where_it_failed_it_goes_only_if_nobody_else_can(there, capable, tried):
    roster = Roster()
    for address in sorted(there):
        roster.add(Node(address, resources={"GPU": 1.0} if address in capable else {}))
    asked = Asked("m", NEEDS[1], exclude=frozenset(tried))
    everybody = there & capable
    for limit in (4, EVERYBODY):
        found, refused = roster.candidates(asked, random.Random(0), limit)
        assert {node.address for node in found} <= (everybody - tried or everybody)
        assert len(found) == min(limit, len(everybody - tried or everybody))
        assert refused[TRIED] == (len(everybody & tried) if everybody - tried else 0)


@given(st.integers(65, 400), st.integers())
def test_every_node_of_many_gets_among_the_candidates(size, seed):
    roster, rng = Roster(), random.Random(seed)
    for index in range(size):
        roster.add(Node(str(index)))
    seen: set[str] = set()
    for _ in range(size):
        seen |= {node.address for node in roster.candidates(Asked("m", Needs()), rng)[0]}
    assert len(seen) == size


@given(st.integers())
def test_with_a_seed_the_sample_is_the_same(seed):
    def samples() -> list[list[str]]:
        roster, rng = Roster(), random.Random(seed)
        for index in range(200):
            roster.add(Node(str(index), rows=index % 7))
        return [[node.address for node in roster.candidates(Asked("m", Needs()), rng)[0]] for _ in range(5)]

    assert samples() == samples()


def test_however_many_kinds_of_needs_there_are_the_answers_are_right():
    roster = Roster()
    for index in range(20):
        roster.add(Node(str(index), memory=index))
    for _ in range(2):
        for size in range(2 * POOLS):
            found, _ = roster.candidates(Asked("m", Needs(memory=size)), random.Random(0))
            assert len(found) == max(20 - size, 0)


@given(st.integers())
def test_where_a_model_was_unloaded_it_is_not_looked_for(seed):
    roster, rng = Roster(), random.Random(seed)
    for index in range(200):
        roster.add(Node(str(index), rows=index, loaded={"m": 1} if index >= 100 else {}))
    for index in range(100, 199):
        roster.loaded(str(index), "m", None)
    for limit in (4, 64):
        found, _ = roster.candidates(Asked("m", Needs()), rng, limit)
        assert [node.address for node in found if node.loaded] == ["199"]


def test_what_is_said_of_a_node_that_has_left_is_ignored():
    roster = Roster()
    roster.add(Node("a"))
    roster.remove("a")
    roster.moved("a")
    roster.changed("a")
    roster.loaded("a", "m", 3)
    assert roster.get("a") is None
    assert roster.candidates(Asked("m", Needs()), random.Random(0)) == ([], Counter())


def test_each_reason_names_what_is_missing():
    gpu = Needs.of({"GPU": 2}, {"zone": "a"}, 5 * 2**20)
    big = {"GPU": 2.0}
    expected = {
        "it is not taking work": Node("a", available=False),
        "it is silent": Node("b", available=False, absence="it is silent"),
        "it is cordoned": Node("a", barred="it is cordoned"),
        "it declares GPU=1 and GPU=2 is needed": Node("a", resources={"GPU": 1.0}),
        "it has no label zone=a": Node("a", resources=big),
        "its label zone=b is not zone=a": Node("a", resources=big, labels={"zone": "b"}),
        "its models may take 4 MiB and the model takes 5 MiB": Node(
            "a", resources=big, labels={"zone": "a"}, memory=4 * 2**20
        ),
    }
    for reason, node in expected.items():
        assert refusal(gpu, node) == reason
    assert refusal(gpu, Node("a", resources=big, labels={"zone": "a"}, memory=5 * 2**20)) is None
    assert Needs.of({"b": 1, "a": 2}, {}, 0) == Needs.of({"a": 2, "b": 1}, {}, 0)


loads = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, float("inf")]), max_size=40)


@given(loads, st.integers(1, 20), st.integers())
def test_the_least_are_the_least_and_none_that_is_out(values, count, seed):
    import numpy as np

    found = least(np.array(values, np.float64), count, random.Random(seed))
    finite = sorted(value for value in values if value < float("inf"))
    assert sorted(values[here] for here in found) == finite[:count]
    assert len(found) == len(set(found))


def test_where_all_have_left_the_last_is_named():
    roster = Roster()
    assert roster.reasons(Needs()) == {}
    roster.add(Node("a", "w1"))
    roster.add(Node("b"))
    roster.remove("b")
    assert roster.reasons(Needs()) == {}
    roster.remove("a")
    assert roster.reasons(Needs()) == {"w1": "it has left, and no other is there"}
    roster.add(Node("b"))
    assert roster.reasons(Needs()) == {}
