"""The handle: its states, who waits for it, and what it says when its flow is closed."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import distributed
import pytest

import altlas_flow as af
from altlas_flow.errors import AltlasError, BadRequest, ClusterLost, PredictError, UnknownModel
from tests.cluster.stages import fill, held, quiet, together
from tests.dataframe.jobs import tasks_of
from tests.laboratory import LIMIT, until

pytestmark = pytest.mark.timeout(120)


# ---------------------------------------------------------------- states


def test_a_request_is_pending_then_running_then_completed(solo, stage):
    quiet(solo)
    spec = stage.model()
    first = solo.flow.submit(spec, {"n": 1, "wait": "one"})
    stage.await_running(1)
    until(lambda: first.status == "running")
    second = solo.flow.submit(spec, {"n": 2, "wait": "two"})
    assert second.status == "pending" and not second.done()
    assert repr(second) == f"<Handle {second.request_id} of {spec.id}: pending>"
    stage.open("one")
    stage.await_running(2)
    # the worker says that it runs before the model is called: the word is on its way
    until(lambda: second.status == "running")
    assert first.result(LIMIT).outputs == 1 and first.status == "completed" and first.done()
    assert "running" in repr(second)
    stage.open("two")
    second.result(LIMIT)
    assert "completed" in repr(second)
    failed = solo.flow.submit(spec, {"n": 3, "fail": "ValueError"})
    with pytest.raises(PredictError):
        failed.result(LIMIT)
    assert failed.status == "error" and failed.done() and failed.tries == 1


def test_of_an_envelope_only_what_is_in_the_batch_is_running(solo, stage, gate):
    blockers = fill(solo, gate)
    spec = stage.model(batch=2)
    together(solo.flow, spec)
    handles = [solo.flow.submit(spec, {"n": n, "wait": f"{n // 2}"}) for n in range(4)]
    held(solo, 4)
    gate.open("fill")
    stage.await_running(0)
    assert len({handle.future.key for handle in handles}) == 1
    until(lambda: [handle.status for handle in handles] == ["running", "running", "pending", "pending"])
    stage.open("0")
    stage.await_running(2)
    until(lambda: [handle.status for handle in handles][2:] == ["running", "running"])
    stage.open("1")
    assert [handle.result(LIMIT).outputs for handle in handles] == list(range(4))
    assert all(handle.result(LIMIT).ok for handle in blockers)


@pytest.mark.long
def test_the_future_is_the_envelopes_and_let_go_of_with_the_answers(lab, gate):
    (blocker,) = fill(lab, gate, 1)
    until(lambda: blocker.future is not None)
    future = blocker.future
    assert isinstance(future, distributed.Future)
    assert future.key.startswith("altlas-request-")
    gate.open("fill")
    assert blocker.result(LIMIT).ok
    # its result does not stay on the cluster for as long as the handle lives
    until(lambda: tasks_of(lab.flow) == [])


def test_a_request_that_was_refused_is_over_and_has_no_future(lab):
    (handle,) = lab.flow.submit_many([af.InferenceRequest(model_id="nobody-knows", inputs=1)])
    assert handle.done() and handle.status == "error" and handle.future is None
    assert not handle.cancel()
    with pytest.raises(UnknownModel):
        handle.result(LIMIT)
    assert handle.response(LIMIT).error.type == "UnknownModel"


# ---------------------------------------------------------------- waiting


def test_one_request_may_be_waited_for_by_many_at_once(lab, stage):
    handle = lab.flow.submit(stage.model(), {"n": 1, "wait": "go"})

    async def wait():
        return (await asyncio.gather(*(waited() for _ in range(5))))[-1]

    async def waited():
        return (await handle).outputs

    with ThreadPoolExecutor(20) as pool:
        blocking = [pool.submit(lambda: handle.result(LIMIT).outputs) for _ in range(10)]
        awaiting = [pool.submit(lambda: asyncio.run(wait())) for _ in range(10)]
        until(lambda: len(handle._waiters or ()) == 60)
        stage.open("go")
        assert {future.result(LIMIT) for future in blocking + awaiting} == {1}


def test_handles_that_nobody_waits_for_are_answered_and_leave_nothing(lab, stage):
    spec = stage.model()
    for n in range(50):
        lab.flow.submit(spec, {"n": n})
    lab.flow.submit(spec, {"n": 50, "fail": "ValueError"})
    until(lambda: len(set(stage.predicted)) == 51)
    until(lambda: tasks_of(lab.flow) == [], instead=lambda: tasks_of(lab.flow))
    quiet(lab)
    assert set(stage.predicted) == set(range(51))


def test_waiting_on_the_clients_own_loop_is_refused(lab, stage):
    handle = lab.flow.submit(stage.model(), {"n": 1, "wait": "go"})

    async def wrong():
        handle.result(LIMIT)

    with pytest.raises(BadRequest, match="await"):
        lab.client.sync(wrong)

    async def right():
        return (await handle).outputs

    stage.open("go")
    assert lab.client.sync(right) == 1


def test_a_wait_that_is_too_long_ends_and_the_request_goes_on(lab, stage):
    handle = lab.flow.submit(stage.model(), {"n": 1, "wait": "go"})
    many = lab.flow.submit_many(stage.model(), [{"n": 2}, {"n": 3, "wait": "go"}])
    for wait in (lambda: handle.result(0.05), lambda: handle.result(0), lambda: many.result(0.05)):
        with pytest.raises(TimeoutError):
            wait()
    assert handle.status != "error"
    stage.open("go")
    assert handle.result(LIMIT).outputs == 1
    assert [response.outputs for response in many.result(LIMIT)] == [2, 3]


# ---------------------------------------------------------------- the end


@pytest.mark.parametrize("ours", [True, False], ids=["client of the flow", "client that was given"])
def test_closing_the_flow_tells_everybody_who_waits(solo, stage, ours):
    quiet(solo)
    with contextlib.ExitStack() as stack:
        address = solo.cluster.scheduler_address
        client = None if ours else stack.enter_context(distributed.Client(address, set_as_default=False))
        flow = stack.enter_context(af.connect(address if ours else client))
        spec = flow.register(stage.model())
        handles = [flow.submit(spec, {"n": n, "wait": "go"}) for n in range(10)]
        stage.await_running(0)
        told = []

        def wait(handle):
            error = handle.response(LIMIT).error
            told.append((error.type, time.monotonic()))

        async def waits():
            with pytest.raises(ClusterLost, match="closed"):
                await handles[0]

        threads = [threading.Thread(target=wait, args=(handle,)) for handle in handles]
        threads.append(threading.Thread(target=lambda: asyncio.run(waits())))
        for thread in threads:
            thread.start()
        until(lambda: all(handle._waiters for handle in handles))
        began = time.monotonic()
        flow.close()
        for thread in threads:
            thread.join(LIMIT)
        assert [kind for kind, _ in told] == ["ClusterLost"] * 10
        assert max(at for _, at in told) - began < 2
        assert {handle.status for handle in handles} == {"error"}
        with pytest.raises(AltlasError, match="closed"):
            flow.submit(spec, {"n": 99})
        # also where the client lives on, nothing of it stays with the scheduler
        stage.open("go")
        quiet(solo)


def test_closing_one_of_two_flows_of_a_client_leaves_the_others_requests(solo, stage):
    quiet(solo)
    with (
        distributed.Client(solo.cluster.scheduler_address, set_as_default=False) as client,
        af.connect(client) as one,
        af.connect(client) as two,
    ):
        handle = one.submit(stage.model(), {"n": 1, "wait": "go"})
        stage.await_running(1)
        two.close()
        assert not handle.done()
        stage.open("go")
        assert handle.result(LIMIT).outputs == 1
