"""Records of tasks and nodes: which words they take."""

from __future__ import annotations

import pytest

import altlas_flow as af
from altlas_flow.errors import BadRequest, UnknownNode, UnknownTask
from altlas_flow.records import NodeInfo, TaskInfo, TaskStatus


@pytest.mark.parametrize("word", ["running", "RUNNING", "Running", TaskStatus.RUNNING])
def test_a_status_is_taken_whatever_its_case(word):
    assert TaskStatus(word) is TaskStatus.RUNNING
    assert TaskInfo(task_id="t", model_id="m", client="c", status=word).status is TaskStatus.RUNNING


def test_a_task_is_made_of_a_row_and_one_of_another_length_is_refused():
    row = ["t", "m", "c", "running", 1.5, None, None, "a", 1, None]
    assert TaskInfo.of(row) == TaskInfo(
        task_id="t", model_id="m", client="c", status="running", submitted=1.5, node_id="a", tries=1
    )
    for wrong in (row[:-1], [*row, 1], [3, *row[1:]]):
        with pytest.raises(BadRequest) as caught:
            TaskInfo.of(wrong)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", " ", "a ", "a\nb"])
def test_a_node_has_a_host_with_a_name_or_none(name):
    assert af.NodeInfo(node_id="n").hostname is None
    with pytest.raises(BadRequest, match="hostname"):
        NodeInfo(node_id="n", hostname=name)


def test_errors_of_what_is_not_known_say_so_whatever_was_asked_for():
    assert "no node 5 is known" in str(UnknownNode(5, ["a", 3]))
    assert "no task [1] is known: give" in str(UnknownTask([1]))
    assert "2 clients did not answer" in str(UnknownTask("t", 2))
