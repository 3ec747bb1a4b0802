"""A selector: what it chooses, what it learns, what it says."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from altlas_flow.errors import FeatureError, NoModelFits, SelectionError, UnknownDecision
from altlas_flow.selection.learner import Arm
from altlas_flow.selection.selector import Selector


def run(selector, rounds, outcome, context=lambda n: None):
    """Models chosen, for outcomes as a function of round and model."""
    chosen = []
    for n in range(rounds):
        decision = selector.ask(context(n))
        selector.tell(decision, **outcome(n, decision.model))
        chosen.append(decision.model)
    return chosen


def test_it_finds_the_best_model_and_its_regret_grows_ever_slower():
    rng = np.random.default_rng(0)
    quality = {"a": 0.5, "b": 0.7, "c": 0.3}
    chosen = run(
        Selector("abc", weights={"quality": 1}),
        2000,
        lambda n, model: {"quality": float(rng.random() < quality[model])},
    )
    regret = np.cumsum([0.7 - quality[model] for model in chosen])
    assert chosen[1000:].count("b") > 900
    assert regret[1999] - regret[999] < 0.6 * regret[999] or regret[1999] < 30


def test_it_learns_which_model_is_good_at_what():
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 100, 1200)

    def outcome(n, model):
        good = (lengths[n] < 40) == (model == "short")
        return {"quality": float(np.clip(rng.normal(0.9 if good else 0.3, 0.1), 0, 1))}

    selector = Selector(["short", "long"], weights={"quality": 1})
    chosen = run(selector, 1200, outcome, lambda n: {"length": int(lengths[n]), "language": "en"})
    right = [
        model == ("short" if length < 40 else "long") for model, length in zip(chosen, lengths, strict=True)
    ]
    assert np.mean(right[600:]) > 0.93


def test_it_learns_from_vectors():
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(1500, 8))

    def outcome(n, model):
        good = (vectors[n, 0] > 0) == (model == "x")
        return {"quality": float(rng.random() < (0.9 if good else 0.2))}

    chosen = run(Selector("xy", weights={"quality": 1}), 1500, outcome, lambda n: {"vector": vectors[n]})
    right = [(vector[0] > 0) == (model == "x") for model, vector in zip(chosen, vectors, strict=True)]
    assert np.mean(right[1000:]) > 0.7


def test_the_chances_it_says_are_those_with_which_it_chooses():
    """Chi-square over many decisions on what is learned of a few outcomes."""
    selector = Selector("abc", weights={"quality": 1}, explore=0.05, seed=3)
    for model, quality in itertools.chain.from_iterable(
        zip("abc", row, strict=True) for row in ((0.5, 0.6, 0.4), (0.6, 0.5, 0.3), (0.4, 0.7, 0.5))
    ):
        while (decision := selector.ask()).model != model:
            pass
        selector.tell(decision, quality=quality)
    counts, expected = dict.fromkeys("abc", 0), selector.ask().probabilities
    assert sum(expected.values()) == pytest.approx(1.0)
    rounds = 6000
    for _ in range(rounds):
        decision = selector.ask()
        assert decision.probabilities == expected
        assert decision.propensity == expected[decision.model]
        counts[decision.model] += 1
    chi = sum((counts[name] - rounds * expected[name]) ** 2 / (rounds * expected[name]) for name in "abc")
    assert chi < 16  # two degrees of freedom: by chance once in 3,000


def test_outcomes_may_come_late_in_any_order_and_twice():
    def learned(order, again=()):
        selector = Selector("ab", weights={"quality": 1}, seed=5)
        decisions = [selector.ask({"length": n}) for n in range(40)]
        for n in (*order, *again):
            selector.tell(decisions[n], quality=(n % 7) / 7)
        selector.learner.learn(fit=True)
        return selector.ask({"length": 5})

    one, other = learned(range(40)), learned([*range(39, -1, -1)], again=range(0, 40, 3))
    for left, right in zip(one.estimates, other.estimates, strict=True):
        # what was foretold depends on what had come by then; the means do not
        assert left.quality[0] == pytest.approx(right.quality[0], abs=0.1)
    same = learned(range(40), again=[*range(40)])
    for left, right in zip(one.estimates, same.estimates, strict=True):
        assert left.quality[0] == pytest.approx(right.quality[0], abs=0.1)


def test_what_never_came_back_is_no_failure():
    selector = Selector("ab", weights={"quality": 1}, seed=1)
    for n in range(60):
        decision = selector.ask()
        if decision.model == "a" or n % 2:
            selector.tell(decision, quality=0.8)
    a, b = selector.ask().estimates
    assert a.quality[0] == pytest.approx(0.8, abs=0.05)
    assert b.quality[0] == pytest.approx(0.8, abs=0.05)


def test_what_failed_has_no_quality():
    chosen = run(
        Selector("ab", weights={"quality": 1}),
        200,
        lambda n, model: {"failed": True} if model == "a" else {"quality": 0.3},
    )
    assert chosen[100:].count("b") > 90


@pytest.mark.parametrize("weights", [{"quality": 1}, {"latency": 1}, None])
@pytest.mark.parametrize(
    ("names", "share"),
    [
        ("ab", 1.0),
        pytest.param("ba", 1.0, marks=pytest.mark.long),
        pytest.param("ab", 0.4, marks=pytest.mark.long),
        ("ba", 0.4),
    ],
)
def test_a_model_that_fails_is_left_though_nobody_says_how_good_answers_are(weights, names, share):
    """Failures are known by themselves, and how good answers are only where somebody says it."""
    rng = np.random.default_rng(9)

    def outcome(n, model):
        if model == "a" and rng.random() < share:
            return {"failed": True}
        return {"latency": 0.1 * rng.lognormal(0, 0.2)}

    selector = Selector(names, weights=weights)
    chosen = run(selector, 600, outcome, lambda n: {"size": float(n % 7)})
    assert chosen[300:].count("b") > 270
    estimates = {estimate.model: estimate for estimate in selector.ask({"size": 3.0}).estimates}
    assert estimates["b"].quality[0] > 0.9
    assert estimates["a"].quality[0] < (0.3 if share == 1.0 else 0.95)


def test_failures_are_learned_by_what_was_asked_and_noticed_where_they_begin():
    def outcome(n, model):
        size = n % 10
        fails = model == "a" and (size > 6 or n >= 700)
        return {"failed": True} if fails else {"quality": 0.9 if model == "a" else 0.6}

    selector = Selector("ab", weights={"quality": 1})
    chosen = run(selector, 1000, outcome, lambda n: {"size": float(n % 10)})
    late = list(zip(range(400, 700), chosen[400:700], strict=True))
    assert np.mean([model == ("b" if n % 10 > 6 else "a") for n, model in late]) > 0.9
    assert chosen[800:].count("b") > 180


def test_what_failed_has_failed_in_whatever_order_it_is_said():
    values = []
    for told in ([{"failed": True}, {"quality": 0.9}], [{"quality": 0.9}, {"failed": True}]):
        selector = Selector("a")
        decision = selector.ask()
        for one in told:
            selector.tell(decision, **one)
        values.append(selector.ask().estimates[0].quality)
    assert values[0] == values[1]


@pytest.mark.parametrize("constraint", [{"quality": 0.8}, {"cost": 1.0}])
def test_one_bad_outcome_does_not_lock_what_was_never_tried(constraint):
    def outcome(n, model):
        return {"quality": 0.2 if model == "a" else 0.95, "cost": 10.0 if model == "a" else 0.1}

    for seed in range(5):
        selector = Selector("abc", constraints=constraint, seed=seed)
        first = selector.ask(able=["a"])
        selector.tell(first, **outcome(0, "a"))
        chosen = run(selector, 300, outcome)
        assert chosen[100:].count("a") < 10, "it is known, and left out"


@pytest.mark.parametrize(
    ("objective", "limit", "good", "bad"), [("quality", 0.8, 0.95, 0.5), ("cost", 1.0, 0.5, 5.0)]
)
@pytest.mark.parametrize("seed", range(6))
def test_models_that_are_alike_and_miss_a_limit_do_not_lock_what_was_never_tried(
    objective, limit, good, bad, seed
):
    selector = Selector(["a", "b", "c", "d"], constraints={objective: limit}, seed=seed)
    rng = np.random.default_rng(seed)
    chosen = []
    for _ in range(100):
        decision = selector.ask()
        chosen.append(decision.model)
        value = rng.normal(good if decision.model == "d" else bad, 0.02)
        selector.tell(decision, **{objective: float(min(value, 1.0) if objective == "quality" else value)})
    assert chosen[50:].count("d") > 40


def test_where_nobody_rates_answers_a_trusted_model_that_begins_to_fail_is_left():
    selector = Selector(["a", "b"], weights={"quality": 1, "latency": 1})
    rng = np.random.default_rng(0)
    chosen = []
    for n in range(900):
        decision = selector.ask({"length": int(rng.integers(1, 100))})
        chosen.append(decision.model)
        if decision.model == "a" and n >= 500:
            selector.tell(decision, failed=True)
        else:
            selector.tell(decision, latency=float(rng.normal(0.1 if decision.model == "a" else 0.2, 0.01)))
    assert chosen[400:500].count("a") > 90
    assert chosen[700:].count("a") < 20


@pytest.mark.parametrize("more", [{}, {"cost": 1.0}])
def test_answers_of_which_nothing_else_is_said_count_as_answers(more):
    selector, rng = Selector(["a", "b"], explore=0.2), np.random.default_rng(1)
    for _ in range(300):
        decision = selector.ask()
        selector.tell(decision, failed=bool(rng.random() < (0.02 if decision.model == "a" else 0.4)), **more)
    quality = {one.model: one.quality[0] for one in selector.ask().estimates}
    assert quality["a"] > 0.93
    assert 0.4 < quality["b"] < 0.8


def test_a_model_that_works_again_is_found_again():
    selector, rng = Selector(["a", "b"], explore=0.1), np.random.default_rng(0)
    chosen = []
    for n in range(1800):
        decision = selector.ask()
        chosen.append(decision.model)
        if decision.model == "a" and 200 <= n < 600:
            selector.tell(decision, failed=True)
        else:
            selector.tell(decision, quality=float(rng.random() < (0.9 if decision.model == "a" else 0.6)))
    assert chosen[400:600].count("a") < 60
    assert chosen[1500:].count("a") > 240


def test_figures_of_numpy_are_figures(tmp_path):
    selector = Selector(["a", "b"], constraints={"latency_p95": 1.0, "cost": 2.0})
    selector.tell(selector.ask(), quality=np.bool_(True), latency=np.float64(2.0), cost=np.float32(0.1))
    selector.save(tmp_path / "kept")
    assert Selector.load(tmp_path / "kept").learner.seen.total == 1


@pytest.mark.parametrize("worth", [1e-4, 1e-6, 1e-12])
def test_small_costs_that_are_all_alike_are_learned(worth):
    rng = np.random.default_rng(11)
    selector = Selector("ab")
    chosen = run(
        selector,
        200,
        lambda n, model: {"quality": float(rng.random()), "cost": worth, "latency": 0.1},
        lambda n: {"v": rng.normal(size=8)},
    )
    assert len(chosen) == 200
    assert selector.ask({"v": rng.normal(size=8)}).estimates[0].cost[0] == pytest.approx(worth, rel=0.01)


@pytest.mark.long
@pytest.mark.parametrize("share", [0.2, 0.07])
def test_a_model_that_is_never_late_is_found_where_the_known_one_breaks_the_promise(share):
    for seed in range(4):
        rng = np.random.default_rng(seed)

        def outcome(n, model, rng=rng):
            return {"latency": 1.0 if model == "a" and rng.random() < share else 0.05, "quality": 0.8}

        selector = Selector("ab", constraints={"latency_p95": "300ms"}, seed=seed)
        for n in range(200):
            decision = selector.ask(able=["a"])
            selector.tell(decision, **outcome(n, decision.model))
        late = sum(outcome_of["latency"] > 0.3 for outcome_of in asked(selector, 1000, outcome))
        assert late / 1000 <= 0.06


def asked(selector, rounds, outcome):
    """Outcomes of so many decisions."""
    for n in range(rounds):
        decision = selector.ask()
        told = outcome(n, decision.model)
        selector.tell(decision, **told)
        yield told


@pytest.mark.parametrize("names", ["fs", "sf"])
def test_a_promise_that_nobody_keeps_leaves_the_fastest(names):
    takes, rng = {"f": 0.6, "s": 10.0}, np.random.default_rng(12)
    selector = Selector(names, constraints={"latency_p95": "500ms"})
    for _ in range(500):
        decision = selector.ask(able=["f"])
        selector.tell(decision, latency=takes["f"] * rng.lognormal(0, 0.05))
    chosen = run(selector, 600, lambda n, model: {"latency": takes[model] * rng.lognormal(0, 0.05)})
    assert chosen.count("f") > 560


def test_a_late_request_counts_once_however_often_it_is_said():
    selector = Selector("a", constraints={"latency_p95": "500ms"})
    decision = selector.ask()
    for _ in range(4):
        selector.tell(decision, latency=2.0)
    assert selector._chooser._promise.missed == selector._chooser._promise.count == 1


def test_a_model_that_becomes_slow_is_left_soon():
    rng = np.random.default_rng(4)
    usual = {"a": 0.1, "b": 0.2}

    def outcome(n, model):
        slow = 10 if model == "a" and n >= 500 else 1
        return {"latency": slow * usual[model] * rng.lognormal(0, 0.3)}

    selector = Selector("ab", weights={"latency": 1})
    chosen = run(selector, 900, outcome)
    assert chosen[300:500].count("a") > 180
    assert chosen[560:].count("b") > 320
    assert any("'a' has changed in latency" in reason for reason in selector.ask().reasons)


def test_what_was_never_seen_before_is_learned_before_anything_is_forgotten():
    """Longer inputs come than ever before: that they take longer is no change of the model."""
    rng = np.random.default_rng(7)
    lengths = np.concatenate([rng.integers(1, 10, 400), rng.integers(80, 100, 400)])

    def outcome(n, model):
        return {"latency": float(0.01 * lengths[n] * rng.lognormal(0, 0.1))}

    selector = Selector("ab", weights={"latency": 1})
    run(selector, 800, outcome, lambda n: {"length": int(lengths[n])})
    assert (selector.learner.suspected >= 0).any(), "it was noticed"
    assert not selector.learner.noted and not selector.learner.since.any()
    short, long = (selector.ask({"length": length}).estimates[0].latency[0] for length in (5, 90))
    assert short < 0.2 and long == pytest.approx(0.9, rel=0.2)


def test_a_model_that_was_late_for_a_while_is_tried_again():
    """What a promise leaves out is tried as far as the promise can afford it, or it stayed so for ever."""
    rng = np.random.default_rng(8)
    selector = Selector(
        ["good", "quick"], weights={"quality": 1}, constraints={"latency_p95": "300ms"}, seed=1
    )

    def outcome(n, model):
        usual = 0.05 if model == "quick" else 1.0 if n < 300 else 0.1
        return {"quality": 0.9 if model == "good" else 0.6, "latency": usual * rng.lognormal(0, 0.1)}

    chosen, late = [], 0
    for n in range(3000):
        decision = selector.ask()
        told = outcome(n, decision.model)
        late += told["latency"] > 0.3
        selector.tell(decision, **told)
        chosen.append(decision)
        assert sum(decision.probabilities.values()) == pytest.approx(1.0)
    assert late / 3000 <= 0.06
    assert [one.model for one in chosen[2000:]].count("good") > 900
    tried = [one for one in chosen if any("is tried by chance: it misses" in why for why in one.reasons)]
    assert tried and all(one.model == "good" and one.propensity <= 0.0101 for one in tried)


def test_a_model_that_comes_is_tried_and_one_that_goes_is_not():
    selector = Selector("ab", weights={"quality": 1})
    run(selector, 300, lambda n, model: {"quality": 0.5})
    selector.learner.admit([Arm("new")])
    chosen = run(selector, 300, lambda n, model: {"quality": 0.9 if model == "new" else 0.5})
    assert chosen[150:].count("new") > 130
    assert {selector.ask(able=["a"]).model for _ in range(20)} == {"a"}


def test_what_is_declared_is_where_it_begins():
    selector = Selector([Arm("good", quality=0.9), Arm("bad", quality=0.1)], weights={"quality": 1})
    estimates = {estimate.model: estimate.quality[0] for estimate in selector.ask().estimates}
    assert estimates == {"good": pytest.approx(0.9), "bad": pytest.approx(0.1)}


def test_a_promise_of_latency_is_kept_and_explained():
    rng = np.random.default_rng(6)
    selector = Selector(
        ["slow", "fast"], weights={"quality": 1}, constraints={"latency_p95": "300ms"}, seed=2
    )
    late = 0

    def outcome(n, model):
        nonlocal late
        took = float(
            rng.lognormal(math.log(0.2), 0.5) if model == "slow" else rng.lognormal(math.log(0.05), 0.3)
        )
        late += took > 0.3
        return {"quality": 0.9 if model == "slow" else 0.6, "latency": took}

    chosen = run(selector, 3000, outcome)
    assert late / 3000 <= 0.06
    assert chosen.count("slow") / 3000 > 0.05
    assert "slow: it misses 0.3 s with probability" in str(selector.ask())


def test_a_ceiling_of_cost_is_kept():
    rng = np.random.default_rng(7)
    selector = Selector(
        [Arm("small", cost=1.0), Arm("large", cost=10.0)],
        weights={"quality": 1},
        constraints={"cost_per_1k": 4000},
    )
    spent = []

    def outcome(n, model):
        spent.append(10.0 if model == "large" else 1.0)
        return {"quality": float(rng.random() < (0.9 if model == "large" else 0.5)), "cost": spent[-1]}

    run(selector, 2000, outcome)
    means = np.cumsum(spent) / np.arange(1, 2001)
    assert means[200:].max() <= 1.02 * 4
    assert means[-1] >= 0.9 * 4


def test_an_impossible_wish_says_what_excludes_whom():
    selector = Selector(
        [Arm("a", quality=0.5), Arm("b", quality=0.6)], weights={"quality": 1}, constraints={"quality": 0.9}
    )
    with pytest.raises(
        NoModelFits, match=r"a: its quality is 0\.50, and 0\.90 is asked for; b: its quality is 0\.60"
    ):
        selector.ask()
    with pytest.raises(NoModelFits, match="not to be had"):
        Selector("ab").ask(able=[])


def test_without_exploring_the_best_is_taken():
    selector = Selector("ab", weights={"quality": 1}, explore=0)
    run(selector, 30, lambda n, model: {"quality": 0.9 if model == "b" else 0.1})
    decision = selector.ask()
    assert decision.probabilities == {decision.model: 1.0}


def test_the_floor_is_kept():
    selector = Selector("ab", weights={"quality": 1}, explore=0.1)
    run(selector, 300, lambda n, model: {"quality": 0.9 if model == "b" else 0.1})
    assert selector.ask().probabilities["a"] == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"quality": 1.2}, "quality=1.2.*from 0 to 1"),
        ({"quality": math.nan}, "quality=nan"),
        ({"quality": "good"}, "quality='good'"),
        ({"latency": -1}, "latency=-1"),
        ({"cost": math.inf}, "cost=inf"),
    ],
)
def test_figures_out_of_range_are_refused(told, said):
    selector = Selector("ab")
    decision = selector.ask()
    with pytest.raises(SelectionError, match=said):
        selector.tell(decision, **told)


def test_other_wrong_words():
    with pytest.raises(UnknownDecision, match="'nothing'"):
        Selector("ab").tell("nothing", quality=1)
    with pytest.raises(SelectionError, match=r"strategy='best'.*HYBRID"):
        Selector("ab", strategy="best")
    with pytest.raises(SelectionError, match="explore=2"):
        Selector("ab", explore=2)
    with pytest.raises(SelectionError, match="is a text: give a list of ids"):
        Selector("small")
    with pytest.raises(SelectionError, match="named twice"):
        Selector(["a", "a"])
    with pytest.raises(SelectionError, match="no models"):
        Selector([])
    with pytest.raises(FeatureError, match="'length'"):
        Selector("ab").ask({"length": math.nan})


def test_a_decision_explains_itself():
    selector = Selector(
        [Arm("small", cost=0.02), Arm("large", cost=0.2)], task="summarise", weights={"quality": 1}
    )
    run(selector, 100, lambda n, model: {"quality": 0.8, "latency": 0.04}, lambda n: {"length": n})
    text = str(selector.ask({"language": "en"}, top=2))
    assert "summarise: " in text
    assert "small: expected 40 ms ± " in text
    assert "quality 0.80 ± " in text
    assert "cost 0.02" in text
    assert "not known of this input, what is usual is taken: length" in text
