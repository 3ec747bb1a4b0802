"""Chances to be the best: what draws would give, without drawing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from altlas_flow.selection.chances import chances, floored

finite = st.floats(-100, 100)
models = st.lists(st.tuples(finite, st.floats(0, 50)), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("means", "deviations"),
    [
        ([0.0, 0.0], [1.0, 1.0]),
        ([0.0, 1.0, 2.0], [1.0, 1.0, 1.0]),
        ([0.0, 0.1], [0.001, 5.0]),
        ([3.0, 3.05, 2.0, -4.0], [0.01, 0.02, 1.0, 3.0]),
        (list(np.linspace(0, 1, 20)), [0.3] * 20),
    ],
)
def test_they_are_what_many_draws_give(means, deviations):
    draws = np.random.default_rng(0).normal(means, deviations, size=(400_000, len(means)))
    observed = np.bincount(draws.argmax(axis=1), minlength=len(means)) / len(draws)
    assert chances(np.array(means), np.array(deviations)) == pytest.approx(observed, abs=0.004)


@given(models)
@settings(deadline=None)
def test_they_sum_to_1_and_do_not_depend_on_scale_or_place(models):
    # of differences that floating point loses elsewhere nothing can be asked
    means, deviations = np.round(np.array(models), 6).T
    found = chances(means, deviations)
    assert found.sum() == pytest.approx(1.0)
    assert (found >= 0).all()
    assert chances(8 * means + 3, 8 * deviations) == pytest.approx(found, abs=1e-6)


@given(models, st.floats(0, 1))
@settings(deadline=None)
def test_the_better_of_two_equally_known_ones_is_the_likelier(models, deviation):
    means = np.array(models)[:, 0]
    found = chances(means, np.full(len(means), deviation))
    for one, other in zip(np.argsort(means)[:-1], np.argsort(means)[1:], strict=True):
        assert found[one] <= found[other] + 1e-9


def test_where_nothing_tells_them_apart_all_are_as_likely():
    assert chances(np.zeros(4), np.zeros(4)) == pytest.approx([0.25] * 4)


def test_without_doubt_the_best_is_certain():
    assert chances(np.array([1.0, 2.0, 1.5]), np.zeros(3)) == pytest.approx([0, 1, 0])


def test_the_floor_goes_to_those_who_take_part():
    found = floored(np.array([1.0, 0.0, 0.0]), 0.1, np.array([True, True, False]))
    assert found == pytest.approx([0.95, 0.05, 0.0])
    assert floored(np.array([0.3, 0.7]), 0.0) == pytest.approx([0.3, 0.7])
