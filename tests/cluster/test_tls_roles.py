"""What each role may ask for, tried as somebody would who does not keep to our client: by raw calls."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pickle
import signal
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from distributed import Client, Event, fire_and_forget
from distributed.comm.core import CommClosedError
from distributed.core import connect, rpc

import altlas_flow as af
from altlas_flow.cluster.secure import security_of
from altlas_flow.errors import Forbidden
from altlas_flow.security.roles import Role
from tests.cluster.stages import echo, model
from tests.cluster.test_tls import flow_as, pki, program  # noqa: F401
from tests.laboratory import LIMIT, until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def two(pki, tmp_path_factory):  # noqa: F811
    """A scheduler, and two workers."""
    audit = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    options = ["--port", "0", "--dashboard", "none", "--audit", audit, "--tls", pki["scheduler"]]
    with program("scheduler", *options) as (_, line), contextlib.ExitStack() as stack:
        address = line.removeprefix("scheduler at ")
        for name in ("v", "w"):
            worker = program("worker", address, "--name", name, "--nthreads", "1", "--tls", pki["node"])
            assert stack.enter_context(worker)[1].startswith("worker at tls://")
        found = ask(pki, "operator", address, "identity")["workers"]
        workers = {said["name"]: at for at, said in found.items()}
        nannies = {said["name"]: said["nanny"] for said in found.values()}
        yield SimpleNamespace(address=address, workers=workers, nannies=nannies, audit=audit)


def arguments_of(pki, name):  # noqa: F811
    side = "worker" if name == "node" else "client"
    return security_of(pki[name], Role(name)).get_connection_args(side)


def ask(pki, name, at, operation, /, **arguments):  # noqa: F811
    """What an operation answers to a certificate."""

    async def go():
        async with rpc(at, connection_args=arguments_of(pki, name), timeout=LIMIT) as remote:
            return await asyncio.wait_for(getattr(remote, operation)(**arguments), LIMIT)

    return asyncio.run(go())


def say(pki, name, address, *messages, client="stranger"):  # noqa: F811
    """Send messages on a client's stream; whether the scheduler heard them all and went on."""

    async def go():
        comm = await connect(address, **arguments_of(pki, name))
        await comm.write({"op": "register-client", "client": client, "reply": False, "versions": {}})
        try:
            await comm.read()
            await comm.write([*messages, {"op": "close-client"}, {"op": "close-stream"}])
            async with asyncio.timeout(LIMIT):
                while True:
                    await comm.read()
        except OSError:
            pass  # it has read what came before, and closed
        finally:
            comm.abort()

    asyncio.run(go())


def refusals(two):
    whole, _, _ = two.audit.read_text().rpartition("\n")  # the last line may be on its way
    rows = [json.loads(line) for line in whole.splitlines()]
    return [row["operation"] for row in rows if row["event"] == "forbidden"]


def audited(two, operation, count=1):
    until(lambda: refusals(two).count(operation) >= count)


CODE = pickle.dumps(os.getpid)
ON_SCHEDULER = [
    ("unregister", {"address": "w"}),
    ("proxy", {"worker": "w", "msg": {"op": "altlas_unload", "digits": "0"}}),
    ("dump_cluster_state_to_url", {"url": "file:///nowhere", "exclude": [], "format": "msgpack"}),
    ("log_event", {"topic": "altlas-hosts", "msg": {"address": "w", "version": "0"}}),
    ("log_event", {"topic": ["mine", "altlas-refusals"], "msg": {"operation": "none"}}),
    ("heartbeat_worker", {"address": "w"}),
    ("add_keys", {"worker": "w", "keys": []}),
    ("set_restrictions", {"worker": {}}),
    ("adaptive_target", {}),
    ("get_cluster_state", {"exclude": []}),
    ("run_function", {"function": CODE}),
    ("feed", {"function": CODE}),
    ("broadcast", {"msg": {"op": "terminate"}}),
    ("worker_logs", {}),
    ("terminate", {}),
]
ON_WORKERS = ["altlas_unload", "altlas_load", "terminate", "run", "run_coroutine", "free_keys", "plugin-add"]
ON_NANNIES = ["run", "kill", "terminate", "restart", "instantiate", "plugin_add", "get_logs"]


