"""Who may join where nobody has said: everybody on loopback, registered nodes where others reach it."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import dask
import pytest
from distributed import Scheduler, Worker
from distributed.comm import connect

from altlas_flow.cluster.preload import install
from altlas_flow.cluster.scheduler.admission import is_closed
from altlas_flow.cluster.scheduler.control import NAME, ControlPlugin
from altlas_flow.errors import SettingsError, root_cause
from altlas_flow.nodes.registry import Entry, network_of
from altlas_flow.settings import Settings

pytestmark = pytest.mark.timeout(60)

LOOPBACK = ["tcp://127.0.0.1:8786", "tls://127.0.0.1:1", "tcp://[::1]:8786", "inproc://10.0.0.7/1/1"]
BEYOND = ["tcp://0.0.0.0:8786", "tls://10.0.0.7:8786", "tcp://[::]:8786"]


def listening(*addresses):
    return SimpleNamespace(listeners=[SimpleNamespace(listen_address=one) for one in addresses])


@pytest.mark.parametrize("address", LOOPBACK)
def test_on_loopback_everybody_may_join(address):
    assert not is_closed(listening(address), None, roles=False, ours=True)


@pytest.mark.parametrize("address", BEYOND)
def test_beyond_it_only_who_is_registered_unless_certificates_have_roles(address):
    assert is_closed(listening(address), None, roles=False, ours=True)
    assert is_closed(listening(LOOPBACK[0], address), None, roles=False, ours=True)
    assert not is_closed(listening(address), None, roles=True, ours=True)


@pytest.mark.parametrize("address", [*LOOPBACK, *BEYOND])
def test_what_was_said_holds_wherever_it_listens(address):
    assert is_closed(listening(address), "registered", roles=True, ours=True)
    assert not is_closed(listening(address), "open", roles=False, ours=True)


def test_it_is_one_of_two_words_or_none():
    assert Settings.current().admission is None
    with dask.config.set({"altlas.admission": "closed"}), pytest.raises(SettingsError, match="or null"):
        Settings.current()


@contextlib.asynccontextmanager
async def scheduler(host="0.0.0.0"):
    async with Scheduler(host=host, port=0, dashboard=False, dashboard_address="127.0.0.1:0") as made:
        yield made


def worker(made, name, **options):
    return Worker(
        made.address, name=name, nthreads=1, dashboard=False, dashboard_address="127.0.0.1:0", **options
    )


@contextlib.contextmanager
def refused(why):
    """Dask's worker says only in the cause of its error why it could not start."""
    with pytest.raises(RuntimeError) as caught:
        yield
    assert why in str(root_cause(caught.value))


@pytest.mark.asyncio
async def test_a_scheduler_of_ours_that_others_reach_admits_whom_it_knows():
    async with scheduler() as made:
        await install(made)
        with pytest.raises(RuntimeError):
            await worker(made, "a")
        assert not made.workers
        made.plugins[NAME].admission.registry.put(Entry("a"))
        async with worker(made, "a"):
            assert {ws.name for ws in made.workers.values()} == {"a"}


@pytest.mark.asyncio
async def test_a_cluster_that_a_client_joins_goes_on_as_its_owner_has_it():
    async with scheduler() as made, worker(made, "a"):
        await made.register_scheduler_plugin(ControlPlugin.of(Settings.current()), name=NAME, idempotent=True)
        async with worker(made, "b"):
            assert {ws.name for ws in made.workers.values()} == {"a", "b"}


@pytest.mark.asyncio
async def test_on_loopback_it_is_open():
    async with scheduler("127.0.0.1") as made:
        await install(made)
        async with worker(made, "a"):
            assert made.workers


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["", " lead", "a\nb"])
async def test_a_name_that_nobody_could_say_is_refused(name):
    async with scheduler("127.0.0.1") as made:
        await install(made)
        with refused("cannot be used"):
            await worker(made, name)
        assert not made.workers


@pytest.mark.asyncio
async def test_one_that_was_here_before_with_such_a_name_keeps_nobody_from_seeing_the_others():
    async with scheduler("127.0.0.1") as made, worker(made, " lead"), worker(made, "a"):
        await install(made)
        control = made.plugins[NAME]
        for ws in made.workers.values():
            control.placer.came(ws, {"slots": 1, "resources": {}})
        assert {info["node_id"] for info in await control.nodes.known(None)} == {"' lead'", "a"}
        control.placer.roster.get(control.placer.names["a"]).said = {"gpus": object()}
        shown = {info["node_id"]: info["reason"] for info in await control.nodes.known(None)}
        assert "cannot be shown" in shown["a"]


@pytest.mark.asyncio
async def test_a_number_and_its_text_are_one_name():
    async with scheduler("127.0.0.1") as made:
        await install(made)
        async with worker(made, 0):
            with refused("choose another name"):
                await worker(made, "0")
            assert len(made.workers) == 1


@pytest.mark.asyncio
async def test_who_asks_at_the_address_of_another_changes_nothing(monkeypatch):
    async with scheduler("127.0.0.1") as made:
        await install(made)
        admission, noted = made.plugins[NAME].admission, []
        monkeypatch.setattr(admission.audit, "note", lambda event, **said: noted.append(event))
        async with worker(made, "a") as there:
            comm = await connect(made.address)
            try:
                admission.registry.put(Entry("b"))
                said = {"address": there.address, "name": "b", "reply": False}
                await comm.write({"op": "register-worker", **said})
                assert "is here at" in (await comm.read())["message"]
                assert (admission.is_node, noted) == ({}, ["joined", "refused"])
            finally:
                comm.abort()


@pytest.mark.asyncio
async def test_where_a_worker_says_that_it_is_does_not_make_it_a_node_of_that_machine():
    async with scheduler() as made:
        await install(made)
        made.plugins[NAME].admission.registry.put(Entry("good", host="10.77.0.9"))
        with refused("does not admit it"):
            await worker(made, "stranger", host="127.0.0.1", contact_address="tcp://10.77.0.9:41734")
        assert not made.workers


@pytest.mark.asyncio
async def test_one_that_is_here_is_what_is_registered_by_its_address_and_yields_to_the_name():
    async with scheduler("127.0.0.1") as made, worker(made, "a") as there:
        await install(made)
        admission = made.plugins[NAME].admission
        entry = Entry("rack", network=network_of("127.0.0.1"))
        admission.registry.put(entry)
        assert admission.meet(entry) == [there.address]
        async with worker(made, "rack") as named:
            assert admission.is_node == {named.address: "rack"}
