"""What is counted, and what is not."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from altlas_flow import dashboard
from altlas_flow.dashboard.counts import BOUNDS, FAULTS, MODELS, OTHERS, SUMS, Counts, label, quantiles
from tests.dashboard.parts import part

pytestmark = pytest.mark.timeout(120)


def sums(counts, model):
    return dict(zip(SUMS, counts.sums[counts.models[model]], strict=True))


@pytest.mark.parametrize("many", [1, 5, 100])
def test_requests_count_by_model_node_and_how_they_ended(many):
    counts = Counts()
    counts.ended(part("a", [0.3] * many, node="w1", queue=0.1, tries=2), "c", 0.0)
    counts.ended(part("a", [0.3], status="error", node="w2", tries=[3]), "c", 0.0)
    counts.ended(part("b", [0.3], status="cancelled", node=None), "c", 0.0)
    found = sums(counts, "a")
    assert (found["completed"], found["error"], found["cancelled"]) == (many, 1, 0)
    assert found["retries"] == many + 2
    assert found["queue_s"] == pytest.approx(0.1 * many)
    assert counts.requests == {
        ("a", "w1", "completed"): many,
        ("a", "w2", "error"): 1,
        ("b", "", "cancelled"): 1,
    }
    assert counts.latencies[counts.models["a"]].sum() == many, "only answers have a latency"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(-5, 2), st.floats(0.1, 1.5))
def test_quantiles_are_right_within_the_width_of_a_bucket(seed, centre, spread):
    took = np.clip(np.exp(np.random.default_rng(seed).normal(centre, spread, 2000)), 1.5e-3, 900.0)
    counts = Counts()
    counts.ended(part("a", took.tolist()), "c", 0.0)
    found = quantiles(counts.latencies[:1], (0.5, 0.95, 0.99))[0]
    assert np.all(
        np.abs(np.log(found / np.quantile(took, (0.5, 0.95, 0.99)))) < 1.1 * np.log(BOUNDS[1] / BOUNDS[0])
    )


def test_of_nothing_there_is_no_quantile():
    assert np.isnan(quantiles(np.zeros((1, len(BOUNDS) + 1), dtype=np.int64), (0.5,))).all()


@pytest.mark.parametrize(
    "bad",
    [
        {"submitted": ["x"]},
        {"submitted": [0.1, 0.2]},
        {"submitted": [float("nan")]},
        {"started": [float("inf")], "submitted": [float("inf")]},
        {"ended": "soon"},
        {"tries": "many"},
        {"ids": 3},
        {"error": 5, "status": "error", "trace": 7},
    ],
)
def test_what_makes_no_sense_counts_nothing(bad):
    counts = Counts()
    with pytest.raises((ValueError, TypeError)):
        counts.ended({**part("a", [0.2]), **bad}, "c", 0.0)
    assert not counts.models and not counts.requests and not counts.faults and not counts.errors


def test_a_failure_is_kept_with_its_kind_and_its_trace():
    counts = Counts()
    counts.ended(
        part("a", [2.0], status="error", kind="PredictError", trace=["node w1", "tries 2"], tries=2),
        "me",
        100.0,
    )
    (fault,) = counts.faults
    assert (fault["kind"], fault["model"], fault["node"], fault["client"]) == ("PredictError", "a", "n", "me")
    assert fault["trace"] == ["node w1", "tries 2"] and fault["tries"] == 2
    assert counts.errors == {"PredictError": 1}


def test_whatever_comes_what_is_kept_is_bounded():
    counts = Counts()
    for at in range(3 * MODELS):
        name = f"model {at} " + "x" * 500
        counts.ended(
            part(name, [0.1], status="error", kind=f"kind {at}", error="y" * 10**5, node=f"w{at}"), "c", 0.0
        )
    assert len(counts.models) == MODELS + 1 and OTHERS in counts.models
    assert max(map(len, counts.models)) < 200
    assert len(counts.faults) == FAULTS
    assert max(len(fault["error"]) for fault in counts.faults) < 1000
    assert len(counts.alike) <= 2 * FAULTS
    assert counts.sums[:, SUMS.index("error")].sum() == 3 * MODELS


def test_it_is_counted_how_many_failed_alike_also_of_those_that_are_not_kept():
    counts = Counts()
    for at in range(2 * FAULTS):
        error = f"inputs[{at}]: the input is null"
        counts.ended(part(took=[0.1] * 3, status="error", kind="InputError", error=error), f"c{at}", 0.0)
    counts.ended(part(status="error", kind="ValueError", model="other"), "c", 0.0)
    latest = counts.latest()
    assert [(fault["model"], fault["alike"]) for fault in latest] == [("other", 1), ("m", 6 * FAULTS)]
    assert latest[1]["error"] == f"inputs[{2 * FAULTS - 1}]: the input is null", "the newest of them"


def test_hosts_count_on_and_another_host_begins_anew():
    counts = Counts()
    for totals in ([2, 20, 1, 0, 0], [2, 20, 1, 0, 0], [5, 50, 1, 0, 1]):
        counts.heard("tcp://w:1", "a", totals)
    counts.gone("tcp://w:1")
    counts.gone("tcp://w:1")
    counts.heard("tcp://w:2", "a", [1, 4, 1, 0, 0])
    counts.heard("tcp://v:1", "a", [1, 1, 0, 0, 0])
    found = sums(counts, "a")
    assert [found[name] for name in ("batches", "batched", "loads", "load_failures", "evictions")] == [
        7,
        55,
        2,
        0,
        1,
    ]


def test_what_hosts_say_counts_once_however_many_there_are(monkeypatch):
    monkeypatch.setattr("altlas_flow.dashboard.counts.HEARD", 20)
    counts = Counts()
    for _ in range(5):  # heartbeats in which nothing new is said
        for host in range(30):
            counts.heard(f"h{host}", "a", [10, 10, 0, 0, 0])
    assert sums(counts, "a")["batches"] == 200, "of the first 20; the others are not counted"
    for host in range(20):
        counts.gone(f"h{host}")
    counts.heard("h29", "a", [10, 10, 0, 0, 0])
    assert sums(counts, "a")["batches"] == 210


def test_long_names_that_differ_at_their_ends_stay_apart():
    names = {label("x" * 190 + end) for end in "ab"}
    assert len(names) == 2 and all(len(name) <= 120 for name in names)
    assert label("short") == "short"


@pytest.mark.parametrize("many", [8, 9, 50])
def test_models_that_come_one_after_the_other_have_their_own(many):
    heard, predicted = Counts(), Counts()
    for at in range(many):
        heard.heard("w", f"m{at}", [at + 1, 0, 0, 0, 0])
        predicted.predicted(f"m{at}", at + 1, 0.1)
    assert [sums(heard, f"m{at}")["batches"] for at in range(many)] == list(range(1, many + 1))
    assert [sums(predicted, f"m{at}")["rows"] for at in range(many)] == list(range(1, many + 1))


def test_choices_count_by_task_and_model():
    counts = Counts()
    for model in "aab":
        counts.decided("t", model)
    assert counts.decisions == {("t", "a"): 2, ("t", "b"): 1}


def test_memory_stays_flat_over_a_million_requests():
    counts = Counts()
    parts = [part(f"m{at % 50}", [0.01 * (at % 90 + 1)] * 100, node=f"w{at % 100}") for at in range(1000)]
    for one in parts:
        counts.ended(one, "c", 0.0)
    ours = tracemalloc.Filter(True, f"{Path(dashboard.__file__).parent}/*")  # other threads may be busy, too
    tracemalloc.start()
    for _ in range(9):
        for one in parts:
            counts.ended(one, "c", 0.0)
    kept = tracemalloc.take_snapshot().filter_traces([ours]).statistics("filename")
    tracemalloc.stop()
    grown = sum(one.size for one in kept)
    assert sum(counts.requests.values()) == 1_000_000
    assert grown < 100_000, kept
