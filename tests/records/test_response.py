"""Responses: answers and errors, built fast, and their JSON."""

from __future__ import annotations

import contextlib
import gc
import json
import pickle
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from altlas_flow import errors
from altlas_flow.errors import AltlasError, BadRequest, PredictError, RequestError
from altlas_flow.records import ErrorRecord, InferenceResponse, Trace
from tests.records.test_trace import FULL, traces
from tests.records.values import mappings, values
from tests.test_architecture import samples

seconds = st.floats(0, 1e300)


def again(response: InferenceResponse) -> InferenceResponse:
    text = response.model_dump_json()
    json.loads(text, parse_constant=pytest.fail)
    return InferenceResponse.model_validate_json(text)


def raised(response: InferenceResponse) -> AltlasError:
    with pytest.raises(AltlasError) as caught:
        response.raise_for_error()
    return caught.value


def failed(error: BaseException) -> InferenceResponse:
    return InferenceResponse.build("r", "m", error=error, tries=2)


def of_request(error: AltlasError) -> AltlasError:
    error.tries, error.nodes, error.root_cause = 2, ("a", "b"), "OSError: disk"
    return error


@given(
    node_id=st.none() | st.text(),
    outputs=values,
    latency=seconds,
    queue_time=seconds,
    load_time=seconds,
    batch_size=st.integers(0),
    tries=st.integers(0),
    trace=st.none() | traces,
    metadata=mappings,
)
def test_a_response_is_the_same_after_a_json_round_trip_and_however_it_was_made(**fields):
    response = InferenceResponse(request_id="r", model_id="m", **fields)
    assert again(response) == response
    built = InferenceResponse.build("r", "m", **fields)
    assert built == response
    assert built.model_dump_json() == response.model_dump_json()
    assert repr(built) == repr(response)
    assert built.ok
    built.raise_for_error()


def test_a_built_response_has_the_defaults_of_a_checked_one():
    built, checked = InferenceResponse.build("r", "m"), InferenceResponse(request_id="r", model_id="m")
    assert built == checked
    assert built.model_dump() == checked.model_dump()
    assert built.metadata is not InferenceResponse.build("r", "m").metadata
    assert built.model_copy(update={"tries": 2}).tries == 2
    assert pickle.loads(pickle.dumps(built)) == built


@pytest.mark.parametrize("error", samples(), ids=lambda error: type(error).__name__)
def test_every_error_is_raised_again_as_it_was_also_after_json_and_pickle(error):
    of_request(error)
    response = failed(error)
    assert not response.ok
    for one in (response, again(response), pickle.loads(pickle.dumps(response))):
        found = raised(one)
        assert type(found) is type(error)
        assert str(found) == str(error)
        assert found.args == error.args
        assert (found.tries, found.nodes, found.root_cause) == (2, ("a", "b"), "OSError: disk")
        assert one == response
    checked = InferenceResponse(request_id="r", model_id="m", error=error, tries=2)
    assert checked == response
    assert type(raised(checked)) is type(error)


def test_an_error_of_somebody_else_is_a_request_error_caused_by_it():
    error = ValueError("bad\nvalue")
    found = raised(failed(error))
    assert type(found) is RequestError
    assert found.__cause__ is error
    for one in (again(failed(error)), pickle.loads(pickle.dumps(failed(error)))):
        far = raised(one)
        assert (type(far), str(far)) == (RequestError, "ValueError: bad value")
        assert one.error.type == "ValueError"


class Unpicklable(Exception):
    def __init__(self, *, reason: str) -> None:
        super().__init__(reason)


def test_an_error_that_does_not_pickle_stays_behind_and_its_text_travels():
    response = failed(Unpicklable(reason="so"))
    far = pickle.loads(pickle.dumps(response))
    assert far == response
    assert str(raised(far)) == "Unpicklable: so"


class OfAnotherPackage(AltlasError):
    def __init__(self, *, reason: str) -> None:
        super().__init__(reason)


def test_an_error_that_cannot_be_copied_is_raised_all_the_same():
    error = OfAnotherPackage(reason="so")
    assert str(raised(failed(error))) == "so"
    assert type(raised(again(failed(error)))) is RequestError


def test_an_error_with_arguments_that_json_cannot_hold_is_a_request_error_of_its_text():
    error = errors.BadRequest("text", {1, 2})
    response = failed(error)
    assert response.error.args == []
    found = raised(again(response))
    assert (type(found), str(found)) == (RequestError, "text")
    assert raised(response).args == error.args


@pytest.mark.parametrize(
    "kind", ["AltlasError", "NoSuchError", "one_line", "Iterable", "__name__", "annotations"]
)
def test_a_type_written_by_hand_makes_no_other_object_than_an_error_of_ours(kind):
    record = ErrorRecord(type=kind, message="m", args=["m"])
    assert isinstance(record.exception(), AltlasError)
    assert type(ErrorRecord(type="PredictError", message="m", args=[]).exception()) is RequestError
    assert (
        type(ErrorRecord(type="PredictError", message="other", args=["a", "b"]).exception()) is RequestError
    )


def test_an_error_keeps_where_it_began():
    try:
        try:
            raise OSError("disk full")
        except OSError as cause:
            raise PredictError("m", "failed") from cause
    except PredictError as error:
        record = ErrorRecord.of(error)
    assert (record.type, record.root_cause) == ("PredictError", "OSError: disk full")
    assert isinstance(record.exception().__cause__, OSError)
    assert ErrorRecord.of(PredictError("m", "failed")).root_cause == ""


def test_raising_an_error_keeps_neither_the_response_nor_the_frames_alive():
    response = failed(PredictError("m", "bad"))
    kept = weakref.ref(response)
    gc.disable()
    try:
        with contextlib.suppress(PredictError):
            response.raise_for_error()
        assert response.error._error.__traceback__ is None
        del response
        assert kept() is None
    finally:
        gc.enable()


def test_the_repr_is_one_short_line():
    response = InferenceResponse.build("r", "m", node_id="w0", outputs=[1.0, 2.0], latency=0.0123)
    assert repr(response) == "<InferenceResponse of m on w0 in 0.012 s: [1.0, 2.0]>"
    assert str(response) == repr(response)
    assert repr(failed(PredictError("m", "bad"))) == (
        "<InferenceResponse of m in 0.000 s: PredictError: model 'm' failed on its input: bad>"
    )
    assert "ValueError: x>" in repr(failed(ValueError("x")))
    for outputs in (np.zeros((50, 50)), "x" * 1000, list(range(10**6))):
        text = repr(InferenceResponse.build("r", "m", node_id="w0", outputs=outputs))
        assert len(text) < 140 and "\n" not in text
    assert repr(ErrorRecord.of(ValueError("x"))) == "<ErrorRecord of ValueError: x>"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("latency", -1),
        ("latency", float("nan")),
        ("batch_size", -1),
        ("error", 3),
        ("trace", 3),
        ("model", "m"),
    ],
)
def test_a_wrong_field_of_a_response_is_named(field, value):
    with pytest.raises(BadRequest) as caught:
        InferenceResponse(request_id="r", model_id="m", **{field: value})
    assert field in str(caught.value).lower()
    assert "\n" not in str(caught.value)


def test_a_trace_may_come_as_its_fields():
    response = InferenceResponse(request_id="r", model_id="m", trace=FULL.model_dump())
    assert response.trace == FULL
    assert isinstance(again(response).trace, Trace)
    assert response.trace.runners_up[0] == ("cpu-2", 1.0)
