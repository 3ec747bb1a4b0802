"""Linear regression with a posterior."""

from __future__ import annotations

import numpy as np
import pytest

from altlas_flow.selection.linear import fit


def test_it_finds_weights_and_knows_how_sure_it_is():
    rng = np.random.default_rng(0)
    rows, arms = rng.normal(size=(2000, 3)), np.arange(2000) % 2
    true = np.array([[1.0, 0.0, -2.0], [0.0, 3.0, 0.0]])
    targets = (rows * true[arms]).sum(axis=1) + 5 + rng.normal(scale=0.5, size=2000)
    found = fit(rows, arms, targets, 2)
    for row in rng.normal(size=(20, 3)):
        means, deviations = found.predict(row)
        assert means == pytest.approx(true @ row + 5, abs=0.15)
        assert (deviations < 0.1).all()
    few = fit(rows[:20], arms[:20], targets[:20], 2)
    assert (few.predict(rows[0])[1] > 5 * found.predict(rows[0])[1]).all()


def test_a_model_without_rows_is_like_all_and_not_sure():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(100, 2))
    targets = 7 + rng.normal(size=100)
    means, deviations = fit(rows, np.zeros(100, dtype=int), targets, 2).predict(np.zeros(2))
    assert means[1] == pytest.approx(targets.mean())
    assert deviations[1] > 5 * deviations[0]


def test_its_upper_bounds_are_those_of_lin_ucb():
    """Where the settings coincide it chooses as MABWiser's LinUCB does."""
    mab = pytest.importorskip("mabwiser.mab", reason="the extra bench is not installed")
    rng = np.random.default_rng(2)
    rows, arms = rng.normal(size=(300, 4)), rng.integers(3, size=300)
    targets = (rows * rng.normal(size=(3, 4))[arms]).sum(axis=1)
    theirs = mab.MAB([0, 1, 2], mab.LearningPolicy.LinUCB(alpha=1.3, l2_lambda=2.0), seed=1)
    theirs.fit(arms.tolist(), targets.tolist(), rows)
    ours = fit(rows, arms, targets, 3, ridge=2.0, standardise=False)
    asked = rng.normal(size=(200, 4)) / 3
    found = []
    for row in asked:
        means, deviations = ours.predict(row)
        found.append(int(np.argmax(means + 1.3 * deviations / ours.noise)))
    assert found == theirs.predict(asked)


def test_its_posterior_is_that_of_lin_ts():
    """Means and covariances are those that MABWiser's LinTS draws from."""
    mab = pytest.importorskip("mabwiser.mab", reason="the extra bench is not installed")
    rng = np.random.default_rng(3)
    rows, arms = rng.normal(size=(200, 3)), rng.integers(2, size=200)
    targets = (rows * rng.normal(size=(2, 3))[arms]).sum(axis=1)
    theirs = mab.MAB([0, 1], mab.LearningPolicy.LinTS(alpha=0.5, l2_lambda=1.0), seed=1)
    theirs.fit(arms.tolist(), targets.tolist(), rows)
    ours = fit(rows, arms, targets, 2, ridge=1.0, standardise=False)
    for arm in range(2):
        model = theirs._imp.arm_to_model[arm]
        assert ours.weights[arm, :3] == pytest.approx(np.asarray(model.beta).ravel(), abs=1e-8)
        assert ours.inverse[arm, :3, :3] == pytest.approx(np.asarray(model.A_inv), abs=1e-8)
