"""Tasks of all clients: under way, over, in the history; and giving them up."""

from __future__ import annotations

import datetime
import time

import pytest

import altlas_flow as af
from altlas_flow import operations
from altlas_flow.cluster.client.journal import ASKED
from altlas_flow.errors import BadRequest, UnknownTask
from altlas_flow.records import TaskStatus
from tests.cluster.stages import another, echo, fill, model, named, over
from tests.laboratory import LIMIT, laboratory, until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    path = tmp_path_factory.mktemp("history") / "tasks.sqlite"
    with laboratory(named("ab"), history=str(path)) as made:
        made.history = path
        yield made


def statuses(lab, handles):
    """What each request's task says of it, seen by the lab's own client."""
    return [lab.flow.task(handle.request_id).status for handle in handles]


def test_a_task_goes_from_pending_to_running_to_its_end_with_times_node_and_tries(shared, stage):
    before = time.time()
    spec = stage.model()
    running = [shared.flow.submit(spec, {"n": n, "wait": "go"}) for n in range(2)]
    nodes = stage.await_running(0, 1)
    pending = [shared.flow.submit(spec, {"n": n, "wait": "go"}) for n in range(2, 20)]
    until(lambda: statuses(shared, running) == ["running"] * 2)
    assert statuses(shared, pending) == ["pending"] * 18
    info = shared.flow.task(running[0].request_id)
    assert (info.node_id, info.tries, info.model_id) == (nodes[0], 1, spec.id)
    assert before <= info.submitted <= info.started <= time.time() and info.ended is None
    assert {task.task_id for task in shared.flow.tasks("running")} >= {
        handle.request_id for handle in running
    }
    stage.open("go")
    handles = [*running, *pending]
    assert all(handle.result(LIMIT).ok for handle in handles)
    assert statuses(shared, handles) == ["completed"] * 20
    info = shared.flow.task(running[0].request_id)
    assert before <= info.submitted <= info.started <= info.ended <= time.time()
    assert info.node_id == nodes[0]


def test_tasks_of_all_clients_are_seen_and_any_may_be_given_up(shared, stage, gate):
    busy = fill(shared, gate, 4)
    with another(shared) as other:
        theirs = other.submit(stage.model(), {"n": 1})
        until(lambda: theirs.request_id in {task.task_id for task in shared.flow.tasks()})
        assert shared.flow.task(theirs.request_id).client == other.client.id
        assert theirs.request_id in {task.task_id for task in shared.flow.tasks("pending")}
        assert shared.flow.cancel_task(theirs.request_id)
        assert theirs.response(LIMIT).error.type == "RequestCancelled"
        assert shared.flow.task(theirs.request_id).status == TaskStatus.CANCELLED
        assert not shared.flow.cancel_task(theirs.request_id)  # over already: no error
    gate.open("fill")
    assert all(handle.result(LIMIT).ok for handle in busy)
    assert stage.predicted == []
    assert over(shared)


def test_what_fails_says_why_and_how_often_it_was_tried(shared, stage):
    handle = shared.flow.submit(stage.model(), {"n": 1, "fail": "ValueError"})
    assert not handle.response(LIMIT).ok
    assert statuses(shared, [handle]) == ["error"]
    info = shared.flow.task(handle.request_id)
    assert "ValueError: row 1 fails" in info.error and info.tries == 1 and info.node_id in {"a", "b"}


def test_an_id_that_nobody_knows_is_an_error_that_says_so(shared):
    for call in (shared.flow.task, shared.flow.cancel_task):
        with pytest.raises(UnknownTask, match="'task-123'"):
            call("task-123")
    with pytest.raises(BadRequest, match="pending, running"):
        shared.flow.tasks("lazy")


@pytest.mark.long
def test_the_latest_10000_that_are_over_are_kept_and_all_of_them_in_the_history(shared):
    spec = shared.flow.register(model(echo))
    count = 12_000
    handles = shared.flow.submit_many(spec, range(count))
    assert [response.outputs for response in handles.result(LIMIT)] == list(range(count))
    ids = {handle.request_id for handle in handles}
    found = set()

    def all_written():
        found.update(shared.flow.history(model=spec.id)["task_id"])
        return found >= ids

    until(all_written)
    kept = shared.client.run_on_scheduler(
        lambda dask_scheduler: dask_scheduler.plugins["altlas-control"].tasks._count
    )
    assert 10_000 <= kept < 11_000
    first = shared.flow.task(handles[0].request_id)  # not in memory any more
    assert first.status == TaskStatus.COMPLETED
    frame = shared.flow.history(model=spec.id, limit=5)
    assert len(frame) == 5 and (frame["ended"] >= frame["submitted"]).all()
    assert str(frame["ended"].dtype).endswith("UTC]")
    assert set(shared.flow.history(status="error")["status"]) <= {"error"}


def test_without_a_history_it_is_said_how_to_have_one():
    with laboratory(named("a"), history=None) as lab, pytest.raises(BadRequest, match=r"altlas\.history"):
        lab.flow.history()


def test_a_task_whose_client_has_gone_is_in_the_list_as_far_as_it_came(shared, stage):
    with another(shared) as other:
        handle = other.submit(stage.model(), {"n": 1, "wait": "go"})
        stage.await_running(1)
    assert statuses(shared, [handle]) == ["error"]
    assert "closed" in shared.flow.task(handle.request_id).error
    stage.open("go")
    assert over(shared)
    assert af.TaskInfo.model_validate_json(shared.flow.task(handle.request_id).model_dump_json())


