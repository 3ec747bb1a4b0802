"""Requests: what they take, what they say about the rest, and their JSON."""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
from datetime import timedelta
from functools import partial

import cloudpickle
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from altlas_flow.errors import BadRequest, PredictError
from altlas_flow.records import DistributionStrategy, InferenceRequest, RetryPolicy
from altlas_flow.records.jsonable import DEPTH, decode, encode, same
from altlas_flow.settings import DISTRIBUTION_STRATEGIES
from tests.ids import spoken
from tests.records.values import Answer, mappings, positive, values


def again(request: InferenceRequest) -> InferenceRequest:
    text = request.model_dump_json()
    json.loads(text, parse_constant=pytest.fail)  # strict JSON: no NaN, no Infinity
    return InferenceRequest.model_validate_json(text)


@given(
    inputs=values,
    parameters=mappings,
    metadata=mappings,
    model_id=st.none() | st.text(min_size=1),
    priority=st.integers(-1000, 1000),
    deadline=st.none() | st.floats(1e-300, 1e300),
    strategy=st.none() | st.sampled_from(DistributionStrategy) | st.just("my-strategy"),
    retry=st.builds(
        RetryPolicy,
        tries=st.none() | st.integers(1),
        on=st.lists(st.sampled_from(["OSError", "Exception"])).map(tuple),
    ),
    idempotent=st.booleans(),
)
def test_a_request_is_the_same_after_a_json_round_trip(**fields):
    request = InferenceRequest(**fields)
    assert again(request) == request


def test_a_request_is_the_same_after_it_was_pickled():
    request = InferenceRequest(
        inputs=[np.arange(3.0), pa.array([1, None]), float("nan")],
        strategy="round-robin",
        validator=positive,
        deadline="2s",
        retry=RetryPolicy(tries=2, on="OSError"),
    )
    assert pickle.loads(pickle.dumps(request)) == request


@given(values)
def test_what_is_decoded_is_what_was_encoded(value):
    assert same(decode(json.loads(json.dumps(encode(value, "value"), allow_nan=False)), "value"), value)


def test_types_survive_the_json_round_trip():
    table = pa.table({"a": pa.array([1, None], pa.int8())}, metadata={"k": "v"})
    inputs = {
        "array": np.arange(6, dtype=">i2").reshape(2, 3).T,
        "scalar": np.float32(0.1),
        "empty": np.zeros((0, 3), "f2"),
        "bytes": b"\x00\xff",
        "nan": float("nan"),
        "table": table,
        "batch": table.to_batches()[0],
        "column": table["a"],
        "values": table["a"].chunk(0),
        "mark": {"$bytes": "no mark at all"},
        "labels": {0: "no", 1: "yes", None: "?"},
        "tuple": (1, 2),
    }
    found = again(InferenceRequest(inputs=inputs)).inputs
    for name, value in inputs.items():
        assert type(found[name]) is (list if name == "tuple" else type(value)), name
    assert found["array"].dtype == inputs["array"].dtype
    assert found["array"].flags.writeable
    assert found["table"].schema.metadata == {b"k": b"v"}
    assert found["mark"] == inputs["mark"]
    assert found["labels"] == inputs["labels"]
    assert found["tuple"] == [1, 2]


def test_a_tuple_is_one_input_before_and_after_json():
    for inputs in (("a", ("b", 1)), (), (np.arange(3),)):
        request = InferenceRequest(inputs=inputs)
        found = again(request)
        assert type(found.inputs) is tuple
        assert found == request
    many = again(InferenceRequest(inputs=[(1, 2), [3, 4], 5]))
    assert [type(item) for item in many.inputs] == [tuple, list, int]
    mistyped = {"model_id": "m", "input": 1}
    with pytest.raises(BadRequest, match="input is no field: did you mean inputs"):
        InferenceRequest(**mistyped)
    with pytest.raises(BadRequest, match=r"\$tuple is wrong"):
        InferenceRequest.model_validate_json('{"inputs": {"$tuple": "ab"}}')


@pytest.mark.parametrize(
    ("field", "value"), [("deadline", "x"), ("priority", 2000), ("retry", 3), ("validator", 3), ("inputz", 1)]
)
def test_a_field_that_is_set_later_is_checked_as_well(field, value):
    request = InferenceRequest(inputs=1)
    with pytest.raises(BadRequest, match=f"(?i){field}"):
        setattr(request, field, value)
    request.deadline = "300ms"
    assert request.deadline == 0.3


