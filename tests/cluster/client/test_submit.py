"""Requests: one handle, waited for or awaited, with an answer or a typed error."""

from __future__ import annotations

import asyncio
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import dask
import numpy as np
import pytest

import altlas_flow as af
from altlas_flow.errors import (
    AltlasError,
    BadRequest,
    ClusterError,
    ParameterError,
    PredictError,
    RequestCancelled,
)
from tests.cluster.stages import model
from tests.dataframe.jobs import tasks_of
from tests.laboratory import LIMIT, until

pytestmark = pytest.mark.timeout(60)


def double(rows, factor=2):
    return [row * factor for row in rows]


async def later(rows):
    import asyncio

    await asyncio.sleep(0.01)
    return [row + 1 for row in rows]


def one(row):
    return {"twice": row * 2}


async def one_later(row):
    return -row


def picky(rows):
    if any(row < 0 for row in rows):
        raise ValueError("below zero")
    return rows


def matrix(rows):
    return np.array(rows, np.float32)[:, None] * np.ones(3, np.float32)


def die(rows):
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("spec", "inputs", "outputs"),
    [
        (model(double), [1, 2, 3], [2, 4, 6]),
        (model(double), 5, 10),
        (model(double), [], []),
        (model(later), [1, 2], [2, 3]),
        (model(one, single=True), [1, 2], [{"twice": 2}, {"twice": 4}]),
        (model(one, single=True), 3, {"twice": 6}),
        (model(one_later, single=True), [1, 2], [-1, -2]),
    ],
    ids=lambda value: value.id.partition("-")[0] if isinstance(value, af.ModelSpec) else None,
)
def test_functions_of_every_kind_answer_one_input_or_a_list(flow, spec, inputs, outputs):
    assert flow.submit(spec, inputs).result(LIMIT).outputs == outputs


def test_an_answer_says_where_it_came_from_and_how_long_it_took(flow):
    spec = model(double)
    handle = flow.submit(spec, [1])
    response = handle.result(LIMIT)
    assert response.model_id == spec.id
    assert response.request_id == handle.request_id
    assert response.node_id in {"0", "1"}
    assert 0 <= response.load_time <= response.latency < LIMIT
    assert handle.request_id in repr(handle)


def test_arrays_come_back_as_arrays(flow):
    spec = model(matrix)
    many, lone = flow.submit(spec, [1, 2]), flow.submit(spec, 3)
    assert many.result(LIMIT).outputs.tolist() == [[1, 1, 1], [2, 2, 2]]
    assert lone.result(LIMIT).outputs.tolist() == [3, 3, 3]


def test_functions_of_a_notebook_travel_with_what_they_use(flow):
    # cells are run with a namespace of their own, as a notebook does
    cells = {"__name__": "__main__"}
    exec("import math\nfactor = 3\ndef scale(row): return math.floor(row * factor)", cells)
    exec("def model(rows): return [scale(row) for row in rows]", cells)
    spec = af.ModelSpec(id=f"cell-{uuid.uuid4()}", source=cells["model"])
    assert flow.submit(spec, [1.5]).result(LIMIT).outputs == [4]


def test_parameters_reach_the_model_and_unknown_ones_are_refused(flow):
    spec = model(double, parameters={"factor": 3})
    assert flow.submit(spec, [1]).result(LIMIT).outputs == [3]
    assert flow.submit(spec, [1], factor=5).result(LIMIT).outputs == [5]
    with pytest.raises(ParameterError, match="times"):
        flow.submit(spec, [1], times=5).result(LIMIT)


def test_an_error_of_the_model_is_typed_and_names_it(flow):
    spec = model(picky)
    with pytest.raises(PredictError, match="below zero") as caught:
        flow.submit(spec, [1, -1]).result(LIMIT)
    assert caught.value.model == spec.id
    assert "\n" not in str(caught.value)
    assert flow.submit(spec, [1]).result(LIMIT).outputs == [1]


