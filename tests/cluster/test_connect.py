"""Connecting: embedded or joined, checked, and nothing left when it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import dask
import psutil
import pytest
from distributed import Client, LocalCluster

import altlas_flow as af
from altlas_flow.cluster import connect as connecting
from altlas_flow.cluster import daskclient
from altlas_flow.errors import ConnectError, VersionMismatch
from altlas_flow.models.host import ModelHost
from tests.laboratory import LIMIT

pytestmark = pytest.mark.timeout(90)

GIB = 2**30


def lengths(rows):
    return [len(row) for row in rows]


LENGTHS = {"id": "lengths", "source": lengths}


def loops():
    """Threads of Dask's clients and embedded clusters."""
    return {thread for thread in threading.enumerate() if "loop" in thread.name.lower()}


def run_python(*arguments, cwd, code=0, limit=LIMIT, **environment):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=limit,
        cwd=cwd,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == code, done.stderr
    return done


# ---------------------------------------------------------------- embedded

SCRIPT = """
import altlas_flow as af
import beside

def mine(rows):
    return [beside.double(row) for row in rows]

flow = af.connect(workers=1)
print(flow.submit(af.ModelSpec(id="mine", source=mine), [1, 2]).result(30).outputs)
named = af.ModelSpec(id="named", runtime="function", source="beside:doubles")
print(flow.submit(named, [3]).result(30).outputs)
print(flow.submit(af.ModelSpec(id="beside", source=beside.doubles), [4]).result(30).outputs)
"""
BESIDE = """
def double(row):
    return 2 * row

def doubles(rows):
    return [double(row) for row in rows]
"""


def test_a_script_without_a_main_guard_uses_functions_of_its_own_and_of_a_module_beside_it(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT + "flow.close()\n")
    (tmp_path / "beside.py").write_text(BESIDE)
    done = run_python(tmp_path / "script.py", cwd="/")
    assert done.stdout == "[2, 4]\n[6]\n[8]\n"
    assert done.stderr == ""


@pytest.mark.long
def test_code_given_to_an_interpreter_connects_and_what_is_not_closed_ends_with_it(tmp_path):
    (tmp_path / "beside.py").write_text(BESIDE)
    done = run_python("-c", SCRIPT, cwd=tmp_path)
    assert done.stdout == "[2, 4]\n[6]\n[8]\n"
    assert done.stderr == ""


@pytest.mark.long
def test_a_huge_model_gets_one_worker_with_all_threads(monkeypatch):
    monkeypatch.setattr("altlas_flow.cluster.connect.machine", lambda: (2, 8 * GIB))
    huge = af.ModelSpec(**LENGTHS, memory=3 * GIB)
    with af.connect(models=[huge]) as flow:
        info = flow.client.sync(flow.client.scheduler.identity, n_workers=-1)["workers"]
        assert [(w["nthreads"], w["memory_limit"]) for w in info.values()] == [(2, 8 * GIB)]
        assert flow.submit("lengths", ["four"]).result(LIMIT).outputs == [4]