def test_marks_are_read_from_json_only():
    assert InferenceRequest(inputs={"$bytes": "AA=="}).inputs == {"$bytes": "AA=="}
    assert InferenceRequest.model_validate_json('{"inputs": {"$bytes": "AA=="}}').inputs == b"\x00"


DEEP = [[]]
for _ in range(DEPTH):
    DEEP = [DEEP]
ENDLESS: list[object] = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()]),
        np.array([(1, 2)], dtype="i4,i4"),
        np.ma.masked_array([1], mask=[True]),
        np.array(["a"], dtype=np.dtypes.StringDType()),
        {1, 2},
        object(),
        1j,
        {(1, 2): 3},
        "\ud800",
        {"\ud800": 1},
        DEEP,
        ENDLESS,
        lambda: None,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_needs_pickle_is_refused_with_the_field_and_one_line(value):
    for field in ("inputs", "metadata"):
        request = InferenceRequest(**{"inputs": 1, field: {"value": value}})
        with pytest.raises(BadRequest, match=field) as caught:
            request.model_dump_json()
        assert "\n" not in str(caught.value)
        assert "Error" not in str(caught.value).replace("UnicodeEncodeError", "")


@given(st.integers(1, DEPTH - 1), st.sampled_from([lambda v: [v], lambda v: {1: v}, lambda v: {"$dict": v}]))
def test_what_can_be_written_can_be_read(levels, wrap):
    value = 1
    for _ in range(levels):
        value = wrap(value)
    request = InferenceRequest(inputs=value)
    assert again(request) == request


ARRAY = {"dtype": "<i4", "shape": [1], "data": "AAAAAA=="}


@pytest.mark.parametrize(
    "wrong",
    [
        {"$array": 1},
        {"$array": {}},
        {"$array": {**ARRAY, "shape": [2]}},
        {"$array": {**ARRAY, "shape": [-1]}},
        {"$array": {**ARRAY, "shape": [True]}},
        {"$array": {**ARRAY, "shape": 1}},
        {"$array": {**ARRAY, "shape": [10**30, 0], "data": ""}},
        {"$array": {**ARRAY, "shape": [10**9], "data": "", "dtype": "S0"}},
        {"$array": {**ARRAY, "shape": [1] * 100}},
        {"$array": {**ARRAY, "dtype": "O"}},
        {"$array": {**ARRAY, "dtype": "i4,i4"}},
        {"$array": {**ARRAY, "dtype": "nothing"}},
        {"$array": {**ARRAY, "dtype": ["<i4"]}},
        {"$array": {**ARRAY, "data": "AAAA"}},
        {"$array": {**ARRAY, "data": "***"}},
        {"$bytes": "***"},
        {"$bytes": 1},
        {"$arrow": {"kind": "table", "data": "AAAA"}},
        {"$arrow": {"kind": "table", "data": ""}},
        {"$arrow": {"kind": "pickle", "data": "AAAA"}},
        {"$arrow": "AAAA"},
        {"$float": "1e3"},
        {"$float": [1]},
        {"$pairs": [[1]]},
        {"$pairs": [[[1], 2]]},
        {"$pairs": 1},
        {"$dict": 1},
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_a_mark_with_something_else_behind_it_is_a_bad_request(wrong):
    with pytest.raises(BadRequest, match=r"inputs: \$") as caught:
        InferenceRequest.model_validate_json(json.dumps({"inputs": [wrong]}))
    assert "\n" not in str(caught.value)


def test_a_torn_arrow_stream_is_a_bad_request():
    packed = encode(pa.table({"a": list(range(1000))}), "inputs")
    data = packed["$arrow"]["data"]
    for kind in ("table", "batch", "array", "chunked"):
        for length in (8, len(data) // 8 * 4, len(data) - 64):
            with pytest.raises(BadRequest, match="arrow"):
                decode({"$arrow": {"kind": kind, "data": data[:length]}}, "inputs")
    two = encode(pa.table({"a": [1], "b": [2]}), "inputs")["$arrow"]["data"]
    for kind in ("array", "chunked"):
        with pytest.raises(BadRequest, match=kind):
            decode({"$arrow": {"kind": kind, "data": two}}, "inputs")


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (np.array([1, 2]), np.array([1, 3])),
        (np.array([1, 2]), np.array([1, 2], "i2")),
        (np.array([1, 2]), np.array([[1, 2]])),
        (np.array([1, 2]), [1, 2]),
        (np.float64(1), np.array(1.0)),
        (pa.array([1]), pa.array([2])),
        (pa.array([1]), pa.array([1.0])),
        (pa.array([1]), pa.chunked_array([[1]])),
        (pa.table({"a": [1]}), pa.table({"b": [1]})),
        (pa.table({"a": [1]}), pa.record_batch({"a": [1]})),
        (pa.array([1]), [1]),
        ([1], [1, 1]),
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"b": 1}),
        (float("nan"), 0.0),
        ("1", 1),
    ],
    ids=spoken,
)
def test_requests_with_other_inputs_are_not_equal(left, right):
    one = InferenceRequest(request_id="r", inputs=left)
    for other in (InferenceRequest(request_id="r", inputs=right), "r"):
        assert one != other
        assert other != one
    assert one == InferenceRequest(request_id="r", inputs=left)