def test_operations_that_change_the_cluster_are_refused_to_clients_and_audited(two, pki):  # noqa: F811
    for operation, arguments in ON_SCHEDULER:
        arguments = {key: two.workers.get(str(value), value) for key, value in arguments.items()}
        with pytest.raises((Forbidden, OSError), match=r"is for (operators|nodes)|closed"):
            ask(pki, "client", two.address, operation, **arguments)
        audited(two, operation)
    with flow_as(pki, "client", two.address) as flow:
        assert sorted(info.node_id for info in flow.nodes()) == ["v", "w"]


@pytest.mark.parametrize("name", ["client", "node"])
def test_workers_and_nannies_look_at_roles_too(two, pki, name):  # noqa: F811
    for address, operations in ((two.workers["w"], ON_WORKERS), (two.nannies["w"], ON_NANNIES)):
        for operation in operations:
            before = refusals(two).count(operation)
            with pytest.raises(Forbidden, match="is for operators"):
                ask(pki, name, address, operation)
            audited(two, operation, before + 1)
    assert ask(pki, name, two.workers["w"], "identity")["type"] == "QuietWorker"


def test_what_only_hosts_say_is_not_heard_from_clients(two, pki):  # noqa: F811
    async def words():
        comm = await connect(two.address, **arguments_of(pki, "client"))
        await comm.write({"op": "altlas_words", "address": two.workers["w"], "reply": False})
        failed = {"word": "done", "key": "altlas-x", "rows": 1, "seconds": 0.1, "faults": 1, "lingers": False}
        with contextlib.suppress(CommClosedError):
            await comm.write([failed] * 6)
        with pytest.raises(CommClosedError):
            await comm.read()
        comm.abort()

    asyncio.run(words())
    audited(two, "altlas_words")

    async def stream():
        comm = await connect(two.address, **arguments_of(pki, "client"))
        await comm.write({"op": "connection_stream", "reply": False})
        with pytest.raises(CommClosedError):
            await comm.read()
        comm.abort()

    asyncio.run(stream())
    audited(two, "connection_stream")
    status = {"op": "worker-status-change", "worker": two.workers["w"], "status": "paused"}
    say(pki, "client", two.address, {**status, "stimulus_id": "x"})
    audited(two, "worker-status-change")
    with flow_as(pki, "client", two.address) as flow:
        assert [str(info.status) for info in flow.nodes()] == ["ONLINE", "ONLINE"]


def test_no_client_speaks_for_another(two, pki):  # noqa: F811
    def waits(rows):
        time.sleep(2)
        return rows

    with flow_as(pki, "operator", two.address) as victim:
        spec = victim.register(model(waits))
        handles = [victim.submit(spec, number) for number in range(3)]
        until(lambda: ask(pki, "client", two.address, "processing", workers=None).values())
        until(lambda: any(ask(pki, "client", two.address, "processing", workers=None).values()))
        found = ask(pki, "client", two.address, "processing", workers=None)
        keys = [key for keys in found.values() for key in keys]
        theirs = victim.client.id
        forged = {"model": "forged", "node": "w", "status": "error", "ids": ["forged"], "submitted": [1]}
        forged |= {"started": [None], "ended": 0, "tries": 1, "error": "forged"}
        say(
            pki,
            "client",
            two.address,
            {"op": "altlas-cancel", "key": keys[0], "requests": [0, 1, 2]},
            {"op": "altlas-listen", "key": keys[0], "request": 0, "on": True},
            {"op": "altlas-over", "client": theirs, "parts": [forged]},
            {"op": "client-releases-keys", "client": theirs, "keys": keys},
            {"op": "client-desires-keys", "keys": keys},
            {"op": "cancel-keys", "keys": keys, "force": True, "reason": "", "msg": ""},
            {"op": "cancel-keys", "keys": keys, "force": False, "reason": "", "msg": ""},
            {"op": "close-client", "client": theirs},
        )
        for operation in ("altlas-cancel", "altlas-listen", "altlas-over", "client-releases-keys"):
            audited(two, operation)
        audited(two, "cancel-keys")
        audited(two, "close-client")
        # nor takes its place
        say(pki, "client", two.address, client=theirs)
        audited(two, "register-client")
        with pytest.raises(Forbidden, match="bears"):
            ask(pki, "client", two.address, "update_data", who_has={}, nbytes={}, client=theirs)
        assert [handle.result(LIMIT).outputs for handle in handles] == [0, 1, 2]
        assert not [task for task in victim.tasks() if task.task_id == "forged"]


