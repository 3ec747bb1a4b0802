"""Health: who fails again and again is left alone for a while, and the last one never."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from altlas_flow.placement.health import Health
from altlas_flow.placement.node import Node


def failed(health: Health, times: int, address: str = "a", now: float = 0.0) -> Health:
    for _ in range(times):
        health.failed(address, now)
    return health


def test_four_failures_in_a_row_are_forgiven_and_the_fifth_sets_aside_for_ten_seconds():
    health = failed(Health(), 4)
    assert not health.aside("a", 0.0)
    assert health.until("a") is None
    failed(health, 1)
    assert health.aside("a", 0.0)
    assert health.aside("a", 9.99)
    assert health.until("a") == 10.0
    assert not health.aside("a", 10.0)
    assert not health.aside("b", 0.0)


def test_a_success_in_between_starts_the_count_anew():
    health = failed(Health(), 4)
    health.succeeded("a")
    assert not failed(health, 4).aside("a", 0.0)


def test_each_probe_that_fails_doubles_the_time_up_to_five_minutes():
    health, now, times = failed(Health(), 5), 0.0, []
    for _ in range(8):
        until = health.until("a")
        times.append(until - now)
        now = until
        health.probe("a", now)
        health.failed("a", now)
    assert times == [10, 20, 40, 80, 160, 300, 300, 300]


def test_failures_of_what_was_sent_before_do_not_double_the_time():
    health = failed(Health(), 50)
    assert health.until("a") == 10.0
    failed(health, 3, now=12.0)
    assert health.until("a") == 22.0


def test_while_one_request_tries_it_it_stays_aside_for_others():
    health = failed(Health(), 5)
    health.probe("a", 5.0)  # its time is not over: no probe
    assert not health.aside("a", 10.0)
    health.probe("a", 10.0)
    assert health.aside("a", 11.0)
    health.released("a")  # cancelled: the next one may try
    assert not health.aside("a", 11.0)


def test_a_probe_that_never_ends_does_not_shut_it_out_for_ever():
    health = failed(Health(), 5)
    health.probe("a", 10.0)
    assert health.aside("a", 309.0)
    assert not health.aside("a", 310.0)


def test_one_success_clears_all():
    health = failed(Health(), 5)
    health.probe("a", 10.0)
    health.failed("a", 10.0)
    health.succeeded("a")
    assert not health.aside("a", 10.0)
    assert health.until("a") is None
    failed(health, 5, now=20.0)
    assert health.until("a") == 30.0


def test_a_node_that_has_left_and_comes_back_starts_with_a_clean_sheet():
    health = failed(Health(), 5)
    health.forget("a")
    assert not failed(health, 4).aside("a", 0.0)


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_those_set_aside_are_left_out_unless_nobody_else_is_there(sick):
    health = Health()
    nodes = [Node(str(index)) for index in range(len(sick))]
    for node, ill in zip(nodes, sick, strict=True):
        failed(health, 5 * ill, node.address)
    left = health.pick_out(nodes, 1.0)
    assert left == ([node for node, ill in zip(nodes, sick, strict=True) if not ill] or nodes)
    assert health.all_aside(1.0) == {node.address for node, ill in zip(nodes, sick, strict=True) if ill}
    assert health.pick_out(nodes, 10.0) == nodes


events = st.lists(
    st.tuples(
        st.sampled_from(["failed", "succeeded", "probe", "released"]),
        st.sampled_from("ab"),
        st.floats(0, 400),
    ),
    max_size=60,
)


@given(events)
def test_whatever_happens_it_is_back_within_five_minutes(steps):
    health, now = Health(), 0.0
    for what, address, later in steps:
        now += later
        if what in ("failed", "probe"):
            getattr(health, what)(address, now)
        else:
            getattr(health, what)(address)
        for each in "ab":
            assert not health.aside(each, now + 300.0)
