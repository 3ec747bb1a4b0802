"""Weights and constraints as people write them."""

from __future__ import annotations

import math

import pytest

from altlas_flow.errors import SelectionError
from altlas_flow.selection.goal import goal_of


def test_what_is_not_weighed_counts_nothing():
    goal = goal_of({"latency": 2})
    assert (goal.quality, goal.latency, goal.cost) == (0.0, 2.0, 0.0)
    assert not goal.constrained


@pytest.mark.parametrize(
    ("constraints", "found"),
    [
        ({"latency_p95": "300ms"}, {"latency_limit": 0.3, "late": pytest.approx(0.05)}),
        ({"latency_p999": 2}, {"latency_limit": 2.0, "late": pytest.approx(0.001)}),
        ({"latency_p50": 2}, {"latency_limit": 2.0, "late": pytest.approx(0.5)}),
        ({"cost": 0.5}, {"cost_limit": 0.5}),
        ({"cost_per_1k": 5}, {"cost_limit": 0.005}),
        ({"quality": 0.8}, {"quality_limit": 0.8}),
    ],
)
def test_constraints(constraints, found):
    goal = goal_of(None, constraints)
    assert {name: getattr(goal, name) for name in found} == found
    assert goal.constrained


@pytest.mark.parametrize(
    ("weights", "constraints", "said"),
    [
        ({"speed": 1}, None, "'speed'.*quality, latency, cost"),
        ({"quality": -1}, None, "from 0"),
        ({"quality": math.nan}, None, "from 0"),
        ({"quality": "much"}, None, "no number"),
        ({"quality": 0}, None, "weigh nothing"),
        (["quality"], None, "no mapping"),
        (None, {"latency_p95": "soon"}, "300ms"),
        (None, {"latency_p95": -1}, "above 0"),
        (None, {"latency_p00": 1}, "percentile"),
        (None, {"latency_p100": 1}, "percentile"),
        (None, {"latency_p5": 1}, "percentile"),
        (None, {"latency_p²": 1}, "percentile"),
        (None, {"latency_p99": 1, "latency_p50": 0.2}, "two percentiles"),
        (None, {"cost": 1, "cost_per_1k": 5}, "the same constraint"),
        (None, {"cost": 0}, "give a number above 0"),
        (None, {"latency_mean": 1}, "is not known"),
        (None, {"quality": 2}, "from 0 to 1"),
        (None, {"cost": math.inf}, "from 0"),
        (None, 3, "no mapping"),
    ],
)
def test_what_cannot_be_aimed_at_is_named(weights, constraints, said):
    with pytest.raises(SelectionError, match=said):
        goal_of(weights, constraints)
