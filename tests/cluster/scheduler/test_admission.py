"""Who may join where nobody has said: everybody on loopback, registered nodes where others reach it."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import dask
import pytest
from distributed import Scheduler, Worker

from altlas_flow.cluster.preload import install
from altlas_flow.cluster.scheduler.admission import is_closed
from altlas_flow.cluster.scheduler.control import NAME, ControlPlugin
from altlas_flow.errors import SettingsError
from altlas_flow.nodes.registry import Entry
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


def worker(made, name):
    return Worker(made.address, name=name, nthreads=1, dashboard=False, dashboard_address="127.0.0.1:0")


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
