"""What every aggregator promises, whatever is answered and in whatever order."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import altlas_flow as af
from altlas_flow.errors import NoQuorum, Uncombinable

#: A slow machine is no broken law.
law = settings(deadline=None, max_examples=40)

MODELS = tuple("abcde")

#: Whole ones, so that a weight times a factor is exact as far as it matters.
weights = st.lists(st.integers(1, 9).map(float), min_size=len(MODELS), max_size=len(MODELS))
labels = st.dictionaries(st.sampled_from(MODELS), st.sampled_from("xyz"), min_size=1)
numbers = st.dictionaries(st.sampled_from(MODELS), st.floats(-1e6, 1e6), min_size=1)
vectors = st.dictionaries(
    st.sampled_from(MODELS),
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=3).map(lambda v: np.array(v, np.float32)),
    min_size=1,
)
shares = st.dictionaries(
    st.sampled_from(MODELS), st.fixed_dictionaries(dict.fromkeys("xyz", st.floats(0, 1))), min_size=1
)
ranked = st.dictionaries(
    st.sampled_from(MODELS), st.lists(st.sampled_from("uvwxyz"), unique=True), min_size=1
)

#: Aggregators by name, and answers that they take.
KINDS = {
    "every": (lambda weights: af.every(), labels),
    "vote": (lambda weights: af.vote(weights=weights), labels),
    "average of numbers": (lambda weights: af.average(weights), numbers),
    "average of vectors": (lambda weights: af.average(weights), vectors),
    "average of maps": (lambda weights: af.average(weights), shares),
    "mean of probabilities": (lambda weights: af.ensemble(weights=weights), shares),
    "rank fusion": (lambda weights: af.ensemble("rank_fusion", weights=weights), ranked),
    "function": (lambda weights: af.ensemble(lambda outputs: sorted(outputs.items())), labels),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def fed(aggregator, answers, order, *, stop=False):
    """A tally that heard of all models in an order; up to where it is settled, with `stop`."""
    tally = aggregator.begin(MODELS)
    for model in order:
        if stop and tally.settled:
            break
        if model in answers:
            tally.add(model, answers[model])
        else:
            tally.miss(model, "it fails")
    return tally


def same(one, other):
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other) and one.dtype == other.dtype
    return one == other


@kinds
@law
@given(data=st.data())
def test_the_order_of_arrival_never_changes_the_verdict(kind, data):
    make, answered = KINDS[kind]
    aggregator, answers = make(data.draw(weights)), data.draw(answered)
    verdicts = [fed(aggregator, answers, data.draw(st.permutations(MODELS))).verdict() for _ in range(2)]
    assert same(verdicts[0].outputs, verdicts[1].outputs)
    assert verdicts[0].agreement == verdicts[1].agreement


@kinds
@law
@given(data=st.data())
def test_stopping_where_it_is_settled_gives_what_waiting_for_all_would(kind, data):
    make, answered = KINDS[kind]
    aggregator, answers = make(data.draw(weights)), data.draw(answered)
    order = data.draw(st.permutations(MODELS))
    soon, late = fed(aggregator, answers, order, stop=True), fed(aggregator, answers, order)
    assert soon.settled and late.complete
    assert same(soon.verdict().outputs, late.verdict().outputs)


@law
@given(st.permutations(MODELS), labels)
def test_the_first_answer_stays_the_first_whatever_comes_later(order, answers):
    tally = af.first().begin(MODELS)
    winner = next(model for model in order if model in answers)
    for model in order:
        if model in answers:
            tally.add(model, answers[model])
            assert tally.settled
        else:
            tally.miss(model, "it fails")
        if tally.outputs:
            assert tally.verdict().outputs == answers[winner]


@law
@given(data=st.data())
def test_a_vote_that_is_not_settled_could_go_another_way(data):
    """It stops at the first answer after which the rest cannot change the verdict, and not one later."""
    chosen, answers = data.draw(weights), data.draw(labels)
    tally = fed(af.vote(weights=chosen), answers, data.draw(st.permutations(MODELS))[:3])
    rest = [model for model in MODELS if model not in tally.outputs and model not in tally.missing]
    found = set()
    for label in ("x", "y", "z", "another"):
        full = af.vote(weights=chosen).begin(MODELS)
        for model in MODELS:
            if model in tally.missing:
                full.miss(model, "it fails")
            else:
                full.add(model, label if model in rest else answers[model])
        found.add(full.verdict().outputs)
    # all of the rest for one label is the most that they can do for it
    assert tally.settled == (len(found) == 1)


@kinds
@law
@given(data=st.data(), factor=st.sampled_from([0.001, 0.1, 3.0, 7e5]))
def test_only_the_proportions_of_weights_count(kind, data, factor):
    make, answered = KINDS[kind]
    chosen, answers = data.draw(weights), data.draw(answered)
    one = make(chosen).begin(MODELS)
    other = make([weight * factor for weight in chosen]).begin(MODELS)
    for tally in (one, other):
        for model in MODELS:
            tally.add(model, answers[model]) if model in answers else tally.miss(model, "it fails")
    found, scaled = one.verdict().outputs, other.verdict().outputs
    if kind.startswith(("average", "mean")):
        pairs = [(found[k], scaled[k]) for k in found] if isinstance(found, dict) else [(found, scaled)]
        for value, again in pairs:
            np.testing.assert_allclose(value, again, rtol=1e-6, atol=1e-6)
    elif kind != "rank fusion":  # which rounds each part: items that are equal may change places
        assert found == scaled


@law
@given(weights, numbers)
def test_weights_are_taken_anew_over_those_who_answered(chosen, answers):
    named = dict(zip(MODELS, chosen, strict=True))
    tally = fed(af.average(named), answers, MODELS)
    alone = af.average(named).combine({model: answers[model] for model in MODELS if model in answers})
    total = sum(named[model] for model in answers)
    expected = sum(named[model] * value for model, value in answers.items()) / total
    assert math.isclose(tally.verdict().outputs, expected, rel_tol=1e-9, abs_tol=1e-6)
    assert math.isclose(alone, expected, rel_tol=1e-9, abs_tol=1e-6)
    assert min(answers.values()) - 1e-6 <= expected <= max(answers.values()) + 1e-6


@kinds
@law
@given(data=st.data())
def test_agreement_is_a_share_or_nothing(kind, data):
    make, answered = KINDS[kind]
    verdict = fed(make(data.draw(weights)), data.draw(answered), MODELS).verdict()
    assert verdict.agreement is None or 0 <= verdict.agreement <= 1


# `every` hands them out as they came
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "every"])
@law
@given(data=st.data(), rows=st.integers(0, 4))
def test_a_list_of_inputs_is_combined_row_by_row(kind, data, rows):
    make, answered = KINDS[kind]
    aggregator, chosen = (
        make(data.draw(weights)),
        sorted(data.draw(st.sets(st.sampled_from(MODELS), min_size=1))),
    )
    each = [data.draw(answered.filter(lambda answers: set(answers) >= set(chosen))) for _ in range(rows)]
    many = aggregator.begin(MODELS, rows)
    for model in MODELS:
        if model in chosen:
            many.add(model, [row[model] for row in each])
        else:
            many.miss(model, "it fails")
    verdict = many.verdict()
    single = [
        fed(aggregator, {model: row[model] for model in chosen}, MODELS).verdict().outputs for row in each
    ]
    assert len(verdict.outputs) == rows
    assert all(same(one, other) for one, other in zip(verdict.outputs, single, strict=True))


@law
@given(st.floats(0.01, 1) | st.integers(1, 5), labels)
def test_below_its_quorum_nothing_gives_a_verdict(quorum, answers):
    needed = quorum if isinstance(quorum, int) else math.ceil(round(quorum * len(MODELS), 9))
    for aggregator in (af.vote(quorum=quorum), af.every(quorum)):
        tally = fed(aggregator, answers, MODELS)
        if len(answers) >= needed:
            assert tally.verdict().outputs
        else:
            with pytest.raises(NoQuorum) as caught:
                tally.verdict()
            assert caught.value.needed == needed
            assert set(caught.value.missing) == set(MODELS) - set(answers)


@pytest.mark.parametrize(
    "aggregator",
    [
        af.first(),
        af.every(0.5),
        af.vote(weights=[1, 2, 3], quorum=2),
        af.average(),
        af.ensemble("rank_fusion"),
    ],
    ids=lambda aggregator: aggregator.name,
)
def test_an_aggregator_travels_and_is_told_by_its_label(aggregator):
    again = pickle.loads(pickle.dumps(aggregator))
    assert again.label() == aggregator.label()
    assert again.code() == aggregator.code() == ()
    answers = {"a": ["x"], "b": ["x", "y"], "c": ["x"]}
    if aggregator.name in ("every", "first", "ensemble"):
        assert again.combine(answers) == aggregator.combine(answers)


def test_votes_of_one_kind_only_are_counted():
    tally = af.vote().begin([*"abc"])
    tally.add("a", "x")
    tally.add("b", 3)
    assert not tally.settled  # the answer of c is not lost to the error of the others
    tally.add("c", "x")
    with pytest.raises(Uncombinable) as caught:
        tally.verdict()
    assert caught.value.models == ("a", "b")
