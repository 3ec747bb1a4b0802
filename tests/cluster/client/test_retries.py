"""Other tries: of answers that do not pass their validator, and of errors that may go away."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel

import altlas_flow as af
from altlas_flow.errors import AltlasError, ClusterError, InvalidAnswer, NodeLost, PredictError
from tests.cluster.stages import echo, fill, model, together
from tests.laboratory import LIMIT, laboratory

pytestmark = pytest.mark.timeout(120)


# ---------------------------------------------------------------- answers that do not pass


class Positive(BaseModel):
    score: float
    label: str


def positive(answer):
    return answer >= 0


def strict(answer):
    if answer < 0:
        raise ValueError("it is below zero")


def all_positive(answers):
    return all(answer >= 0 for answer in answers)


def test_an_answer_that_does_not_pass_is_a_failed_try(lab, stage):
    spec = lab.flow.register(stage.model())
    for n, check in enumerate([positive, strict, lambda answer: answer >= 0]):
        response = lab.flow.submit(spec, {"n": n, "wrong": True}, validator=check).result(LIMIT)
        assert response.outputs == n and response.tries == 2
        (failed,) = response.trace.tries
        assert failed.node != response.node_id  # elsewhere, where there is one
    request = af.InferenceRequest(model_id=spec.id, inputs=[{"n": 7, "wrong": True}], validator=all_positive)
    response = lab.flow.submit(request).result(LIMIT)
    assert response.outputs == [7] and response.tries == 2
    own = stage.model(validator=strict)
    assert lab.flow.submit(own, {"n": 8, "wrong": True}).result(LIMIT).tries == 2


def test_an_answer_that_never_passes_ends_after_three_tries(lab, stage):
    spec = lab.flow.register(stage.model())
    with pytest.raises(InvalidAnswer, match="below zero") as caught:
        lab.flow.submit(spec, {"n": -5}, validator=strict).result(LIMIT)
    assert caught.value.tries == 3
    assert set(caught.value.nodes) == {"a", "b"}
    assert stage.predicted == [-5, -5, -5]
    once = af.RetryPolicy(tries=1)
    with pytest.raises(InvalidAnswer) as caught:
        lab.flow.submit(spec, {"n": -6}, validator=positive, retry=once).result(LIMIT)
    assert caught.value.tries == 1
    with pytest.raises(InvalidAnswer) as caught:
        lab.flow.submit(stage.model(validator=positive), {"n": -7}).result(LIMIT)
    assert caught.value.tries == 3


def test_a_pydantic_model_and_a_named_function_validate(lab):
    def label(rows):
        return [{"score": row, "label": "x"} if row >= 0 else {"score": "none"} for row in rows]

    for checked in (model(label, validator=Positive), model(label)):
        validator = None if checked.validator else Positive
        assert lab.flow.submit(checked, 0.5, validator=validator).result(LIMIT).ok
        with pytest.raises(InvalidAnswer, match="score"):
            lab.flow.submit(checked, -1, validator=validator).result(LIMIT)
    named = lab.flow.register(model(echo, validator="builtins:len"))
    assert lab.flow.submit(named.id, "text").result(LIMIT).outputs == "text"
    with pytest.raises(InvalidAnswer, match="len"):
        lab.flow.submit(named.id, 5).result(LIMIT)
    spec = lab.flow.register(model(echo))
    request = af.InferenceRequest(model_id=spec.id, inputs=5, validator="builtins:len")
    with pytest.raises(InvalidAnswer, match="len"):
        lab.flow.submit(request).result(LIMIT)
    with pytest.raises(AltlasError, match="no_such_thing"):
        lab.flow.submit(named.id, 5, validator="builtins:no_such_thing")
    with pytest.raises(AltlasError, match="such as math:floor"):
        lab.flow.submit(named.id, 5, validator="math.floor")

    def about_right(answer):
        raise ValueError("too small")

    with pytest.raises(
        InvalidAnswer, match=r"about_right says ValueError: too small \(test_retries\.py:\d+, in"
    ):
        lab.flow.submit(spec, 5, validator=about_right).result(LIMIT)


async def awaited(answer):
    return answer >= 0


@pytest.mark.parametrize(
    "validator",
    [
        awaited,
        lambda answer: np.bool_(answer >= 0),
        lambda answer: np.asarray([True, answer >= 0]),
        lambda answer: pd.Series([answer >= 0, True]),
        lambda answer: pd.array([answer >= 0], dtype="boolean"),
    ],
    ids=["awaited", "numpy", "array", "series", "nullable"],
)
def test_a_validator_says_no_in_whatever_way_false_comes(lab, validator):
    spec = lab.flow.register(model(echo))
    assert lab.flow.submit(spec.id, 1, validator=validator).result(LIMIT).outputs == 1
    with pytest.raises(InvalidAnswer, match="says no"):
        lab.flow.submit(spec.id, -1, validator=validator).result(LIMIT)
    # what merely looks like no is an answer of a parser, say
    assert lab.flow.submit(spec.id, 0, validator=lambda answer: answer).result(LIMIT).outputs == 0


def test_a_function_that_gives_one_answer_for_all_its_inputs_is_found_out(solo):
    def mean(rows):
        return [sum(rows) / len(rows)]

    with pytest.raises(PredictError, match="1 answer for 3 inputs"):
        solo.flow.submit(model(mean), [1, 2, 3]).result(LIMIT)


def test_only_the_member_whose_answer_does_not_pass_fails(solo, stage, gate):
    fill(solo, gate)
    spec = stage.model()
    together(solo.flow, spec)
    once = af.RetryPolicy(tries=1)
    handles = [solo.flow.submit(spec, {"n": n}, validator=positive, retry=once) for n in (1, -2, 3)]
    gate.open("fill")
    assert [handle.response(LIMIT).outputs for handle in handles] == [1, None, 3]
    assert handles[1].response().error.type == "InvalidAnswer"


# ---------------------------------------------------------------- errors


def test_an_error_that_the_policy_names_is_tried_again_on_another_node(lab, stage):
    spec = stage.model()
    row = {"n": 1, "fail": "TimeoutError", "once": True}
    response = lab.flow.submit(spec, row, retry=af.RetryPolicy(on=(TimeoutError,))).result(LIMIT)
    assert response.outputs == 1 and response.tries == 2
    (failed,) = response.trace.tries
    assert failed.node != response.node_id and "TimeoutError" in failed.error
    assert len({process for process, _ in stage.calls}) == 2
    # a base of it is named as well
    row = {"n": 2, "fail": "TimeoutError", "once": True}
    assert lab.flow.submit(spec, row, retry=af.RetryPolicy(on=("OSError",))).result(LIMIT).tries == 2


def test_a_fault_of_the_input_is_not_tried_again(lab, stage):
    spec = stage.model()
    for n, policy in enumerate([None, af.RetryPolicy(on=("KeyError",)), af.RetryPolicy(tries=5)]):
        with pytest.raises(PredictError, match="fails") as caught:
            lab.flow.submit(spec, {"n": n, "fail": "ValueError"}, retry=policy).result(LIMIT)
        assert caught.value.tries == 1
    assert stage.predicted == [0, 1, 2]


def test_a_policy_says_how_often(lab, stage):
    policy = af.RetryPolicy(tries=5, on=("ValueError",))
    with pytest.raises(PredictError) as caught:
        lab.flow.submit(stage.model(), {"n": 1, "fail": "ValueError"}, retry=policy).result(LIMIT)
    assert caught.value.tries == 5 and len(caught.value.nodes) == 5
    assert stage.predicted == [1] * 5


def test_a_fault_of_the_node_is_tried_elsewhere(lab, stage):
    row = {"n": 1, "fail": "MemoryError", "once": True}
    response = lab.flow.submit(stage.model(), row).result(LIMIT)
    assert response.outputs == 1
    assert response.tries == 2 and response.trace.tries[0].node != response.node_id


@pytest.mark.long
def test_what_may_run_only_once_ends_with_the_worker_that_died_of_it(stage):
    with laboratory({"a": {}, "b": {}}) as own:
        spec = own.flow.register(stage.model())
        with pytest.raises(NodeLost, match="died") as caught:
            own.flow.submit(spec, {"n": 1, "kill": True}, idempotent=False).result(LIMIT)
        assert caught.value.tries == 1
        assert len(stage.calls) == 1
        own.await_hosts(2)
        with pytest.raises(ClusterError, match="died") as caught:
            own.flow.submit(spec, {"n": 2, "kill": True}).result(LIMIT)
        assert caught.value.tries == 3
        assert stage.predicted == [1, 2, 2, 2]
        assert len({process for process, _ in stage.calls}) == 4
