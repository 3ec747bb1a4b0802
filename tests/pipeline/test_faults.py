"""Pipelines while workers die, fail and fall silent, and while the cluster goes."""

from __future__ import annotations

import os
import signal

import pytest

import altlas_flow as af
from altlas_flow import Pipeline, Stage
from altlas_flow.errors import ClusterLost, StageFailed
from tests.dataframe.jobs import until
from tests.laboratory import laboratory

pytestmark = pytest.mark.timeout(180)

LIMIT = 60  # seconds that any one wait may take


@pytest.fixture(scope="module")
def shared():
    with laboratory({"a": {}, "b": {}}, heartbeat_timeout="3s", no_workers_timeout="120s") as found:
        yield found


@pytest.fixture
def lab(shared):
    """Two workers that may be killed: their nannies start them again."""
    shared.await_hosts(2)
    shared.await_nannies()
    return shared


def waits(value, folder="", name=""):
    """The first one says which process it is, and waits until it is killed; later ones go through."""
    import os
    import time

    said = os.path.join(folder, f"{name}.pid")
    try:
        file = os.open(said, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return value + name
    os.close(file)  # and stays: stopped or killed at any instant it was the first one
    with open(said + ".new", "w") as new:
        new.write(str(os.getpid()))
    os.rename(said + ".new", said + "s")
    time.sleep(60)  # it is killed long before
    raise AssertionError("nobody killed it")


def kill_where(folder, name, how=signal.SIGKILL):
    said = folder / f"{name}.pids"
    until(said.exists, LIMIT)
    pid = int(said.read_text())
    os.kill(pid, how)
    return pid


@pytest.mark.parametrize("stage", ["x", *(pytest.param(one, marks=pytest.mark.long) for one in "yz")])
def test_a_worker_killed_in_a_stage_costs_no_row(lab, tmp_path, stage):
    def step(name, after):
        if name != stage:
            return Stage(name, function=lambda value: value + name, after=after)
        return Stage(name, function=waits, after=after, parameters={"folder": str(tmp_path), "name": name})

    pipeline = Pipeline([step("x", "input"), step("y", "x"), step("z", "y")])
    handle = lab.flow.submit(pipeline, ["1", "2"])
    kill_where(tmp_path, stage)
    assert handle.result(LIMIT).outputs == ["1xyz", "2xyz"]
    lab.await_hosts(2)


def test_a_row_that_kills_workers_costs_the_others_nothing():
    def deadly(value):
        if value == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return value.upper()

    pipeline = Pipeline([Stage("first", function=str.strip), Stage("deadly", function=deadly, after="first")])
    # an embedded cluster: it starts workers again that die while their nannies start them
    with af.connect(workers=2, threads_per_worker=1) as flow:
        for _ in range(3):  # what a row takes is known then, and those below travel together
            flow.submit(pipeline, "warm").result(LIMIT)
        handles = [flow.submit(pipeline, value) for value in ("a", "b", "die", "c", "d", "e")]
        with pytest.raises(StageFailed, match=r"deadly.*died") as caught:
            handles.pop(2).result(LIMIT)
        assert caught.value.stage == "deadly"
        assert [handle.result(LIMIT).outputs for handle in handles] == ["A", "B", "C", "D", "E"]


def test_a_fault_of_a_node_goes_to_another_node(lab, tmp_path):
    lab.await_hosts(2)

    def breaks_once(value, path=""):
        node = str(os.getpid())
        with open(path, "a") as file:
            file.write(f"{node}\n")
        with open(path) as file:
            if len(file.readlines()) == 1:
                raise RuntimeError("CUDA error: the card has fallen off the bus")
        return node

    path = tmp_path / "nodes"
    pipeline = Pipeline(
        [
            Stage("before", function=str.upper),
            Stage("card", function=breaks_once, after="before", parameters={"path": str(path)}),
            Stage("after", function=lambda node: [node], after="card"),
        ]
    )
    found = lab.flow.submit(pipeline, "x", keep=True).result(LIMIT)
    first, second = path.read_text().split()
    assert first != second and found.outputs == [second]
    pids = {str(lab.pid_of(name)): name for name in ("a", "b")}
    assert found["before"].outputs == "X" and found["card"].node_id == pids[second]


@pytest.mark.parametrize("where", ["function", "inputs"])
def test_a_try_on_another_node_gets_what_the_first_one_got(lab, tmp_path, where):
    lab.await_hosts(2)
    path = str(tmp_path)

    def writes(value):
        value.append("seen")
        return value

    def breaks_once(value):
        if where == "function":
            value.append("seen")
        try:
            os.close(os.open(os.path.join(path, str(value[0])), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return value.count("seen")
        raise RuntimeError("CUDA error: the card has fallen off the bus")

    pipeline = Pipeline(
        [
            # so many that the next is done where they are, if it can be
            Stage("before", function=lambda at: [at] * 100_000),
            Stage("card", function=breaks_once, after="before", inputs=writes if where == "inputs" else None),
        ]
    )
    found = [lab.flow.submit(pipeline, at).result(LIMIT).outputs for at in range(8)]
    assert found == [1] * 8 and len(os.listdir(path)) == 8


@pytest.mark.long
def test_a_silent_worker_is_done_without(lab, tmp_path):
    pipeline = Pipeline(
        [
            Stage("x", function=waits, parameters={"folder": str(tmp_path), "name": "x"}),
            Stage("y", function=str.upper, after="x"),
        ]
    )
    handle = lab.flow.submit(pipeline, "v")
    pid = kill_where(tmp_path, "x", signal.SIGSTOP)
    try:
        assert handle.result(LIMIT).outputs == "VX"
    finally:
        os.kill(pid, signal.SIGKILL)
    lab.await_hosts(2)


@pytest.mark.long
def test_a_scheduler_that_goes_ends_what_waits(tmp_path):
    pipeline = Pipeline([Stage("x", function=waits, parameters={"folder": str(tmp_path), "name": "x"})])
    with laboratory({"a": {}}, heartbeat_timeout="3s") as own:
        handle = own.flow.submit(pipeline, "v")
        until((tmp_path / "x.pids").exists, LIMIT)
        own.flow.close()
        with pytest.raises(ClusterLost):
            handle.result(LIMIT)
        with pytest.raises(Exception, match="closed"):
            own.flow.submit(pipeline, "v")
