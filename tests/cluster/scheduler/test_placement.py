"""Placement on a cluster: what the scheduler plugin makes of the strategies' choice."""

from __future__ import annotations

import itertools
import threading
import uuid

import pytest

import altlas_flow as af
from altlas_flow.errors import NoEligibleNode
from tests.dataframe import jobs
from tests.laboratory import LIMIT, laboratory, until

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def lab():
    """Workers ``gpu`` and ``cpu``; tests that kill or add workers put back what they found."""
    with laboratory({"gpu": {"resources": {"GPU": 1}}, "cpu": {}}, no_workers_timeout="60s") as made:
        yield made


def echo(**fields):
    return af.ModelSpec(id=f"echo-{uuid.uuid4()}", source=lambda rows: rows, **fields)


def test_predictions_spread_over_the_workers_and_nothing_stays_in_flight(lab):
    # each takes long enough to be worth a trip of its own
    spec = jobs.spec(jobs.Slow(0.01), batch=1)
    handles = [lab.flow.submit(spec, i) for i in range(60)]
    nodes = [handle.result(LIMIT).node_id for handle in handles]
    assert all(nodes.count(name) >= 15 for name in ("gpu", "cpu")), nodes
    lab.until(lambda info: info["in_flight"] == {})
    assert lab.info()["faults"] == 0


def test_what_needs_a_gpu_runs_only_where_one_is_declared(lab):
    spec = echo(resources={"GPU": 1})
    handles = [lab.flow.submit(spec, [i]) for i in range(12)]
    assert {handle.result(LIMIT).node_id for handle in handles} == {"gpu"}


def test_requests_a_job_and_a_map_take_turns_on_a_gpu(lab, tmp_path):
    log, out = tmp_path / "log", tmp_path / "out"
    model = jobs.spec(jobs.Logged(log, 0.01), resources={"GPU": 1}, outputs={"prediction": "string"})
    lab.flow.register(model)
    answers = []
    mapped = threading.Thread(
        target=lambda: answers.append(lab.flow.map(jobs.frame(200), model.id, input="text"))
    )
    handles = lab.flow.submit_many(model.id, [f"request {i}" for i in range(100)])
    mapped.start()
    lab.flow.run(jobs.frame(200), model.id, input="text", to=out, part_rows=10)
    mapped.join(LIMIT)
    assert [response.outputs for response in handles.result(LIMIT)] == [f"request {i}" for i in range(100)]
    expected = list(jobs.frame(200)["text"])
    assert list(answers[0]["prediction"]) == expected
    assert list(jobs.read(out)["prediction"]) == expected
    called = sorted(jobs.calls(log), key=lambda call: call[2])
    assert sum(rows for _, rows, _, _ in called) == 500, "each row once"
    assert len({process for process, *_ in called}) == 1
    assert all(one[3] <= other[2] for one, other in itertools.pairwise(called)), "one batch at a time"
    lab.until(lambda info: info["in_flight"] == {} and info["envelopes"] == 0)


def test_what_nobody_can_serve_fails_at_once_and_says_for_each_node_why(lab):
    with pytest.raises(NoEligibleNode) as caught:
        lab.flow.submit(echo(resources={"GPU": 2}), [1]).result(LIMIT)
    text = str(caught.value)
    assert "gpu: it declares GPU=1 and GPU=2 is needed" in text
    assert "cpu: it declares GPU=0 and GPU=2 is needed" in text
    assert "\n" not in text
    assert lab.info()["parked"] == 0


def test_a_task_waits_for_a_node_that_was_there_a_moment_ago(lab):
    spec = echo(resources={"GPU": 1})
    lab.remove("gpu")
    lab.until(lambda info: len(info["hosts"]) == 1)
    handle = lab.flow.submit(spec, ["late"])
    lab.until(lambda info: info["parked"] == 1)
    lab.add("gpu", resources={"GPU": 1})
    assert handle.result(LIMIT).outputs == ["late"]
    assert handle.result().node_id == "gpu"
    lab.until(lambda info: info["parked"] == 0)
    lab.await_hosts(2)


def test_what_a_killed_worker_was_predicting_is_answered_elsewhere(lab, stage):
    spec = stage.model()
    handles = [lab.flow.submit(spec, [{"n": i, "wait": "open"}]) for i in range(4)]
    until(lambda: stage.book("began"))
    lab.kill("cpu")
    lab.until(lambda info: "cpu" not in {host["name"] for host in info["hosts"].values()})
    stage.open()
    assert [handle.result(LIMIT).outputs for handle in handles] == [[0], [1], [2], [3]]
    lab.await_hosts(2)
    lab.until(lambda info: info["in_flight"] == {} and info["parked"] == 0)


def test_what_waits_on_a_retired_worker_is_answered_elsewhere(lab, stage):
    spec = stage.model()
    handles = [lab.flow.submit(spec, [{"n": i, "wait": "open"}]) for i in range(6)]
    until(lambda: stage.book("began"))
    lab.remove("cpu")
    stage.open()
    assert [handle.result(LIMIT).outputs for handle in handles] == [[i] for i in range(6)]
    lab.add("cpu")
    lab.await_hosts(2)


def test_a_fault_of_the_plugin_is_counted_and_answers_come_all_the_same(lab):
    def damage(dask_scheduler, name):
        placer = dask_scheduler.plugins[name].placer
        working = type(placer).place_if_ready

        def broken(ts):
            del placer.__dict__["place_if_ready"]
            assert placer.place_if_ready.__func__ is working
            raise RuntimeError("broken")

        placer.place_if_ready = broken

    before = lab.info()["faults"]
    lab.client.run_on_scheduler(damage, name="altlas-control")
    assert lab.flow.submit(echo(), ["there"]).result(LIMIT).outputs == ["there"]
    assert lab.info()["faults"] == before + 1


@pytest.mark.long
def test_a_task_waits_while_no_node_is_there_and_runs_when_one_joins_or_gives_up():
    with laboratory({}, no_workers_timeout="2s") as lab:
        handle = lab.flow.submit(echo(), ["first"])
        lab.until(lambda info: info["parked"] == 1)
        with pytest.raises(NoEligibleNode, match="no node has joined"):
            handle.result(LIMIT)
        handle = lab.flow.submit(echo(), ["second"])
        lab.until(lambda info: info["parked"] == 1)
        # a worker takes longer to start than this cluster waits: let the task wait for it
        lab.client.run_on_scheduler(patient)
        handle.future.cancel()
        handle = lab.flow.submit(echo(), ["third"])
        lab.add("late")
        assert handle.result(LIMIT).outputs == ["third"]


def patient(dask_scheduler):
    dask_scheduler.plugins["altlas-control"].placer.patience = 60


@pytest.mark.long
def test_a_paused_worker_gets_nothing_and_works_off_what_waited_when_it_goes_on():
    async def pause(dask_worker, status):
        from distributed.core import Status

        dask_worker.status = Status[status]

    with laboratory({"only": {}}) as lab:
        spec = echo()
        assert lab.flow.submit(spec, [0]).result(LIMIT).outputs == [0]
        lab.client.run(pause, status="paused")
        until(lambda: lab.status_of("only") == "paused")  # the scheduler knows it a moment later
        handle = lab.flow.submit(spec, [1])
        lab.until(lambda info: info["parked"] == 1)
        lab.client.run(pause, status="running")
        assert handle.result(LIMIT).outputs == [1]