@pytest.mark.long
def test_a_model_too_large_for_the_workers_there_are_gets_fewer_and_larger_ones(monkeypatch, caplog):
    monkeypatch.setattr("altlas_flow.cluster.connect.machine", lambda: (2, 8 * GIB))
    with af.connect() as flow:
        assert len(flow.client.nthreads()) == 2
        flow.register(af.ModelSpec(id="huge", source=lengths, memory=3 * GIB))
        assert list(flow.client.nthreads().values()) == [2]
        assert "replaced by 1" in caplog.text
        assert flow.submit("huge", ["four"]).result(LIMIT).outputs == [4]
        # what one worker cannot hold is refused at once, and says so
        spec = af.ModelSpec(id="larger", source=sorted, memory=7 * GIB)
        with pytest.raises(af.errors.NoEligibleNode, match="may take 4096 MiB and the model takes 7168 MiB"):
            flow.submit(spec, ["four"]).result(LIMIT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 0}, "workers=0"),
        ({"threads_per_worker": "two"}, "threads_per_worker='two'"),
        ({"memory_limit": "plenty"}, "memory_limit='plenty'"),
        ({"address": "tcp://127.0.0.1:1", "workers": 2}, "leave them out"),
        ({"address": 42}, "a int is no cluster"),
        ({"address": "no/such/file.json"}, "no scheduler file"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused_at_once(arguments, message):
    with pytest.raises(ConnectError, match=message) as caught:
        af.connect(**arguments)
    assert "\n" not in str(caught.value)


OWNER = """
import sys, time
import altlas_flow as af
flow = af.connect(workers=2)
def slow(rows):
    time.sleep(60)
    return rows
handle = flow.submit(af.ModelSpec(id="slow", source=slow), [1])
print("up", flush=True)
handle.result(60)
"""


@contextlib.contextmanager
def owner(tmp_path):
    """A client in a program of its own, busy; its descendants."""
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    children = []
    try:
        assert process.stdout.readline() == "up\n"
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 4
        yield process, children
    finally:
        process.kill()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        process.communicate()


def test_workers_and_nannies_of_a_killed_client_end(tmp_path):
    with owner(tmp_path) as (process, children):
        process.kill()
        _, alive = psutil.wait_procs(children, timeout=15)
        assert not alive


@pytest.mark.alone
def test_ctrl_c_ends_the_client_and_its_workers(tmp_path):
    with owner(tmp_path) as (process, children):
        process.send_signal(signal.SIGINT)
        _, alive = psutil.wait_procs(children, timeout=15)
        assert not alive
        _, text = process.communicate(timeout=15)
        assert process.returncode != 0
        assert "KeyboardInterrupt" in text


CLOSING = """
import logging, sys, time
import altlas_flow as af
with af.connect(workers=2) as flow:
    spec = af.ModelSpec(id="m", task="feature-extraction", source=sys.argv[1])
    for _ in range(4):
        flow.submit(spec, ["of the to"] * 8).result(60)
    started = time.monotonic()
print(time.monotonic() - started)
"""


@pytest.mark.alone
def test_closing_is_quick_and_silent_after_a_torch_model_ran(tmp_path):
    from tests.models_zoo import build_embedder

    build_embedder(tmp_path / "model")
    done = run_python("-c", CLOSING, tmp_path / "model", cwd=tmp_path)
    assert done.stderr == ""
    assert float(done.stdout) < 3


@pytest.mark.parametrize("where", ["altlas_flow.flow.release", "altlas_flow.cluster.connect.leave"])
def test_closing_that_is_interrupted_leaves_no_worker(where, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    flow = af.connect(workers=1)
    client, cluster = flow.client, flow._connection.cluster
    programs = [worker.process.pid for worker in cluster.workers.values()]
    with monkeypatch.context() as patch:
        patch.setattr(where, interrupted)
        with pytest.raises(KeyboardInterrupt):
            flow.close()
    assert len(programs) == 1 and not psutil.pid_exists(programs[0])
    assert cluster.status.name == "closed"
    client.close()


def test_closing_answers_what_still_waits_with_an_error():
    import time as clock

    def slow(rows):
        clock.sleep(30)
        return rows

    with af.connect(workers=1) as flow:
        handle = flow.submit(af.ModelSpec(id="slow", source=slow), [1])
    with pytest.raises(af.errors.ClusterLost, match="closed"):
        handle.result(LIMIT)
    with pytest.raises(ConnectError, match="this flow is closed"):
        flow.submit("slow", [1])
    flow.close()
    assert repr(flow) == "<Flow: closed>"


@pytest.mark.long
def test_torch_threads_and_slots_do_not_exceed_a_workers_threads(tmp_path):
    from tests.models_zoo import build_embedder

    def slots_and_threads(dask_worker):
        import torch

        host = dask_worker.plugins["altlas-host"].host
        seen = []
        (model,) = (entry.model for entry in host.shelf._entries.values())
        predict = model.runtime.predict

        def spy(items, parameters):
            seen.append(torch.get_num_threads())
            return predict(items, parameters)

        model.runtime.predict = spy
        host.predict(model.spec, ["a b c", "d"])
        return host.slots, max(seen)

    spec = af.ModelSpec(id="m", task="feature-extraction", source=str(build_embedder(tmp_path / "model")))
    for slots in (1, 2):
        with dask.config.set({"altlas.slots": slots}), af.connect(workers=1, threads_per_worker=2) as flow:
            flow.submit(spec, ["a", "b"]).result(LIMIT)
            (found,) = flow.client.run(slots_and_threads).values()
            assert found == (slots, 2 // slots)


# ---------------------------------------------------------------- joined


@pytest.fixture(scope="module")
def plain():
    """A Dask cluster of somebody else, with workers in this process."""
    with LocalCluster(
        # of its own port: Dask's default may be in use, and it warns of that
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
    ) as cluster:
        yield cluster


@pytest.mark.parametrize("kind", ["address", "file", "client", "cluster"])
def test_joining_works_by_address_file_client_and_cluster_and_closes_only_its_own(plain, kind, tmp_path):
    address = plain.scheduler_address
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps({"address": address}))
    with Client(plain, set_as_default=False) as client:
        given = {"address": address, "file": file, "client": client, "cluster": plain}[kind]
        with af.connect(given) as flow:
            assert flow.submit(af.ModelSpec(**LENGTHS), ["abc"]).result(LIMIT).outputs == [3]
            assert address in repr(flow)
            assert (flow.client is client) == (kind == "client")
            mine = flow.client
        assert client.status == "running"
        assert (mine.status == "running") == (kind == "client")
        assert client.submit(lambda: 1, pure=False).result(LIMIT) == 1


def test_hosts_are_there_as_soon_as_connect_returns(plain):
    for _ in range(3):
        with af.connect(plain) as flow:
            hosts = flow.client.sync(flow.client.scheduler.altlas_info)["hosts"]
            assert set(hosts) == set(
                flow.client.sync(flow.client.scheduler.identity, n_workers=-1)["workers"]
            )


def test_a_second_client_keeps_catalog_and_hosts(plain):
    with af.connect(plain) as first:
        first.register(af.ModelSpec(id="kept", source=lengths))
        host = plain.workers[0].plugins["altlas-host"].host
        with af.connect(plain) as second:
            assert "kept" in second.models()
        assert plain.workers[0].plugins["altlas-host"].host is host
        assert isinstance(host, ModelHost)


def test_an_address_where_nobody_answers_is_told_within_the_start_timeout(tmp_path):
    before = loops()
    started = time.monotonic()
    with (
        dask.config.set({"altlas.start-timeout": "1s"}),
        pytest.raises(ConnectError, match=r"no Dask scheduler answers .*nothing listens there"),
    ):
        af.connect("tcp://127.0.0.1:1")
    assert time.monotonic() - started < 10
    assert loops() <= before, "whoever tries again and again has no more threads"
    with pytest.raises(ConnectError, match="unknown address scheme 'foo'"):
        af.connect("foo://127.0.0.1:1")
    file = tmp_path / "scheduler.json"
    file.write_text("{")
    with pytest.raises(ConnectError, match="not a file that a Dask scheduler wrote"):
        af.connect(file)


def test_a_peer_that_takes_a_connection_and_says_nothing_is_told_of_too():
    with socket.create_server(("127.0.0.1", 0)) as peer:
        address = "tcp://127.0.0.1:{1}".format(*peer.getsockname())
        with (
            dask.config.set({"altlas.start-timeout": "1s"}),
            pytest.raises(ConnectError, match=f"no Dask scheduler answers at {address} .*nothing for 1 s"),
        ):
            af.connect(address)


def test_a_scheduler_file_that_is_being_written_is_looked_at_again(tmp_path, monkeypatch):
    file = tmp_path / "scheduler.json"
    file.touch()
    whole = json.dumps({"address": "tcp://127.0.0.1:8786"})
    texts = iter([whole[:5], whole])
    clock = types.SimpleNamespace(
        time=time.time, monotonic=time.monotonic, sleep=lambda _: file.write_text(next(texts))
    )
    monkeypatch.setattr(connecting, "time", clock)
    assert connecting.address_of(file) == "tcp://127.0.0.1:8786"


def test_an_old_file_that_is_none_of_a_scheduler_is_refused_at_once(tmp_path, monkeypatch):
    file = tmp_path / "scheduler.json"
    file.write_text("{")
    os.utime(file, (0, 0))
    monkeypatch.setattr(connecting.time, "sleep", lambda _: pytest.fail("it waited"))
    with pytest.raises(ConnectError, match="not a file that a Dask scheduler wrote"):
        connecting.address_of(file)


def test_a_client_that_cannot_be_used_is_refused(plain):
    client = Client(plain, set_as_default=False)
    client.close()
    with pytest.raises(ConnectError, match="closed"):
        af.connect(client)


SHIMS = {
    "missing": "raise ImportError('not here')\n",
    "other": "__path__ = [__file__.rpartition('/')[0]]\n",
}


@contextlib.contextmanager
def programs(tmp_path, scheduler="", worker=""):
    """A scheduler and a worker as programs; "missing" or "other" is their altlas_flow."""
    for kind, text in SHIMS.items():
        package = tmp_path / kind / "altlas_flow"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(text)
        (package / "_version.py").write_text('__version__ = "0.0.1"\n')
    file = tmp_path / "scheduler.json"
    started = []

    def start(kind, *arguments):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / kind) if kind else ""}
        log = (tmp_path / "log").open("a")
        command = [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]]
        started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=tmp_path))
        log.close()

    try:
        at = ("--scheduler-file", str(file))
        start(scheduler, "scheduler", *at, "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        start(worker, "worker", *at, "--name", "w", "--no-nanny", "--no-dashboard", "--nthreads", "1")
        end = time.monotonic() + LIMIT
        while not (file.exists() and file.stat().st_size):  # Dask writes it in place
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.05)
        with Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(1, timeout=LIMIT)
        yield file
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("where", "kind", "message"),
    [
        ("scheduler", "missing", "the scheduler cannot import altlas_flow"),
        ("scheduler", "other", "the scheduler runs altlas_flow 0.0.1"),
        ("worker", "missing", "worker tcp://.* cannot import altlas_flow"),
        ("worker", "other", "worker tcp://.* runs altlas_flow 0.0.1"),
    ],
)
def test_a_scheduler_or_worker_without_this_altlas_flow_is_named(tmp_path, where, kind, message):
    with programs(tmp_path, **{where: kind}) as file:
        with pytest.raises(VersionMismatch, match=message) as caught:
            af.connect(file)
        assert "\n" not in str(caught.value)


