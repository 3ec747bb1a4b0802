"""Requests that may not run twice: they do not, whenever their worker dies."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest
from distributed.diagnostics.plugin import SchedulerPlugin

import altlas_flow as af
from altlas_flow.cluster.keys import REQUEST
from altlas_flow.errors import NodeLost
from tests.cluster.stages import in_one_envelope, model, over
from tests.laboratory import LIMIT, until

pytestmark = pytest.mark.timeout(120)


def test_what_may_not_run_twice_ends_with_its_worker_and_is_answered_where_it_merely_waited(four, stage):
    spec = stage.model()
    options = {"idempotent": False}
    running = [four.flow.submit(spec, {"n": i, "wait": "open"}, **options) for i in range(4)]
    nodes = stage.await_running(*range(4))
    waiting = [four.flow.submit(spec, {"n": i, "wait": "open"}, **options) for i in range(4, 8)]
    four.until(lambda info: sorted(info["in_flight"].values()) == [2] * 4)
    four.kill("b")
    died = running[nodes.index("b")]
    error = died.response(LIMIT).error.exception()
    assert isinstance(error, NodeLost) and error.nodes == ("b",) and error.tries == 1
    stage.open()
    answered = [handle for handle in (*running, *waiting) if handle is not died]
    assert len({handle.result(LIMIT).outputs for handle in answered}) == 7
    assert {handle.result().tries for handle in answered} == {1}
    assert max(Counter(number for number, _ in stage.book("began")).values()) == 1, "none ran twice"
    assert over(four)


def test_what_may_not_run_twice_does_not_though_its_envelope_dies_after_it_has_run(four, stage):
    """Batches of one row: the first two have run, and the third kills what holds their answers."""
    spec = stage.model(batch=1)
    inputs = [{"n": 0, "wait": "open"}, {"n": 1, "sleep": 0}, {"n": 2, "kill": True}, {"n": 3, "sleep": 0}]
    handles = in_one_envelope(four.flow, spec, inputs, idempotent=False)
    stage.await_running(0)
    assert len({handle.future.key for handle in handles}) == 1
    stage.open()
    responses = [handle.response(LIMIT) for handle in handles]
    assert max(Counter(number for number, _ in stage.book("began")).values()) == 1, stage.book("began")
    assert [response.ok for response in responses] == [False, False, False, True]
    assert over(four)


@pytest.mark.long
def test_what_is_answered_does_not_run_again_though_the_worker_that_has_the_answer_dies(four, stage):
    spec = stage.model()
    handles = [four.flow.submit(spec, {"n": i, "sleep": 0}, idempotent=False) for i in range(8)]
    nodes = {handle.result(LIMIT).node_id for handle in handles}
    four.until(lambda info: info["envelopes"] == 0)
    four.kill(min(nodes))
    four.until(lambda info: min(nodes) not in {host["name"] for host in info["hosts"].values()})
    four.await_host(min(nodes))
    assert over(four)
    assert max(Counter(number for number, _ in stage.book("began")).values()) == 1
    assert [handle.result().outputs for handle in handles] == list(range(8))


class DieWithAnswers(SchedulerPlugin):
    """Kills a worker when it has the answers of an envelope, before its client can have them."""

    name = "die-with-answers"

    def __init__(self, scheduler, pids):
        self.scheduler, self.pids = scheduler, pids

    def transition(self, key, start, finish, *args, **kwargs):
        if finish == "memory" and str(key).startswith(REQUEST) and self.pids:
            (worker,) = self.scheduler.tasks[key].who_has
            os.kill(self.pids[worker.address], signal.SIGKILL)
            self.pids = None


@pytest.mark.parametrize("idempotent", [True, False])
def test_answers_that_die_with_their_worker_are_made_again_only_where_that_is_allowed(
    four,
    stage,
    idempotent,
):
    spec = stage.model()
    pids = four.client.run(os.getpid)
    four.client.run_on_scheduler(
        lambda dask_scheduler: dask_scheduler.add_plugin(DieWithAnswers(dask_scheduler, pids))
    )
    try:
        response = four.flow.submit(spec, {"n": 1, "sleep": 0}, idempotent=idempotent).response(LIMIT)
    finally:
        four.client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.remove_plugin(DieWithAnswers.name))
    runs = len(stage.book("began"))
    if idempotent:
        assert response.outputs == 1 and runs == 2
    else:
        assert runs == 1
        assert isinstance(response.error.exception(), NodeLost)
    assert over(four)


class NoNumber:
    """What cannot be opened again."""

    def __reduce__(self):
        return int, ("no number",)


@pytest.mark.parametrize("ends", ["an answer that cannot be opened", "its future is cancelled"])
def test_what_may_not_run_twice_does_not_whatever_the_policy_names(four, tmp_path, ends):
    book = tmp_path / "book"

    def ran(rows, folder=tmp_path):
        import time

        with open(folder / "book", "a") as file:
            file.write("x")
        end = time.monotonic() + 40
        while rows[0] == "wait" and not (folder / "open").exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        return [NoNumber() for _ in rows]

    anything = af.RetryPolicy(tries=3, on=("Exception", "AltlasError"))
    row = "wait" if "cancelled" in ends else "go"
    handle = four.flow.submit(model(ran), row, idempotent=False, retry=anything)
    until(book.exists)
    if "cancelled" in ends:
        handle.future.cancel()
    error = handle.response(LIMIT).error
    (tmp_path / "open").touch()
    assert error.type == ("RequestCancelled" if "cancelled" in ends else "ClusterError")
    assert over(four)
    assert book.read_text() == "x"
