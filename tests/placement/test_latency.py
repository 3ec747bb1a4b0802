"""Latency: the last observations count most, and silence makes them count less."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altlas_flow.placement.latency import Latency

seconds = st.floats(1e-6, 1e3)


def seen(*values: float, at: float = 0.0) -> Latency:
    latency = Latency()
    for value in values:
        latency.observe(value, at)
    return latency


@given(st.lists(seconds, min_size=1, max_size=40))
def test_the_mean_lies_between_the_smallest_and_the_largest_observation(values):
    latency = seen(*values)
    assert min(values) * 0.999999 <= latency.mean <= max(values) * 1.000001
    assert latency.count == len(values)


@given(st.lists(seconds, min_size=1, max_size=3))
def test_the_first_three_are_averaged_plainly(values):
    assert seen(*values).mean == pytest.approx(sum(values) / len(values))


@given(st.integers(3, 1000), seconds)
def test_ten_times_slower_shows_within_three_observations(before, usual):
    assert seen(*[usual] * before, *[10 * usual] * 3).mean > 6 * usual
    assert seen(*[usual] * before, *[usual / 10] * 12).mean < usual / 8


@given(seconds, st.floats(0, 1e6), st.floats(0, 1e6))
def test_what_is_expected_only_falls_with_time_and_never_below_a_64th(mean, first, second):
    latency = seen(mean, at=100.0)
    early, late = sorted((100 + first, 100 + second))
    assert mean / 64 <= latency.expect(late) <= latency.expect(early) <= mean


def test_it_is_believed_half_after_thirty_seconds_of_silence():
    latency = seen(2.0, at=50.0)
    assert latency.expect(50.0) == 2.0
    assert latency.expect(80.0) == pytest.approx(1.0)
    assert latency.expect(110.0) == pytest.approx(0.5)
    assert latency.expect(20.0) == 2.0  # a clock that went back
    latency.observe(2.0, 200.0)
    assert latency.expect(200.0) == pytest.approx(2.0)


def test_before_the_first_observation_nothing_is_expected():
    assert Latency().expect(1e9) == 0.0
