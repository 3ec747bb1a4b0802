"""What `run` and `submit` would refuse is refused where it is written, and names the stage."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

import altlas_flow as af
from altlas_flow import Pipeline, Stage
from altlas_flow.cluster.client import named
from altlas_flow.cluster.scheduler import catalog
from altlas_flow.errors import (
    BadRequest,
    InputError,
    NothingPredicted,
    PipelineError,
    SpecError,
    StageFailed,
    UnknownModel,
)
from altlas_flow.pipeline.step import compile_pipeline
from altlas_flow.records import DistributionStrategy

pytestmark = pytest.mark.timeout(90)

LIMIT = 60
A, B = Stage("a", function=len), Stage("b", function=len)


def refused(make, kind=PipelineError):
    with pytest.raises(kind) as error:
        make()
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------- strategies


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ("FASTEST", "strategy: 'FASTEST' is the name of none: choose one of ROUND_ROBIN, LEAST_LOADED"),
        ("least-loadde", "strategy: 'least-loadde' is the name of none: did you mean LEAST_LOADED?"),
        (3, "strategy: 3 is none: give a name"),
    ],
    ids=["unknown", "near", "number"],
)
def test_a_strategy_that_is_none_is_refused(strategy, said):
    assert refused(lambda: Stage("a", function=len, strategy=strategy)).startswith(f"stage 'a': {said}")


def test_strategies_that_there_are_are_taken(monkeypatch):
    class Point:
        name = "mine"

    monkeypatch.setattr(
        named, "entry_points", lambda group: [Point()] if group == catalog.STRATEGY_GROUP else []
    )
    for strategy in (None, "mine", "least_loaded", DistributionStrategy.ROUND_ROBIN, lambda asked, nodes: 0):
        assert Stage("a", function=len, strategy=strategy).strategy is strategy


# ---------------------------------------------------------------- resources, combine, outputs


@pytest.mark.parametrize("amount", ["one", True, 0, -1, float("inf"), float("nan"), None], ids=str)
def test_a_resource_has_an_amount(amount):
    said = refused(lambda: Stage("a", function=len, resources={"GPU": amount}))
    assert said == f"stage 'a': resources: 'GPU' is {amount!r}, which is no amount: give a number above 0"


@pytest.mark.parametrize("amount", [1, 0.5, np.float64(2)], ids=str)
def test_amounts_are_numbers(amount):
    assert Stage("a", function=len, resources={"GPU": amount}).resources == {"GPU": amount}


AMISS = {
    "quorum": (lambda: af.vote(quorum=5), "quorum=5 of 2 models can never be reached"),
    "name": (
        lambda: af.vote(weights={"zz": 1}),
        "weights have one for 'zz', which is not asked: there are a, b",
    ),
    "near": (
        lambda: af.average(weights={"a": 1, "bb": 1}),
        "weights have one for 'bb', which is not asked: did you mean 'b'?",
    ),
    "one lacks": (lambda: af.vote(weights={"a": 1}), "weights have none for model 'b'"),
    "count": (lambda: af.vote(weights=[1, 2, 3]), "weights=[1, 2, 3] are not those of 2 models"),
    "every": (lambda: af.every(quorum=3), "quorum=3 of 2 models"),
    "ensemble": (lambda: af.ensemble(quorum=3), "quorum=3 of 2 models"),
}


@pytest.mark.parametrize("name", AMISS)
def test_an_aggregator_that_does_not_fit_its_stages_is_refused(name):
    make, said = AMISS[name]
    text = refused(lambda: Stage("v", combine=make(), after=("a", "b")))
    assert text.startswith(f"stage 'v': combine: {said}")


def test_an_aggregator_over_what_inputs_makes_is_checked_when_it_combines():
    spread = Stage("v", combine=af.vote(quorum=3), after="a", inputs=lambda one: dict.fromkeys("xyz", one))
    assert spread.combine.quorum == 3
    assert Stage("v", combine=af.vote(quorum=0.9, weights=[1, 2]), after=("a", "b")).kind == "combine"
    # what is recorded, and whether it is fitted, may change until then
    asked = []
    Stage("v", combine=af.vote(quality=asked.append), after=("a", "b"))
    Stage("v", combine=af.Stacking(None), after=("a", "b"))
    assert not asked


def test_outputs_are_those_of_the_pipeline_and_have_types():
    said = refused(lambda: Pipeline([A], outputs={"a": "strin"}))
    assert said.startswith("pipeline 'pipeline': outputs: a: 'strin' is no Arrow type")
    text = refused(lambda: Pipeline([A, B], outputs={"a": "int64", "b": "int64", "c": "int64"}))
    assert "outputs= declares 'c', which is no output of it (there are a, b)" in text
    for outputs in ({"a": "int64"}, {"b": "int64", "a": "int64"}):
        text = refused(lambda outputs=outputs: Pipeline([A, B], outputs=outputs))
        assert text == (
            f"pipeline 'pipeline': outputs= declares {', '.join(outputs)}, and it answers with a, b: "
            "declare these, in this order"
        )
    assert "texts" in refused(lambda: Pipeline([A], outputs={"a": 3}))
    assert Pipeline([A], outputs={"length": "int64"}).outputs == {"length": "int64"}  # a column's name


# ---------------------------------------------------------------- models


def test_a_task_that_nobody_does_is_refused_before_anything_is_sent(flow):
    spec = af.ModelSpec(id="refused-task", task="text-generatoin", source="./nofolder")
    made = Pipeline([Stage("a", spec)])
    said = refused(lambda: compile_pipeline(made, lambda model: model))
    assert said.startswith("stage 'a': model 'refused-task': runtime 'transformers' does not know task")
    assert "'text-generatoin'" in refused(lambda: flow.submit(made, "x"))


def test_an_unknown_model_names_its_stage(flow):
    inner = Pipeline([Stage("b", "refused-nobody", after="input")], id="inner")
    made = Pipeline([Stage("a", function=str.strip), Stage("all", pipeline=inner, after="a")])
    error = refused(lambda: flow.submit(made, "x"), UnknownModel)
    assert error.startswith("stage 'all.b': no model 'refused-nobody' is registered")
    with pytest.raises(UnknownModel) as caught:
        flow.compile(made)
    assert caught.value.stage == "all.b" and caught.value.model == "refused-nobody"


# ---------------------------------------------------------------- cascades


def test_a_cascade_of_one_model_is_refused():
    said = refused(lambda: af.cascade("a", "a"))
    assert said.startswith("cascade 'cascade': a is both small and large")
    refused(lambda: af.cascade(["b", "a"], "a"))
    refused(lambda: af.cascade(af.ModelSpec(id="a", source="x"), af.ModelSpec(id="a", source="x")))
    refused(lambda: af.cascade(Stage("s", "a"), "a"))
    assert af.cascade(Stage("s", "a", parameters={"n": 1}), Stage("l", "a", parameters={"n": 9})).large


def test_a_cascade_says_that_its_aggregator_does_not_fit():
    said = refused(lambda: af.cascade(["a", "b"], "c", combine=af.vote(quorum=5)))
    assert said.startswith("cascade 'cascade': quorum=5 of 2 models can never be reached")
    assert "small-1, small-2" in refused(
        lambda: af.cascade(["a", "b"], "c", combine=af.vote(weights={"zz": 1}))
    )


# ---------------------------------------------------------------- over rows


def test_output_names_no_column_of_several(flow, tmp_path):
    frame = pd.DataFrame({"text": ["x", "yy"]})
    two = Pipeline([A, B], id="two")
    expected = (
        "output='o' names one column, and pipeline 'two' has 2 outputs, each of which gets a column of its "
        "name (a, b): leave output= out"
    )
    assert refused(lambda: flow.map(frame, two, input="text", output="o"), InputError) == expected
    run = {"input": "text", "output": "o", "to": tmp_path / "out"}
    assert refused(lambda: flow.run(frame, two, **run), InputError) == expected
    assert not (tmp_path / "out").exists()
    import dask.dataframe as dd

    lazy = dd.from_pandas(frame, npartitions=1)
    assert refused(lambda: flow.map(lazy, two, input="text", output="o"), InputError) == expected
    assert list(flow.map(frame, Pipeline([A]), input="text", output="o")["o"]) == [1, 2]


@pytest.mark.parametrize("to", [None, 3], ids=str)
def test_to_is_a_folder(flow, to):
    frame = pd.DataFrame({"text": ["x"]})
    said = refused(lambda: flow.run(frame, Pipeline([A]), input="text", to=to), InputError)
    assert said == f"to={to} is no folder: give the path of one, to write into"


def test_a_fault_of_the_setup_does_not_advise_to_mend_rows(flow, tmp_path):
    def spread(text):
        return dict.fromkeys("xy", text)

    made = Pipeline([Stage("v", combine=af.vote(quorum=3), inputs=spread)], id="spread")
    frame = pd.DataFrame({"text": ["x", "yy"]})
    text = refused(lambda: flow.run(frame, made, input="text", to=tmp_path / "out"), NothingPredicted)
    assert text.startswith("pipeline 'spread' answered none of the 2 rows: stage 'v': ")
    assert "quorum=3 of 2 models can never be reached" in text and "mend the rows" not in text


def test_answers_of_mixed_types_name_the_stage_and_the_row(flow, tmp_path):
    def mixed(text):
        return "three" if text == "number" else len(text)

    made = Pipeline([Stage("a", function=str.strip), Stage("end", function=mixed, after="a")], id="mixed")
    frame = pd.DataFrame({"text": ["x", "text", "number", "x"]})
    text = refused(lambda: flow.run(frame, made, input="text", to=tmp_path / "out"), SpecError)
    assert re.match(r"stage 'end', row \S*:2: the answers cannot be put into a column", text)


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    "answer", ["ab", None, 3, np.float64(1)], ids=["text", "nothing", "number", "scalar"]
)
def test_a_batched_function_is_told_the_word_of_stages(flow, answer):
    made = Pipeline([Stage("a", function=lambda rows: answer, batched=True)])
    text = refused(lambda: flow.submit(made, ["x", "y"]).result(LIMIT), StageFailed)
    assert "leave batched= out" in text and "single" not in text


@pytest.mark.parametrize(
    "function",
    [list, tuple, lambda rows: np.array([len(row) for row in rows]), pd.Series],
    ids=["list", "tuple", "array", "series"],
)
def test_a_batched_function_answers_with_what_has_entries(flow, function):
    made = Pipeline([Stage("a", function=function, batched=True)])
    assert len(flow.submit(made, ["x", "y"]).result(LIMIT).outputs) == 2


def test_a_picture_takes_a_result_for_its_report(flow):
    made = Pipeline([A])
    result = flow.submit(made, "four").result(LIMIT)
    assert made.mermaid(result) == made.mermaid(result.report) != made.mermaid()
    assert made.svg(result) == made.svg(result.report)
    for draw in (made.mermaid, made.svg):
        assert refused(lambda draw=draw: draw(3), BadRequest).startswith("3 is no report: give result.report")
