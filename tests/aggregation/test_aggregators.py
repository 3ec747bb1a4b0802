"""Each aggregator by itself: what it makes of answers, and what it refuses."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

import altlas_flow as af
from altlas_flow.aggregation import Aggregator, aggregator_of
from altlas_flow.errors import AggregationFailed, BadRequest, NoQuorum, Uncombinable
from altlas_flow.models.digest import digest_callable
from altlas_flow.records import ResultAggregationStrategy

# ---------------------------------------------------------------- what is asked for


@pytest.mark.parametrize(
    ("models", "match"),
    [([], "at least one"), ("ab", "at least one"), (["a", "b", "a"], "'a' is named twice")],
)
def test_no_models_and_one_named_twice_are_refused(models, match):
    with pytest.raises(BadRequest, match=match):
        af.every().begin(models)


def test_who_was_not_asked_cannot_answer_and_nobody_answers_twice():
    tally = af.every().begin(["a", "b"])
    tally.add("a", 1)
    for act in (lambda: tally.add("a", 2), lambda: tally.miss("a", "late"), lambda: tally.add("c", 1)):
        with pytest.raises(BadRequest, match=r"answered already|was not asked"):
            act()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: af.vote(quorum=0), "count of at least 1"),
        (lambda: af.vote(quorum=1.5), "share"),
        (lambda: af.vote(quorum=True), "quorum=True"),
        (lambda: af.vote("label"), "no function"),
        (lambda: af.vote(weights=[1], quality={}), "leave one of them out"),
        (lambda: af.first("ok"), "no function"),
        (lambda: af.ensemble("best"), "mean_probabilities"),
        (lambda: af.ensemble(max, weights=[1]), "weighs by itself"),
        (lambda: af.ensemble("rank_fusion", k=-1), "k=-1"),
        (lambda: af.ensemble("rank_fusion", key="id"), "no function"),
        (lambda: af.Stacking(max), "no estimator"),
        (lambda: aggregator_of("best"), "FIRST_RESPONSE"),
        (lambda: aggregator_of(5), "combine=5"),
        (lambda: aggregator_of(dict), "combine="),
        (lambda: af.average([1, 2]).begin([*"abc"]), "3 models"),
        (lambda: af.average("12").begin([*"ab"]), "2 models"),
        (lambda: af.average({"a": 1}).begin([*"ab"]), "none for model 'b'"),
        (lambda: af.average([1, 0]).begin([*"ab"]), "above 0"),
        (lambda: af.average([1, float("nan")]).begin([*"ab"]), "above 0"),
        (lambda: af.vote(quorum=3).begin([*"ab"]), "never be reached"),
        (lambda: af.average(quality={"a": -1}).begin([*"ab"]), "at least 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, match):
    with pytest.raises(BadRequest, match=match):
        make()


@pytest.mark.parametrize(
    ("combine", "name"),
    [
        (None, "every"),
        ("majority-vote", "vote"),
        ("FIRST_RESPONSE", "first"),
        (ResultAggregationStrategy.WEIGHTED_AVERAGE, "average"),
        (ResultAggregationStrategy.ENSEMBLE, "ensemble"),
        (ResultAggregationStrategy.ALL_RESPONSES, "every"),
        (af.vote(quorum=2), "vote"),
        (af.vote, "vote"),
        (len, "ensemble"),
    ],
)
def test_a_strategy_its_name_an_aggregator_or_a_function_says_how(combine, name):
    found = aggregator_of(combine)
    assert isinstance(found, Aggregator)
    assert found.name == name


def test_a_label_is_json_and_the_code_beside_it_can_be_digested():
    def key(answer):
        return answer

    def other(answer):
        return answer[0]

    made = [af.vote(key, weights={"a": 1, "b": 2}), af.first(key), af.ensemble(key), af.average(quality=key)]
    for aggregator in made:
        assert json.loads(json.dumps(aggregator.label())) == aggregator.label()
        assert aggregator.code() == (key,)
    (digest,) = map(digest_callable, made[0].code())
    assert digest != digest_callable(other)
    assert af.vote().label() != af.vote(quorum=2).label()
    assert af.ensemble("rank_fusion", k=10).label() != af.ensemble("rank_fusion").label()


# ---------------------------------------------------------------- first, every


def test_the_first_valid_answer_counts_and_others_are_missing():
    tally = af.first(lambda answer: answer != "").begin([*"abcd"])
    tally.miss("a", "it fails")
    tally.add("b", "")
    assert not tally.settled
    tally.add("c", "yes")
    assert tally.settled
    assert tally.verdict().outputs == "yes"
    assert tally.missing == {"a": "it fails", "b": "its answer is not valid: valid= refused it"}


def test_where_no_answer_is_valid_there_is_no_quorum_and_a_check_that_fails_is_named():
    tally = af.first(bool).begin([*"ab"])
    tally.add("a", "")
    tally.add("b", 0)
    with pytest.raises(NoQuorum, match="valid= refused it"):
        tally.verdict()
    tally = af.first(lambda answer: answer["score"] > 0.5).begin([*"ab"])
    tally.add("a", "text")
    tally.add("b", "text")
    with pytest.raises(AggregationFailed, match=r"first\(valid=\).*test_aggregators.py"):
        tally.verdict()
    tally = af.first(lambda answer: answer["score"] > 0.5).begin([*"ab"])
    tally.add("a", "text")
    tally.add("b", {"score": 0.9})
    assert tally.verdict().outputs == {"score": 0.9}


def test_every_answer_is_given_by_model_in_the_order_of_the_models():
    tally = af.every().begin([*"abc"])
    tally.add("c", 3)
    tally.add("a", 1)
    assert not tally.settled
    tally.miss("b", "it fails")
    assert list(tally.verdict().outputs.items()) == [("a", 1), ("c", 3)]


def test_before_anything_has_arrived_there_is_no_verdict():
    with pytest.raises(NoQuorum, match=r"0 of 2.*no answer yet"):
        af.every().begin([*"ab"]).verdict()


# ---------------------------------------------------------------- votes


@pytest.mark.parametrize(
    ("answers", "options", "verdict", "agreement"),
    [
        ({"a": "x", "b": "y", "c": "y"}, {}, "y", 2 / 3),
        ({"a": "x", "b": "y", "c": "y"}, {"weights": [3, 1, 1]}, "x", 0.6),
        # equal: the heaviest single model, then who is named first
        ({"a": "y", "b": "y", "c": "x"}, {"weights": [1, 1, 2]}, "x", 0.5),
        ({"a": "x", "b": "y"}, {}, "x", 0.5),
        ({"a": "x", "b": "y", "c": None}, {}, "x", 0.5),
        ({"a": {"label": "p", "score": 0.6}, "b": {"label": "q", "score": 0.9}, "c": "p"}, {}, "p", 2 / 3),
        ({"a": [{"label": "p", "score": 0.1}, {"label": "q", "score": 0.9}], "b": "q"}, {}, "q", 1.0),
        ({"a": np.int64(1), "b": 1, "c": 2.0}, {}, 1, 2 / 3),
        ({"a": " Yes", "b": "yes", "c": "no"}, {"key": lambda text: text.strip().lower()}, "yes", 2 / 3),
        ({"a": "x", "b": "y", "c": "y"}, {"quality": {"a": 0.9, "b": 0.1, "c": 0.2}.get}, "x", 0.75),
        # of c nothing is recorded: it has the mean of the others
        ({"a": "x", "b": "y", "c": "y"}, {"quality": {"a": 0.8, "b": 0.4}}, "y", 5 / 9),
        ({"a": "x", "b": "y", "c": "y"}, {"quality": {}}, "y", 2 / 3),
    ],
)
def test_most_of_the_weight_decides(answers, options, verdict, agreement):
    tally = af.vote(**options).begin(list(answers))
    for model, answer in answers.items():
        tally.add(model, answer)
    found = tally.verdict()
    assert found.outputs == verdict
    assert found.agreement == pytest.approx(agreement)


def test_a_vote_waits_for_its_quorum_and_no_longer():
    tally = af.vote(quorum=0.6).begin([*"abcde"])
    tally.add("a", "x")
    tally.add("b", "x")
    assert not tally.settled
    tally.add("c", "x")
    assert tally.settled and not tally.complete
    assert (tally.verdict().outputs, tally.verdict().agreement) == ("x", 1.0)


def test_nobody_who_votes_gives_no_label():
    tally = af.vote().begin([*"ab"])
    tally.add("a", None)
    tally.add("b", None)
    assert (tally.verdict().outputs, tally.verdict().agreement) == (None, None)


def test_a_vote_over_rows_settles_when_each_row_has():
    tally = af.vote().begin([*"abc"], 2)
    tally.add("a", ["x", "y"])
    tally.add("b", np.array(["x", "z"]))
    assert not tally.settled
    tally.add("c", ["z", "z"])
    assert tally.verdict().outputs == ["x", "z"]
    assert tally.verdict().agreement == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("aggregator", "answers", "rows", "models", "match"),
    [
        (af.vote(), {"a": "x", "b": 1}, None, ("a", "b"), "a text, and a number"),
        (af.vote(), {"a": ["x", "y"], "b": ["x", True]}, 2, ("a", "b"), "in row 1"),
        (af.vote(), {"a": ["x"], "b": "x"}, None, ("a",), "a list, which is no label"),
        (af.vote(), {"a": ["x"], "b": ["x", "y"]}, 1, ("b",), "2 rows for 1 inputs"),
        (af.vote(), {"a": "x", "b": ["x"]}, 1, ("a",), "a text for a list of 1 inputs"),
        (af.average(), {"a": 1.0, "b": [1.0, 2.0]}, None, ("a", "b"), "a number, and an array"),
        (af.average(), {"a": np.zeros(3), "b": np.zeros(4)}, None, ("a", "b"), r"\(3,\), and .*\(4,\)"),
        (af.average(), {"a": np.zeros((2, 3)), "b": np.zeros((2, 4))}, 2, ("a", "b"), "shape"),
        (af.average(), {"a": np.zeros((2, 3)), "b": np.zeros((1, 3))}, 2, ("b",), "1 rows for 2"),
        (af.average(), {"a": {"x": 1.0}, "b": {"y": 1.0}}, None, ("a", "b"), "labels differ: 'x', 'y'"),
        (af.average(), {"a": 1.0, "b": "x"}, None, ("b",), "a text has no mean"),
        (af.average(), {"a": True, "b": 1.0}, None, ("a",), "True or False has no mean"),
        (af.average(), {"a": {"x": "y"}, "b": {"x": 1}}, None, ("a",), "'x' has a text"),
        (af.average(), {"a": {"label": "x", "score": 0.5}}, None, ("a",), "vote"),
        (af.average(), {"a": [[1], [1, 2]]}, None, ("a",), "unequal length"),
        (af.ensemble(), {"a": {"x": 2.0}, "b": {"x": 3.0}}, None, ("a", "b"), "no probabilities"),
        (af.ensemble("rank_fusion"), {"a": ["x"], "b": "x"}, None, ("b",), "no ranked list"),
        (af.ensemble("rank_fusion"), {"a": [["x"]]}, None, ("a",), "no key="),
        (af.ensemble(len), {"a": ["x"], "b": ["x", "y"]}, 1, ("b",), "2 rows"),
    ],
)
def test_answers_that_do_not_go_together_name_who_disagrees(aggregator, answers, rows, models, match):
    with pytest.raises(Uncombinable, match=match) as caught:
        aggregator.combine(answers, rows)
    assert caught.value.models == models


@pytest.mark.parametrize(
    ("aggregator", "answers", "what"),
    [
        (af.vote(lambda answer: answer["label"]), {"a": "text"}, r"vote\(key=\)"),
        (af.ensemble(lambda outputs: outputs["z"]), {"a": "text"}, r"ensemble\(how\)"),
        (af.ensemble("rank_fusion", key=lambda item: item["id"]), {"a": ["text"]}, r"ensemble\(key=\)"),
        (af.average(quality=lambda model: 1 / 0), {"a": 1.0}, r"average\(quality=\)"),
    ],
)
def test_a_function_that_raises_is_named_with_its_line(aggregator, answers, what):
    with pytest.raises(AggregationFailed, match=rf"{what} failed.*test_aggregators.py:\d+") as caught:
        aggregator.combine(answers)
    assert caught.value.__cause__ is not None


# ---------------------------------------------------------------- averages and ensembles


@pytest.mark.parametrize(
    ("answers", "weights", "mean"),
    [
        ({"a": 1, "b": 4}, [2, 1], 2.0),
        ({"a": [1.0, 2.0], "b": [3.0, 4.0]}, None, np.array([2.0, 3.0])),
        ({"a": np.float32(1), "b": 2}, None, 1.5),
        ({"a": {"x": 0.2, "y": 0.8}, "b": {"y": 0.4, "x": 0.6}}, [3, 1], {"x": 0.3, "y": 0.7}),
        (
            {"a": [{"label": "x", "score": 0.2}, {"label": "y", "score": 0.8}], "b": {"x": 0.4, "y": 0.6}},
            None,
            {"x": 0.3, "y": 0.7},
        ),
    ],
)
def test_means(answers, weights, mean):
    found = af.average(weights).combine(answers)
    if isinstance(mean, dict):
        assert found == pytest.approx(mean)
    else:
        np.testing.assert_allclose(found, mean)


def test_embeddings_of_many_rows_are_averaged_as_they_are():
    one, other = np.ones((3, 2), np.float32), np.full((3, 2), 3, np.float32)
    found = af.average([1, 3]).combine({"a": one, "b": other}, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.full((3, 2), 2.5))


def test_one_that_has_no_answer_is_left_out_of_what_is_combined_at_once():
    assert af.average([1, 1, 8]).combine({"a": 1.0, "b": 3.0, "c": None}) == 2.0
    with pytest.raises(NoQuorum):
        af.average(quorum=1.0).combine({"a": 1.0, "b": None})


def test_rank_fusion_is_the_sum_of_reciprocal_ranks():
    answers = {"a": ["x", "y", "z"], "b": ["y", "w"], "c": ["y", "x"]}
    scores = {"y": 1 / 62 + 2 / 61, "x": 1 / 61 + 1 / 62, "w": 1 / 62, "z": 1 / 63}
    tally = af.ensemble("rank_fusion").begin([*"abc"])
    for model, answer in answers.items():
        tally.add(model, answer)
    assert tally.verdict().outputs == sorted(scores, key=lambda item: -scores[item])
    assert tally.verdict().agreement == pytest.approx(2 / 3)
    records = {"a": [{"id": 1, "text": "one"}, {"id": 2}], "b": [{"id": 2}, {"id": 1}]}
    assert af.ensemble("rank_fusion").combine(records) == [{"id": 1, "text": "one"}, {"id": 2}]
    assert af.ensemble("rank_fusion", weights=[1, 9]).combine({"a": ["x"], "b": ["y"]}) == ["y", "x"]


def test_a_function_gets_the_outputs_by_model_of_each_row():
    def spread(outputs):
        return max(outputs.values()) - min(outputs.values())

    assert af.ensemble(spread).combine({"a": 3, "b": 5}) == 2
    assert af.ensemble(spread).combine({"a": [3, 1], "b": [5, 1]}, 2) == [2, 0]


# ---------------------------------------------------------------- stacking


def experts(rows=200, seed=0):
    """Three that each know something: a number, a map of labels, a label; and what is right."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, rows)
    sure = np.clip(rng.normal(0.3 + 0.4 * truth, 0.15), 0, 1)
    outputs = {
        "number": truth + rng.normal(0, 0.7, rows),
        "map": [{"no": float(1 - p), "yes": float(p)} for p in sure],
        "label": [{"label": "yes" if t else "no", "score": float(rng.uniform(0.5, 1))} for t in truth],
    }
    flipped = rng.uniform(size=rows) < 0.2
    outputs["label"] = [
        {**one, "label": {"yes": "no", "no": "yes"}[one["label"]]} if flip else one
        for one, flip in zip(outputs["label"], flipped, strict=True)
    ]
    return outputs, truth


