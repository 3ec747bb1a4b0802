"""Backpressure: whose turn it is, how many may wait, and how many envelopes are in flight."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import altlas_flow as af
from altlas_flow.cluster.client import dispatch
from altlas_flow.errors import Overloaded
from altlas_flow.placement.leases import Lease
from tests.cluster.stages import another, echo, fill, held, model, quiet
from tests.laboratory import LIMIT, laboratory, until

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).parents[3]


def test_of_what_waits_higher_priorities_go_first(solo, stage, gate):
    fill(solo, gate, 1)
    spec = stage.model()
    low = [solo.flow.submit(spec, {"n": n}, priority=-1) for n in range(5)]
    middle = [solo.flow.submit(spec, {"n": n}) for n in range(10, 15)]
    high = [solo.flow.submit(spec, {"n": n}, priority=5) for n in range(20, 25)]
    held(solo, 14)
    # the first that was ready has left for the worker already
    (left,) = (handle for handle in low + middle + high if handle.future is not None)
    gate.open("fill")
    gone = left.result(LIMIT).outputs
    for handle in low + middle + high:
        handle.result(LIMIT)
    order = [n for n in stage.predicted if n != gone]
    ranks = [n // 10 for n in order]
    assert ranks == sorted(ranks, reverse=True)
    for rank in (0, 1, 2):
        same = [n for n in order if n // 10 == rank]
        assert same == sorted(same)


def test_beyond_the_limit_requests_wait_or_are_refused_as_is_set(solo, stage):
    with another(solo, waiting_limit=5, overload="raise") as flow:
        spec = flow.register(stage.model())
        handles = [flow.submit(spec, {"n": n, "wait": "go"}) for n in range(5)]
        with pytest.raises(Overloaded, match="waiting-limit"):
            flow.submit(spec, {"n": 9})
        assert handles[4].cancel()
        handles[4] = flow.submit(spec, {"n": 4})
        stage.open("go")
        assert [handle.result(LIMIT).outputs for handle in handles] == list(range(5))
        assert flow.submit(spec, {"n": 6}).result(LIMIT).outputs == 6
    with another(solo, waiting_limit=5) as flow:
        handles = flow.submit_many(spec, [{"n": n} for n in range(60)])
        assert [response.outputs for response in handles.result(LIMIT)] == list(range(60))


def test_beyond_the_limit_higher_priorities_are_let_in_first(solo, stage, gate):
    with another(solo, waiting_limit=3) as flow:
        fill(solo, gate, 1, flow)
        spec = stage.model()
        low = [flow.submit(spec, {"n": n}) for n in range(10)]
        until(lambda: flow._transport.inside == 3)  # the one that fills, and two of these
        high = [flow.submit(spec, {"n": n}, priority=n // 10) for n in range(20, 40)]
        gate.open("fill")
        for handle in low + high:
            handle.result(LIMIT)
        late = [n for n in stage.predicted if n >= 2]
        assert late == [*range(30, 40), *range(20, 30), *range(2, 10)]


def test_closing_the_flow_tells_those_who_are_beyond_the_limit(solo, stage):
    with another(solo, waiting_limit=2) as flow:
        spec = stage.model()
        handles = [flow.submit(spec, {"n": n, "wait": "go"}, priority=n) for n in range(9)]
        until(lambda: stage.book("began"))
        flow.close()
        assert {handle.response(LIMIT).error.type for handle in handles} == {"ClusterLost"}
        stage.open("go")
    quiet(solo)


def test_over_all_clients_at_most_two_envelopes_a_slot_are_in_flight(lab, stage):
    def watch(dask_scheduler):
        lessor = dask_scheduler.plugins["altlas-control"].lessor
        lessor.most, sent = 0, lessor.sent

        def counted(*args):
            sent(*args)
            lessor.most = max(lessor.most, len(lessor.envelopes))

        lessor.sent = counted

    def most(dask_scheduler):
        lessor = dask_scheduler.plugins["altlas-control"].lessor
        lessor.__dict__.pop("sent", None)
        return lessor.most

    quiet(lab)
    lab.client.run_on_scheduler(watch)
    try:
        with another(lab) as other:
            spec = stage.model()
            flows = [lab.flow, other]
            handles = [flows[n % 2].submit(spec, {"n": n, "wait": "go"}) for n in range(400)]

            def settled(info):
                kept = [sum(one.values()) for one in info["held"].values()]
                return info["envelopes"] + sum(kept) == 400

            lab.until(settled)
            info = lab.info()
            assert 2 <= info["envelopes"] <= 4
            assert {name for one in info["held"].values() for name in one} == {spec.id}
            assert len(info["held"]) == 2  # both clients say so
            stage.open("go")
            assert [handle.result(LIMIT).outputs for handle in handles] == list(range(400))
            quiet(lab)
    finally:
        found = lab.client.run_on_scheduler(most)
    assert 2 <= found <= 4


def test_a_lease_that_arrives_before_the_pool_is_known_is_not_lost(solo, monkeypatch):
    """It comes by the client's stream, and the answer that names the pool by another connection."""
    quiet(solo)
    assert solo.flow.submit(model(echo), 1).result(LIMIT).outputs == 1  # it has the whole pool now
    ask = dispatch.Dispatch._ask

    async def late(self, operation, **arguments):
        answer = await ask(self, operation, **arguments)
        pool = self.pulse.pools.get(answer.get("pool"))
        if operation == "altlas_open" and not answer["lease"][0] and (pool is None or not pool.count):
            told, leased = asyncio.Event(), self.pulse.leased

            def noticed(pools, **options):
                leased(pools, **options)
                if pools:
                    told.set()

            self.client._stream_handlers["altlas-lease"] = noticed
            await asyncio.wait_for(told.wait(), LIMIT)
        return answer

    monkeypatch.setattr(dispatch.Dispatch, "_ask", late)
    with another(solo) as other:
        assert other.submit(model(echo), 2).result(10).outputs == 2


