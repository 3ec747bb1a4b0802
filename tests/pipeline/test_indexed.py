"""Pipelines as requests that depend on each other by index."""

from __future__ import annotations

import asyncio

import pytest

import altlas_flow as af
from altlas_flow import InferenceRequest as Request
from altlas_flow import ModelSpec
from altlas_flow.errors import BadRequest, PipelineError, StageFailed, UnknownModel
from altlas_flow.pipeline.indexed import Filled, references

pytestmark = pytest.mark.timeout(120)

LIMIT = 60


def shout(rows, mark="!"):
    return [f"{str(row).upper()}{mark}" for row in rows]


def measure(rows):
    return [{"size": len(row), "first": [row[:1]]} for row in rows]


def refuse(rows):
    raise ValueError("never")


@pytest.fixture(scope="module", autouse=True)
def models(flow):
    for name, function in {"shout": shout, "measure": measure, "refuse": refuse}.items():
        flow.register(ModelSpec(id=f"indexed-{name}", source=function))


def asked(model, inputs, **more):
    return Request(model_id=f"indexed-{model}", inputs=inputs, **more)


def run(flow, requests, dependencies):
    return flow.submit_pipeline(requests, dependencies).result(LIMIT)


def test_empty_inputs_are_filled_from_what_they_depend_on(flow):
    requests = [asked("shout", "a"), asked("shout", "", parameters={"mark": "?"}), asked("measure", None)]
    found = run(flow, requests, [[], [0], [1]])
    assert [one.outputs for one in found] == ["A!", "A!?", {"size": 3, "first": ["A"]}]
    assert [one.request_id for one in found] == [request.request_id for request in requests]
    assert [one.model_id for one in found] == ["indexed-shout", "indexed-shout", "indexed-measure"]


def test_several_come_as_a_dict_by_index(flow):
    found = run(flow, [asked("shout", "a"), asked("shout", "b"), asked("shout", [])], [[], [], [1, 0]])
    assert found[2].outputs == "{1: 'B!', 0: 'A!'}!"


def test_inputs_may_refer_to_outputs(flow):
    requests = [
        asked("measure", "abc"),
        asked("shout", "it has {0.outputs[size]} letters, {0.outputs[first][0]} is the first; {1} and {x}"),
        asked("measure", "{1.outputs}"),
    ]
    found = run(flow, requests, [[], [0], [1]])
    assert found[1].outputs == "IT HAS 3 LETTERS, A IS THE FIRST; {1} AND {X}!"
    assert found[2].outputs["size"] == len(found[1].outputs)


def test_a_list_of_inputs_gives_a_list_all_the_way(flow):
    found = run(flow, [asked("shout", ["a", "b"]), asked("measure", "")], [[], [0]])
    assert found[0].outputs == ["A!", "B!"]
    assert [one["size"] for one in found[1].outputs] == [2, 2]


def test_the_order_of_requests_is_not_that_of_their_dependencies(flow):
    found = run(flow, [asked("shout", ""), asked("shout", "x")], [[1], []])
    assert [one.outputs for one in found] == ["X!!", "X!"]


def test_a_failure_is_named_and_the_others_are_there(flow):
    requests = [asked("shout", "a"), asked("refuse", ""), asked("shout", ""), asked("measure", "")]
    handle = flow.submit_pipeline(requests, [[], [0], [1], [0]])
    with pytest.raises(StageFailed, match=r"stage .1. failed.*never") as caught:
        handle.result(LIMIT)
    assert [one.ok for one in caught.value.responses] == [True, False, False, True]
    found = handle.result(LIMIT, raise_on_error=False)
    assert found[3].outputs["size"] == 2 and found[2].error.type == "StageFailed"


@pytest.mark.parametrize(
    ("error", "requests", "dependencies", "text"),
    [
        (BadRequest, [], [], "no requests"),
        (BadRequest, [asked("shout", "a")], [], "as many lists"),
        (BadRequest, [asked("shout", "a")], [[1]], "indices go from 0 to 0"),
        (PipelineError, [asked("shout", "a")], [[0]], "depends on itself"),
        (PipelineError, [asked("shout", "a"), asked("shout", "")], [[1], [0]], "wait for each other"),
        (BadRequest, [asked("shout", "")], [[]], "no inputs"),
        (BadRequest, [asked("shout", "a"), asked("shout", "{0.outputs}")], [[], []], "does not depend on"),
        (BadRequest, [asked("shout", "a", idempotent=False)], [[]], "must not run twice"),
        (BadRequest, [Request(inputs="a")], [[]], "names no model"),
        (BadRequest, ["a"], [[]], "give an InferenceRequest"),
        (BadRequest, asked("shout", "a"), [[]], "a list of InferenceRequest"),
        (UnknownModel, [Request(model_id="indexed-nobody", inputs="a")], [[]], "indexed-nobody"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(flow, error, requests, dependencies, text):
    with pytest.raises(error, match=text) as caught:
        flow.submit_pipeline(requests, dependencies)
    assert "\n" not in str(caught.value)


def test_awaited(flow):
    async def go():
        orchestrator = af.DistributedModelOrchestrator(flow=flow)
        requests = [asked("shout", "a"), asked("refuse", "")]
        found = await orchestrator.run_distributed_pipeline_inference(
            requests, [[], [0]], raise_on_error=False
        )
        with pytest.raises(StageFailed):
            await orchestrator.run_distributed_pipeline_inference(requests, [[], [0]])
        return found

    found = asyncio.run(go())
    assert found[0].outputs == "A!" and found[1].error.type == "PredictError"


def test_references_are_found_wherever_they_stand():
    assert references({"a": ["{3.outputs}", ("x {0.outputs[b]}",)], "c": 5}) == {0, 3}
    assert references("{outputs} {a.outputs} {1.output}") == set()


def test_what_is_referred_to_keeps_its_type():
    filled = Filled({"whole": "{0.outputs}", "text": "<{1.outputs[0]}>"}, (0, 1))
    assert filled({"0": [1, 2], "1": [3.5]}) == {"whole": [1, 2], "text": "<3.5>"}