def test_stacking_learns_whom_to_believe_and_travels():
    outputs, truth = experts()
    stacking = af.Stacking().fit(outputs, truth)
    aggregator = pickle.loads(pickle.dumps(af.ensemble(stacking)))
    fresh, right = experts(seed=1)
    verdicts = np.array(aggregator.combine(fresh, len(right)))
    alone = np.mean((np.array(fresh["number"]) > 0.5) == right)
    assert np.mean(verdicts == right) > max(0.9, alone)
    # one by one, and in another order of the models, it is the same
    single = [
        aggregator.combine({model: fresh[model][row] for model in ("label", "number", "map")})
        for row in range(20)
    ]
    assert single == verdicts[:20].tolist()


def test_what_a_stacking_was_fitted_on_is_part_of_its_digest():
    outputs, truth = experts(50)
    code = [af.ensemble(af.Stacking().fit(outputs, right)).code() for right in (truth, truth, 1 - truth)]
    one, again, other = (digest_callable(part) for (part,) in code)
    assert one == again != other
    assert digest_callable(pickle.loads(pickle.dumps(code[0]))[0]) == one


def test_stacking_takes_an_estimator_and_leaves_it_as_it_was():
    from sklearn.tree import DecisionTreeClassifier

    outputs, truth = experts()
    given = DecisionTreeClassifier(max_depth=2, random_state=0)
    stacking = af.Stacking(given).fit(outputs, ["yes" if one else "no" for one in truth])
    assert not hasattr(given, "tree_")
    assert set(stacking.predict(outputs)) == {"yes", "no"}
    assert stacking.models == ("number", "map", "label")
    assert "fitted on number" in repr(stacking)