def test_failed_requests_are_let_go_of(flow):
    """The cluster forgets a failed task once nobody holds its handle, though its error was seen."""
    spec = flow.register(model(picky))

    def left():
        return [key for key in tasks_of(flow) if spec.fingerprint[:16] in key]

    def ask():
        for options in ({}, {"wrong": 1}):
            with pytest.raises(AltlasError):
                flow.submit(spec.id, [-1], **options).result(LIMIT)
        return flow.submit(spec.id, [-1])

    handle = ask()
    with pytest.raises(PredictError):
        handle.result(LIMIT)
    until(lambda: not left(), instead=left)  # though its handle is held
    assert handle.status == "error"


def test_many_at_once_from_many_threads_each_get_their_own_answer(flow):
    spec = flow.register(model(double))
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda i: flow.submit(spec.id, [i]).result(LIMIT).outputs, range(100))
    assert list(answers) == [[2 * i] for i in range(100)]


def test_handles_are_awaited_from_any_loop_and_more_than_once(flow):
    spec = flow.register(model(double))

    async def gathered():
        handles = [flow.submit(spec.id, [i]) for i in range(5)]
        return [(await handle).outputs for handle in handles for _ in range(2)]

    expected = [[2 * i] for i in range(5) for _ in range(2)]
    assert asyncio.run(gathered()) == expected
    found = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(gathered())))
    thread.start()
    thread.join(LIMIT)
    assert found == [expected]
    handle = flow.submit(spec.id, [1])

    async def wait_for_given():
        return (await handle).outputs

    assert asyncio.run(wait_for_given()) == handle.result(LIMIT).outputs


def test_errors_are_raised_where_a_handle_is_awaited(flow):
    async def ask():
        return await flow.submit(model(picky), [-1])

    with pytest.raises(PredictError, match="below zero"):
        asyncio.run(ask())


def test_whoever_gives_up_waiting_leaves_the_answer_to_others(flow, stage):
    handle = flow.submit(stage.model(), [{"n": 7, "wait": "open"}])
    with pytest.raises(TimeoutError):
        handle.result(0.05)

    async def impatient():
        await asyncio.wait_for(handle, 0.05)

    with pytest.raises(TimeoutError):
        asyncio.run(impatient())
    stage.open()
    assert handle.result(LIMIT).outputs == [7]


def test_submit_does_not_block_a_running_event_loop(flow):
    spec = flow.register(model(double))

    async def beat():
        beats = 0

        async def heart():
            nonlocal beats
            while True:
                await asyncio.sleep(0.001)
                beats += 1

        task = asyncio.create_task(heart())
        await asyncio.gather(*(flow.submit(spec.id, [i]) for i in range(20)))
        task.cancel()
        return beats

    assert asyncio.run(beat()) > 0


def test_a_cancelled_request_ends_with_a_typed_error(flow, stage):
    handle = flow.submit(stage.model(), [{"n": 1, "wait": "open"}])
    until(lambda: handle.future is not None)
    handle.future.cancel()
    with pytest.raises(RequestCancelled):
        handle.result(LIMIT)


@pytest.mark.long
def test_an_input_that_kills_its_workers_ends_with_a_typed_error_and_is_let_go_of():
    def ask():
        with pytest.raises(ClusterError, match="died while it had the request"):
            flow.submit(model(die), [1]).result(LIMIT)

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        af.connect(workers=2, threads_per_worker=1) as flow,
    ):
        ask()
        until(lambda: not tasks_of(flow), instead=lambda: tasks_of(flow))


def test_a_spec_that_names_a_function_needs_no_runtime(flow):
    spec = af.ModelSpec(id="lengths-by-name", source="builtins:len", single=True)
    assert spec.runtime == "function"
    assert flow.submit(spec, "four").result(LIMIT).outputs == 4


@pytest.mark.parametrize("parameters", [[1], "n=1", 5])
def test_parameters_that_are_no_mapping_are_refused(flow, parameters):
    with pytest.raises(BadRequest, match="no mapping"):
        flow.submit(model(double), 1, parameters=parameters)


def test_what_no_node_can_do_has_a_trace_that_counts_the_reasons(flow):
    spec = model(double, resources={"GPU": 1})
    response = flow.submit(spec, [1]).response(LIMIT)
    assert response.error.type == "NoEligibleNode"
    assert response.trace.refused == {"it declares GPU=0 and GPU=1 is needed": 2}
    assert "refused" in str(response.trace)
