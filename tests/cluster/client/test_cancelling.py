"""Cancelling: wherever a request is, it ends at once, and nothing else does."""

from __future__ import annotations

import threading
import time

import pytest

from altlas_flow.cluster.client import dispatch
from altlas_flow.errors import RequestCancelled
from tests.cluster.stages import Stage, another, echo, fill, held, model, quiet, together, waiting_rows
from tests.laboratory import LIMIT, until

pytestmark = pytest.mark.timeout(120)


def test_what_is_held_back_or_waits_on_its_worker_and_is_cancelled_is_never_predicted(solo, stage, gate):
    (blocker,) = fill(solo, gate, 1)
    spec = stage.model()

    def give_up(handle):
        assert handle.cancel()
        assert handle.status == "cancelled" and handle.done()
        assert not handle.cancel()  # twice changes nothing
        with pytest.raises(RequestCancelled, match=handle.request_id):
            handle.result(LIMIT)
        assert handle.response().error.type == "RequestCancelled"

    on_worker = solo.flow.submit(spec, {"n": 1})
    until(lambda: waiting_rows(solo) == 1)
    give_up(on_worker)
    until(lambda: waiting_rows(solo) == 0)
    handles = [solo.flow.submit(spec, {"n": n}) for n in (2, 3, 4)]
    held(solo, 2)
    assert [handle.future is None for handle in handles] == [False, True, True]
    give_up(handles[1])
    gate.open("fill")
    assert [handles[at].result(LIMIT).outputs for at in (0, 2)] == [2, 4]
    assert blocker.result(LIMIT).ok
    quiet(solo)
    assert stage.predicted == [2, 4]


def test_what_runs_and_is_cancelled_is_dropped_at_once(solo, stage):
    handle = solo.flow.submit(stage.model(), {"n": 1, "wait": "one"})
    stage.await_running(1)
    seen = []

    def wait():
        seen.append((handle.response(LIMIT).error.type, time.monotonic()))

    waiter = threading.Thread(target=wait)
    waiter.start()
    until(lambda: handle._waiters)
    began = time.monotonic()
    assert handle.cancel() and handle.status == "cancelled"
    waiter.join(LIMIT)
    ((kind, told),) = seen
    assert kind == "RequestCancelled" and told - began < 0.1
    stage.open("one")
    quiet(solo)
    assert handle.status == "cancelled"  # what came later was dropped


@pytest.mark.parametrize("strategy", ["LEAST_LOADED", "LATENCY_OPTIMIZED", "MODEL_SPECIFIC"])
def test_a_slot_that_runs_what_nobody_wants_any_more_is_not_free(lab, stage, strategy):
    """Else it would draw all work to itself: it looks idle, and each request that runs out frees it again."""
    quiet(lab)
    spec = stage.model()
    lab.flow.submit_many(spec, [{"n": n, "sleep": 0.01} for n in range(6)]).result(LIMIT)
    given_up = lab.flow.submit(spec, {"n": 100, "wait": "go"})
    stage.await_running(100)
    (busy,) = lab.info()["in_flight"]
    given_up.cancel()
    until(lambda: lab.flow.client.run_on_scheduler(lingering) == 1)
    found = [lab.flow.submit(spec, {"n": n}, strategy=strategy).result(LIMIT) for n in range(200, 210)]
    assert {lab.address_of(response.node_id) for response in found}.isdisjoint({busy})
    assert list(lab.info()["in_flight"].values()) == [1]
    stage.open("go")
    quiet(lab)
    assert lab.flow.client.run_on_scheduler(lingering) == 0


def lingering(dask_scheduler):
    return len(dask_scheduler.plugins["altlas-control"].placer.lingering)


def test_what_is_over_cannot_be_cancelled(lab, stage):
    spec = stage.model()
    answered = lab.flow.submit(spec, {"n": 1})
    failed = lab.flow.submit(spec, {"n": 2, "fail": "ValueError"})
    answered.result(LIMIT)
    failed.wait(LIMIT)
    assert not answered.cancel() and answered.status == "completed" and answered.result().outputs == 1
    assert not failed.cancel() and failed.status == "error"


