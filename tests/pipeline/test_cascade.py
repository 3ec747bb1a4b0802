"""Cascades: who is asked, what counts, and where the threshold comes from."""

from __future__ import annotations

import os
import pickle
import runpy
import subprocess
import sys

import pytest

import altlas_flow as af
from altlas_flow import ModelSpec, Pipeline, Stage
from altlas_flow.errors import BadRequest, PipelineError, StageFailed, TargetUnreachable

pytestmark = pytest.mark.timeout(120)

LIMIT = 60  # seconds that any one wait may take


def sure(number):
    """Sure of small numbers."""
    return {"label": number % 2, "score": 1.0 - number / 10}


def parity(number):
    return {"label": number % 2, "score": 1.0, "from": "large"}


def broken(number):
    raise ValueError(f"no {number} today")


def ask(flow, cascade, inputs, **options):
    return flow.submit(cascade, inputs, **options).result(LIMIT)


def who(outputs):
    return ["large" if "from" in one else "small" for one in outputs]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("text", "small", "options"),
    [
        ("names no model", [], {}),
        ("accept='sure' is none", len, {"accept": "sure"}),
        ("accept=True is none", len, {"accept": True}),
        ("nobody to agree with", len, {"accept": "agreement"}),
        ("nobody to agree with", len, {"combine": "MAJORITY_VOTE"}),
        ("leave threshold= out", len, {"accept": 0.5, "threshold": 0.6}),
        ("threshold='high' is no number", len, {"threshold": "high"}),
        ("threshold=nan", len, {"threshold": float("nan")}),
        ("explain=1", len, {"explain": 1}),
        ("combine='BEST'", [len, len], {"combine": "BEST"}),
        ("3 is no model", 3, {}),
        ("has when= or after=", Stage("a", function=len, when=bool), {}),
        ("no name of a pipeline", len, {"id": ""}),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_a_cascade_that_cannot_be_meant(text, small, options):
    with pytest.raises(PipelineError, match=text) as caught:
        af.cascade(small, len, **options)
    assert "\n" not in str(caught.value)


def test_it_says_what_it_is_and_stays_as_it_is():
    one = af.cascade("minilm", ModelSpec(id="bge", source="/models/bge"), accept=0.8)
    assert repr(one) == "<Cascade cascade: minilm, or bge where the score is below 0.8>"
    assert isinstance(one, af.Cascade) and one.as_pipeline() is one.as_pipeline()
    assert [stage.name for stage in one.as_pipeline()] == ["small", "judge", "large", "answer"]
    with pytest.raises(AttributeError):
        one.id = "other"
    again = pickle.loads(pickle.dumps(one))
    assert repr(again) == repr(one) and again.judge == one.judge
    several = af.cascade(["a", "b"], "c", id="vote")
    assert repr(several) == "<Cascade vote: a, b, or c where the agreement is below 1>"


# ---------------------------------------------------------------- who is asked


def test_the_large_one_is_asked_only_where_the_small_one_is_unsure(flow):
    found = ask(flow, af.cascade(sure, parity, accept=0.7), [0, 9, 2, 5, 3], keep=True)
    assert who(found.outputs) == ["small", "large", "small", "large", "small"]
    assert found["large"].batch_size == 2
    assert [one["accepted"] for one in found.outputs_of("judge")] == [True, False, True, False, True]


def test_a_request_tells_who_answered(flow):
    cascade = af.cascade(sure, parity, accept=0.7)
    first, second = ask(flow, cascade, 1), ask(flow, cascade, 8)
    assert first["large"].metadata["skipped"] and "skipped" not in second["large"].metadata
    assert first.outputs == {"label": 1, "score": 0.9} and second.outputs["from"] == "large"


def test_where_none_is_unsure_the_large_one_may_be_broken(flow):
    cascade = af.cascade(sure, broken, accept=0.5)
    assert [one["label"] for one in ask(flow, cascade, [1, 2, 3]).outputs] == [1, 0, 1]
    with pytest.raises(StageFailed, match="no 9 today"):
        ask(flow, cascade, [1, 9])


def test_an_optional_large_one_leaves_the_small_ones_answer(flow):
    cascade = af.cascade(sure, Stage("big", function=broken, optional=True), accept=0.5, explain=True)
    small, unsure = ask(flow, cascade, [1, 9]).outputs
    assert small == {"answer": {"label": 1, "score": 0.9}, "answered_by": "small", "score": 0.9}
    assert unsure["answered_by"] == "small" and unsure["answer"]["label"] == 1


def test_an_optional_small_one_that_fails_is_unsure(flow):
    found = ask(flow, af.cascade(Stage("s", function=broken, optional=True), parity), [1, 2])
    assert who(found.outputs) == ["large", "large"]


def test_an_answer_of_nothing_is_an_answer_of_the_large_one(flow):
    cascade = af.cascade(sure, lambda number: None, accept=0.7, explain=True)
    assert [one["answered_by"] for one in ask(flow, cascade, [1, 9]).outputs] == ["small", "large"]
    assert ask(flow, cascade, 9).outputs == {
        "answer": None,
        "answered_by": "large",
        "score": pytest.approx(0.1),
    }


def test_several_small_ones_have_to_agree(flow):
    smalls = [lambda number: number % 2, lambda number: number % 3 % 2, lambda number: number % 2]
    cascade = af.cascade(smalls, lambda number: "large")
    found = ask(flow, cascade, [0, 1, 2, 3], keep=True)
    assert found.outputs == [0, 1, 0, "large"]
    assert [one["score"] for one in found.outputs_of("judge")] == [1, 1, 1, 0.666667]
    most = af.cascade(smalls, lambda number: "large", accept=2 / 3)
    assert ask(flow, most, [0, 1, 2, 3]).outputs == [0, 1, 0, 1]


def test_accept_may_be_a_function_of_several_answers_by_name(flow):
    cascade = af.cascade(
        [str.upper, str.lower],
        lambda text: "large",
        accept=lambda given: given["small-1"] == given["small-2"],
        combine=af.first(),
    )
    assert ask(flow, cascade, ["a", "1"]).outputs == ["large", "1"]


def test_stages_bring_their_options_and_models_their_batches(flow):
    def scores(rows, by=1):
        return [{"label": row, "score": row / by} for row in rows]

    small = Stage("x", ModelSpec(id="cascade-scores", source=scores), inputs=len, parameters={"by": 4})
    large = Stage("y", function=str.upper, inputs=lambda text: text[:2])
    assert ask(flow, af.cascade(small, large), ["a", "abc"]).outputs == ["A", {"label": 3, "score": 0.75}]


def test_cascades_stand_in_cascades_and_in_pipelines(flow):
    inner = af.cascade(lambda number: {"label": "middle", "score": 1 - number / 20}, parity, accept=0.7)
    outer = af.cascade(sure, inner, accept=0.7)
    pipeline = Pipeline(
        [
            Stage("add", function=lambda number: number + 1),
            Stage("ask", pipeline=outer.as_pipeline(), after="add"),
            Stage("label", function=lambda answer: answer["label"], after="ask"),
        ]
    )
    assert ask(flow, pipeline, [0, 4, 6]).outputs == [1, "middle", 1]


def test_over_frames_each_part_of_an_explained_answer_is_a_column(flow):
    pd = pytest.importorskip("pandas")
    cascade = af.cascade(lambda n: 1 - n / 10, lambda n: float(n), accept=0.7, explain=True)
    found = flow.map(pd.DataFrame({"n": [1, 9, 2]}), cascade, input="n")
    assert found["answer"].tolist() == [0.9, 9.0, 0.8]
    assert found["answered_by"].tolist() == ["small", "large", "small"]
    assert found["score"].tolist() == pytest.approx([0.9, 0.1, 0.8])


# ---------------------------------------------------------------- calibration


def wrong_where_unsure(number):
    return {"label": number % 2 if number < 5 else 7, "score": 1.0 - number / 10}


NUMBERS, TRUTHS = list(range(10)), [number % 2 for number in range(10)]


@pytest.mark.parametrize("here", [True, False], ids=["here", "cluster"])
def test_a_threshold_is_found_for_a_quality(flow, here):
    cascade = af.cascade(wrong_where_unsure, parity, accept=0.0)
    found = cascade.calibrate(NUMBERS, truths=TRUTHS, target={"quality": 0.9}, flow=None if here else flow)
    # one of the five that the small one gets wrong may stay with it
    assert found.threshold == pytest.approx(0.5) and cascade.threshold == 0.0
    assert [(point.share, point.quality) for point in found.curve][3:6] == [
        (0.3, pytest.approx(0.8)),
        (0.4, pytest.approx(0.9)),
        (0.5, pytest.approx(1.0)),
    ]
    assert who(ask(flow, found, NUMBERS).outputs).count("large") == 4


def test_another_point_of_the_curve_asks_no_model():
    with pytest.raises(BadRequest, match="calibrate"):
        af.cascade(sure, parity).at(0.5)
    found = af.cascade(wrong_where_unsure, parity).calibrate(NUMBERS, truths=TRUTHS, target=0.5)
    assert found.at({"quality": 1}).threshold == found.threshold == pytest.approx(0.6)
    assert found.at(0.2).threshold == pytest.approx(0.3) and found.at(0.2).curve == found.curve
    with pytest.raises(TargetUnreachable):
        af.cascade(broken_label, broken_label).calibrate(NUMBERS, truths=TRUTHS, target={"quality": 1})


def broken_label(number):
    return {"label": "?", "score": 0.5}


def test_a_share_needs_no_large_model(flow):
    cascade = af.cascade(wrong_where_unsure, broken)
    found = cascade.calibrate(NUMBERS, target=0.25)
    assert [point.quality for point in found.curve] == [None] * 11
    assert found.threshold == pytest.approx(0.3)  # two of ten are below
    assert cascade.calibrate(NUMBERS, target={"share": 0.25}, flow=flow).threshold == found.threshold


def test_a_sample_of_several_requests_comes_back_in_order(flow):
    rows = list(range(700))
    cascade = af.cascade(lambda number: number / 700, lambda number: number)
    found = cascade.calibrate(rows, target=0.5, flow=flow, truths=rows)
    assert found.threshold == 0.5 and found.curve[-1].quality == 1.0


def test_models_are_loaded_here_without_a_flow():
    def scores(rows):
        return [{"label": row % 2, "score": row / 10} for row in rows]

    small = ModelSpec(id="scores", source=scores)
    assert af.cascade(small, parity).calibrate(NUMBERS, target=0.3).threshold == 0.3


def calibrate(cascade, sample=NUMBERS, target=0.5, **options):
    return cascade.calibrate(sample, target=target, **options)


@pytest.mark.parametrize(
    ("kind", "text", "options"),
    [
        (BadRequest, "the sample is empty", {"sample": []}),
        (BadRequest, "sample= is a str", {"sample": "abc"}),
        (BadRequest, "3 truths for 10 inputs", {"truths": [1, 2, 3]}),
        (BadRequest, "truths=", {"target": {"quality": 0.5}}),
        (BadRequest, "target=2", {"target": 2}),
        (
            TargetUnreachable,
            "the best on this sample is 0.5",
            {"target": {"quality": 0.8}, "truths": [2] * 5 + TRUTHS[5:]},
        ),
    ],
    ids=["empty", "text", "truths", "quality", "target", "unreachable"],
)
def test_a_calibration_that_cannot_be_done(kind, text, options):
    with pytest.raises(kind, match=text):
        calibrate(af.cascade(sure, parity), **options)


def test_calibration_tells_which_row_a_model_fails_on():
    with pytest.raises(StageFailed, match=r"'small' failed.*no 0 today"):
        calibrate(af.cascade(broken, parity))
    with pytest.raises(StageFailed, match=r"'large' failed.*no 0 today"):
        calibrate(af.cascade(sure, broken), truths=TRUTHS)


def test_yes_and_no_have_no_threshold():
    with pytest.raises(BadRequest, match="a score as a number"):
        calibrate(af.cascade(sure, parity, accept=lambda answer: answer["score"] > 0.5))


def test_a_model_of_a_cluster_needs_the_cluster():
    with pytest.raises(PipelineError, match="give flow="):
        calibrate(af.cascade("minilm", parity))


def test_a_frame_is_no_sample():
    pd = pytest.importorskip("pandas")
    with pytest.raises(BadRequest, match="of a frame, a column of it"):
        calibrate(af.cascade(sure, parity), pd.DataFrame({"a": NUMBERS}))
    found = calibrate(af.cascade(sure, parity), pd.DataFrame({"a": NUMBERS})["a"])
    assert found.threshold == calibrate(af.cascade(sure, parity)).threshold


# ---------------------------------------------------------------- aggregators as stages


def voting(combine, **options):
    return Pipeline(
        [
            Stage("a", function=lambda number: number % 2),
            Stage("b", function=lambda number: number % 2, **options),
            Stage("c", function=lambda number: number % 3),
            Stage("verdict", combine=combine, after=("a", "b", "c")),
        ],
        output="verdict",
    )


@pytest.mark.parametrize(
    "combine",
    ["MAJORITY_VOTE", "majority-vote", af.ResultAggregationStrategy.MAJORITY_VOTE, af.vote, af.vote()],
    ids=["name", "other", "enum", "maker", "made"],
)
def test_a_stage_combines_by_whatever_names_an_aggregator(flow, combine):
    assert ask(flow, voting(combine), [2, 3, 4]).outputs == [0, 1, 0]


def test_a_strategy_that_there_is_not():
    with pytest.raises(PipelineError, match="stage 'verdict': combine='BEST' is none"):
        voting("BEST")


def test_a_stage_that_was_skipped_has_no_vote(flow):
    pipeline = Pipeline(
        [
            Stage("a", function=lambda number: "a", when=lambda number: number > 1),
            Stage("b", function=lambda number: 1 // number and "b", optional=True),
            Stage("c", function=lambda number: "c"),
            Stage("all", combine=af.every(), after=("a", "b", "c")),
        ],
        output="all",
    )
    assert ask(flow, pipeline, [0, 1, 2]).outputs == [
        {"c": "c"},
        {"b": "b", "c": "c"},
        {"a": "a", "b": 0, "c": "c"},
    ]


def test_too_few_votes_fail_their_row_only(flow):
    pipeline = Pipeline(
        [
            Stage("a", function=lambda number: 6 // number, optional=True),
            Stage("b", function=lambda number: 6),
            Stage("mean", combine=af.average(quorum=2), after=("a", "b")),
        ]
    )
    assert ask(flow, pipeline, [2, 3]).outputs == [4.5, 4]
    with pytest.raises(StageFailed, match="'mean' failed: 1 of 2"):
        ask(flow, pipeline, [2, 0])


def test_one_stage_is_combined_by_its_name(flow):
    pipeline = Pipeline([Stage("a", function=str.upper), Stage("all", combine=af.every(), after="a")])
    assert ask(flow, pipeline, "x").outputs == {"a": "X"}


PROGRAM = """
import altlas_flow as af
from altlas_flow import Pipeline, Stage
from altlas_flow.pipeline.step import compile_pipeline


def fitted(rows):
    truths = [row % 2 for row in range(rows)]
    return af.Stacking().fit({"a": [float(one) for one in truths], "b": list(range(rows))}, truths)


def even(answer):
    return answer % 2


RECIPES = {
    "vote": lambda: af.vote(),
    "weighted": lambda: af.vote(weights={"b": 2.0, "a": 1.0}),
    "other weights": lambda: af.vote(weights={"a": 1.0, "b": 3.0}),
    "quorum": lambda: af.vote(quorum=2),
    "key": lambda: af.vote(even),
    "other key": lambda: af.vote(lambda answer: answer % 3),
    "average": lambda: af.average(),
    "every": lambda: af.every(),
    "fusion": lambda: af.ensemble("rank_fusion"),
    "fusion of 10": lambda: af.ensemble("rank_fusion", k=10),
    "stacking": lambda: af.ensemble(fitted(10)),
    "other stacking": lambda: af.ensemble(fitted(20)),
    "cascade": lambda: af.cascade(len, len, accept=0.5),
    "stricter": lambda: af.cascade(len, len, accept=0.6),
    "explained": lambda: af.cascade(len, len, accept=0.5, explain=True),
}


def fingerprint(made):
    if hasattr(made, "as_pipeline"):
        return compile_pipeline(made.as_pipeline(), None).fingerprint
    stages = [Stage("a", function=len), Stage("b", function=len), Stage("c", combine=made, after=("a", "b"))]
    return compile_pipeline(Pipeline(stages), None).fingerprint


if __name__ == "__main__":
    for make in RECIPES.values():
        print(fingerprint(make()))
"""


@pytest.mark.long
def test_equal_aggregators_have_one_fingerprint_in_all_processes_and_others_another(tmp_path):
    program = tmp_path / "recipes.py"
    program.write_text(PROGRAM)
    told = subprocess.run(
        [sys.executable, str(program)],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    ).stdout.split()
    known = runpy.run_path(str(program), run_name="recipes")
    found = [known["fingerprint"](make()) for make in known["RECIPES"].values()]
    assert found == told
    assert len(set(found)) == len(known["RECIPES"]) == 15
