"""Draining where it is not smooth: data that nobody can take, workers that die or are stopped, ranges."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

import altlas_flow as af
from altlas_flow.errors import ClusterError
from altlas_flow.records import NodeStatus
from tests.cluster.commands import commands
from tests.cluster.stages import echo, model, named
from tests.laboratory import LIMIT, laboratory, until

pytestmark = pytest.mark.timeout(120)


def names(lab):
    return {info.node_id for info in lab.flow.nodes()}


def held(lab, name):
    """Data of somebody else on one worker alone."""
    future = lab.client.submit(
        lambda: 42, workers=[lab.address_of(name)], pure=False, allow_other_workers=True
    )
    assert future.result(LIMIT) == 42
    return future


def test_the_only_node_goes_once_its_answers_are_fetched_and_stays_where_it_alone_has_data(stage):
    with laboratory(named("a")) as lab:
        data = held(lab, "a")
        with pytest.raises(ClusterError, match="no other node can take"):
            lab.flow.drain("a", timeout=0.2)
        until(lambda: lab.flow.node("a").reason == "it is cordoned")
        assert lab.flow.node("a").cordoned and data.status == "finished"
        lab.flow.uncordon("a")
        running = lab.flow.submit(stage.model(), {"n": 1, "wait": "go"})
        stage.await_running(1)
        with ThreadPoolExecutor(1) as pool:
            drain = pool.submit(lab.flow.drain, "a", timeout=LIMIT)
            until(lambda: lab.flow.node("a").cordoned)
            stage.open("go")
            assert running.result(LIMIT).outputs == 1
            data.release()  # what was in the way goes while it waits
            drain.result(LIMIT)
        assert names(lab) == set()


@pytest.mark.long
def test_a_worker_that_dies_while_it_is_drained_is_not_started_again(stage):
    with laboratory(named("ab")) as lab:
        running = [lab.flow.submit(stage.model(), {"n": n, "wait": "go"}) for n in range(2)]
        stage.await_running(0, 1)
        address = lab.address_of("a")
        nanny = lab.client.sync(lab.client.scheduler.identity, n_workers=-1)["workers"][address]["nanny"]
        with ThreadPoolExecutor(1) as pool:
            drain = pool.submit(lab.flow.drain, "a", timeout=LIMIT)
            until(lambda: lab.flow.node("a").cordoned)
            lab.kill("a")
            drain.result(LIMIT)
        assert names(lab) == {"b"}
        retired = lab.client.sync(lab.client.scheduler.altlas_retired, nanny=nanny)
        assert retired["result"] is True
        stage.open("go")
        assert sorted(handle.result(LIMIT).outputs for handle in running) == [0, 1]
        assert {handle.result(LIMIT).node_id for handle in running} == {"b"}


@pytest.mark.long
def test_one_that_is_stopped_stays_where_it_has_data_and_goes_where_it_has_none():
    with laboratory(named("ab"), heartbeat_timeout="2s") as lab:
        data, pid = held(lab, "a"), lab.pid_of("a")
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(ClusterError, match="node a holds data"):
                lab.flow.drain("a", timeout=0.1)
            assert lab.flow.node("a").cordoned
            until(lambda: lab.flow.node("a").status == NodeStatus.OFFLINE)
            with pytest.raises(ClusterError, match="node a is silent, and holds data"):
                lab.flow.drain("a", timeout=0.1)
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: lab.flow.node("a").status == NodeStatus.BUSY)
        lab.flow.uncordon("a")
        lab.flow.cordon("b")
        assert lab.flow.submit(model(echo), 1).result(LIMIT).node_id == "a"
        lab.flow.uncordon("b")
        data.release()
        os.kill(pid, signal.SIGSTOP)
        until(lambda: lab.flow.node("a").status == NodeStatus.OFFLINE)
        lab.flow.drain("a", timeout=LIMIT)
        assert names(lab) == {"b"}


@pytest.mark.long
def test_a_range_is_cordoned_at_once_for_those_that_come_too_and_is_drained_at_once(stage):
    with laboratory(named("ab")) as lab:
        lab.flow.register_node(af.NodeInfo(node_id="rack", ip_address="127.0.0.0/24"))
        lab.flow.cordon("rack")
        lab.add("c", **named("c")["c"])
        lab.await_host("c")
        assert all(info.cordoned for info in lab.flow.nodes()) and names(lab) == set("abc")
        lab.flow.uncordon("rack")
        lab.flow.drain("c", timeout=LIMIT)
        running = [lab.flow.submit(stage.model(), {"n": n, "wait": f"go{n}"}) for n in range(2)]
        stage.await_running(0, 1)
        with ThreadPoolExecutor(1) as pool:
            drain = pool.submit(lab.flow.unregister_node, "rack", timeout=LIMIT)
            until(lambda: {info.cordoned for info in lab.flow.nodes()} == {True})
            for n, handle in enumerate(running):
                stage.open(f"go{n}")
                assert handle.result(LIMIT).outputs == n
            drain.result(LIMIT)
        assert names(lab) == set()


@pytest.mark.long
def test_a_worker_whose_connection_broke_comes_back_and_one_that_was_retired_does_not(tmp_path):
    with commands(tmp_path) as start:
        address = start("scheduler", "--port", "0", "--dashboard", "none").address()
        worker = start("worker", address, "--name", "w", "--nthreads", "1")
        first = worker.address()
        with af.connect(address) as flow:
            flow.client.run_on_scheduler(
                lambda where, dask_scheduler: dask_scheduler.stream_comms[where].comm.abort(), first
            )
            assert worker.address() != first
            until(lambda: [info.node_id for info in flow.nodes()] == ["w"])
            flow.drain("w", timeout=LIMIT)
            assert worker.process.wait(LIMIT) == 0
        said = worker.log.read_text()
        assert "is lost; looking again" in said and "has retired this worker" in said
