"""What is kept over many requests."""

from __future__ import annotations

import math

import numpy as np
import pytest

from altlas_flow.selection.pacing import Budget, Promise


@pytest.mark.parametrize("limit", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_a_budget_is_used_and_kept_whatever_the_unit(limit, scale):
    """A large model that costs 1 and is worth more or less; a small one that costs nothing."""
    budget, rng = Budget(limit * scale), np.random.default_rng(0)
    spent, worst = 0.0, 0.0
    for n in range(1, 5001):
        worth = rng.random()
        cost = scale if worth > budget.price * scale and scale <= budget.room() else 0.0
        budget.chosen(cost, 1.0 / scale)
        spent += cost
        if n > 200:
            worst = max(worst, spent / n / (limit * scale))
    assert worst <= 1.02
    assert spent / 5000 >= 0.95 * limit * scale


def test_what_it_did_cost_corrects_what_was_expected():
    budget = Budget(1.0)
    budget.chosen(1.0, 1.0)
    before = budget.room()
    budget.corrected(1.0, 3.0)
    assert budget.room() == pytest.approx(before - 2.0)


def test_without_a_limit_nothing_has_a_price():
    budget = Budget(math.inf)
    budget.chosen(1e9, 1.0)
    assert budget.price == 0.0
    assert budget.room() == math.inf


@pytest.mark.parametrize("late", [0.01, 0.05, 0.5])
def test_a_promise_is_kept_where_chances_are_wrong(late):
    """What is said to be late with some probability is so three times as often; half the time it is slow."""
    promise, rng = Promise(late), np.random.default_rng(1)
    for n in range(20_000):
        said = rng.random() * (0.6 if (n // 2000) % 2 else 0.1)
        if said <= promise.allowed:
            promise.ended(bool(rng.random() < min(1.0, 3 * said)))
        else:
            promise.ended(False)  # another one was taken, that is never late
    assert promise.missed / promise.count <= late + 0.01
    assert promise.missed > 0


def test_what_is_on_time_because_nothing_is_risked_does_not_add_up():
    promise = Promise(0.05)
    for _ in range(10_000):
        promise.ended(False)
    assert promise.allowed == Promise.MOST < 1.0