def test_a_strategy_by_its_code_is_for_operators(two, pki):  # noqa: F811
    def first(nodes, request):
        return nodes[0]

    with flow_as(pki, "client", two.address) as flow:
        spec = flow.register(model(echo))
        with pytest.raises(Forbidden, match="entry point"):
            flow.submit(spec, 1, strategy=first).result(LIMIT)
        assert flow.submit(spec, 2, strategy="ROUND_ROBIN").result(LIMIT).outputs == 2
    audited(two, "strategy")


def test_what_workers_chose_is_learned(two, pki):  # noqa: F811
    with flow_as(pki, "client", two.address) as flow:
        flow.register(af.ModelSpec(id="chosen", source=echo, serves=("say",)))
        rows = pd.DataFrame({"text": ["a", "b"] * 20})
        chosen = flow.map(rows, task="say", input="text", output="said")
        flow.feedback(chosen.assign(score=0.5))
        assert flow.models_report("say").loc["chosen", ["decisions", "quality"]].tolist() == [40, 0.5]


@pytest.mark.parametrize("name", ["client", "operator"])
def test_all_that_a_client_needs_still_works(two, pki, name):  # noqa: F811
    with flow_as(pki, name, two.address) as flow:
        spec = flow.register(model(echo))
        assert spec.id in flow.models()
        assert flow.submit(spec, 5).result(LIMIT).outputs == 5
        handles = flow.submit_many(spec, list(range(20)))
        handles[-1].cancel()
        assert [handle.result(LIMIT).outputs for handle in handles[:-1]] == list(range(19))
        large = np.arange(2**18, dtype=float)
        assert np.array_equal(flow.submit(spec, large).result(LIMIT).outputs, large)
        frame = pd.DataFrame({"x": [1.0, 2.0, 3.0]})
        assert list(flow.map(frame, spec, input="x", output="y")["y"]) == [1.0, 2.0, 3.0]
        assert len(flow.nodes()) == 2 and flow.tasks()


def test_what_dasks_clients_do_still_works_and_results_go_between_workers(two, pki):  # noqa: F811
    def nested():
        from distributed import get_client

        return get_client().submit(abs, -3).result(timeout=30)

    security = security_of(pki["client"], Role.CLIENT)
    with Client(two.address, security=security, set_as_default=False) as client:
        ends = [two.workers["v"], two.workers["w"]]
        blocks = [client.submit(np.ones, 2**18, workers=[at], pure=False) for at in ends]
        total = client.submit(lambda *found: float(sum(map(np.sum, found))), *blocks, workers=ends[:1])
        assert total.result(LIMIT) == 2**19
        for direct in (True, False):
            data = client.scatter(np.ones(2**18), direct=direct)
            assert client.submit(np.sum, data).result(LIMIT) == 2**18
            assert client.gather(data, direct=direct).size == 2**18
        assert client.submit(nested).result(LIMIT) == 3
        waits = client.submit(time.sleep, 30)
        waits.cancel(force=True)
        assert waits.cancelled()
        done = Event("done", client=client)
        left = client.submit(_later, "done", pure=False)
        fire_and_forget(left)
        del left
        assert done.wait(LIMIT)
        client.log_event("mine", {"said": 1})
        assert client.get_events("mine")


def _later(name):
    time.sleep(0.3)
    Event(name).set()


def test_an_operator_may_and_nannies_start_their_workers_again(two, pki):  # noqa: F811
    found = ask(pki, "operator", two.address, "broadcast", msg={"op": "run", "function": CODE})
    pid = found[two.workers["w"]]["result"]
    with flow_as(pki, "operator", two.address) as flow:
        spec = flow.register(model(echo))
        os.kill(pid, signal.SIGKILL)
        until(lambda: (at := _worker(flow, "w")) is not None and at != two.workers["w"])
        until(lambda: "w" in [info.node_id for info in flow.nodes()])  # its host says so a little later
        flow.load("w", spec.id)
        again = _worker(flow, "w")
        with pytest.raises(Forbidden):  # the new one has its gate as well
            ask(pki, "client", again, "terminate")
        with pytest.raises(Forbidden):
            ask(pki, "client", two.nannies["w"], "kill")


def _worker(flow, name):
    workers = flow.client.sync(flow.client.scheduler.identity, n_workers=-1)["workers"]
    return next((at for at, said in workers.items() if said["name"] == name), None)


def test_refusals_are_one_line_that_says_in_words_what_for(two, pki):  # noqa: F811
    with flow_as(pki, "client", two.address) as flow:
        with pytest.raises(Forbidden, match="setting a node's status is for operators") as caught:
            flow.update_node_status("w", "offline")
        assert "\n" not in str(caught.value)
        assert isinstance(flow, af.Flow)
