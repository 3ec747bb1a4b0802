"""Traces: how they read, and their JSON."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from altlas_flow.errors import BadRequest
from altlas_flow.records import Trace, Try

text = st.text(max_size=12)
traces = st.builds(
    Trace,
    strategy=text,
    node=text,
    score=st.none() | st.floats(),
    runners_up=st.lists(st.tuples(text, st.floats()), max_size=5),
    refused=st.dictionaries(text, st.integers(1, 10**6), max_size=3),
    held=st.floats(0),
    placing=st.floats(0),
    queue=st.floats(0),
    load=st.floats(0),
    predict=st.floats(0),
    batch=st.integers(0),
    envelope=st.integers(0),
    tries=st.lists(st.builds(Try, node=text, error=text, seconds=st.floats(0)), max_size=3),
    notes=st.lists(text, max_size=3),
)

FULL = Trace(
    strategy="LEAST_LOADED",
    node="gpu-1",
    score=0.5,
    runners_up=[("cpu-2", 1), ("cpu-3", 2)],
    refused={"it declares GPU=0 and GPU=1 is needed": 2},
    placing=0.0004,
    queue=0.0012,
    predict=0.0031,
    batch=32,
    envelope=8,
    tries=[Try(node="cpu-1", error="died", seconds=0.2)],
)


@given(traces)
def test_a_trace_is_the_same_after_a_json_round_trip(trace):
    written = trace.model_dump_json()
    json.loads(written, parse_constant=pytest.fail)
    assert Trace.model_validate_json(written) == trace
    assert pickle.loads(pickle.dumps(trace)) == trace


@given(traces)
def test_a_built_trace_is_the_checked_one(trace):
    fields = {name: getattr(trace, name) for name in Trace.model_fields}
    built = Trace.build(**fields)
    assert built == trace
    assert built.model_dump_json() == trace.model_dump_json()
    assert repr(built) == repr(trace)


def test_an_empty_trace_is_the_built_one_and_prints_nothing():
    assert Trace.build() == Trace()
    assert str(Trace()) == ""
    assert Trace.build().notes is not Trace.build().notes
    assert Trace.build().model_dump() == Trace().model_dump()


@given(traces)
def test_lines_have_a_label_a_text_and_no_trailing_spaces(trace):
    lines = str(trace).split("\n") if str(trace) else []
    assert len(lines) == len(trace.lines())
    for line in lines:
        assert line == line.rstrip()
        assert line[10] == " "
        assert line[11] != " "
    assert "\n" not in repr(trace)


def test_a_trace_reads_as_aligned_lines():
    assert str(FULL).split("\n") == [
        "node       gpu-1, by LEAST_LOADED (score 0.5; then cpu-2 1, cpu-3 2)",
        "refused    2 nodes: it declares GPU=0 and GPU=1 is needed",
        "waited     held 0 ms, placing 0.4 ms, queue 1.2 ms, loading 0 ms",
        "predicted  in 3.1 ms, in a batch of 32 rows, an envelope of 8 requests",
        "tries      2: cpu-1 died after 0.2 s; answered on gpu-1",
    ]
    assert repr(FULL) == "<Trace: gpu-1 by LEAST_LOADED, 4.7 ms>"


def test_lines_without_content_are_left_out_and_one_is_singular():
    assert str(Trace(node="w0", batch=1, envelope=1)).split("\n") == [
        "node       w0",
        "predicted  in a batch of 1 row, an envelope of 1 request",
    ]


def test_what_is_many_is_counted_with_the_most_frequent_first():
    trace = Trace(
        node="n",
        runners_up=[(f"n{at}", at) for at in range(10)],
        refused={"is cordoned": 1, "has\nno memory": 7},
        notes=["one", "two"],
        held=200.0,
        load=7300.0,
    )
    assert str(trace).split("\n") == [
        "node       n (then n0 0, n1 1, n2 2 and 7 more)",
        "refused    7 nodes: has no memory",
        "           1 node: is cordoned",
        "waited     held 3.3 min, placing 0 ms, queue 0 ms, loading 2.0 h",
        "notes      one",
        "           two",
    ]


def test_a_request_that_was_not_answered_says_so():
    trace = Trace(
        tries=[
            Try(node="a", error="PredictError: bad", seconds=1.5),
            Try(node="b", error="fell silent", seconds=10),
        ]
    )
    expected = (
        "tries      2: a failed after 1.5 s (PredictError: bad); b fell silent after 10.0 s; not answered"
    )
    assert str(trace) == expected


def test_html_has_the_same_texts_escaped():
    trace = Trace(node="<script>", strategy="A&B", notes=["<b>"])
    html = trace._repr_html_()
    assert "<script>" not in html
    assert "<b>" not in html
    assert "&lt;script&gt;, by A&amp;B" in html
    assert html.startswith("<table>") and html.endswith("</table>")


def test_a_wrong_field_of_a_trace_is_named():
    with pytest.raises(BadRequest, match=r"Trace: nods is no field: did you mean node\?"):
        Trace(nods="a")
    with pytest.raises(BadRequest, match="Trace: held is 'long'"):
        Trace(held="long")
    with pytest.raises(ValidationError, match="frozen"):
        FULL.tries[0].node = "other"


def test_nodes_that_have_numbers_for_names_are_told_from_counts():
    tries = [Try(node="2", error="died", seconds=0.2)]
    assert "2: node 2 died after 0.2 s; answered on node 0" in str(Trace(node="0", tries=tries))
