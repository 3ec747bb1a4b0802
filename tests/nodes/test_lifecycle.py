"""The life of a node, as a state machine: only changes that are written down, by the events named there."""

from __future__ import annotations

import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from altlas_flow.nodes import lifecycle
from altlas_flow.nodes.lifecycle import CHANGES, Event, Life
from altlas_flow.records import NodeStatus

#: Events that need a worker which is there.
OF_WORKERS = {Event.LEFT, Event.FELL_SILENT, Event.SPOKE, Event.FILLED, Event.FREED, Event.RECOVERED}


class Node(RuleBasedStateMachine):
    """A node to which anything may happen, beside the simplest model of it: the last word on each fact."""

    def __init__(self):
        super().__init__()
        self.life = Life()
        self.said = []  # all that happened

    def happens(self, event):
        before, after = self.life.happens(event)
        self.said.append(event)
        if before is not after:
            assert event in CHANGES[before, after], (before, after, event)
        assert after is self.life.status

    @precondition(lambda self: not self.life.there)
    @rule()
    def joins(self):
        self.happens(Event.JOINED)

    @precondition(lambda self: self.life.there)
    @rule(event=st.sampled_from(sorted(OF_WORKERS)))
    def worker(self, event):
        self.happens(event)

    @rule(event=st.sampled_from(sorted(set(Event) - OF_WORKERS - {Event.JOINED})))
    def operator(self, event):
        self.happens(event)

    def last(self, *events):
        """Which of some events came last."""
        return next((event for event in reversed(self.said) if event in events), None)

    @invariant()
    def a_node_that_is_not_there_is_offline(self):
        there = self.last(Event.JOINED, Event.LEFT) is Event.JOINED
        assert there or self.life.status is NodeStatus.OFFLINE

    @invariant()
    def what_an_operator_set_offline_is_offline_until_it_is_set_online(self):
        if self.last(Event.SET_OFFLINE, Event.SET_ONLINE) is Event.SET_OFFLINE:
            assert self.life.status is NodeStatus.OFFLINE

    @invariant()
    def what_is_silent_is_offline_until_it_speaks(self):
        if self.last(Event.FELL_SILENT, Event.SPOKE, Event.JOINED, Event.LEFT) is Event.FELL_SILENT:
            assert self.life.status is NodeStatus.OFFLINE

    @invariant()
    def what_is_cordoned_takes_no_work_and_is_never_online(self):
        if self.last(Event.CORDONED, Event.UNCORDONED, Event.SET_ONLINE) is Event.CORDONED:
            assert not self.life.takes_work
            assert self.life.status is not NodeStatus.ONLINE

    @invariant()
    def work_goes_to_what_is_online_or_busy_for_its_slots(self):
        full = self.life.status is NodeStatus.BUSY and not self.life.cordoned
        assert self.life.takes_work == (self.life.status is NodeStatus.ONLINE or full)


TestNode = Node.TestCase
TestNode.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def test_every_change_that_is_written_down_can_happen_by_each_of_its_events():
    seen = set()
    facts = itertools.product([False, True], repeat=6)
    for values, event in itertools.product(facts, Event):
        life = Life(*values)
        if not life.there and (event in OF_WORKERS or life.silent or life.full):
            continue
        if life.there and event is Event.JOINED:
            continue
        before, after = life.happens(event)
        if before is not after:
            seen.add((before, after, event))
    assert seen == {(*change, event) for change, events in CHANGES.items() for event in events}


def test_the_prose_says_what_the_table_says():
    lines = [
        line
        for line in lifecycle.__doc__.splitlines()
        if line.startswith(("ONLINE", "BUSY", "ERROR", "OFFLINE"))
    ]
    written = {}
    for line in lines:
        start, end, events = line.split(None, 2)
        plain = (
            events.replace(" (and cordoned or full)", "")
            .replace(" (and full)", "")
            .replace(" (and set aside)", "")
        )
        written[NodeStatus(start), NodeStatus(end)] = frozenset(
            Event(one.strip()) for one in plain.split(",")
        )
    assert written == CHANGES
