"""How far jobs are."""

from __future__ import annotations

import pytest

from altlas_flow.dashboard.jobs import KEPT, Jobs

pytestmark = pytest.mark.timeout(60)


def job(id="j", state="running", done=50, **more):
    return {
        "id": id,
        "model": "m",
        "output": "out/",
        "state": state,
        "done": done,
        "skipped": 10,
        "dead": 1,
        "total": 130,
        "seconds": 20.0,
        **more,
    }


def test_rate_and_time_left_are_of_what_was_done_now():
    jobs = Jobs()
    jobs.told("c", job(), 100.0)
    (found,) = jobs.latest(104.0)
    assert found["rows_per_s"] == 2.0, "what was there already took no time"
    assert found["left"] == pytest.approx(80 / 2.0 - 4.0)
    jobs.told("c", job(state="done", done=130), 110.0)
    (found,) = jobs.latest(111.0)
    assert (found["state"], found["left"]) == ("done", None)


def test_jobs_of_a_client_that_has_gone_run_no_more():
    jobs = Jobs()
    jobs.told("c", job("a"), 0.0)
    jobs.told("c", job("b", state="done"), 0.0)
    jobs.told("other", job("a"), 0.0)
    jobs.left("c")
    assert {(one["client"], one["id"], one["state"]) for one in jobs.latest(0.0)} == {
        ("c", "a", "gone"),
        ("c", "b", "done"),
        ("other", "a", "running"),
    }


def test_only_the_newest_are_kept_and_those_that_run_before_others():
    jobs = Jobs()
    jobs.told("c", job("long"), 0.0)
    for at in range(3 * KEPT):
        jobs.told("c", job(f"quick {at}", state="done"), 0.0)
    found = jobs.latest(0.0)
    assert len(found) == KEPT
    assert found[0]["id"] == "long"
    assert found[1]["id"] == f"quick {3 * KEPT - 1}"


@pytest.mark.parametrize(
    "bad",
    [
        {"state": "<b>"},
        {"done": -1},
        {"done": "many"},
        {"seconds": float("nan")},
        {"total": "x"},
        {"dead": None},
    ],
)
def test_what_makes_no_sense_is_refused(bad):
    jobs = Jobs()
    with pytest.raises((ValueError, TypeError)):
        jobs.told("c", job(**bad), 0.0)
    assert jobs.latest(0.0) == []


def test_why_a_job_failed_is_kept_as_one_line():
    jobs = Jobs()
    jobs.told("c", job(state="failed", error="a worker\ndied " * 100), 100.0, 1e9)
    jobs.told("c", job("other"), 100.0, 1e9)
    other, failed = jobs.latest(100.0)
    assert failed["error"].startswith("a worker died a worker") and len(failed["error"]) == 500
    assert failed["at"] == 1e9 and other["error"] == ""
