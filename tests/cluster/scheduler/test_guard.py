"""The guard: what is not listed is for operators, and refusals are answers, not errors that Dask logs."""

from __future__ import annotations

import asyncio
import inspect
import pickle
from types import SimpleNamespace

import pytest
from distributed import Scheduler

from altlas_flow.cluster.scheduler.assignment import Assignment
from altlas_flow.cluster.scheduler.guard import Guard, with_comm
from altlas_flow.cluster.scheduler.rules import FOR_ALL, FOR_NODES, JOINING, OF_CLIENTS, OF_WORKERS
from altlas_flow.cluster.scheduler.streams import Streams
from altlas_flow.errors import Forbidden
from altlas_flow.security.roles import ORGANIZATION, Role


def comm_of(role, name="one"):
    fields = {"organizationName": ORGANIZATION, "organizationalUnitName": role, "commonName": name}
    subject = tuple((pair,) for pair in fields.items()) if role else ()
    extra = {"peercert": {"subject": subject}}
    return SimpleNamespace(extra_info=extra, peer_address="tls://127.0.0.1:1", abort=lambda: None)


def scheduler_of(**handlers):
    streams = {"theirs": SimpleNamespace(comm=comm_of("client", "two"))}
    workers = {"tls://w": SimpleNamespace(comm=comm_of("node", "two"))}
    return SimpleNamespace(handlers=handlers, client_comms=streams, stream_comms=workers, workers=workers)


def asked(name, role, **arguments):
    """Whether it is answered, and what was written down."""

    def answer(**given):
        return given

    scheduler, noted = scheduler_of(**{name: answer}), []
    Guard(True, lambda operation, comm: noted.append(operation)).wrap(scheduler)
    found = asyncio.run(scheduler.handlers[name](comm_of(role), **arguments))
    if found == arguments:
        return True, noted
    error = pickle.loads(found["exception"].data)  # as Dask sends what an operation has raised
    assert isinstance(error, Forbidden) and "\n" not in str(error)
    return False, noted


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("identity", {"client", "node", "operator"}),
        ("heartbeat_worker", {"node", "operator"}),
        ("run_function", {"operator"}),
        ("of a later Dask", {"operator"}),
    ],
)
def test_each_role_gets_what_is_listed_for_it(name, allowed):
    for role in (*Role, None):
        done, noted = asked(name, role)
        assert done is (role in allowed)
        assert noted == ([] if done else [name])


@pytest.mark.parametrize(
    ("name", "role", "arguments"),
    [
        ("scatter", "client", {"client": "theirs"}),
        ("register-client", "client", {"client": "published-data"}),
        ("unregister", "node", {"address": "tls://w"}),
        ("retire_workers", "node", {"workers": ["tls://w"]}),
        ("retire_workers", "node", {}),
        ("log_event", "client", {"topic": "tls://w", "msg": 1}),
    ],
)
def test_nobody_speaks_for_another(name, role, arguments):
    assert asked(name, role, **arguments) == (False, [name])
    assert asked(name, "operator", **arguments) == (True, [])


def test_all_that_is_listed_of_dask_is_there():
    scheduler = Scheduler(dashboard=False)
    ours = {name for name in FOR_ALL | FOR_NODES | OF_CLIENTS if name.startswith("altlas")}
    known = {*scheduler.handlers, *scheduler.stream_handlers}
    assert (FOR_ALL | FOR_NODES | JOINING | OF_CLIENTS | OF_WORKERS) - ours <= known


def test_dask_finds_the_parameters_it_looks_for():
    async def before(comm, arguments, call):
        return call()

    def gather(keys, serializers=None):
        return keys

    signature = inspect.signature(with_comm(gather, before))
    assert list(signature.parameters) == ["comm", "keys", "serializers"]


@pytest.mark.parametrize("role", ["client", "operator"])
def test_a_stream_is_that_of_whoever_opened_it(role):
    tasks = {
        name: SimpleNamespace(key=name, who_wants=[SimpleNamespace(client_key=name)], dependents=[])
        for name in ("mine", "theirs")
    }
    tasks["shared"] = SimpleNamespace(
        key="shared", who_wants=tasks["mine"].who_wants, dependents=[tasks["theirs"]]
    )
    sent = {name: Assignment(name, "m", 0.0, {"client": name}) for name in ("mine", "theirs")}
    streams = Streams(SimpleNamespace(tasks=tasks), Guard(True, lambda *noted: None), sent)

    def may(operation, **message):
        return streams.may(comm_of(role), {"client": "mine"}, {"op": operation, **message})

    operates = role == "operator"
    assert may("heartbeat-client") and may("close-stream") and may("update-graph", client="mine")
    assert may("client-desires-keys", client="fire-and-forget", keys=[])
    assert not may("client-releases-keys", client="fire-and-forget", keys=[])
    assert not may("close-client", client="theirs") and not may("task-finished")
    for name in ("altlas-cancel", "altlas-listen"):
        assert may(name, key="mine") and may(name, key="gone")
        assert may(name, key="theirs") is operates
    assert may("cancel-keys", keys=["mine"], force=True) and may("cancel-keys", keys=["theirs"], force=False)
    assert may("cancel-keys", keys=["theirs"], force=True) is operates
    assert may("cancel-keys", keys=["shared"], force=True) is operates


def test_a_worker_says_what_workers_say_of_itself():
    streams = Streams(SimpleNamespace(), Guard(True, lambda *noted: None), {})

    def may(operation, extra=None, **message):
        extra = {"worker": "w"} if extra is None else extra
        return streams.may(comm_of("node"), extra, {"op": operation, **message})

    assert may("task-finished", key="k") and not may("task-finished", worker="v")
    assert not may("update-graph") and not may("task-finished", extra={})
    assert may("log-event", topic="altlas-hosts", msg={"address": "w"})
    assert not may("log-event", topic="altlas-hosts", msg={"address": "v"})
