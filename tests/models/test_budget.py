"""The search for the batch budget, as laws over simulated machines."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altlas_flow.models.budget import BudgetSearch


def climb(search: BudgetSearch, rate: dict[int, float], noise: float = 0.0, drift: float = 1.0) -> int:
    """Run a search on a machine whose rate (cost a second) depends on the budget."""
    rng, factor = random.Random(1), 1.0
    for _ in range(500):
        if search.settled:
            return search.value
        budget = search.ask()
        factor *= drift
        search.tell(budget, budget, budget / (rate[budget] * factor * (1 + noise * rng.uniform(-1, 1))))
    raise AssertionError("the search did not settle within 500 batches")


RATES = {256: 90.0, 512: 98.0, 1024: 100.0, 2048: 100.0, 4096: 87.0, 8192: 79.0, 16384: 70.0}


def test_between_equals_the_smaller_budget_is_kept() -> None:
    assert climb(BudgetSearch(1024, 256, 16_384), RATES) == 1024


def test_a_machine_that_wants_large_batches_gets_them() -> None:
    rate = {256 * 2**i: 1e5 * 1.5**i for i in range(7)}
    assert climb(BudgetSearch(1024, 256, 16_384), rate) == 16_384


def test_a_machine_that_wants_small_batches_gets_them() -> None:
    rate = {256 * 2**i: 2e4 / 1.5**i for i in range(7)}
    assert climb(BudgetSearch(1024, 256, 16_384), rate) == 256


@pytest.mark.parametrize("drift", [0.99, 1.01])
def test_a_stream_that_gets_faster_or_slower_does_not_decide_the_duel(drift: float) -> None:
    chosen = climb(BudgetSearch(1024, 256, 16_384), dict.fromkeys(RATES, 100.0), drift=drift)
    assert chosen <= 1024


@given(st.integers(1, 100_000), st.lists(st.floats(0.001, 10), max_size=200))
def test_what_is_asked_for_stays_within_bounds(start: int, seconds: list[float]) -> None:
    search = BudgetSearch(start, 4, 4096)
    for second in seconds:
        budget = search.ask()
        assert 4 <= budget <= 4096
        search.tell(budget, budget, second)


def test_a_budget_that_ran_out_of_memory_is_not_asked_for_again() -> None:
    search = BudgetSearch(1024, 256, 16_384)
    search.shrink(1024)
    rate = dict.fromkeys(RATES, 100.0)
    assert search.ask() <= 512
    assert climb(search, rate) <= 512


def test_batches_that_take_long_are_not_enlarged() -> None:
    rate = {256 * 2**i: 1.0 * 1.5**i for i in range(7)}  # minutes for a batch
    assert climb(BudgetSearch(256, 256, 16_384, longest_s=1.0), rate) <= 512
