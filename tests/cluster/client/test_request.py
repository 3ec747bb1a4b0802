"""One request: its answer, the strategy that places it, and what is refused."""

from __future__ import annotations

import itertools
import uuid

import pytest

import altlas_flow as af
from altlas_flow.errors import AltlasError, BadRequest, ParameterError, UnknownModel
from tests.cluster.stages import echo, model
from tests.laboratory import LIMIT

pytestmark = pytest.mark.timeout(120)


def test_a_request_comes_back_with_its_id_its_metadata_and_a_trace(lab):
    spec = lab.flow.register(model(echo))
    request = af.InferenceRequest(
        request_id="mine", model_id=spec.id, inputs=["a", "b"], metadata={"who": ["me", 1]}
    )
    handle = lab.flow.submit(request)
    response = handle.result(LIMIT)
    assert handle.request_id == response.request_id == "mine"
    assert response.outputs == ["a", "b"]
    assert response.metadata == {"who": ["me", 1]}
    assert response.ok and response.tries == handle.tries == 1
    assert response.node_id in {"a", "b"}
    assert response.batch_size == 2
    assert af.InferenceResponse.model_validate_json(response.model_dump_json()) == response
    trace = response.trace
    assert af.Trace.model_validate_json(trace.model_dump_json()) == trace
    assert (trace.strategy, trace.node) == ("LEAST_LOADED", response.node_id)
    assert (trace.batch, trace.envelope) == (2, 1)
    assert {node for node, _ in trace.runners_up} == {"a", "b"} - {response.node_id}
    # its parts do not overlap
    parts = trace.held + trace.placing + trace.queue + trace.predict
    assert 0 < parts <= response.latency + 0.001


def test_a_printed_trace_names_node_strategy_waits_and_batch(lab, capsys):
    response = lab.flow.submit(model(echo), [1, 2, 3]).result(LIMIT)
    print(response.trace)
    text = capsys.readouterr().out
    for part in (f"{response.node_id}, by LEAST_LOADED", "held", "placing", "queue", "a batch of 3 rows",
                 "an envelope of 1 request"):  # fmt: skip
        assert part in text
    assert response.node_id in response.trace._repr_html_()


# ---------------------------------------------------------------- strategies


def test_the_strategy_of_a_call_goes_before_that_of_the_request(lab):
    spec = lab.flow.register(model(echo))
    request = af.InferenceRequest(model_id=spec.id, inputs=1, strategy=af.DistributionStrategy.ROUND_ROBIN)
    assert lab.flow.submit(request).result(LIMIT).trace.strategy == "ROUND_ROBIN"
    response = lab.flow.submit(request, strategy="model-specific").result(LIMIT)
    assert response.trace.strategy == "MODEL_SPECIFIC"


def test_requests_in_turn_go_round_the_nodes(lab):
    spec = model(echo)
    ask = [lab.flow.submit(spec, 1, strategy="ROUND_ROBIN").result(LIMIT).node_id for _ in range(6)]
    assert all(one != other for one, other in itertools.pairwise(ask))


def test_a_strategy_of_ones_own_decides_and_one_that_fails_costs_no_answer(lab):
    def reverse(request, nodes):
        return sorted(nodes, key=lambda node: node.name, reverse=True)

    def broken(request, nodes):
        raise RuntimeError("no idea")

    found = [lab.flow.submit(model(echo), i, strategy=reverse).result(LIMIT) for i in range(4)]
    assert {response.node_id for response in found} == {"b"}
    assert {response.trace.strategy for response in found} == {"reverse"}
    response = lab.flow.submit(model(echo), 1, strategy=broken).result(LIMIT)
    assert response.outputs == 1
    assert "no idea" in str(response.trace)


def test_a_strategy_that_nobody_knows_is_refused(lab):
    with pytest.raises(AltlasError, match="no-such-strategy"):
        lab.flow.submit(model(echo), 1, strategy="no-such-strategy").result(LIMIT)
    with pytest.raises(BadRequest, match="strategy=3"):
        lab.flow.submit(model(echo), 1, strategy=3)


# ---------------------------------------------------------------- refused


def test_unknown_parameters_are_refused_with_those_there_are(lab):
    def scale(rows, factor=2, offset=0):
        return [factor * row + offset for row in rows]

    with pytest.raises(ParameterError, match=r"(?s)faktor.*factor.*offset"):
        lab.flow.submit(model(scale), 1, faktor=3).result(LIMIT)
    # what is known without the weights is refused at once
    text = af.ModelSpec(id=f"text-{uuid.uuid4()}", task="feature-extraction", source="nobody/nothing")
    lab.flow.register(text)
    with pytest.raises(ParameterError, match=r"(?s)temperature.*normalize"):
        lab.flow.submit(text.id, "a", temperature=0.7)
    request = af.InferenceRequest(model_id=text.id, inputs="a", parameters={"temperature": 0.7})
    (response,) = lab.flow.submit_many([request]).result(LIMIT)
    assert response.error.type == "ParameterError"


def test_a_request_without_a_model_or_with_a_wrong_priority_is_refused(lab):
    spec = lab.flow.register(model(echo))
    with pytest.raises(BadRequest, match="model_id"):
        lab.flow.submit(af.InferenceRequest(inputs=1))
    with pytest.raises(UnknownModel, match="nobody-knows"):
        lab.flow.submit("nobody-knows", 1)
    for priority in ("high", 1.5, True):
        with pytest.raises(BadRequest, match="priority"):
            lab.flow.submit(spec.id, 1, priority=priority)
    for deadline in ("soon", -1, 0):
        with pytest.raises(BadRequest, match="deadline"):
            lab.flow.submit(spec.id, 1, deadline=deadline)