@pytest.mark.parametrize("leased", [False, True])
def test_a_client_whose_connection_broke_has_its_share_again(solo, stage, leased):
    quiet(solo)
    spec = stage.model()
    with another(solo, envelope_rows=1) as one, another(solo, envelope_rows=1) as other:
        if leased:
            assert other.submit(spec, {"n": 9}).result(LIMIT).outputs == 9
        busy = [one.submit(spec, {"n": n, "wait": "go"}) for n in range(4)]
        solo.until(lambda info: info["envelopes"] >= 1)
        waiting = other.submit(spec, {"n": 5})
        broken = other.client.scheduler_comm
        other.client.loop.add_callback(broken.comm.abort)
        until(lambda: other.client.scheduler_comm not in (broken, None))
        until(lambda: other.client.status == "running")
        stage.open("go")
        assert [handle.result(LIMIT).outputs for handle in busy] == [0, 1, 2, 3]
        # Dask's client may have given up what was under way
        lost = waiting.response(LIMIT).error
        assert waiting.response().outputs == 5 or lost.type in ("RequestCancelled", "ClusterLost")

        def is_answered():
            # Dask's scheduler may take the end of the broken connection for that of the new one, which
            # then breaks as well
            response = other.submit(spec, {"n": 6}).response(LIMIT)
            assert response.ok or response.error.type == "ClusterLost"
            return response.ok

        until(is_answered)
    quiet(solo)


#: A program with a flow of its own, that has asked once and then waits.
CLIENT = """
import sys
import altlas_flow as af
flow = af.connect(sys.argv[1])
print(flow.submit("echo", 1).result(40).outputs, flush=True)
sys.stdin.read()
"""


@pytest.mark.long
def test_clients_that_stand_still_do_not_keep_what_others_wait_for(stage):
    """Two of them hold the leases of the one slot that there is."""
    with laboratory({"only": {}}, heartbeat_timeout="2s") as lab:
        lab.flow.register(af.ModelSpec(id="echo", source=echo))
        command = [sys.executable, "-c", CLIENT, lab.cluster.scheduler_address]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with contextlib.ExitStack() as ends:
            others = [ends.enter_context(subprocess.Popen(command, **pipes)) for _ in range(2)]
            for other in others:
                ends.callback(other.kill)
                assert other.stdout.readline() == "1\n"
            for other in others:
                os.kill(other.pid, signal.SIGSTOP)
            handles = [lab.flow.submit("echo", n) for n in range(20)]
            assert [handle.result(LIMIT).outputs for handle in handles] == list(range(20))
            for other in others:
                os.kill(other.pid, signal.SIGCONT)
        assert lab.flow.submit("echo", 20).result(LIMIT).outputs == 20


#: A program that holds back many requests, and tells when all of them are answered.
BACKLOG = """
import sys
from pathlib import Path
import altlas_flow as af
from tests.cluster.stages import Stage
flow = af.connect(sys.argv[1])
spec = Stage(Path(sys.argv[2])).model()
handles = [flow.submit(spec, {"n": 1000 + n, "wait": "stopped"}) for n in range(20)]
print("sent", flush=True)
print(len([handle.result(100) for handle in handles]), flush=True)
"""


@pytest.mark.long
def test_clients_that_stand_still_with_a_backlog_get_no_turn_until_they_go_on(stage):
    """There is room for two envelopes, and each of the three has much to send."""

    def leases(dask_scheduler):
        ((_, pool),) = dask_scheduler.plugins["altlas-control"].lessor.pools.values()
        return {name: pool.lease(name) for name in pool._clients}

    with laboratory({"only": {}}, heartbeat_timeout="2s") as lab, contextlib.ExitStack() as ends:
        spec, mine = stage.model(), lab.client.id
        command = [sys.executable, "-c", BACKLOG, lab.cluster.scheduler_address, str(stage.folder)]
        others = []
        for _ in range(3):
            others.append(
                ends.enter_context(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
            )
            ends.callback(others[-1].kill)
            assert others[-1].stdout.readline() == "sent\n"
        lab.until(lambda info: len(info["held"]) == 3)
        for other in others:
            os.kill(other.pid, signal.SIGSTOP)
        stage.open("stopped")
        handles = [lab.flow.submit(spec, {"n": n, "sleep": 0.05}) for n in range(60)]

        def now():
            found = lab.client.run_on_scheduler(leases)
            return found.pop(mine, Lease(0, 0)).count, found

        until(lambda: now()[0] == 2)
        theirs = now()[1]
        assert {lease.count for lease in theirs.values()} == {0}
        more = [lab.flow.submit(spec, {"n": n, "sleep": 0.05}) for n in range(60, 80)]
        assert [handle.result(LIMIT).outputs for handle in handles + more] == list(range(80))
        assert now()[1] == theirs  # they were offered nothing meanwhile
        for other in others:
            os.kill(other.pid, signal.SIGCONT)
        for other in others:
            assert other.stdout.readline() == "20\n"