@pytest.mark.parametrize("callable_", [positive, Answer, Answer.check, len], ids=spoken)
def test_a_callable_is_written_under_the_name_that_imports_it(callable_):
    request = InferenceRequest(inputs=1, validator=callable_, strategy=callable_)
    found = again(request)
    assert found.validator == f"{callable_.__module__}:{callable_.__qualname__}"
    assert found == request
    assert request == found
    assert again(found) == found


class Ranker:
    def __call__(self, *_: object) -> list[object]:
        return []

    def method(self) -> None: ...


@pytest.mark.parametrize(
    "callable_", [lambda answer: answer, partial(positive), Ranker(), Ranker().method], ids=spoken
)
def test_a_callable_without_such_a_name_is_refused_when_it_is_written(callable_):
    for field in ("validator", "strategy"):
        request = InferenceRequest(inputs=1, **{field: callable_})
        assert request == request.model_copy()
        assert cloudpickle.loads(cloudpickle.dumps(request)).request_id == request.request_id
        with pytest.raises(BadRequest, match=r"package\.module:name") as caught:
            request.model_dump_json()
        assert field in str(caught.value)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (1, 1.0),
        (0.25, 0.25),
        ("300ms", 0.3),
        ("2", 2.0),
        ("1.5 s", 1.5),
        ("1e-1 seconds", 0.1),
        ("5us", 5e-6),
        ("5 µs", 5e-6),
        (".5s", 0.5),
        ("2 Minutes", 120.0),
        ("1h", 3600.0),
        ("1 day", 86400.0),
        (timedelta(milliseconds=20), 0.02),
        (None, None),
    ],
)
def test_a_deadline_is_seconds_however_it_is_written(given, seconds):
    assert InferenceRequest(inputs=1, deadline=given).deadline == pytest.approx(seconds)


WRONG = [
    ("deadline", 0),
    ("deadline", -1),
    ("deadline", float("nan")),
    ("deadline", float("inf")),
    ("deadline", "soon"),
    ("deadline", "1 fortnight"),
    ("deadline", "0ms"),
    ("deadline", ""),
    ("deadline", True),
    ("deadline", [1]),
    ("deadline", timedelta(0)),
    ("request_id", ""),
    ("request_id", 3),
    ("model_id", ""),
    ("model_id", 3),
    ("parameters", [1]),
    ("parameters", {1: 2}),
    ("strategy", ""),
    ("strategy", "  "),
    ("strategy", 3),
    ("priority", "high"),
    ("priority", 0.5),
    ("retry", 3),
    ("validator", "not a name"),
    ("validator", "module"),
    ("validator", "module:"),
    ("validator", ":name"),
    ("validator", 3),
    ("idempotent", "perhaps"),
    ("task_type", 3),
    ("metadata", None),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=spoken)
def test_a_wrong_field_is_named_with_what_to_give(field, value):
    with pytest.raises(BadRequest) as caught:
        InferenceRequest(**{"inputs": 1, field: value})
    text = str(caught.value)
    assert "\n" not in text
    assert "give " in text or "RetryPolicy" in text
    assert field in text or field == "retry"


