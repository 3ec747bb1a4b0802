"""Flows that are closed on a Dask client that lives on: nothing of them stays on the cluster."""

from __future__ import annotations

import asyncio
import threading

import pytest
from distributed import Client

import altlas_flow as af
from altlas_flow.cluster.client import dispatch
from altlas_flow.errors import ClusterLost
from tests.cluster.stages import echo, fill, model, over, waiting_rows
from tests.laboratory import LIMIT, until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def client(solo):
    """A Dask client of the user's own, which no flow closes."""
    with Client(solo.cluster.scheduler_address, set_as_default=False) as made:
        yield made


def leases(lab):
    """By client: its lease, of the one pool there is."""

    def look(dask_scheduler):
        ((_, pool),) = dask_scheduler.plugins["altlas-control"].lessor.pools.values()
        return {name: pool.lease(name) for name in pool._clients}

    return lab.client.run_on_scheduler(look)


def test_what_a_closed_flow_has_under_way_is_taken_back_and_never_predicted(solo, stage, gate, client):
    (blocker,) = fill(solo, gate, 1)
    flow, spec = af.connect(client), stage.model()
    handles = [flow.submit(spec, {"n": n}) for n in range(4)]
    until(lambda: waiting_rows(solo) == 1)
    flow.close()
    until(lambda: waiting_rows(solo) == 0)
    gate.open("fill")
    assert blocker.result(LIMIT).ok
    for handle in handles:
        with pytest.raises(ClusterLost):
            handle.result(LIMIT)
    assert over(solo)
    assert solo.flow.submit(spec, {"n": 5}).result(LIMIT).outputs == 5
    assert stage.predicted == [5]


def test_closing_does_not_wait_for_a_connection_that_broke(solo, stage, client):
    flow, spec = af.connect(client), stage.model()
    handle = flow.submit(spec, {"n": 1, "wait": "go"})
    stage.await_running(1)
    stream, closed = client.scheduler_comm, threading.Event()
    # on the loop, so that Dask's client has not noticed yet
    client.loop.add_callback(lambda: (stream.comm.abort(), flow.close(), closed.set()))
    assert closed.wait(5.0)
    with pytest.raises(ClusterLost):
        handle.result(LIMIT)
    stage.open("go")
    until(lambda: client.status == "running" and client.scheduler_comm is not stream)
    assert over(solo)
    with af.connect(client) as later:
        assert later.submit(spec, {"n": 2}).result(LIMIT).outputs == 2


def test_a_lane_that_is_opened_after_its_flow_has_left_is_leased_nothing(solo, client, monkeypatch):
    """The question comes by another connection than the word that the flow leaves."""
    ask, asked, left, answered = dispatch.Dispatch._ask, threading.Event(), asyncio.Event(), threading.Event()

    async def late(self, operation, **arguments):
        if operation == "altlas_open":
            asked.set()
            await asyncio.wait_for(left.wait(), LIMIT)
        try:
            return await ask(self, operation, **arguments)
        finally:
            answered.set()

    flow = af.connect(client)
    assert flow.submit(model(echo), 1).result(LIMIT).outputs == 1
    assert client.id in leases(solo)
    monkeypatch.setattr(dispatch.Dispatch, "_ask", late)
    handle = flow.submit(model(echo), 2)
    assert asked.wait(LIMIT)
    flow.close()
    until(lambda: client.id not in leases(solo))
    client.loop.asyncio_loop.call_soon_threadsafe(left.set)
    assert answered.wait(LIMIT)
    assert client.submit(int, 1).result(LIMIT) == 1  # what the flow may have said since came before this
    assert client.id not in leases(solo)
    assert handle.response(LIMIT).error.type == "ClusterLost"
    assert over(solo)


def test_a_client_that_has_gone_is_leased_nothing(solo, client):
    spec = model(echo)
    with af.connect(client) as flow:
        assert flow.submit(spec, 1).result(LIMIT).outputs == 1
    client.close()
    solo.client.sync(
        solo.client.scheduler.altlas_open,
        client=client.id,
        transport=10**6,
        spec=spec.resolved().model_dump_json(),
    )
    assert client.id not in leases(solo)


def test_a_flow_that_closes_late_takes_nothing_from_a_later_one_on_the_same_client(
    solo, stage, client, monkeypatch
):
    earlier, spec = af.connect(client), stage.model()
    assert earlier.submit(spec, {"n": 1}).result(LIMIT).outputs == 1
    transport = earlier._transport
    with monkeypatch.context() as patch:
        patch.setattr(transport, "close", lambda: None)  # another thread is about to
        earlier.close()
    with af.connect(client) as later:
        assert later._transport is not transport
        handle = later.submit(spec, {"n": 2, "wait": "go"})
        stage.await_running(2)
        transport.close()
        assert client.submit(int, 1).result(LIMIT) == 1  # that it leaves is known
        assert leases(solo)[client.id].count > 0
        stage.open("go")
        assert handle.result(LIMIT).outputs == 2
        pulse = later._transport._dispatch.pulse
        client.loop.add_callback(pulse.report)
        until(lambda: pulse._number > 0 and not pulse._unanswered)  # it hears the answers
    until(lambda: client.id not in leases(solo))


def test_what_has_not_left_ends_where_the_owner_of_the_client_closes_it(solo, gate):
    """Whether it waits for a lease, or for the scheduler to tell of one; also for those who await."""
    busy = fill(solo, gate)
    client = Client(solo.cluster.scheduler_address, set_as_default=False)
    flow = af.connect(client)
    held = flow.submit(model(echo), 1)
    until(lambda: held._lane.pool is not None)
    unready = flow.submit(model(echo), 2)
    waiters = [threading.Thread(target=lambda: asyncio.run(ended(held))) for _ in range(2)]
    for waiter in waiters:
        waiter.start()
    until(lambda: held._waiters is not None and len(held._waiters) == 2)
    client.close()
    for handle in (held, unready):
        with pytest.raises(ClusterLost):
            handle.result(LIMIT)
    for waiter in waiters:
        waiter.join(LIMIT)
        assert not waiter.is_alive()
    flow.close()
    gate.open("fill")
    assert [handle.result(LIMIT).outputs for handle in busy] == [0, 1]
    assert over(solo)


async def ended(handle):
    with pytest.raises(ClusterLost):
        await handle
