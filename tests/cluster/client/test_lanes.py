"""What waits on the client: how many leave together, whose turn it is, what is taken."""

from __future__ import annotations

import math
import uuid

from hypothesis import given
from hypothesis import strategies as st

import altlas_flow as af
from altlas_flow.cluster.client.handle import CANCELLED, Handle
from altlas_flow.cluster.client.lanes import FULL, TRIP, Lane, Pace, Pool

SPEC = af.ModelSpec(id="echo", source=lambda rows: rows)


def handle(inputs, at=0.0):
    return Handle(None, None, uuid.uuid4().hex, inputs, at, "echo")


def lane(inputs=(), **fields):
    made = Lane(SPEC, {}, **fields)
    made.pending.extend(handle(item, at) for at, item in enumerate(inputs))
    return made


# ---------------------------------------------------------------- Pace

seconds = st.floats(1e-7, 10.0)
waiting, places = st.integers(1, 20_000), st.integers(0, 64)
paces = st.builds(Pace, st.integers(1, 1000), st.floats(0.001, 1.0))


@given(paces, waiting, places)
def test_of_a_model_that_nobody_knows_one_row_goes(pace, many, places):
    assert pace.size("m", many, places) == 1


@given(paces, seconds, waiting, places)
def test_at_least_one_row_goes_and_never_more_than_allowed(pace, each, many, places):
    pace.observe("m", 1, each)
    assert 1 <= pace.size("m", many, places) <= pace.rows


@given(paces, seconds, waiting, places)
def test_an_envelope_takes_about_the_time_that_it_may(pace, each, many, places):
    pace.observe("m", 1, each)
    assert (pace.size("m", many, places) - 1) * each <= pace.seconds + 1e-9


@given(paces, seconds, waiting, st.integers(1, 64))
def test_rows_that_are_slower_than_a_trip_are_shared_over_all_places(pace, each, many, places):
    pace.observe("m", 1, each)
    if each >= TRIP:
        assert (pace.size("m", many, places) - 1) * 2 * places < many


@given(paces, seconds, seconds, waiting, st.integers(1, 64))
def test_slower_rows_never_make_larger_envelopes(pace, one, other, many, places):
    pace.observe("fast", 1, min(one, other))
    pace.observe("slow", 1, max(one, other))
    assert pace.size("slow", many, places) <= pace.size("fast", many, places)


@given(paces, seconds, waiting, waiting, places)
def test_more_that_waits_never_makes_smaller_envelopes(pace, each, one, other, places):
    pace.observe("m", 1, each)
    assert pace.size("m", min(one, other), places) <= pace.size("m", max(one, other), places)


@given(st.lists(st.tuples(st.integers(1, 100), seconds), min_size=1))
def test_what_is_known_stays_between_what_was_seen(seen):
    pace = Pace(512, 0.1)
    for rows, took in seen:
        pace.observe("m", rows, took)
    each = [took / rows for rows, took in seen]
    assert min(each) * (1 - 1e-9) <= pace._known["m"] <= max(each) * (1 + 1e-9)


@given(seconds, st.integers(2, 600), waiting, st.integers(1, 64))
def test_what_makes_one_batch_travels_together_and_is_shared_over_all_places(each, together, many, places):
    pace = Pace(512, 0.1)
    pace.observe("m", 1, max(each, 0.1), together)
    assert pace.size("m", many, places) == min(512, together, math.ceil(many / places))


def test_an_answer_without_rows_tells_nothing():
    pace = Pace(512, 0.1)
    pace.observe("m", 0, 5.0)
    assert pace.size("m", 1000, 2) == 1
    assert not pace._known


def test_of_many_models_those_not_seen_for_longest_are_forgotten():
    pace = Pace(512, 0.1)
    for i in range(1500):
        pace.observe(f"m{i}", 1, 1e-6)
        pace.observe("kept", 1, 1e-6)
    assert len(pace._known) <= 1000
    assert pace.size("kept", 5000, 1) > 1
    assert pace.size("m0", 5000, 1) == 1


# ---------------------------------------------------------------- Lane