def test_a_cluster_of_programs_that_has_altlas_flow_is_joined(tmp_path):
    with programs(tmp_path) as file, af.connect(Path(file)) as flow:
        spec = af.ModelSpec(id="sizes", source=lambda rows: [len(row) for row in rows])
        assert flow.submit(spec, ["abc"]).result(LIMIT).outputs == [3]


JOINS = """
import logging
import altlas_flow as af
from distributed import Client, LocalCluster

if __name__ == "__main__":
    levels = lambda: [one.level for one in logging.getLogger("distributed").handlers]
    before = levels()
    options = {"dashboard_address": "127.0.0.1:0", "scheduler_kwargs": {"dashboard": False}}
    with LocalCluster(n_workers=1, processes=False, **options) as theirs, Client(theirs) as client:
        for _ in range(2):
            with af.connect(client) as flow:
                print(flow)
        ours = af.connect(workers=1)
    ours.client.submit(sum, [1, 2]).result(60)
    ours.close()
    assert levels() == before, "clusters that end in any order leave no logger silent"
"""


@pytest.mark.long
def test_a_plain_cluster_is_joined_without_a_word_and_loggers_are_left_as_they_were(tmp_path):
    script = tmp_path / "joins.py"
    script.write_text(JOINS)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    for line in done.stdout.splitlines():
        assert line.endswith(", 1 worker, no dashboard>")
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.long
def test_a_session_that_connects_anew_is_told_that_the_first_cluster_is_still_there():
    session = (
        "import sys\n"
        "sys.ps1 = 'In : '\n"
        "import altlas_flow as af\n"
        "flow = af.connect(workers=1)\n"
        "flow.close()\n"
        "flow = af.connect(workers=1)\n"
        "print('so far', file=sys.stderr, flush=True)\n"
        "first, flow = flow, af.connect(workers=1)\n"
        "first.close()\n"
        "flow.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", session], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert lines[0] == "so far" and len(lines) == 2 and "close it with flow.close()" in lines[1]


def test_connecting_while_others_cancel_their_tasks_is_tried_again(plain, monkeypatch):
    """Dask's scheduler tells all clients of each, and one that connects asserts that it hears nothing."""
    start, tries = Client._ensure_connected, []

    async def disturbed(self, timeout=None):
        tries.append(self.id)
        assert len(tries) > 2
        await start(self, timeout)

    monkeypatch.setattr(Client, "_ensure_connected", disturbed)
    with af.connect(plain) as flow:
        assert flow.client.status == "running" and flow.client.id == tries[2]
    tries.clear()
    monkeypatch.setattr(daskclient, "CONNECT_TRIES", 2)
    with pytest.raises(ConnectError, match="no Dask scheduler answers"):
        af.connect(plain)
    assert len(tries) == 2
