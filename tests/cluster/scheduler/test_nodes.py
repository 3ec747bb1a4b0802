"""Nodes as operators see them: records, cordoning, models, draining, and who may join."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from distributed.comm import connect

import altlas_flow as af
from altlas_flow.errors import BadRequest, ClusterError, UnknownModel, UnknownNode
from altlas_flow.records import NodeStatus
from tests.cluster.stages import echo, model, named, over, quiet
from tests.laboratory import LIMIT, laboratory, until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def shared():
    with laboratory(named("ab"), heartbeat_timeout="2s") as made:
        yield made


@pytest.fixture
def pair(shared):
    """Workers a and b, both online when a test begins."""
    until(
        lambda: {info.node_id: info.status for info in shared.flow.nodes()} == dict.fromkeys("ab", "ONLINE")
    )
    yield shared
    for info in shared.flow.nodes():
        if info.joined:
            shared.flow.uncordon(info.node_id)
        else:
            shared.flow.unregister_node(info.node_id)
    quiet(shared)


def await_status(lab, node, status):
    until(lambda: lab.flow.node(node).status == status)


# ---------------------------------------------------------------- records


def test_a_node_says_what_it_is_has_and_did(pair, stage):
    spec = pair.flow.register(stage.model())
    found = pair.flow.submit_many(spec, [{"n": n, "sleep": 0.01} for n in range(20)]).result(LIMIT)
    counts = {name: sum(response.node_id == name for response in found) for name in "ab"}

    def counted():
        nodes = {info.node_id: info for info in pair.flow.nodes()}
        served = {
            name: info.latency[spec.id].count if spec.id in info.latency else 0
            for name, info in nodes.items()
        }
        return nodes if served == counts else None

    nodes = until(counted)
    for name, info in nodes.items():
        assert info.joined and info.address == pair.address_of(name)
        assert info.slots == info.capabilities["cores"] == 1
        assert info.hostname and info.capabilities["versions"]["python"] == sys.version.split()[0]
        assert info.usage["memory"] > 1e7
        assert info.heartbeat < 5
        if counts[name]:
            latency = info.latency[spec.id]
            assert 0.01 <= latency.p50 <= latency.p95 < 5 and latency.mean > 0
            assert spec.id in info.available_models
            assert info.served >= counts[name]
    table = pair.flow.nodes()
    assert list(table.frame()["node_id"]) == ["a", "b"]
    assert "ONLINE" in str(table) and "ONLINE" in table._repr_html_()
    assert af.NodeInfo.model_validate_json(nodes["a"].model_dump_json()) == nodes["a"]


def test_what_names_hold_is_shown_as_text(pair):
    name = "<script>alert(1)</script>\x1b[31m"
    with pytest.raises(BadRequest):
        pair.flow.register_node(af.NodeInfo(node_id=name))
    pair.flow.register_node(af.NodeInfo(node_id="<b>bold</b>"))
    assert "<b>" not in pair.flow.nodes()._repr_html_()
    assert "&lt;b&gt;bold" in pair.flow.nodes()._repr_html_()


def test_a_node_at_its_capacity_is_busy_and_still_takes_what_may_wait(pair, stage):
    spec = stage.model()
    running = [pair.flow.submit(spec, {"n": n, "wait": "go"}) for n in range(2)]
    stage.await_running(0, 1)
    assert {info.status for info in pair.flow.nodes()} == {NodeStatus.BUSY}
    assert {info.in_flight for info in pair.flow.nodes()} == {1}
    waits = pair.flow.submit(spec, {"n": 2})
    pair.until(lambda info: info["envelopes"] == 3)
    stage.open("go")
    assert [handle.result(LIMIT).outputs for handle in (*running, waits)] == [0, 1, 2]
    await_status(pair, "a", NodeStatus.ONLINE)
    await_status(pair, "b", NodeStatus.ONLINE)


def test_a_silent_node_is_offline_until_it_speaks(pair):
    pid = pair.pid_of("a")
    os.kill(pid, signal.SIGSTOP)
    try:
        await_status(pair, "a", NodeStatus.OFFLINE)
        assert "silent" in pair.flow.node("a").reason
        assert pair.flow.node("b").status == NodeStatus.ONLINE
    finally:
        os.kill(pid, signal.SIGCONT)
    await_status(pair, "a", NodeStatus.ONLINE)


def test_a_node_that_fails_again_and_again_is_in_error_until_an_operator_says_other(pair, stage):
    mended = stage.gate("mended")

    def fails(rows):
        import os

        if os.environ["STAGE_NAME"] == "a" and not mended.exists():
            raise RuntimeError("CUDA error: unspecified launch failure")
        return list(rows)

    def first(request, nodes):
        return sorted(nodes, key=lambda node: node.name)

    spec = model(fails)
    for n in range(5):
        assert pair.flow.submit(spec, n, strategy=first).result(LIMIT).node_id == "b"
    await_status(pair, "a", NodeStatus.ERROR)
    info = pair.flow.node("a")
    assert info.failures >= 5 and "set aside" in info.reason
    stage.open("mended")
    pair.flow.update_node_status("a", "ONLINE")
    assert pair.flow.node("a").status == NodeStatus.ONLINE
    assert pair.flow.submit(spec, 9, strategy=first).result(LIMIT).node_id == "a"


# ---------------------------------------------------------------- what operators say


@pytest.mark.parametrize("status", [NodeStatus.BUSY, NodeStatus.OFFLINE, NodeStatus.ERROR])
def test_what_an_operator_bars_gets_nothing_new_until_it_is_online_and_what_runs_runs_to_its_end(
    pair, stage, status
):
    spec = stage.model()
    running = [pair.flow.submit(spec, {"n": n, "wait": "go"}) for n in range(2)]
    nodes = stage.await_running(0, 1)
    pair.flow.update_node_status("a", status)
    assert pair.flow.node("a").status == status
    stage.open("go")
    assert [handle.result(LIMIT).node_id for handle in running] == nodes
    found = pair.flow.submit_many(model(echo), range(20)).result(LIMIT)
    assert {response.node_id for response in found} == {"b"}
    pair.flow.update_node_status("a", NodeStatus.ONLINE)
    assert pair.flow.node("a").status == NodeStatus.ONLINE

    def serve():
        return {response.node_id for response in pair.flow.submit_many(model(echo), range(20)).result(LIMIT)}

    until(lambda: "a" in serve())  # one by one they would go where the model is loaded


@pytest.mark.long
def test_what_was_said_of_a_node_holds_for_the_worker_that_comes_in_its_place(pair):
    pair.flow.cordon("a")
    before = pair.flow.node("a").address
    pair.kill("a")
    until(
        lambda: any(
            info.joined and info.node_id == "a" and info.address != before for info in pair.flow.nodes()
        )
    )
    assert pair.flow.node("a").cordoned
    assert pair.flow.submit(model(echo), 1).result(LIMIT).node_id == "b"


def names(lab):
    return {info.node_id for info in lab.flow.nodes()}


def test_the_models_of_a_node_are_those_that_were_said(pair):
    functions = [lambda rows: list(rows), lambda rows: [*rows], lambda rows: [row for row in rows]]  # noqa: C416
    specs = [pair.flow.register(model(function)) for function in functions]
    ids = [spec.id for spec in specs]
    pair.flow.update_node_models("a", ids[:2])
    assert set(ids) & set(pair.flow.node("a").available_models) == set(ids[:2])
    pair.flow.update_node_models("a", ids[1:])
    assert pair.flow.node("a").available_models == sorted(ids[1:])
    pair.flow.unload("a", ids[1])
    pair.flow.load("a", ids[0])
    assert pair.flow.node("a").available_models == sorted([ids[0], ids[2]])
    pair.flow.update_node_models("a", [])
    assert pair.flow.node("a").available_models == []
    assert pair.flow.submit(specs[0].id, 5).result(LIMIT).outputs == 5


def test_what_cannot_be_is_an_error_of_one_line(pair):
    nowhere = af.NodeInfo(node_id="x", ip_address="nowhere")
    wrong = [
        (lambda: pair.flow.cordon("c"), UnknownNode, "no node 'c'"),
        (lambda: pair.flow.drain("c"), UnknownNode, "no node 'c'"),
        (lambda: pair.flow.unregister_node("c"), UnknownNode, "no node 'c'"),
        (lambda: pair.flow.load("a", "nobody-knows"), UnknownModel, "nobody-knows"),
        (lambda: pair.flow.update_node_models("a", ["nobody-knows"]), UnknownModel, "nobody-knows"),
        (lambda: pair.flow.update_node_models("a", "one"), BadRequest, "list of ids"),
        (lambda: pair.flow.update_node_status("a", "SLEEPY"), BadRequest, "ONLINE, BUSY"),
        (lambda: pair.flow.register_node("a"), BadRequest, "NodeInfo"),
        (
            lambda: pair.flow.register_node(nowhere),
            BadRequest,
            "nowhere",
        ),
        (lambda: pair.flow.drain("a", timeout="soon"), BadRequest, "timeout"),
        (
            lambda: pair.flow.register_node(af.NodeInfo(node_id="192.0.2.0/24")),
            BadRequest,
            "an address, not a name",
        ),
    ]
    for call, kind, text in wrong:
        with pytest.raises(kind, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- draining


def test_draining_loses_nothing_gives_nothing_new_and_ends_with_the_worker_retired(stage):
    with laboratory(named("abc")) as lab:
        spec = stage.model()
        handles, stop = [], threading.Event()

        def load():
            while not stop.is_set():
                handles.extend(lab.flow.submit(spec, {"n": len(handles), "sleep": 0.02}) for _ in range(5))
                handles[-1].wait(LIMIT)

        loader = threading.Thread(target=load)
        loader.start()
        try:
            until(lambda: any(worker == "b" for _, worker in stage.book("began")))
            lab.flow.drain("b", timeout=LIMIT)
            began = sum(worker == "b" for _, worker in stage.book("began"))
            assert names(lab) == {"a", "c"}
            count = len(handles)
            until(lambda: len(handles) > count + 20)
        finally:
            stop.set()
            loader.join(LIMIT)
        responses = [handle.result(LIMIT) for handle in handles]
        assert [response.outputs for response in responses] == list(range(len(handles)))
        assert {response.tries for response in responses} == {1}
        assert sum(worker == "b" for _, worker in stage.book("began")) == began
        assert over(lab)


def test_a_node_that_is_not_empty_in_time_stays_cordoned(pair, stage):
    spec = stage.model()
    running = [pair.flow.submit(spec, {"n": n, "wait": "go"}) for n in range(2)]
    stage.await_running(0, 1)
    with pytest.raises(ClusterError, match="stays cordoned"):
        pair.flow.drain("a", timeout=0.2)
    assert pair.flow.node("a").cordoned
    stage.open("go")
    assert [handle.result(LIMIT).outputs for handle in running] == [0, 1]


def test_a_node_that_is_uncordoned_while_it_is_drained_stays(pair, stage):
    spec = stage.model()
    running = [pair.flow.submit(spec, {"n": n, "wait": "go"}) for n in range(2)]
    stage.await_running(0, 1)
    with ThreadPoolExecutor(1) as pool:
        drain = pool.submit(pair.flow.drain, "a", timeout=LIMIT)
        until(lambda: pair.flow.node("a").cordoned)
        pair.flow.uncordon("a")
        with pytest.raises(ClusterError, match="uncordoned while it was drained"):
            drain.result(LIMIT)
    stage.open("go")
    assert [handle.result(LIMIT).outputs for handle in running] == [0, 1]
    assert names(pair) == {"a", "b"}


@pytest.mark.long
def test_an_embedded_worker_that_was_drained_is_not_started_again():
    with af.connect(workers=2, threads_per_worker=1) as flow:
        cluster = flow._connection.cluster
        flow.drain("1", timeout=LIMIT)
        until(lambda: set(cluster.workers) == {0})
        assert set(cluster.worker_spec) == {0}
        assert flow.submit(model(echo), 1).result(LIMIT).node_id == "0"


# ---------------------------------------------------------------- registered nodes


@pytest.mark.long
def test_a_node_that_has_not_joined_is_remembered_and_what_was_said_of_it_holds_when_it_comes():
    with laboratory(named("a")) as lab:
        spec = lab.flow.register(model(echo))
        lab.flow.register_node(af.NodeInfo(node_id="late", available_models=[spec.id]))
        lab.flow.cordon("late")
        info = lab.flow.node("late")
        assert (info.status, info.joined, info.reason) == (NodeStatus.OFFLINE, False, "it has not joined")
        lab.add("late", **named(["late"])["late"])
        lab.await_host("late")
        until(lambda: lab.flow.node("late").available_models == [spec.id])
        assert lab.flow.node("late").status == NodeStatus.BUSY
        lab.flow.uncordon("late")
        lab.flow.unregister_node("late")
        assert names(lab) == {"a"}


@contextlib.contextmanager
def closed_cluster(tmp_path, **settings):
    """A cluster whose scheduler admits only registered nodes; it notes who joins."""
    with laboratory({}, admission="registered", audit=str(tmp_path / "audit.jsonl"), **settings) as lab:
        yield lab


def audited(tmp_path, event):
    path = tmp_path / "audit.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in map(json.loads, lines) if line["event"] == event]


@pytest.mark.long
def test_what_operators_do_and_who_came_is_in_the_audit_log(tmp_path, stage):
    path = tmp_path / "audit.jsonl"
    with laboratory(named("a"), audit=str(path)) as lab:
        flow = lab.flow
        spec = flow.register(model(echo))
        flow.load("a", spec.id)
        flow.unload("a", spec.id)
        flow.update_node_models("a", [spec.id])
        flow.cordon("a")
        flow.update_node_status("a", "OFFLINE")
        flow.uncordon("a")
        flow.register_node(af.NodeInfo(node_id="later"))
        flow.update_node_models("later", [spec.id])
        flow.unregister_node("later")
        handle = flow.submit(stage.model(), {"n": 1, "wait": "go"})
        stage.await_running(1)
        assert flow.cancel_task(handle.request_id)
        stage.open("go")
        quiet(lab)
        flow.drain("a")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines if line["event"] != "left"] == [
        *("joined", "loaded", "unloaded", "models", "cordoned", "set OFFLINE", "uncordoned"),
        *("registered", "models", "unregistered", "cancelled", "draining", "drained"),
    ]
    assert {line.get("address") for line in lines if line["event"] != "left"} == {"127.0.0.1"}
    said = {line["event"]: line for line in lines}
    assert (said["loaded"]["node"], said["loaded"]["model"]) == ("a", spec.id)
    assert said["cancelled"]["task"] == handle.request_id
    assert said["left"]["node"] == "a"
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)


def test_refused_joins_again_and_again_are_a_warning(tmp_path):
    async def knock(address):
        comm = await connect(address)
        try:
            await comm.write(
                {"op": "register-worker", "reply": False, "address": "tcp://127.0.0.1:1", "name": "x"}
            )
            return await comm.read()
        finally:
            comm.abort()

    with closed_cluster(tmp_path) as lab:
        for _ in range(5):
            said = lab.client.sync(knock, lab.cluster.scheduler_address)
            assert said["status"] == "error" and "does not admit it" in said["message"]
        assert len(audited(tmp_path, "refused")) == 5
        (warned,) = audited(tmp_path, "unusual")
        assert "5 joins from 127.0.0.1 were refused" in warned["text"]
        assert lab.client.sync(lab.client.scheduler.identity, n_workers=-1)["workers"] == {}


@pytest.mark.long
def test_a_worker_that_is_not_registered_is_refused_before_it_gets_plugins_or_work(tmp_path):
    from distributed import WorkerPlugin

    class Mark(WorkerPlugin):
        name = "mark"

        def __init__(self, folder):
            self.folder = folder

        def setup(self, worker):
            (self.folder / f"mark-{worker.name}").touch()

    with closed_cluster(tmp_path, registered=["known"]) as lab:
        lab.client.register_plugin(Mark(tmp_path))
        command = [sys.executable, "-m", "distributed.cli.dask_worker", lab.cluster.scheduler_address]
        options = ["--host", "127.0.0.1", "--no-dashboard", "--no-nanny", "--nthreads", "1", "--name"]
        stranger = subprocess.run(
            [*command, *options, "stranger"], capture_output=True, text=True, timeout=LIMIT, check=False
        )
        assert stranger.returncode != 0
        assert "does not admit it" in stranger.stderr
        (refused,) = audited(tmp_path, "refused")
        assert (refused["node"], refused["address"]) == ("stranger", "127.0.0.1")
        known = subprocess.Popen([*command, *options, "known"], stderr=subprocess.DEVNULL)
        try:
            lab.await_host("known")
            assert lab.flow.submit(model(echo), 1).result(LIMIT).node_id == "known"
            lab.flow.register_node(af.NodeInfo(node_id="stranger", ip_address="127.0.0.1"))
            again = subprocess.Popen([*command, *options, "stranger"], stderr=subprocess.DEVNULL)
            try:
                lab.await_host("stranger")
            finally:
                again.terminate()
                again.wait(LIMIT)
        finally:
            known.terminate()
            known.wait(LIMIT)
        assert {line["node"] for line in audited(tmp_path, "joined")} == {"known", "stranger"}
    assert {path.name for path in tmp_path.glob("mark-*")} == {"mark-known", "mark-stranger"}


@pytest.mark.long
def test_a_nanny_gets_its_plugins_only_once_its_worker_is_admitted(tmp_path):
    from distributed import NannyPlugin

    class Mark(NannyPlugin):
        name = "mark"

        def __init__(self, folder):
            self.folder = folder

        def setup(self, nanny):
            (self.folder / f"mark-{nanny.name}").touch()

    with closed_cluster(tmp_path, registered=["known"]) as lab:
        lab.client.register_plugin(Mark(tmp_path))
        command = [sys.executable, "-m", "distributed.cli.dask_worker", lab.cluster.scheduler_address]
        options = [
            "--host",
            "127.0.0.1",
            "--no-dashboard",
            "--nthreads",
            "1",
            "--death-timeout",
            "5",
            "--name",
        ]
        programs = {
            name: subprocess.Popen([*command, *options, name], stderr=subprocess.PIPE, text=True)
            for name in ("stranger", "known")
        }
        try:
            lab.await_host("known")
            until(lambda: (tmp_path / "mark-known").exists())
            _, said = programs["stranger"].communicate(timeout=LIMIT)
            assert "does not admit it" in said
        finally:
            for program in programs.values():
                program.terminate()
                program.communicate(timeout=LIMIT)
    assert {path.name for path in tmp_path.glob("mark-*")} == {"mark-known"}
    assert {line["node"] for line in audited(tmp_path, "joined")} == {"known"}
