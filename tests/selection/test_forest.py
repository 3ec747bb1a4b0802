"""Trees that are grown all at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from altlas_flow.selection.forest import grow


def everyone(trees, n):
    return [np.arange(n)] * trees


def test_they_learn_what_depends_on_features():
    rng = np.random.default_rng(0)
    rows = rng.random((600, 5)).astype(np.float32)
    targets = np.where(rows[:, 2] > 0.4, 10.0, 0.0) + 5 * rows[:, 0]
    forest = grow(rows[:400], targets[:400], everyone(25, 400), rng, candidates=5)
    found = forest.predict(rows[400:]).mean(axis=1)
    wrong = ((found - targets[400:]) ** 2).mean()
    assert wrong < 0.1 * targets[400:].var()


def test_they_are_about_as_good_as_those_of_a_library():
    ensemble = pytest.importorskip("sklearn.ensemble")
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(1000, 10)).astype(np.float32)
    targets = rows[:, 0] * rows[:, 1] + np.sin(3 * rows[:, 2]) + rng.normal(scale=0.1, size=1000)
    ours = (
        grow(rows[:700], targets[:700], everyone(50, 700), rng, candidates=25)
        .predict(rows[700:])
        .mean(axis=1)
    )
    theirs = ensemble.ExtraTreesRegressor(50, min_samples_leaf=2, random_state=0).fit(
        rows[:700], targets[:700]
    )
    theirs = theirs.predict(rows[700:])
    assert ((ours - targets[700:]) ** 2).mean() < 1.2 * ((theirs - targets[700:]) ** 2).mean()


def test_the_same_seed_gives_the_same_trees():
    rows = np.random.default_rng(2).random((100, 3)).astype(np.float32)
    targets = rows @ [1.0, 2.0, 3.0]
    one, other = (
        grow(rows, targets, everyone(5, 100), np.random.default_rng(7), candidates=3) for _ in range(2)
    )
    assert np.array_equal(one.predict(rows), other.predict(rows))


def test_each_tree_knows_only_its_rows():
    rows = np.arange(20, dtype=np.float32)[:, None]
    targets = np.where(np.arange(20) < 10, 1.0, 5.0)
    forest = grow(rows, targets, [np.arange(10), np.arange(10, 20)], np.random.default_rng(0), candidates=3)
    assert forest.predict(rows).tolist() == [[1.0, 5.0]] * 20


def test_one_row_is_a_leaf():
    forest = grow(np.ones((1, 2)), np.array([3.0]), [np.array([0])], np.random.default_rng(0), candidates=2)
    assert forest.predict(np.zeros((2, 2), dtype=np.float32)).tolist() == [[3.0], [3.0]]


def test_rows_ask_the_trees_that_are_named():
    rows = np.arange(20, dtype=np.float32)[:, None]
    samples = [np.arange(10), np.arange(10, 20)]
    forest = grow(rows, rows[:, 0].astype(float), samples, np.random.default_rng(0), candidates=3)
    every = forest.predict(rows[:2])
    asked = forest.predict(rows[:2], np.array([[1], [0]]))
    assert asked.tolist() == [[every[0, 1]], [every[1, 0]]]


@given(st.integers(1, 60), st.integers(1, 4), st.integers(0, 1000), st.booleans())
@settings(deadline=None, max_examples=60)
def test_what_they_say_lies_between_what_was_seen(n, wide, seed, ties):
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 3, (n, wide)) if ties else rng.normal(size=(n, wide))
    targets = rng.normal(size=n) * 10.0 ** rng.integers(-6, 7)
    samples = [rng.integers(n, size=n) for _ in range(4)]
    forest = grow(rows, targets, samples, rng, candidates=3, leaf=2)
    found = forest.predict(rng.normal(size=(20, wide)).astype(np.float32))
    slack = 1e-5 * np.abs(targets).max()
    assert found.min() >= targets.min() - slack
    assert found.max() <= targets.max() + slack
    assert np.isfinite(found).all()
