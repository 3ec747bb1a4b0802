"""Changes of what models do."""

from __future__ import annotations

import numpy as np
import pytest

from altlas_flow.selection.drift import change


def noise(seed, n=300, kind="normal"):
    rng = np.random.default_rng(seed)
    return {"normal": rng.normal, "exponential": rng.standard_exponential, "cauchy": rng.standard_cauchy}[
        kind
    ](size=n)


@pytest.mark.parametrize("kind", ["normal", "exponential", "cauchy"])
def test_noise_is_no_change(kind):
    found = [change(noise(seed, n, kind)) for seed in range(200) for n in (20, 100, 400)]
    assert sum(at is not None for at in found) <= 2


def test_a_single_outcome_far_off_is_no_change():
    values = noise(0)
    values[150] = 1e6
    assert change(values) is None


@pytest.mark.parametrize("seed", range(10))
def test_what_goes_on_is_found_soon_and_where_it_began(seed):
    before = noise(seed, 300)
    after = 9 + 3 * noise(seed + 1000, 300)
    seen = next(n for n in range(1, 300) if change(np.concatenate([before, after[:n]])) is not None)
    assert seen <= 25
    at = change(np.concatenate([before, after[: seen + 20]]))
    assert abs(at - 300) <= 5


def test_only_so_much_is_looked_back_at():
    values = np.concatenate([noise(0, 5000) + 20, noise(1, 500)])
    assert change(values) is None


def test_a_step_without_noise_is_found():
    assert change(np.array([1.0] * 20 + [5.0] * 20)) == 20


def test_what_is_always_the_same_has_not_changed():
    assert change(np.full(100, 3.0)) is None


def test_a_few_outcomes_are_too_few():
    assert change(np.array([0.0] * 5 + [9.0] * 5)) is None


@pytest.mark.parametrize("chance", [0.05, 0.1, 0.5, 0.9, 0.95])
def test_rare_scores_are_no_change(chance):
    found = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        residuals = (rng.random(300) < chance) - chance + 0.02 * rng.normal(size=300)
        found += [change(residuals[:n], least=0.1, bounded=True) for n in (20, 60, 300)]
    assert sum(at is not None for at in found) <= 2


def test_a_model_whose_answers_become_bad_is_found():
    rng = np.random.default_rng(0)
    residuals = np.concatenate([(rng.random(200) < 0.9) - 0.9, (rng.random(60) < 0.1) - 0.9])
    assert abs(change(residuals, least=0.1, bounded=True) - 200) <= 8


def test_what_is_near_enough_is_no_change():
    step = np.array([0.0] * 40 + [1e-4] * 40)
    assert change(step) is not None
    assert change(step, least=0.01) is None