def test_the_latest_of_a_status_are_listed_wherever_they_are(shared, stage, gate):
    busy = fill(shared, gate, 4)
    waiting = [shared.flow.submit(stage.model(), {"n": n}) for n in range(5)]
    ids = [handle.request_id for handle in [*busy, *waiting]]
    for limit in (1, 3, 5):
        found = [task.task_id for task in shared.flow.tasks("PENDING", limit=limit)]
        assert found == ids[::-1][:limit]
        assert [task.task_id for task in shared.flow.tasks(limit=limit)] == found
    running = [task.task_id for task in shared.flow.tasks("running")]
    assert running == [one for one in ids[3::-1] if one in running]
    assert [task.task_id for task in shared.flow.tasks("running", limit=1)] == running[:1]
    for handle in [*busy, *waiting]:
        handle.cancel()
    gate.open("fill")
    assert over(shared)


def test_an_id_that_is_used_again_means_the_request_under_way(shared, stage):
    spec = stage.model()

    def ask(**row):
        return shared.flow.submit(af.InferenceRequest(model_id=spec.id, inputs=row, request_id="same"))

    shared.flow.register(spec)
    assert ask(n=1).result(LIMIT).ok
    again = ask(n=2, wait="go")
    stage.await_running(2)
    until(lambda: shared.flow.task("same").status == "running")
    assert [task.status for task in shared.flow.tasks() if task.task_id == "same"] == ["running", "completed"]
    assert shared.flow.cancel_task("same")
    assert again.response(LIMIT).error.type == "RequestCancelled"
    assert shared.flow.task("same").status == "cancelled"
    assert not shared.flow.cancel_task("same")
    stage.open("go")
    assert over(shared)


@pytest.mark.long
def test_it_is_said_where_a_client_does_not_answer(shared, stage, monkeypatch):
    said = []
    monkeypatch.setattr(operations.logger, "warning", lambda text, *values: said.append(text % values))
    with another(shared) as other:
        theirs = other.submit(stage.model(), {"n": 1, "wait": "go"})
        stage.await_running(1)
        answers = other.client._stream_handlers
        hears = answers[ASKED]
        answers[ASKED] = lambda **_: None
        assert theirs.request_id not in {task.task_id for task in shared.flow.tasks()}
        assert len(said) == 1 and "did not answer: 1" in said[0]
        with pytest.raises(UnknownTask, match="1 client did not answer and may have it"):
            shared.flow.task(theirs.request_id)
        answers[ASKED] = hears
        assert shared.flow.task(theirs.request_id).client == other.client.id
        stage.open("go")
        assert theirs.result(LIMIT).ok


def test_what_is_missing_in_the_history_is_missing_in_one_way(shared, stage):
    spec = stage.model()
    assert shared.flow.submit(spec, {"n": 1}).result(LIMIT).ok
    ended = shared.flow.submit(spec, {"n": 2, "wait": "go"})
    stage.await_running(2)
    never = shared.flow.submit(spec, {"n": 3})
    never.cancel()
    stage.open("go")
    assert ended.result(LIMIT).ok
    until(lambda: len(shared.flow.history(model=spec.id)) == 3)
    frame = shared.flow.history(model=spec.id).set_index("status")
    assert frame.loc["cancelled", "node_id"] is None and frame.loc["cancelled", "error"] is None
    assert set(frame.loc["completed", "error"]) == {None}
    assert {str(frame[name].dtype) for name in ("node_id", "error")} == {"object"}
    assert len(shared.flow.history(model="none", status="ERROR")) == 0


@pytest.mark.parametrize("limit", [0, -5, "x", True, 2.0, None])
def test_a_limit_is_a_whole_number_of_at_least_1(shared, limit):
    with pytest.raises(BadRequest, match="whole number"):
        shared.flow.tasks(limit=limit)


def test_a_limit_may_be_larger_than_all(shared):
    assert len(shared.flow.tasks(limit=10**30)) < 100_000


@pytest.mark.parametrize(
    "wrong",
    [
        lambda flow: flow.node(5),
        lambda flow: flow.cordon(5),
        lambda flow: flow.uncordon(b"a"),
        lambda flow: flow.update_node_status(["a"], "busy"),
        lambda flow: flow.update_node_status("a", "lazy\nbones"),
        lambda flow: flow.drain(["a"]),
        lambda flow: flow.drain("a", timeout=1e300),
        lambda flow: flow.drain("a", timeout=10**400),
        lambda flow: flow.unregister_node(None),
        lambda flow: flow.load("a", 3),
        lambda flow: flow.load(None, "m"),
        lambda flow: flow.unload("a", ["m"]),
        lambda flow: flow.update_node_models("a", [1]),
        lambda flow: flow.update_node_models("a", b"m"),
        lambda flow: flow.update_node_models("a", None),
        lambda flow: flow.update_node_models(3, ["m"]),
        lambda flow: flow.task(["t"]),
        lambda flow: flow.cancel_task(b"t"),
        lambda flow: flow.task("\udcff"),
        lambda flow: flow.tasks(5),
        lambda flow: flow.history(status="lazy"),
        lambda flow: flow.register_node(
            af.NodeInfo(node_id="n", capabilities={"g": datetime.date(2030, 1, 1)})
        ),
    ],
)
def test_what_is_no_name_and_no_time_is_refused_in_one_line(shared, wrong):
    with pytest.raises(BadRequest) as caught:
        wrong(shared.flow)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
