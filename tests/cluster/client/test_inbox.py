"""What is not let in yet: any thread puts it in, and it goes by priority where there is no room for all."""

from __future__ import annotations

import threading
import uuid

from hypothesis import assume, given
from hypothesis import strategies as st

import altlas_flow as af
from altlas_flow.cluster.client.handle import CANCELLED, Handle
from altlas_flow.cluster.client.inbox import SWEEP, Inbox
from altlas_flow.cluster.client.lanes import Lane

SPEC = af.ModelSpec(id="echo", source=lambda rows: rows)
LANES = {priority: Lane(SPEC, {}, priority=priority) for priority in range(-3, 4)}


def handle(priority=0):
    return Handle(None, LANES[priority], uuid.uuid4().hex, "row", 0.0, "echo")


priorities = st.lists(st.integers(-3, 3), max_size=30)


def filled(given):
    inbox, handles = Inbox(), [handle(priority) for priority in given]
    for one in handles:
        inbox.append(one)
    return inbox, handles


def by_priority(handles):
    return sorted(handles, key=lambda one: -one._lane.priority)


@given(priorities)
def test_where_there_is_room_for_all_they_go_as_they_came(given):
    inbox, handles = filled(given)
    assert list(inbox.take(len(handles))) == handles
    assert not inbox and len(inbox) == 0


@given(priorities, st.integers(1, 10), priorities)
def test_where_there_is_not_they_go_by_priority_and_then_as_they_came(given, room, later):
    assume(len(given) > room)
    inbox, handles = filled(given)
    taken = list(inbox.take(room))
    assert taken == by_priority(handles)[:room]
    rest = [one for one in handles if one not in taken] + [handle(priority) for priority in later]
    for one in rest[len(rest) - len(later) :]:
        inbox.append(one)
    assert len(inbox) == len(rest) and set(inbox) == set(rest)
    found = []
    while inbox:
        found += inbox.take(room)
    assert found == by_priority(rest)


def test_those_that_are_over_are_not_kept_while_others_go_before_them():
    inbox = Inbox()
    for _ in range(20):
        for _ in range(SWEEP):
            inbox.append(handle(0))
        for one in inbox:
            one._settle(CANCELLED, 0.0)
        inbox.append(handle(3))
        (first,) = [one for one in inbox.take(1) if one._final is None]
        assert first._lane.priority == 3
        assert len(inbox) <= 3 * SWEEP


def test_threads_may_put_them_in_while_they_are_taken():
    inbox, found, count, threads = Inbox(), [], 2000, 4

    def put():
        for n in range(count):
            inbox.append(handle(n % 3))

    started = [threading.Thread(target=put) for _ in range(threads)]
    for thread in started:
        thread.start()
    while any(thread.is_alive() for thread in started) or inbox:
        found += inbox.take(50)
    assert len(found) == len(set(found)) == count * threads
