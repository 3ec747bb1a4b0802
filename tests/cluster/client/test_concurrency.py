"""Many who ask at once: bursts that leave the event loop free, threads, and several clients."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import statistics
import threading
import time
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import distributed
import pytest

import altlas_flow as af
from tests.cluster.stages import another, echo, model, quiet, waiting_rows
from tests.laboratory import LIMIT, until

pytestmark = [pytest.mark.timeout(120), pytest.mark.alone]


# ---------------------------------------------------------------- event loops


async def longest_pause(work):
    """Seconds that the loop was not to be had while it worked, and what came of the work."""
    pauses, loop = [], asyncio.get_running_loop()

    async def tick():
        last = loop.time()
        while True:
            await asyncio.sleep(0.001)
            now = loop.time()
            pauses.append(now - last - 0.001)
            last = now

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0.01)
    try:
        found = await work()
    finally:
        ticker.cancel()
    return max(pauses), found


def best_of(attempts, limit, attempt):
    """The least of some measurements: what else the machine does is not ours."""
    found = []
    while not found or (min(found) > limit and len(found) < attempts):
        gc.collect()  # what earlier tests left
        found.append(attempt())
    return min(found)


@pytest.mark.parametrize("way", ["gather submit", "gather orchestrator", "batch"])
def test_a_burst_leaves_the_event_loop_free(lab, way):
    quiet(lab)
    spec = lab.flow.register(model(echo))
    orchestrator = af.DistributedModelOrchestrator(flow=lab.flow)

    def request(i):
        return af.InferenceRequest(model_id=spec.id, inputs=i)

    own = []  # seconds that the caller holds the loop itself, with calls made in one go

    def handles():
        for i in range(2000):
            began = time.perf_counter()
            handle = lab.flow.submit(spec.id, i)
            own.append(time.perf_counter() - began)
            yield handle

    async def submits():
        return await asyncio.gather(*handles())

    async def runs():
        return await asyncio.gather(*(orchestrator.run_distributed_inference(ask) for ask in asks[:500]))

    async def batch():
        return await orchestrator.run_distributed_batch_inference(asks)

    work = {"gather submit": submits, "gather orchestrator": runs, "batch": batch}[way]
    asks = [request(i) for i in range(5000)]

    def attempt():
        own.clear()
        pause, found = asyncio.run(longest_pause(work))
        assert [response.outputs for response in found] == list(range(len(found)))
        # a call of the 2,000 is held to its share of the limit, and what comes of them to the limit
        return max(statistics.median(own) * len(own), pause - sum(own)) if own else pause

    assert best_of(6, 0.05, attempt) <= 0.05


def test_requests_for_models_that_are_not_there_do_not_stop_the_event_loop(lab, monkeypatch):
    """Whatever is looked up on the scheduler is looked up in another thread."""
    from altlas_flow.cluster.client import catalog

    asked, call = [], catalog.call_control

    def counted(*args, **options):
        asked.append(threading.get_ident())
        return call(*args, **options)

    monkeypatch.setattr(catalog, "call_control", counted)
    orchestrator = af.DistributedModelOrchestrator(flow=lab.flow)

    async def ask():
        requests = [af.InferenceRequest(model_id="nobody-knows", inputs=i) for i in range(20)]
        return await orchestrator.run_distributed_batch_inference(requests)

    responses = asyncio.run(ask())
    assert {response.error.type for response in responses} == {"UnknownModel"}
    assert threading.get_ident() not in asked


# ---------------------------------------------------------------- threads


def test_many_threads_that_ask_and_wait_at_once_get_their_own_answers(lab):
    spec = lab.flow.register(model(echo))
    start = threading.Barrier(20)

    def ask(thread):
        start.wait(LIMIT)
        one_by_one = [lab.flow.submit(spec.id, (thread, i)).result(LIMIT).outputs for i in range(10)]
        handles = lab.flow.submit_many(spec.id, [(thread, i) for i in range(10, 40)])
        return one_by_one + [response.outputs for response in handles.result(LIMIT)]

    with ThreadPoolExecutor(20) as pool:
        for thread, found in enumerate(pool.map(ask, range(20))):
            assert found == [(thread, i) for i in range(40)]


# ---------------------------------------------------------------- clients whose requests share a batch


def occupy(fingerprint, spec, row):
    """Run rows on the host of the worker, beside all envelopes."""
    from altlas_flow.cluster.worker.plugin import current_host

    host = current_host()
    distributed.secede()
    return host.predict(spec, [row]).outputs


@pytest.mark.parametrize("resources", [{}, {"GPU": 1}], ids=["cpu", "gpu"])
def test_a_batch_holds_requests_of_several_clients(solo, gpu, stage, resources):
    lab = gpu if resources else solo
    quiet(lab)

    def count(rows):
        return [len(rows)] * len(rows)

    blocker = stage.model(resources=resources)
    busy = lab.client.submit(occupy, blocker.fingerprint, blocker, {"n": 0, "wait": "go"}, pure=False)
    stage.await_running(0)
    with another(lab) as other:
        spec = model(count, resources=resources)
        other.register(spec)
        handles = [lab.flow.submit(spec, [0, 1]), other.submit(spec, [2, 3, 4])]
        until(lambda: waiting_rows(lab) == 5)
        stage.open("go")
        first, second = (handle.result(LIMIT) for handle in handles)
    assert busy.result(LIMIT) == [0]
    assert first.outputs == [5, 5] and second.outputs == [5, 5, 5]
    assert first.batch_size == second.batch_size == 5
    assert first.trace.envelope == second.trace.envelope == 1


def test_a_forked_process_is_told_that_it_cannot_use_the_flow(solo):
    handle = solo.flow.submit(model(echo), 1)
    context = multiprocessing.get_context("fork")
    told = context.SimpleQueue()

    def use():
        for ask in (lambda: solo.flow.submit(model(echo), 2), lambda: handle.result(5)):
            try:
                ask()
            except Exception as error:
                told.put(f"{type(error).__name__}: {error}")
        os._exit(0)  # Dask's own cleaning up is the parent's

    assert handle.result(LIMIT).outputs == 1
    handle = solo.flow.submit(model(lambda rows: [time.sleep(1) or 1 for _ in rows]), 1)
    child = context.Process(target=use)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads
        child.start()
    child.join(LIMIT)
    assert [told.get() for _ in range(2)] == [
        "ClusterLost: a forked process cannot use its parent's flow: connect in it, or spawn it"
    ] * 2
    assert handle.result(LIMIT).outputs == 1


def test_what_was_closed_is_freed(lab):
    kept = []
    for _ in range(3):
        with another(lab) as flow:
            assert flow.submit(model(echo), 1).result(LIMIT).outputs == 1
            kept.append(weakref.ref(flow.client))
        del flow
    until(lambda: gc.collect() is not None and all(ref() is None for ref in kept))
