"""Deadlines: a request ends at its own, wherever it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta

import pytest

import altlas_flow as af
from altlas_flow.errors import DeadlineExceeded
from tests.cluster.stages import Stage, another, echo, fill, model, quiet, waiting_rows
from tests.laboratory import LIMIT, until

pytestmark = pytest.mark.timeout(120)


def lateness(handle, given):
    """Seconds between a deadline and the end, by the handle's own clock."""
    return handle._ended - handle._submitted - given


def test_a_request_ends_at_its_deadline_wherever_it_is(solo, stage, gate):
    """At most 50 ms after it, and what had not begun is never predicted."""
    late = []
    for n in range(5):
        spec = stage.model()
        fresh = Stage(gate.folder / str(n))
        fresh.folder.mkdir()
        fill(solo, fresh, 1)
        waits = solo.flow.submit(spec, {"n": 1}, deadline="400ms")
        # earlier than the other, or it would take the place of that one
        kept = solo.flow.submit(spec, {"n": 2}, deadline="200ms")
        for handle in (kept, waits):
            with pytest.raises(DeadlineExceeded, match=handle.request_id):
                handle.result(LIMIT)
            assert handle.status == "error"
        assert waits.future is not None and kept.future is None
        until(lambda: waiting_rows(solo) == 0)  # the worker knows
        fresh.open("fill")
        quiet(solo)
        assert stage.predicted == []
        late.append(max(lateness(waits, 0.4), lateness(kept, 0.2)))
        if late[-1] < 0.05:
            break
    assert 0 <= min(late) < 0.05


def test_a_running_request_ends_at_its_deadline(solo, stage):
    late, spec = [], stage.model()
    for n in range(5):
        quiet(solo)
        handle = solo.flow.submit(spec, {"n": n, "wait": f"{n}"}, deadline=timedelta(seconds=1))
        stage.await_running(n)
        with pytest.raises(DeadlineExceeded) as caught:
            handle.result(LIMIT)
        stage.open(n)
        assert caught.value.tries <= 1  # where its word that it runs has come by then
        late.append(lateness(handle, 1.0))
        if late[-1] < 0.05:
            break
    assert 0 <= min(late) < 0.05
    assert handle.status == "error"


def test_a_deadline_holds_for_what_waits_beyond_the_limit(solo, gate):
    with another(solo, waiting_limit=2) as flow:
        fill(solo, gate, 1, flow)
        spec = model(echo)
        inside = flow.submit(spec, 1)
        outside = flow.submit(spec, 2, deadline="300ms")
        with pytest.raises(DeadlineExceeded):
            outside.result(10)
        assert lateness(outside, 0.3) < 5
        gate.open("fill")
        assert inside.result(LIMIT).outputs == 1


@pytest.mark.long
def test_a_deadline_holds_while_large_inputs_are_sent(lab, stage):
    """Whatever they are made of: numbers in lists take long to weigh, and to pack."""

    def len_of(rows):
        return [len(row) for row in rows]

    late, spec, numbers = [], stage.model(), [[0.5] * 1000 for _ in range(3000)]
    large = model(len_of)
    for n in range(5):
        quiet(lab)
        handle = lab.flow.submit(spec, {"n": n, "wait": f"{n}"}, deadline="300ms")
        other = lab.flow.submit(large, tuple(numbers))
        with pytest.raises(DeadlineExceeded):
            handle.result(LIMIT)
        stage.open(f"{n}")
        assert other.result(LIMIT).outputs == 3000
        late.append(lateness(handle, 0.3))
        if late[-1] < 0.05:
            break
    assert 0 <= min(late) < 0.05


def test_a_deadline_that_is_kept_changes_nothing(lab):
    handle = lab.flow.submit(model(echo), [1], deadline=LIMIT)
    assert handle.result(LIMIT).outputs == [1]
    request = af.InferenceRequest(model_id=lab.flow.register(model(echo)).id, inputs=2, deadline="40s")
    assert lab.flow.submit(request).result(LIMIT).outputs == 2


#: A program whose request waits for the only thread of its worker, which somebody else's task has.
CLIENT = """
import pathlib, sys, time
import altlas_flow as af
from tests.cluster.stages import Stage
folder = pathlib.Path(sys.argv[2])

def has_the_thread(folder):
    import time
    (folder / "taken").touch()
    end = time.monotonic() + 40
    while not (folder / "freed").exists():
        assert time.monotonic() < end
        time.sleep(0.01)

flow, spec = af.connect(sys.argv[1]), Stage(folder).model()
flow.submit(spec, {"n": 0, "sleep": 0}).result(40)
task = flow.client.submit(has_the_thread, folder, pure=False)
while not (folder / "taken").exists():
    time.sleep(0.01)
print(flow.submit(spec, {"n": 1, "sleep": 0}, deadline=1.0).status, flush=True)
sys.stdin.read()
"""


@pytest.mark.long
def test_a_request_past_its_deadline_is_not_predicted_though_its_client_stands_still(solo, stage):
    """It waited on its worker for a thread of Dask's, where no host sees it."""
    quiet(solo)
    command = [sys.executable, "-c", CLIENT, solo.cluster.scheduler_address, str(stage.folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as client:
        try:
            assert client.stdout.readline() == "pending\n"
            sent = time.monotonic()
            solo.until(lambda info: info["envelopes"] == 1)
            os.kill(client.pid, signal.SIGSTOP)
            # the deadline, which the worker counts from when it got the request: the way there takes its time
            until(lambda: time.monotonic() > sent + 3.0)
            (stage.folder / "freed").touch()
            solo.until(lambda info: info["envelopes"] == 0)
            assert [n for n, _ in stage.book("began")] == [0]
        finally:
            client.kill()
    quiet(solo)
