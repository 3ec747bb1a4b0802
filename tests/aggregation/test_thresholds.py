"""Thresholds of scores: against all that there are, tried one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from altlas_flow.aggregation import average, vote
from altlas_flow.aggregation.judging import Judge, score_of
from altlas_flow.aggregation.thresholds import NEAR, choose, curve_of, label_of, rightness, target_of
from altlas_flow.errors import AggregationFailed, BadRequest, TargetUnreachable

pytestmark = pytest.mark.timeout(60)

# few different scores, so that many are equal
SCORES = st.one_of(
    st.none(), st.just(math.nan), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.floats(0, 1)
)
# a busy machine is slow at drawing rows, too
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

WORTH = st.sampled_from([0.0, 0.5, 1.0])
ROWS = st.lists(st.tuples(SCORES, WORTH, WORTH), min_size=1, max_size=30)


def tried(rows, threshold):
    """Share of large calls and quality, by doing what a cascade does."""
    accepted = [Judge(lambda score: score, threshold)(score)["accepted"] for score, _, _ in rows]
    right = [small if taken else large for taken, (_, small, large) in zip(accepted, rows, strict=True)]
    return accepted.count(False) / len(rows), math.fsum(right) / len(rows)


def all_tried(rows):
    scores = {score for score, _, _ in rows if score is not None and score == score}
    return [tried(rows, threshold) for threshold in (*scores, math.inf)]


def curve(rows):
    return curve_of(*zip(*rows, strict=True))


@unhurried
@given(ROWS)
def test_the_curve_tells_what_a_cascade_does_at_each_threshold(rows):
    points = curve(rows)
    for point in points:
        share, quality = tried(rows, point.threshold)
        assert point.share == share and math.isclose(point.quality, quality, abs_tol=1e-12)
    assert [point.share for point in points] == sorted({share for share, _ in all_tried(rows)} | {1.0})
    assert points[-1].threshold == math.inf and points[-1].share == 1.0


def chosen_for(points, target):
    """The point, or the error."""
    try:
        return choose(points, target)
    except TargetUnreachable as error:
        return error


@unhurried
@given(ROWS, st.floats(0, 1))
def test_a_share_is_never_exceeded_and_used_as_far_as_scores_allow(rows, wanted):
    found = chosen_for(curve(rows), wanted)
    possible = [share for share, _ in all_tried(rows) if share <= wanted + NEAR]
    if not possible:
        assert found.best == min(share for share, _ in all_tried(rows))
        return
    share, _ = tried(rows, found.threshold)
    assert share == found.share == max(possible)


@unhurried
@given(ROWS, st.floats(0, 1))
def test_a_quality_is_reached_with_the_fewest_large_calls(rows, wanted):
    found = chosen_for(curve(rows), {"quality": wanted})
    possible = [share for share, quality in all_tried(rows) if quality >= wanted - NEAR]
    if not possible:
        assert math.isclose(found.best, max(quality for _, quality in all_tried(rows)))
        return
    share, quality = tried(rows, found.threshold)
    assert quality >= wanted - 2 * NEAR and share == min(possible)


def test_rows_of_equal_scores_go_the_same_way():
    points = curve_of([0.5] * 9 + [0.9])
    assert [(point.threshold, point.share) for point in points] == [(0.5, 0.0), (0.9, 0.9), (math.inf, 1.0)]
    assert choose(points, 0.5).share == 0.0
    assert choose(points, {"share": 0.9}).threshold == 0.9


def test_what_cannot_be_reached_is_told_with_the_best():
    with pytest.raises(TargetUnreachable, match=r"quality of 0.9: the best on this sample is 0.5") as caught:
        choose(curve_of([0.1, 0.2], [1, 0], [1, 0]), {"quality": 0.9})
    assert (caught.value.target, caught.value.wanted, caught.value.best) == ("quality", 0.9, 0.5)
    with pytest.raises(TargetUnreachable, match=r"at least 0.5 of the sample"):
        choose(curve_of([None, 0.2]), 0.25)


def test_a_quality_needs_truths():
    with pytest.raises(BadRequest, match="truths"):
        choose(curve_of([0.1, 0.2]), {"quality": 0.9})


@pytest.mark.parametrize(
    "target",
    [None, True, -0.1, 1.1, math.nan, "0.5", {}, {"speed": 1}, {"share": "x"}, {"share": 0.1, "quality": 1}],
    ids=repr,
)
def test_a_target_that_is_none(target):
    with pytest.raises(BadRequest, match=r"give {'share': 0.2}"):
        target_of(target)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ({"label": "a", "score": np.float32(0.5)}, 0.5),
        ([{"label": "a", "score": 0.25}, {"label": "b", "score": 0.75}], 0.75),
        ({3: 0.125, 5: 0.875}, 0.875),
        (np.float64(0.25), 0.25),
        (2, 2.0),
    ],
    ids=["label", "labels", "map", "numpy", "number"],
)
def test_the_score_of_an_answer(answer, score):
    assert score_of(answer) == score


@pytest.mark.parametrize("answer", ["yes", True, {"a": "b"}, {}, {"score": "high"}, np.zeros(3)], ids=repr)
def test_an_answer_without_a_score_says_what_to_do(answer):
    with pytest.raises(BadRequest, match=r"has no score: .* accept="):
        score_of(answer)


def test_agreement_is_exact_however_weights_are_added():
    judge = Judge("agreement", 2 / 3, vote())
    assert judge({"a": 1, "b": 1, "c": 2}) == {"accepted": True, "verdict": 1, "score": 0.666667}
    assert not Judge("agreement", 0.7, vote())({"a": 1, "b": 1, "c": 2})["accepted"]
    tenths = Judge("agreement", 0.6, vote(weights=[0.1, 0.2, 0.3, 0.4]))
    assert tenths({"a": 1, "b": 1, "c": 1, "d": 2})["accepted"]


def test_the_verdict_of_several_may_have_a_score_of_its_own():
    judge = Judge("score", 0.7, average())
    found = judge({"a": {"x": 0.5, "y": 0.5}, "b": {"x": 1.0, "y": 0.0}})
    assert found == {"accepted": True, "verdict": {"x": 0.75, "y": 0.25}, "score": 0.75}


def test_no_answer_is_never_accepted():
    nothing = {"accepted": False, "verdict": None, "score": None}
    assert Judge(lambda answer: True, 0.0)(None) == nothing
    assert Judge("agreement", 0.0, vote())({"a": None, "b": None}) == nothing


def test_what_accept_gives_is_looked_at():
    with pytest.raises(BadRequest, match="accept= gave a text"):
        Judge(lambda answer: "yes", 0.5)(1)
    with pytest.raises(AggregationFailed, match=r"cascade\(accept=\)"):
        Judge(lambda answer: answer["label"], 0.5)({})
    assert Judge(lambda answer: np.bool_(True), 0.5)(1) == {"accepted": True, "verdict": 1, "score": None}


def test_answers_are_right_by_their_labels():
    answers = [{"label": 3, "score": 0.9}, {3: 0.2, 5: 0.8}, 4, np.int64(4), [{"label": "a", "score": 1}]]
    assert rightness(answers, [3, 3, 4, 4, "a"]) == [1, 0, 1, 1, 1]
    assert label_of({"a": "b"}) == {"a": "b"}
    assert rightness(["a b"], ["b"], lambda answer, truth: 0.5 * (truth in answer)) == [0.5]
    with pytest.raises(BadRequest, match="right= gave 2"):
        rightness([1], [1], lambda answer, truth: 2)
