"""Rates and latencies over time."""

from __future__ import annotations

import numpy as np
import pytest

from altlas_flow.dashboard.choices import KEPT, Choices
from altlas_flow.dashboard.counts import Counts
from altlas_flow.dashboard.timeline import LEVELS, Timeline
from tests.dashboard.parts import part

pytestmark = pytest.mark.timeout(120)


def day(hours, *, fine=True, step=0.5):
    """A model that answers ten requests a second, in 0.2 s each."""
    counts = Counts()
    timeline = Timeline(counts)
    timeline.take(0.0, fine=fine)
    for at in range(1, int(hours * 3600 / step) + 1):
        counts.ended(part("a", [0.2] * int(10 * step), queue=0.05), "c", 0.0)
        timeline.take(at * step, fine=fine)
    return counts, timeline


def test_rates_and_times_are_those_that_were():
    _, timeline = day(0.05)
    for seconds in (300.0, 3600.0):
        times, values = timeline.series("requests", seconds)
        assert np.allclose(values["a"], 10.0)
        assert np.all(np.diff(times) > 0)
    latest = timeline.latest(180.0)["a"]
    assert latest["requests"] == pytest.approx(10.0)
    assert latest["p50"] == pytest.approx(0.2, rel=0.15)
    assert latest["queue"] == pytest.approx(0.05)
    assert latest["batch"] is None, "no host has said anything"


def test_a_day_is_kept_at_falling_resolution():
    _, timeline = day(26.0, step=10.0, fine=False)
    for (step, kept), seconds in zip(LEVELS[1:], (3600.0, 86400.0), strict=True):
        times, values = timeline.series("requests", seconds)
        assert len(times) <= kept + 1
        assert times[-1] - times[0] == pytest.approx(seconds, abs=2 * step)
        assert np.allclose(np.diff(times), step)
        assert np.allclose(values["a"], 10.0)


def test_what_is_kept_does_not_grow():
    _, timeline = day(0.2)
    before = timeline.bytes
    for at in range(3000):
        timeline.counts.ended(part("a", [0.2]), "c", 0.0)
        timeline.take(720.0 + at, fine=True)
    assert timeline.bytes == before


def test_models_that_come_later_have_no_past():
    counts, timeline = day(0.02)
    for at in range(60):
        for model in range(20):
            counts.ended(part(f"late {model}", [1.0]), "c", 0.0)
        timeline.take(72.0 + 0.5 * (at + 1))
    times, values = timeline.series("requests", 300.0)
    assert np.isnan(values["late 7"][times < 72]).all()
    assert np.allclose(values["late 7"][-50:], 2.0)


def test_where_nobody_looked_there_is_a_gap_and_no_flood():
    counts, timeline = day(0.02)
    counts.ended(part("a", [0.2] * 1000), "c", 0.0)
    for at in range(20):
        timeline.take(1000.0 + 0.5 * at)
    times, values = timeline.series("requests", 300.0)
    assert times[0] == 1000.0 and len(times) == 20
    assert 1.0 < values["a"][0] < 2.0, "what came while nobody looked is spread over that time"
    assert (values["a"][1:] == 0.0).all()


def test_before_anybody_looked_lines_are_coarse():
    counts = Counts()
    timeline = Timeline(counts)
    for at in range(0, 101, 10):  # nobody looks
        counts.ended(part("a", [0.1] * 20), "c", float(at))
        timeline.take(float(at), fine=False)
    for at in range(1, 21):
        counts.ended(part("a", [0.1] * 5), "c", 100.0)
        timeline.take(100.0 + 0.5 * at)
    times, values = timeline.series("requests", 300.0)
    assert (np.diff(times) > 0).all(), "each moment is there once"
    assert times[0] == 10.0 and times[-1] == 110.0 and len(times) > 25
    np.testing.assert_allclose(values["a"][times <= 100.0], 2.0)
    np.testing.assert_allclose(values["a"][times > 100.5], 10.0)


def test_between_two_looks_lines_are_coarse():
    counts = Counts()
    timeline = Timeline(counts)
    for at in range(401):
        looks = at < 100 or at > 300
        if looks or at % 20 == 0:
            timeline.take(0.5 * at, fine=looks)
    times, _ = timeline.series("requests", 300.0)
    assert (np.diff(times) > 0).all()
    assert np.diff(times).max() <= 20.0, "there is no hole"
    assert np.diff(times)[-50:].max() == 0.5


def test_rates_just_after_the_beginning_are_not_known_yet():
    counts = Counts()
    timeline = Timeline(counts)
    counts.ended(part("a", [0.2]), "c", 0.0)
    assert timeline.latest(5.0)["a"]["requests"] is None


def test_shares_of_choices_over_time():
    counts = Counts()
    choices = Choices(counts)
    choices.take(0.0)
    for at, model in enumerate("aabbbb"):
        counts.decided("t", model)
        counts.decided("other", "c")
        if at in (1, 5):
            choices.take(10.0 * (1 + at))
    times, values = choices.shares("t", 3600.0)
    assert times == [20.0, 60.0]
    assert values == {"a": [1.0, 0.0], "b": [0.0, 1.0]}
    choices.told("t", [{"model": "b", "quality": 0.5, "decisions": 99, "unknown": object()}], 60.0)
    first, second = choices.latest()
    assert {first["task"], second["task"]} == {"t", "other"}
    found = {one["model"]: one for one in (first if first["task"] == "t" else second)["models"]}
    assert found["b"]["share"] == pytest.approx(4 / 6) and found["b"]["quality"] == 0.5
    assert found["a"]["quality"] is None


def test_estimates_over_time():
    counts = Counts()
    choices = Choices(counts)
    counts.decided("t", "a")
    for at in range(3 * KEPT):
        choices.told(
            "t", [{"model": "a", "quality": at, "cost": None}, {"model": "b", "quality": 0.5}], 10.0 * at
        )
    times, values = choices.estimates("t", "quality", 3600.0, "ab")
    assert times[-1] == 10.0 * (3 * KEPT - 1) and times[-1] - times[0] == 3600.0
    assert values["a"][-1] == 3 * KEPT - 1 and (values["b"] == 0.5).all()
    assert np.isnan(choices.estimates("t", "cost", 3600.0, "ab")[1]["a"]).all()
    assert len(choices.estimates("t", "quality", 1e9, "ab")[0]) == KEPT
    assert len(choices.estimates("never", "quality", 1e9, "ab")[0]) == 0
    choices.told("other", [], 0.0)
    choices.told("another", [], 0.0)
    assert len(choices.estimates("other", "quality", 1e9, "ab")[0]) == 0, "nobody chooses for it"