def test_a_field_that_is_unknown_or_missing_is_named():
    with pytest.raises(BadRequest, match="did you mean inputs"):
        InferenceRequest(inputs=1, input=1)
    with pytest.raises(BadRequest, match=r"colour is no field: use one of .*deadline"):
        InferenceRequest(inputs=1, colour=1)
    with pytest.raises(BadRequest, match="inputs is missing: give"):
        InferenceRequest(model_id="m")
    with pytest.raises(BadRequest, match="tries is 0"):
        InferenceRequest(inputs=1, retry={"tries": 0})
    with pytest.raises(BadRequest, match=r"priority is 'x'.* \(and 1 more\)"):
        InferenceRequest(inputs=1, priority="x", task_type=1)
    for text in ("{", "[]", "1", "", '{"inputs": 1, "deadline": "soon"}'):
        with pytest.raises(BadRequest, match="InferenceRequest"):
            InferenceRequest.model_validate_json(text)
    with pytest.raises(BadRequest, match="deadline"):
        InferenceRequest.model_validate({"inputs": 1, "deadline": -1})


def test_requests_have_ids_of_their_own_and_share_no_defaults():
    one, other = InferenceRequest(inputs=1), InferenceRequest(inputs=1)
    assert one.request_id != other.request_id
    one.metadata["mine"] = 1
    assert other.metadata == {}
    assert one.retry.tries is None


def test_a_strategy_is_found_by_its_name_in_any_case():
    for name in ("least_loaded", "least-loaded", "LEAST_LOADED", " Least-Loaded "):
        assert InferenceRequest(inputs=1, strategy=name).strategy is DistributionStrategy.LEAST_LOADED
        assert DistributionStrategy(name) is DistributionStrategy.LEAST_LOADED
    with pytest.raises(ValueError, match="fastest"):
        DistributionStrategy("fastest")
    # whether there is such an entry point is for those who place it
    assert InferenceRequest(inputs=1, strategy="fastest").strategy == "fastest"


def test_the_strategies_are_those_that_settings_know():
    assert tuple(member.value for member in DistributionStrategy) == DISTRIBUTION_STRATEGIES


def test_a_retry_policy_names_errors_by_their_classes_and_causes():
    error = PredictError("m", "slow")
    error.__cause__ = ConnectionResetError("gone")
    assert RetryPolicy(on="ConnectionResetError").names(error)
    assert RetryPolicy(on=("OSError",)).names(error)
    assert RetryPolicy(on=(OSError,)).names(error)
    assert RetryPolicy(on=("PredictError",)).names(error)
    assert RetryPolicy(on=("Exception",)).names(error)
    assert RetryPolicy(on=(asyncio.TimeoutError,)).names(TimeoutError())
    assert not RetryPolicy(on=("Exception",)).names(KeyboardInterrupt())
    assert not RetryPolicy(on=("ValueError",)).names(error)
    assert not RetryPolicy().names(error)
    error.__cause__.__cause__ = error
    assert not RetryPolicy(on=("ValueError",)).names(error)  # and ends


def test_a_retry_policy_is_frozen_and_takes_names_only():
    policy = RetryPolicy(tries=2, on=["OSError"])
    with pytest.raises(ValidationError, match="frozen"):
        policy.tries = 3
    assert hash(policy) == hash(RetryPolicy(tries=2, on=("OSError",)))
    for wrong in (3, ["not a name"], [""], [None]):
        with pytest.raises(BadRequest, match="on is"):
            RetryPolicy(on=wrong)


def test_the_repr_is_short_whatever_the_inputs_are():
    for inputs in ("x" * 10**6, [1] * 10**6, np.zeros((100, 100)), {"a": "x" * 500}, b"x" * 500):
        text = repr(InferenceRequest(request_id="r", model_id="m", inputs=inputs))
        assert len(text) < 130
        assert "\n" not in text
    assert (
        repr(InferenceRequest(request_id="r", model_id="m", inputs="hi"))
        == "<InferenceRequest r for m: 'hi'>"
    )
    assert str(InferenceRequest(request_id="r", inputs=1)) == "<InferenceRequest r: 1>"


def test_importing_the_records_loads_nothing_heavy():
    heavy = ("torch", "transformers", "pandas", "pyarrow", "numpy", "dask", "distributed")
    code = f"import sys, altlas_flow.records; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
