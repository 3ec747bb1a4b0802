"""When a request is late, and how much may be sent twice: laws, without a cluster."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from altlas_flow.cluster.client import hedging
from altlas_flow.cluster.client.hedging import ENOUGH, KEPT, MINIMUM, Budget, Hedged, Lateness, Times

pytestmark = pytest.mark.timeout(60)

seconds = st.floats(0.001, 100.0)


def lateness(nodes, now=0.0):
    """What is known after these times: node -> seconds of each."""
    made = Lateness()
    for node, times in nodes.items():
        for each in times:
            made.observe("model", node, each, now)
    return made


# ---------------------------------------------------------------- what is late


@given(st.lists(seconds, min_size=1, max_size=3 * KEPT))
def test_what_95_of_100_took_is_taken_of_the_latest_times_only(times):
    window = Times()
    for each in times:
        window.observe(each, 0.0)
        window.late()  # what was found before must not count any more
    assert len(window) == min(len(times), KEPT)
    assert window.late() == np.quantile(times[-KEPT:], 0.95, method="higher")


@given(
    st.lists(st.lists(st.floats(0.01, 0.02), min_size=MINIMUM, max_size=60), min_size=2, max_size=8),
    st.floats(0.2, 1000.0),
    st.data(),
)
def test_slow_nodes_do_not_move_what_is_late_on_healthy_ones(healthy, slowness, data):
    """Not even half of all nodes, whichever come first."""
    slow = data.draw(st.integers(1, len(healthy)))
    nodes = {f"healthy-{at}": times for at, times in enumerate(healthy)}
    nodes |= {f"slow-{at}": [slowness] * MINIMUM for at in range(slow)}
    known = lateness({name: nodes[name] for name in data.draw(st.permutations(sorted(nodes)))})
    own = [np.quantile(times, 0.95, method="higher") for times in healthy]
    assert min(own) <= known.after("model", 0.0) <= max(own)


def test_a_node_that_was_healthy_and_becomes_slow_does_not_move_it_either():
    known = lateness({name: [0.04] * KEPT for name in "abcd"})
    for _ in range(2 * KEPT):
        known.observe("model", "d", 0.4, 0.0)
        assert known.after("model", 0.0) == 0.04


def test_nothing_is_late_while_little_is_known():
    known = lateness({"a": [0.1] * (MINIMUM - 1)})
    assert known.after("model", 0.0) is None
    known.observe("model", "a", 0.1, 0.0)
    assert known.after("model", 0.0) == 0.1
    assert known.after("another", 0.0) is None
    # nor by nodes of which each has hardly answered
    many = {f"node-{at}": [0.1] * (ENOUGH - 1) for at in range(20)}
    assert lateness(many).after("model", 0.0) is None


def test_what_is_long_ago_says_nothing_any_more():
    known = lateness({"a": [0.1] * MINIMUM}, now=0.0)
    assert known.after("model", hedging.RECENT) == 0.1
    assert known.after("model", hedging.RECENT + 1.0) is None
    for _ in range(MINIMUM):
        known.observe("model", "a", 0.5, 1000.0)
    assert known.after("model", 1000.0) == 0.5


def test_it_remembers_a_bounded_number_of_models_and_nodes(monkeypatch):
    monkeypatch.setattr(hedging, "MODELS", 2)
    monkeypatch.setattr(hedging, "NODES", 3)
    known = Lateness()
    for model in ("first", "second", "first", "third"):
        for node in "abcde":
            for _ in range(MINIMUM):
                known.observe(model, node, 0.1, 0.0)
    assert set(known._known) == {"first", "third"}
    assert all(set(nodes) == set("cde") for nodes in known._known.values())


# ---------------------------------------------------------------- how much may be sent twice


@given(
    st.floats(0.0, 1.0),
    st.lists(
        st.tuples(st.sampled_from(["earn", "spend", "refund"]), st.integers(1, 50)), min_size=1, max_size=400
    ),
)
def test_what_is_sent_twice_never_exceeds_its_share(share, steps):
    budget, earned, spent = Budget(share), 0, []
    for step, rows in steps:
        if step == "earn":
            budget.earn(rows)
            earned += rows
        elif step == "spend":
            if budget.spend(rows):
                spent.append(rows)
        elif spent:
            budget.refund(spent.pop())
        assert sum(spent) <= share * earned + 1e-6
        assert 1.0 <= budget.patience <= 1.5


def test_twenty_requests_pay_for_one():
    budget = Budget(0.05)
    for _ in range(19):
        budget.earn(1)
    assert not budget.spend(1)
    budget.earn(1)
    assert budget.spend(1)
    assert not budget.spend(1)


def test_a_share_of_nothing_sends_nothing_twice():
    budget = Budget(0.0)
    for _ in range(10_000):
        budget.earn(10)
    assert not budget.spend(1)


def test_a_quiet_day_does_not_pay_for_a_storm():
    budget = Budget(0.05)
    for _ in range(1_000_000):
        budget.earn(1)
    assert sum(budget.spend(1) for _ in range(1000)) == hedging.SAVED


def test_the_less_is_left_the_later_a_request_has_to_be():
    budget = Budget(0.5)
    seen = [budget.patience]
    for _ in range(2 * hedging.RESERVE):
        budget.earn(1)
        seen.append(budget.patience)
    assert seen[0] == 1.5 and seen[-1] == 1.0
    assert seen == sorted(seen, reverse=True)


def test_the_trace_says_what_came_of_it():
    hedged = Hedged()
    hedged.became("nothing has left")
    assert hedged.notes() == []
    hedged.left(0.1204)
    assert hedged.notes() == ["hedged after 120 ms; the first node answered"]
    hedged.became("the second node answered")
    assert hedged.notes() == ["hedged after 120 ms; the second node answered"]