@pytest.mark.parametrize("running", [True, False])
def test_a_cancelled_member_leaves_the_others_of_its_envelope_answered(solo, stage, gate, running):
    fill(solo, gate)
    spec = stage.model(batch=4)
    together(solo.flow, spec)
    handles = [solo.flow.submit(spec, {"n": n, "wait": "members"}) for n in range(32)]
    held(solo, 32)
    gate.open("fill")
    stage.await_running(0)
    assert len({handle.future.key for handle in handles}) == 1
    one = handles[2 if running else 30]
    until(lambda: one.status == ("running" if running else "pending"))
    began = time.monotonic()
    assert one.cancel()
    assert one.status == "cancelled" and time.monotonic() - began < 0.1
    if not running:
        until(lambda: waiting_rows(solo) == 31)
    stage.open("members")
    answers = [handle.result(LIMIT).outputs for handle in handles if handle is not one]
    assert answers == [n for n in range(32) if n != handles.index(one)]
    assert (30 in stage.predicted) is running
    with pytest.raises(RequestCancelled):
        one.result(LIMIT)


def test_an_envelope_that_nobody_wants_frees_its_worker_at_once(solo, stage, gate):
    """Also of the last member: a slot that becomes free must not take it."""
    spec, took = stage.model(batch=4), []
    for attempt in range(3):
        fresh = Stage(gate.folder / str(attempt))
        fresh.folder.mkdir()
        fill(solo, fresh)
        together(solo.flow, spec)
        first = 100 * attempt
        rows = [{"n": first + n, "wait": f"members-{attempt}"} for n in range(8)]
        handles = solo.flow.submit_many(spec, rows)
        held(solo, 8)
        fresh.open("fill")
        stage.await_running(first)
        began = time.monotonic()
        assert handles.cancel() == 8
        until(lambda: waiting_rows(solo) == 0)
        took.append(time.monotonic() - began)
        stage.open(f"members-{attempt}")
        solo.until(lambda info: info["in_flight"] == {} and info["envelopes"] == 0)
        # the worker takes new work
        assert solo.flow.submit(spec, {"n": first + 50}).result(LIMIT).outputs == first + 50
        assert not set(stage.predicted) & {first + n for n in (4, 5, 6, 7)}
    assert min(took) < 0.1


def test_a_request_that_is_cancelled_while_it_leaves_does_not_hold_up_the_others(solo, monkeypatch):
    """A thread may cancel at the very moment at which the loop makes the envelope."""
    spec = model(echo)
    assert solo.flow.submit(spec, [0]).result(LIMIT).outputs == [0]
    together(solo.flow, spec)
    original, cancelled = dispatch.post, []

    def post(client, lane, pool, handles, now, **options):
        if not cancelled:
            cancelled.append(handles[0])
            assert handles[0].cancel()
        return original(client, lane, pool, handles, now, **options)

    monkeypatch.setattr(dispatch, "post", post)
    handles = [solo.flow.submit(spec, [n]) for n in range(3)]
    over = [handle.response(10) for handle in handles]
    assert [response.outputs for response in over] == [None, [1], [2]]
    assert over[0].error.type == "RequestCancelled"
    quiet(solo)


def test_cancelling_what_waits_for_room_lets_the_others_in(solo, gate):
    with another(solo, waiting_limit=1) as flow:
        (blocker,) = fill(solo, gate, 1, flow)
        spec = model(echo)
        loop, held_up, goes_on = flow.client.loop.asyncio_loop, threading.Event(), threading.Event()
        outside = [flow.submit(spec, i) for i in range(3)]
        # what happens at the same time is seen at the same time
        loop.call_soon_threadsafe(lambda: (held_up.set(), goes_on.wait(LIMIT)))
        assert held_up.wait(LIMIT)
        assert outside[0].cancel() and outside[1].cancel()
        goes_on.set()
        gate.open("fill")
        assert blocker.result(LIMIT).ok
        assert outside[2].result(10).outputs == 2