inputs = st.lists(st.just("row") | st.lists(st.just("row"), max_size=5), max_size=30)


def rows_of(handles):
    return sum(len(one._inputs) if one._many else 1 for one in handles)


@given(inputs, st.integers(1, 40))
def test_what_is_taken_is_the_first_of_what_waits_and_about_as_many_rows(items, rows):
    made = lane(items)
    before = list(made.pending)
    taken = made.take(rows)
    assert taken == before[: len(taken)]
    assert list(made.pending) == before[len(taken) :]
    assert bool(taken) == bool(before)
    # the last one may hold more than there was room for, no other
    assert rows_of(taken[:-1]) < rows or not taken
    assert not made.pending or rows_of(taken) >= rows


@given(st.lists(st.integers(0, int(1.5 * FULL)), min_size=1, max_size=20), st.booleans())
def test_an_envelope_is_full_at_so_many_bytes_and_never_empty(weights, ahead):
    made = lane(["row"] * len(weights))
    handles = list(made.pending)
    for one, weight in zip(handles, weights, strict=True):
        one._weight = weight
        one._ahead = object() if ahead else None  # what was sent ahead is not in it
    taken = made.take(100)
    assert taken == handles[: len(taken)] and taken
    if ahead:
        assert len(taken) == len(handles)
    else:
        assert len(taken) == 1 or sum(weights[: len(taken)]) <= FULL
        assert not made.pending or sum(weights[: len(taken) + 1]) > FULL


@given(inputs, st.integers(1, 40), st.sets(st.integers(0, 29)))
def test_what_is_over_is_never_taken_and_takes_no_room(items, rows, over):
    made = lane(items)
    for at, one in enumerate(made.pending):
        if at in over:
            one._settle(CANCELLED, 0.0)
    wanted = [one for one in made.pending if one._final is None]
    taken = made.take(rows)
    assert taken == wanted[: len(taken)]
    assert bool(taken) == bool(wanted)


@given(inputs, st.integers(1, 40))
def test_what_may_kill_a_worker_travels_alone(items, rows):
    made = lane(items, solo=True)
    assert len(made.take(rows)) == min(1, len(items))


def test_taking_nothing_takes_nothing():
    made = lane(["a"])
    assert made.take(0) == []
    assert len(made.pending) == 1


# ---------------------------------------------------------------- Pool

lanes = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 5), st.integers(0, 9)), max_size=8)


def pool_of(described):
    pool = Pool("p", 2)
    for priority, many, first in described:
        made = Lane(SPEC, {}, priority=priority)
        made.pending.extend(handle("row", first + at) for at in range(many))
        pool.lanes.add(made)
    return pool


@given(lanes)
def test_the_next_lane_has_the_highest_priority_and_then_whoever_came_first(described):
    pool = pool_of(described)
    everything = list(pool.lanes)
    chosen = pool.next_lane()
    waiting = [made for made in everything if made.pending]
    assert (chosen is None) == (not waiting)
    if chosen is not None:
        assert chosen.priority == max(made.priority for made in waiting)
        equals = [made for made in waiting if made.priority == chosen.priority]
        assert chosen.pending[0]._submitted == min(made.pending[0]._submitted for made in equals)


@given(lanes)
def test_empty_lanes_are_let_go_and_what_is_held_is_what_waits(described):
    pool = pool_of(described)
    pool.next_lane()
    assert all(made.pending for made in pool.lanes)
    assert pool.held == sum(many for _, many, _ in described)


@given(lanes)
def test_lanes_of_requests_that_are_over_are_never_next(described):
    pool = pool_of(described)
    for made in pool.lanes:
        for one in made.pending:
            one._settle(CANCELLED, 0.0)
    assert pool.next_lane() is None
    assert not pool.lanes


@given(lanes)
def test_everything_that_waits_is_taken_in_the_end(described):
    pool = pool_of(described)
    waits = {one.request_id for made in pool.lanes for one in made.pending}
    taken = set()
    while (made := pool.next_lane()) is not None:
        taken |= {one.request_id for one in made.take(2)}
    assert taken == waits
