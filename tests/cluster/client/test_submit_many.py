"""Many requests in one call: answered in order, and each for itself."""

from __future__ import annotations

import asyncio

import pytest

import altlas_flow as af
from altlas_flow.errors import BadRequest, PredictError
from tests.cluster.stages import another, echo, model
from tests.laboratory import LIMIT

pytestmark = pytest.mark.timeout(120)


def test_a_batch_of_mixed_models_is_answered_in_order(lab):
    def negate(rows):
        return [-row for row in rows]

    one, other = lab.flow.register(model(echo)), lab.flow.register(model(negate))
    requests = [
        af.InferenceRequest(model_id=(other if i % 3 else one).id, inputs=i, metadata={"i": i})
        for i in range(100)
    ]
    handles = lab.flow.submit_many(requests)
    responses = handles.result(LIMIT)
    assert [response.outputs for response in responses] == [-i if i % 3 else i for i in range(100)]
    assert [response.request_id for response in responses] == [request.request_id for request in requests]
    assert [response.metadata["i"] for response in responses] == list(range(100))
    assert len(handles) == 100 and handles[3].request_id == requests[3].request_id
    assert "100 requests, 100 over" in repr(handles)


def test_one_that_fails_does_not_fail_the_others(lab):
    def picky(rows, factor=1):
        if any(row < 0 for row in rows):
            raise ValueError("below zero")
        return [row * factor for row in rows]

    spec = lab.flow.register(model(picky))
    ask = af.InferenceRequest
    requests = [
        ask(model_id=spec.id, inputs=1),
        ask(model_id=spec.id, inputs=-1),
        ask(model_id=spec.id, inputs=[2, 3]),
        ask(model_id="nobody-knows", inputs=1),
        ask(model_id=spec.id, inputs=1, parameters={"times": 2}),
        ask(inputs=1),
        ask(model_id=spec.id, inputs=[4, -1, 5]),
        ask(model_id=spec.id, inputs=6),
    ]
    responses = lab.flow.submit_many(requests).result(LIMIT)
    assert [response.outputs for response in responses] == [1, None, [2, 3], None, None, None, None, 6]
    found = [response.error.type if response.error else None for response in responses]
    assert found == [None, "PredictError", None, "UnknownModel", "ParameterError", "BadRequest",
                     "PredictError", None]  # fmt: skip
    error = responses[1].error
    assert "below zero" in error.message and "ValueError: below zero" in error.root_cause
    assert error.tries == 1 and len(error.nodes) == 1 and error.nodes[0] in {"a", "b"}
    assert responses[1].tries == 1 and responses[1].node_id == error.nodes[0]
    assert responses[3].error.tries == 0 and responses[3].tries == 0
    with pytest.raises(PredictError, match="below zero") as caught:
        responses[1].raise_for_error()
    assert caught.value.tries == 1 and caught.value.nodes == tuple(error.nodes)
    with pytest.raises(PredictError, match="below zero"):
        lab.flow.submit_many(requests[:3], raise_on_error=True).result(LIMIT)

    async def awaited():
        return await lab.flow.submit_many(requests[:3], raise_on_error=True)

    with pytest.raises(PredictError, match="below zero"):
        asyncio.run(awaited())


def test_inputs_that_fail_half_way_have_sent_nothing(lab, stage):
    def inputs():
        yield from ({"n": n, "sleep": 0} for n in range(5))
        raise OSError("the file is gone")

    spec = lab.flow.register(stage.model())
    for arguments in (
        (spec.id, inputs()),
        ((af.InferenceRequest(model_id=spec.id, inputs=row) for row in inputs()),),
    ):
        with pytest.raises(OSError, match="the file is gone"):
            lab.flow.submit_many(*arguments)
    assert lab.flow.submit(spec.id, {"n": 9}).result(LIMIT).outputs == 9
    assert stage.book("began") == []


def test_those_for_which_there_is_no_room_fail_for_themselves(solo, gate):
    with another(solo, waiting_limit=3, overload="raise") as flow:
        spec = flow.register(gate.model())
        handles = flow.submit_many(spec.id, [{"n": n, "wait": "go"} for n in range(5)])
        requests = [af.InferenceRequest(model_id=spec.id, inputs={"n": 5})]
        assert flow.submit_many(requests).result(LIMIT)[0].error.type == "Overloaded"
        gate.open("go")
        responses = handles.result(LIMIT)
        assert [response.outputs for response in responses] == [0, 1, 2, None, None]
        assert [response.error.type for response in responses[3:]] == ["Overloaded"] * 2


def test_many_inputs_of_one_model_take_the_options_of_a_request(lab):
    def scale(rows, factor=2):
        return [row * factor for row in rows]

    handles = lab.flow.submit_many(model(scale), [1, 2, [3, 4]], factor=10, priority=1)
    assert [response.outputs for response in handles.result(LIMIT)] == [10, 20, [30, 40]]
    assert lab.flow.submit_many([]).result(LIMIT) == []
    with pytest.raises(BadRequest, match="inputs="):
        lab.flow.submit_many([af.InferenceRequest(inputs=1)], [1])
    good = af.InferenceRequest(model_id=model(echo).id, inputs=1)
    for wrong in (good, [good, "no request"], ["a"], {"up": "x"}):
        with pytest.raises(BadRequest, match="model and a list of inputs"):
            lab.flow.submit_many(wrong)


def test_a_list_of_inputs_is_a_list_of_answers_and_an_empty_one_has_none(lab):
    spec = model(echo)
    handles = [lab.flow.submit(spec, item) for item in ([], [1], 1, [1, 2], (1, 2), [[1], [2]])]
    found = [handle.result(LIMIT).outputs for handle in handles]
    assert found == [[], [1], 1, [1, 2], (1, 2), [[1], [2]]]


def test_an_empty_list_loads_no_model(lab):
    def never(rows):
        raise AssertionError("it is called with nothing")

    spec = model(never, memory=2**20)
    response = lab.flow.submit(spec, []).result(LIMIT)
    assert (response.outputs, response.load_time) == ([], 0.0)
    states = lab.client.run(lambda dask_worker: dask_worker.plugins["altlas-host"].host.state())
    assert spec.fingerprint not in {name for state in states.values() for name in state["models"]}
