"""Means of models, drawn towards that of all."""

from __future__ import annotations

import numpy as np
import pytest

from altlas_flow.selection.means import fit


def fitted(arms, targets, *, n=2, weights=None, prior=None, strength=5.0):
    arms, targets = np.array(arms, dtype=int), np.array(targets, dtype=float)
    weights = np.ones(len(arms)) if weights is None else np.array(weights, dtype=float)
    prior = np.full(n, np.nan) if prior is None else np.array(prior, dtype=float)
    return fit(arms, targets, weights, prior, np.full(n, strength))


def test_what_was_seen_often_is_believed():
    rng = np.random.default_rng(0)
    arms = np.repeat([0, 1], 500)
    found = fitted(arms, np.where(arms == 0, 1.0, 3.0) + rng.normal(size=1000))
    assert found.means == pytest.approx([1, 3], abs=0.15)
    assert found.deviations == pytest.approx([1 / np.sqrt(500)] * 2, rel=0.1)
    assert found.noise == pytest.approx(1, abs=0.1)


def test_models_that_hardly_differ_are_drawn_together_and_those_that_do_are_not():
    rng = np.random.default_rng(1)
    arms = np.tile(np.arange(20), 4)
    same = fitted(arms, rng.normal(size=80), n=20)
    apart = fitted(arms, 10.0 * arms + rng.normal(size=80), n=20)
    assert same.means.std() < 0.3
    assert apart.means == pytest.approx(10.0 * np.arange(20), abs=2)


def test_a_model_that_was_never_tried_is_like_the_others_and_not_sure():
    found = fitted([0, 0, 0, 1, 1, 1], [1, 2, 3, 5, 6, 7], n=3)
    assert found.means[2] == pytest.approx(4, abs=0.5)
    assert found.deviations[2] > found.deviations[0]


def test_what_was_declared_counts_until_enough_is_seen():
    prior = [0.9, np.nan]
    assert fitted([], [], prior=prior).means[0] == pytest.approx(0.9)
    few = fitted([0] * 2, [0.1] * 2, prior=prior).means[0]
    many = fitted([0] * 200, [0.1] * 200, prior=prior).means[0]
    assert many == pytest.approx(0.1, abs=0.03)
    assert 0.5 < few < 0.9


def test_what_is_forgotten_does_not_count():
    found = fitted([0, 0, 0, 0, 1, 1], [9, 9, 1, 1.2, 5, 5.1], weights=[0, 0, 1, 1, 1, 1])
    assert found.means[0] == pytest.approx(1.1, abs=0.3), "of nine it would be five"
