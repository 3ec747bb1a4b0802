"""What a client tells of its requests when it is asked: the latest, in steps, and never one that is over."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace

import pytest

from altlas_flow.cluster.client.journal import OVER, SLICE, Journal


class Loop:
    """Steps that are to come."""

    def __init__(self):
        self.soon = deque()

    def call_soon(self, function, *arguments):
        self.soon.append((function, arguments))

    def turn(self):
        function, arguments = self.soon.popleft()
        function(*arguments)


def handle(name, submitted, status="pending"):
    return SimpleNamespace(
        request_id=name,
        model_id="m",
        status=status,
        tries=1,
        _flight=SimpleNamespace(node="a", since={}) if status == "running" else None,
        _at=0,
        _submitted=submitted,
        _ended=9.0,
        _tried=None,
        _sent=submitted,
        _error=None,
    )


class Asked:
    """A journal, and what it has told."""

    def __init__(self, handles):
        self.loop, self.told, self.cancelled = Loop(), [], []
        self.journal = Journal(
            self.loop,
            lambda: 10.0,
            tell=self.told.append,
            everything=lambda: handles,
            cancel=lambda one: self.cancelled.append(one) or True,
        )

    def ids(self):
        """Of all parts of the answer; all but the last say that more comes."""
        parts = [message["tasks"] for message in self.told if "tasks" in message]
        assert [part[0] for part in parts] == [True] * (len(parts) - 1) + [False]
        return [task for part in parts if len(part) > 1 for task in part[1]]


def test_the_latest_of_each_status_are_told_wherever_they_wait():
    handles = [handle("old", 1.0, "running"), handle("new", 5.0, "running")]
    handles += [handle("p1", 2.0), handle("p3", 4.0), handle("p2", 3.0)]
    asked = Asked(handles)
    asked.journal.asked(1, None, 2, False)
    assert asked.ids() == ["new", "p3", "p2", "old"]


def test_those_of_one_instant_come_in_the_order_in_which_they_were_asked():
    asked = Asked([handle(f"t{n}", 1.0) for n in range(5)])
    for _ in range(3):
        asked.journal.asked(1, None, 3, False)
    assert [message["tasks"][1] for message in asked.told] == [["t0", "t1", "t2"]] * 3


def test_where_only_what_is_over_is_asked_for_nothing_is_looked_at():
    asked = Asked(None)  # it would fail
    asked.journal.asked(1, None, 0, False)
    assert asked.ids() == []


def test_thousands_are_told_in_steps_and_one_that_ends_meanwhile_is_told_as_over():
    handles = [handle(f"t{n}", float(n)) for n in range(3 * SLICE)]
    asked = Asked(handles)
    asked.journal.asked(1, None, 10 * SLICE, False)
    while not asked.told:
        asked.loop.turn()
    handles[0].status = "cancelled"
    asked.journal.over(None, [handles[0]])
    turns = 0
    while asked.loop.soon:
        asked.loop.turn()
        turns += 1
    assert turns == 2
    assert asked.ids() == [f"t{n}" for n in range(3 * SLICE - 1, 0, -1)]
    assert [message["op"] for message in asked.told].index(OVER) < len(asked.told) - 1


@pytest.mark.parametrize("cancel", [False, True])
def test_of_one_id_all_are_told_and_given_up(cancel):
    twins = [handle("same", 1.0, "running"), handle("same", 2.0), handle("same", 0.0, "completed")]
    asked = Asked([*twins, handle("other", 3.0)])
    asked.journal.asked(1, ["same"], 1, cancel)
    assert asked.ids() == ["same", "same"]
    assert asked.cancelled == ([twins[1], twins[0]] if cancel else [])
