"""Where the stages of a pipeline lie in its span, whatever the clocks of their nodes say."""

from __future__ import annotations

import pytest

from altlas_flow.pipeline.rows import Note
from altlas_flow.pipeline.spans import _shifts

AHEAD = 1_000.0  # of the time of day before the client's clock


def note(node, began, seconds, queue=0.0):
    return Note("model", node, began=AHEAD + began, seconds=seconds, queue=queue)


@pytest.mark.parametrize(
    ("began", "shift"),
    [
        (2.0, 0.0),  # within what the client saw, from 1 to 5
        (-9.0, 10.0),  # a clock that is behind: by as much as it takes
        (30.0, -26.0),  # and one that is before ours
    ],
)
def test_stages_are_moved_by_no_more_than_it_takes(began, shift):
    assert _shifts([note("a", began, 0.5, queue=0.5)], AHEAD, 1.0, 5.0) == {"a": pytest.approx(shift)}


def test_stages_of_one_node_are_moved_together_and_those_of_another_are_not():
    found = _shifts([note("a", -9.0, 1.0), note("a", -7.0, 1.0), note("b", 2.0, 1.0)], AHEAD, 1.0, 5.0)
    assert found == {"a": pytest.approx(10.0), "b": 0.0}


def test_where_both_ends_cannot_be_within_the_beginning_counts():
    assert _shifts([note("a", 0.0, 9.0)], AHEAD, 1.0, 5.0) == {"a": pytest.approx(1.0)}
    assert _shifts([Note("model", "a")], AHEAD, 1.0, 5.0) == {}  # it never began
