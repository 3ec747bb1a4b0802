"""Aggregators in pipeline files: by name, with what they are made of."""

from __future__ import annotations

import inspect

import pytest

import altlas_flow as af
from altlas_flow import aggregation
from altlas_flow.errors import PipelineError
from altlas_flow.pipeline.document import Combine
from tests.pipeline import functions

HERE = "tests.pipeline.functions"


def stages(combine):
    return [
        {"name": "a", "model": "x"},
        {"name": "b", "model": "y"},
        {"name": "end", "combine": combine, "after": ["a", "b"]},
    ]


def made(combine):
    return af.Pipeline.from_dict({"stages": stages(combine)})


WAYS = {
    "vote": af.vote(),
    "average": af.average(),
    "every": af.every(),
    "first": af.first(),
    "ensemble": af.ensemble(),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_name_alone_stands_for_the_defaults(name):
    pipeline = made(name)
    assert pipeline["end"].combine.label() == WAYS[name].label()
    assert made({name: {}}).to_dict() == pipeline.to_dict()
    assert pipeline.to_dict()["stages"][-1]["combine"] == name


OPTIONS = [
    {"vote": {"quorum": 2, "weights": {"a": 1.0, "b": 0.5}}},
    {"vote": {"key": f"{HERE}:clean"}},
    {"average": {"weights": [1.0, 2.0], "quorum": 0.5}},
    {"every": {"quorum": 1}},
    {"first": {"valid": f"{HERE}:is_long"}},
    {"ensemble": {"how": "rank_fusion", "k": 10.0, "weights": [1.0, 3.0]}},
    {"ensemble": {"how": f"{HERE}:largest"}},
]


@pytest.mark.parametrize("said", OPTIONS, ids=str)
def test_options_are_read_and_written(said):
    pipeline = made(said)
    assert pipeline.to_dict()["stages"] == stages(said)
    [options] = said.values()
    for option, value in options.items():
        found = getattr(pipeline["end"].combine, option)
        assert found == value or found.__name__ == value.partition(":")[2]


def test_they_combine():
    assert made("vote")["end"].combine.combine({"a": "yes", "b": "yes"}) == "yes"
    weighed = made({"average": {"weights": {"a": 3, "b": 1}}})["end"].combine
    assert weighed.combine({"a": 0.0, "b": 1.0}) == pytest.approx(0.25)
    assert made(f"{HERE}:largest")["end"].combine is functions.largest


def test_a_file_offers_what_the_functions_take():
    assert set(Combine.model_fields) == set(WAYS)
    for name, info in Combine.model_fields.items():
        taken = inspect.signature(getattr(aggregation, name)).parameters
        # quality= is what was recorded of models, and no part of a pipeline
        assert set(info.annotation.model_fields) == set(taken) - {"quality"}


def test_what_an_aggregator_refuses_names_the_stage():
    with pytest.raises(PipelineError, match=r"^pipeline: stage 'end': combine: quorum=0 is none"):
        made({"vote": {"quorum": 0}})
    with pytest.raises(PipelineError, match=r"^stage 'end': combine cannot be written: quality= of af.vote"):
        af.Pipeline(
            [
                af.Stage("a", model="x"),
                af.Stage("end", combine=af.vote(quality={"a": 1.0}), after="a"),
            ]
        ).to_dict()
