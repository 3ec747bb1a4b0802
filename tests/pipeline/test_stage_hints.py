"""What is given in the wrong place, or under a wrong name, is told where it belongs."""

from __future__ import annotations

import math
import re

import pytest

import altlas_flow as af
from altlas_flow import Pipeline, Stage
from altlas_flow.aggregation import Aggregator, aggregator_of
from altlas_flow.aggregation.thresholds import Point
from altlas_flow.errors import BadRequest, PipelineError
from altlas_flow.pipeline.cascade import Cascade

INNER = Pipeline([Stage("kw", function=str.split)], id="inner")


@pytest.mark.parametrize(
    ("given", "keyword"),
    [
        (INNER, "pipeline="),
        (af.cascade(len, str.upper, id="c"), "pipeline="),
        (str.strip, "function="),
        (af.vote(), "combine="),
        (af.vote, "combine="),
    ],
    ids=["pipeline", "cascade", "function", "aggregator", "maker"],
)
def test_what_is_no_model_is_told_its_keyword(given, keyword):
    with pytest.raises(PipelineError, match=f"^stage 'a': model=.*: give it as {keyword}$"):
        Stage("a", given)
    assert Stage("a", **{keyword[:-1]: given}).kind == keyword[:-1]


def test_what_is_nothing_of_a_stage_gets_no_hint():
    with pytest.raises(PipelineError, match=r"is neither an id nor a ModelSpec$"):
        Stage("a", 3)


@pytest.mark.parametrize("after", [3, 0, 1.5, ["b", 3], Stage("b", function=len)], ids=str)
def test_after_that_names_no_stages_is_refused(after):
    with pytest.raises(PipelineError, match=r"^stage 'a': after=.* names no stages: give their names"):
        Stage("a", function=len, after=after)


def test_a_cascade_is_a_stage_of_another_pipeline(flow):
    inner = af.cascade(len, str.upper, accept=lambda size: size < 3)
    outer = Pipeline([Stage("sub", pipeline=inner)])
    result = flow.submit(outer, "four", keep=True).result()
    assert result.outputs == "FOUR"
    assert "sub.small" in result


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("first", "FIRST_RESPONSE"),
        ("every", "ALL_RESPONSES"),
        ("vote", "MAJORITY_VOTE"),
        ("average", "WEIGHTED_AVERAGE"),
        ("ensemble", "ENSEMBLE"),
    ],
)
def test_aggregators_have_the_names_of_files_beside_those_of_strategies(name, strategy):
    found = aggregator_of(name)
    assert isinstance(found, Aggregator)
    assert type(found) is type(aggregator_of(strategy))
    assert type(Stage("a", combine=name, after=("b", "c")).combine) is type(found)


def test_a_name_of_no_aggregator_is_told_those_there_are():
    with pytest.raises(BadRequest, match="one of first, every, vote, average, ensemble, FIRST_RESPONSE, "):
        aggregator_of("voting")


def test_a_cascade_that_accepts_nothing_says_so():
    made = af.cascade(len, str.upper, threshold=math.inf)
    assert repr(made) == "<Cascade cascade: always the large one, upper: none of len is enough>"
    told = af.cascade(len, str.upper, accept=lambda size: size < 3, threshold=math.inf)
    assert "always" not in repr(told), "a function may still say True"
    measured = Cascade(told.small, told.large, judge=told.judge, curve=(Point(math.inf, 1.0, 1.0),))
    assert "always the large one" in repr(measured)


def test_declared_columns_are_the_names_of_several_outputs():
    stages = [Stage("a", function=len), Stage("b", function=str.upper)]
    assert Pipeline(stages, outputs={"a": "int64", "b": "string"}).outputs == {"a": "int64", "b": "string"}
    expected = "outputs= declares 'size', which is no output of it (there are a, b)"
    with pytest.raises(PipelineError, match=re.escape(expected)):
        Pipeline(stages, outputs={"size": "int64", "b": "string"})
    assert Pipeline(stages, output="a", outputs={"size": "int64"}).outputs == {"size": "int64"}, "one: any"
    with pytest.raises(PipelineError, match="is no mapping of columns to types"):
        Pipeline(stages, outputs="int64")