def test_stacking_refuses_what_it_was_not_fitted_for():
    outputs, truth = experts(20)
    with pytest.raises(BadRequest, match="not fitted"):
        af.ensemble(af.Stacking()).begin(list(outputs))
    stacking = af.Stacking().fit(outputs, truth)
    with pytest.raises(BadRequest, match="fitted on the models number, map, label"):
        af.ensemble(stacking).begin(["number", "map"])
    tally = af.ensemble(stacking).begin(list(outputs))
    tally.add("number", 1.0)
    tally.add("map", {"no": 0.1, "yes": 0.9})
    tally.miss("label", "it fails")
    with pytest.raises(NoQuorum, match="2 of 3"):
        tally.verdict()
    with pytest.raises(Uncombinable, match="'number'"):
        stacking.predict({**{model: answers[:1] for model, answers in outputs.items()}, "number": ["text"]})
    with pytest.raises(Uncombinable, match="19 rows for 20"):
        af.Stacking().fit({**outputs, "map": outputs["map"][:-1]}, truth)
    with pytest.raises(AggregationFailed, match=r"Stacking.fit\(\)"):
        af.Stacking().fit(outputs, [0] * len(truth))  # one class alone
    with pytest.raises(BadRequest, match="at least one row"):
        af.Stacking().fit({}, [])
