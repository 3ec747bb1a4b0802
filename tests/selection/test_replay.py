"""What another policy would have got."""

from __future__ import annotations

import numpy as np
import pytest

from altlas_flow.errors import ReplayError
from altlas_flow.selection.replay import Logged, always, evenly, replay

QUALITY = {"a": 0.3, "b": 0.6, "c": 0.5}


def logged(seed, n=400, probabilities=None):
    """Outcomes 0 or 1, of models that were chosen by chance."""
    rng = np.random.default_rng(seed)
    names, chances = list(QUALITY), list((probabilities or {"a": 0.5, "b": 0.2, "c": 0.3}).values())
    log = []
    for _ in range(n):
        x = float(rng.random())
        model = names[rng.choice(3, p=chances)]
        outcome = float(rng.random() < QUALITY[model] * (0.5 + x))
        log.append(Logged({"x": x}, dict(zip(names, chances, strict=True)), model, outcome))
    return log


def by_input(features, models):
    return {"b": 1.0} if features["x"] > 0.5 else {"c": 1.0}


# b with x above a half, where outcomes are 1.25 times the usual; c with x below, 0.75 times
TRUE = 0.5 * 0.6 * 1.25 + 0.5 * 0.5 * 0.75


@pytest.mark.long
@pytest.mark.parametrize("estimate", ["ips", "snips", "robust"])
def test_intervals_hold_the_truth_as_often_as_they_say(estimate):
    held, values = 0, []
    for seed in range(150):
        found = getattr(replay(logged(seed), by_input, seed=seed), estimate)
        held += found.low <= TRUE <= found.high
        values.append(found.value)
    assert 0.90 <= held / 150 <= 0.987
    assert np.mean(values) == pytest.approx(TRUE, abs=3 * np.std(values) / np.sqrt(150))


def test_the_policy_that_was_logged_gets_what_was_got():
    log = logged(0)
    found = replay(log, lambda features, models: {"a": 0.5, "b": 0.2, "c": 0.3})
    assert found.ips.value == pytest.approx(found.logged.value)
    assert found.overlap == pytest.approx(1.0)
    assert found.trustworthy


@pytest.mark.parametrize("many", [100, 400, 1600])
def test_a_log_that_misses_what_is_rare_and_decides_is_not_trusted(many):
    # a is good where x is small and hardly ever chosen elsewhere, where it is bad; none of these was logged
    log = [
        Logged({"x": x}, {"a": chance, "b": 1 - chance}, model, outcome)
        for x, chance, model, outcome in [(0.0, 0.99, "a", 1.0)] * many + [(1.0, 0.01, "b", 0.5)] * many
    ]
    found = replay(log, always("a"))
    assert found.snips.value == pytest.approx(1.0), "all that was seen of it is good"
    assert found.overlap > 0.4 and found.unsupported == 0.0
    assert found.weight == pytest.approx(0.505, abs=0.001)
    assert not found.trustworthy and "not to be trusted" in str(found)


def test_a_small_log_of_even_chances_is_trusted():
    even = {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}
    assert all(replay(logged(seed, 100, even), always("a")).trustworthy for seed in range(20))


def test_the_doubly_robust_one_is_the_surest():
    wide = {"ips": [], "robust": []}
    for seed in range(20):
        found = replay(logged(seed), evenly)
        for name, widths in wide.items():
            widths.append(getattr(found, name).high - getattr(found, name).low)
    assert np.mean(wide["robust"]) < np.mean(wide["ips"])


def test_too_little_overlap_is_said():
    log = logged(0, probabilities={"a": 0.99, "b": 0.005, "c": 0.005})
    found = replay(log, always("b"))
    assert not found.trustworthy
    assert "not to be trusted" in str(found)


def test_what_could_never_be_chosen_is_said():
    log = [entry for entry in logged(0) if entry.model != "c"]
    log = [
        Logged(entry.features, {"a": 0.7, "b": 0.3, "c": 0.0}, entry.model, entry.outcome) for entry in log
    ]
    found = replay(log, evenly)
    assert found.unsupported == pytest.approx(1 / 3)
    assert "33% of what the policy would choose was never possible" in str(found)


@pytest.mark.parametrize(
    ("log", "policy", "said"),
    [
        ([], evenly, "no decision"),
        (logged(0, 5), lambda features, models: None, "gave None"),
        (logged(0, 5), lambda features, models: {"a": 0.5}, "sum to 1"),
        (logged(0, 5), lambda features, models: {"a": 2.0, "b": -1.0}, "at least 0"),
        (logged(0, 5), always("z"), "'z', which the log does not know: it knows a, b, c"),
        ([Logged({}, {"a": 0.0, "b": 1.0}, "a", 1.0)], evenly, "no chance"),
    ],
)
def test_what_cannot_be_replayed_is_said(log, policy, said):
    with pytest.raises(ReplayError, match=said):
        replay(log, policy)
