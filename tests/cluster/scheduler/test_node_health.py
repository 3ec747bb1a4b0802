"""Nodes that are there and of no use: silent, without the model, with a bad GPU."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import types
import uuid

import pytest

import altlas_flow as af
from altlas_flow.errors import ModelLoadError, PredictError
from altlas_flow.placement.decide import ASIDE
from tests.cluster.stages import await_ahead, model, named, over
from tests.dataframe import jobs
from tests.laboratory import LIMIT, laboratory, until

pytestmark = pytest.mark.timeout(120)

#: Seconds that moving work and doing it may take, on a machine that does much else.
SLACK = 6.0


@pytest.fixture(scope="module")
def shared():
    with laboratory(named("ab"), heartbeat_timeout="2s") as made:
        yield made


@pytest.fixture
def pair(shared):
    """Workers a and b; after 2 s without a word they count as silent. Both are well when a test begins."""
    shared.until(lambda info: not info["silent"] and len(info["hosts"]) == 2)
    forgive(shared)
    return shared


@contextlib.contextmanager
def stopped(lab, name, folder):
    """The worker's process stands still."""
    pid = lab.pid_of(name)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def blocked(lab, name, folder):
    """The worker's event loop stands still, as with a function of Dask's that holds it up."""
    address, limit = lab.address_of(name), LIMIT

    def block():
        import time

        (folder / "blocked").touch()
        end = time.monotonic() + limit
        while not (folder / "unblocked").exists() and time.monotonic() < end:
            time.sleep(0.01)

    helper = threading.Thread(target=lambda: lab.client.run(block, workers=[address]))
    helper.start()
    try:
        until((folder / "blocked").exists)
        yield
    finally:
        (folder / "unblocked").touch()
        helper.join(LIMIT)


# ---------------------------------------------------------------- silent ones


def falls_silent(lab, stage, stand, *, timeout, longer=0.0):
    """Worker a stands still with one request that runs there and one that waits; who answers them."""
    spec = stage.model()
    handles = [lab.flow.submit(spec, {"n": i, "wait": "open"}) for i in range(2)]
    nodes = stage.await_running(0, 1)
    assert sorted(nodes) == ["a", "b"]
    ran = nodes.index("a")
    handles += [lab.flow.submit(spec, {"n": i, "wait": "open"}) for i in (2, 3)]
    lab.until(lambda info: list(info["in_flight"].values()) == [2, 2])
    silent = lab.address_of("a")
    with stand(lab, "a", stage.folder):
        began = time.monotonic()
        stage.open()
        responses = [handle.result(LIMIT) for handle in handles]
        assert time.monotonic() - began < timeout + SLACK
        assert [response.outputs for response in responses] == [0, 1, 2, 3]
        assert {response.node_id for response in responses} == {"b"}
        assert [response.tries for response in responses] == [2 if i == ran else 1 for i in range(4)]
        assert responses[ran].trace.tries[0].error == "silent"
        assert list(lab.info()["silent"]) == [silent]
        others = [lab.flow.submit(spec, {"n": i}) for i in range(4, 12)]
        assert {handle.result(LIMIT).node_id for handle in others} == {"b"}
        until(lambda: time.monotonic() - began > longer)
    lab.until(lambda info: not info["silent"])
    until(lambda: (ran, "a") in stage.book("ended"))  # late, and nobody's any more
    until(lambda: lab.flow.submit(spec, {"n": 12}).result(LIMIT).node_id == "a")
    assert [handle.result().outputs for handle in handles] == [0, 1, 2, 3]
    assert over(lab)
    return [handle.result().node_id for handle in handles]


#: A process that stands still is left to the long run: what follows is the same.
STANDS = [pytest.param(stopped, marks=pytest.mark.long), blocked]


@pytest.mark.parametrize("stand", STANDS)
def test_what_a_silent_worker_has_is_answered_elsewhere_and_it_is_used_again_once_it_speaks(
    pair, stage, stand
):
    assert falls_silent(pair, stage, stand, timeout=2) == ["b"] * 4


@pytest.mark.long
def test_a_worker_that_stands_still_for_15_s_is_silent_after_10_s(stage):
    with laboratory(named("ab")) as lab:
        assert falls_silent(lab, stage, stopped, timeout=10, longer=15) == ["b"] * 4


@pytest.mark.parametrize("stand", STANDS)
def test_a_job_completes_with_the_right_rows_though_a_worker_falls_silent(pair, tmp_path, stand):
    out, done = tmp_path / "out", threading.Event()

    def stand_still():
        until(lambda: jobs.committed(out) >= 4)
        with stand(pair, "a", tmp_path):
            assert done.wait(LIMIT)

    helper = threading.Thread(target=stand_still)
    helper.start()
    try:
        pair.flow.run(jobs.frame(400), jobs.spec(jobs.Slow(0.05)), input="text", to=out, part_rows=10)
    finally:
        done.set()
        helper.join(LIMIT)
    rows = jobs.read(out)
    assert list(rows["n"]) == list(range(400))
    assert list(rows["prediction"]) == list(jobs.frame(400)["text"])
    assert set(jobs.part_lines(out).values()) == {1}
    pair.until(lambda info: not info["silent"])
    assert over(pair)


@pytest.mark.long
@pytest.mark.parametrize("stand", STANDS)
def test_a_frame_is_mapped_with_the_right_rows_though_a_worker_falls_silent(pair, tmp_path, stand):
    silent, done, stood = pair.address_of("a"), threading.Event(), threading.Event()

    def stand_still():
        pair.until(lambda info: silent in info["in_flight"])
        with stand(pair, "a", tmp_path):
            stood.set()
            assert done.wait(LIMIT)

    helper = threading.Thread(target=stand_still)
    helper.start()
    frame = jobs.frame(200)
    try:
        found = pair.flow.map(frame, jobs.spec(jobs.Slow(0.05)), input="text")
    finally:
        done.set()
        helper.join(LIMIT)
    assert stood.is_set()
    assert list(found["n"]) == list(range(200))
    assert list(found["prediction"]) == list(frame["text"])
    pair.until(lambda info: not info["silent"])
    assert over(pair)


@pytest.mark.long
@pytest.mark.parametrize("stand", STANDS)
def test_what_another_worker_was_fetching_from_a_worker_that_falls_silent_is_made_anew(pair, tmp_path, stand):
    """Dask's workers wait for ever for data of one that has stopped, and make nothing anew meanwhile."""
    client, home = pair.client, pair.address_of("a")
    made = client.submit(
        jobs.upper, ["text"], key=f"altlas-made-{uuid.uuid4().hex}", workers=[home], allow_other_workers=True
    )
    made.result(LIMIT)
    with stand(pair, "a", tmp_path):
        elsewhere = {"workers": [pair.address_of("b")], "key": f"altlas-fetches-{uuid.uuid4().hex}"}
        fetches = client.submit(jobs.upper, made, pure=False, **elsewhere)
        assert fetches.result(LIMIT / 2) == ["TEXT"]
    pair.until(lambda info: not info["silent"])
    assert over(pair)


@pytest.mark.parametrize("stand", STANDS)
def test_what_waits_on_a_worker_that_falls_silent_for_what_only_that_one_has_runs_elsewhere(
    pair, tmp_path, stand
):
    """The other one was told to fetch it from there, before it was told to make it."""
    client, home = pair.client, pair.address_of("a")

    def wait_for(path, texts):
        import time

        end = time.monotonic() + 40
        while not path.exists() and time.monotonic() < end:
            time.sleep(0.01)
        return texts

    there = {"workers": [home], "allow_other_workers": True}
    made = client.submit(jobs.upper, ["text"], key=f"altlas-made-{uuid.uuid4().hex}", **there)
    made.result(LIMIT)
    needing = [
        client.submit(
            wait_for, tmp_path / "go", made, key=f"altlas-needs-{uuid.uuid4().hex}", pure=False, **there
        )
        for _ in range(3)
    ]
    made.release()
    (waits,) = (ws for ws in pair.cluster.scheduler.workers.values() if ws.name == "a")
    until(lambda: {one.key for one in needing} <= {ts.key for ts in waits.processing})
    with stand(pair, "a", tmp_path):
        (tmp_path / "go").touch()
        assert [one.result(LIMIT / 2) for one in needing] == [["TEXT"]] * 3
    pair.until(lambda info: not info["silent"])
    assert over(pair)


@pytest.mark.long
@pytest.mark.parametrize("stand", STANDS)
def test_large_inputs_that_were_sent_ahead_to_a_worker_that_falls_silent_are_answered_elsewhere(
    pair, stage, stand
):
    """2 MB each: they lie on a worker, and nowhere else, before their requests leave."""
    spec, text = stage.model(), "x" * 2_000_000
    handles = [pair.flow.submit(spec, {"n": i, "wait": "open"}) for i in range(4)]
    pair.until(lambda info: sorted(info["in_flight"].values()) == [2, 2])
    large = [pair.flow.submit(spec, {"n": i, "text": text}) for i in range(4, 10)]
    with stand(pair, await_ahead(pair, 6), stage.folder):
        began = time.monotonic()
        stage.open()
        assert [handle.result(LIMIT).outputs for handle in (*handles, *large)] == list(range(10))
        assert time.monotonic() - began < 2 + 2 * SLACK
    pair.until(lambda info: not info["silent"])
    assert over(pair)


@pytest.mark.long
def test_a_clock_that_is_set_makes_nobody_silent(pair, stage, monkeypatch):
    """As when a laptop wakes up; the clocks of the scheduler are in this process."""
    spec, ahead = stage.model(), [0.0]
    real, clock = time.time, types.SimpleNamespace(time=lambda: time.time() + ahead[0])
    monkeypatch.setattr("distributed.scheduler.time", lambda: real() + ahead[0])
    monkeypatch.setattr("altlas_flow.cluster.scheduler.watchman.time", clock)
    looks = []
    watchman = pair.cluster.scheduler.plugins["altlas-control"].watchman
    check = watchman._check
    monkeypatch.setattr(watchman, "_check", lambda away: (looks.append(away), check(away)))
    for number, step in enumerate((60.0, -120.0, 60.0)):
        handle = pair.flow.submit(spec, {"n": number, "wait": f"{number}"}, idempotent=False)
        stage.await_running(number)
        ahead[0] += step
        seen = len(looks)
        until(lambda seen=seen: len(looks) >= seen + 15)  # longer than the timeout
        stage.open(f"{number}")
        assert handle.result(LIMIT).tries == 1
        assert not pair.info()["silent"]


@pytest.mark.long
def test_where_only_silent_nodes_could_do_it_all_that_wait_end_together(stage):
    """Also those that ran there, wait to run elsewhere, or have not left yet."""
    patience = 5.0
    with laboratory(named("a"), heartbeat_timeout="4s", no_workers_timeout=f"{patience}s") as lab:
        spec = stage.model()
        handles = [lab.flow.submit(spec, {"n": i, "wait": "open"}) for i in range(20)]
        until(lambda: stage.book("began"))  # whichever of the first two comes first once the model is loaded
        with stopped(lab, "a", stage.folder):
            errors = [handle.response(2 * LIMIT).error for handle in handles]
            assert {error.type for error in errors} == {"NoEligibleNode"}
            assert "silent" in errors[-1].message
            ends = [handle._ended for handle in handles]
            assert max(ends) - min(ends) < patience, "not one pause after the other"
            stage.open()
        lab.until(lambda info: not info["silent"])
        until(lambda: lab.flow.submit(spec, {"n": 99}).response(LIMIT).ok)


# ---------------------------------------------------------------- without the model


def unloadable(*where):
    """A model that cannot be loaded on some workers."""

    def model(rows):
        return list(rows)

    def load(where):
        import os

        if os.environ.get("STAGE_NAME") in where:
            raise OSError("the disk is gone")
        return model

    class Source:
        def __reduce__(self):
            return load, (where,)

        def __call__(self, rows):
            return list(rows)

    return af.ModelSpec(id=f"unloadable-{uuid.uuid4()}", source=Source())


def test_what_a_node_cannot_load_is_answered_by_another(pair):
    spec = unloadable("a")
    handles = [pair.flow.submit(spec, i, strategy="ROUND_ROBIN") for i in range(6)]
    responses = [handle.result(LIMIT) for handle in handles]
    assert [response.outputs for response in responses] == list(range(6))
    assert {response.node_id for response in responses} == {"b"}
    moved = [response for response in responses if response.tries > 1]
    assert moved
    assert {one.node for response in moved for one in response.trace.tries} == {"a"}
    assert "the disk is gone" in moved[0].trace.tries[0].error
    assert over(pair)


def test_what_no_node_can_load_ends_with_its_tries_its_nodes_and_what_began_it(pair):
    with pytest.raises(ModelLoadError) as caught:
        pair.flow.submit(unloadable("a", "b"), 1).result(LIMIT)
    error = caught.value
    assert error.tries == len(error.nodes) == 3
    assert set(error.nodes) == {"a", "b"}
    assert "OSError: the disk is gone" in error.root_cause
    assert "\n" not in str(error)
    assert over(pair)


# ---------------------------------------------------------------- with a bad GPU


def faulty(stage, error, node="a"):
    """Fails on a node until the gate ``mended`` is open."""
    mended, act = stage.gate("mended"), stage.function()

    def faulty(rows):
        import os

        if os.environ["STAGE_NAME"] == node and not mended.exists():
            raise error
        return act(rows)

    return model(faulty)


def health(lab, change):
    """Change what the placer thinks of its nodes."""
    lab.client.run_on_scheduler(
        lambda dask_scheduler: change(dask_scheduler.plugins["altlas-control"].placer.health)
    )


def forgive(lab):
    """No node is set aside, or on the way there."""

    def forget(health):
        health.first = 10.0
        for address in [*health._failures, *health._aside]:
            health.forget(address)

    health(lab, forget)


def ask(lab, spec, n):
    """One request, in turn."""
    return lab.flow.submit(spec, {"n": n}, strategy="ROUND_ROBIN").response(LIMIT)


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: an illegal memory access"), MemoryError("no room for it")]
)
def test_errors_of_a_gpu_and_of_memory_are_retried_on_another_node(pair, stage, error):
    spec = faulty(stage, error)
    responses = [ask(pair, spec, i) for i in range(3)]
    assert [response.outputs for response in responses] == [0, 1, 2]
    assert {response.node_id for response in responses} == {"b"}
    moved = [response for response in responses if response.tries == 2]
    assert moved
    assert all(str(error) in response.trace.tries[0].error for response in moved)
    assert all(response.trace.tries[0].node == "a" for response in moved)


def test_an_error_of_the_input_is_not_retried(pair, stage):
    specs = [faulty(stage, ValueError("not a number"), node) for node in "ab"]
    responses = [ask(pair, spec, i) for spec in specs for i in range(2)]
    failed = [response.error.exception() for response in responses if not response.ok]
    assert len(failed) == 2
    assert all(isinstance(error, PredictError) and "not a number" in str(error) for error in failed)
    assert {error.tries for error in failed} == {1}
    assert {error.nodes for error in failed} == {("a",), ("b",)}
    assert over(pair)


def test_a_node_that_fails_five_times_in_a_row_is_set_aside_until_one_request_succeeds_there(pair, stage):
    health(pair, lambda health: setattr(health, "first", 600.0))
    spec = faulty(stage, RuntimeError("CUDA error: unspecified launch failure"))
    ask(pair, spec, 0)  # whose turn it is first is left to chance
    responses = [ask(pair, spec, i) for i in range(1, 16)]
    assert [response.outputs for response in responses] == list(range(1, 16))
    firsts = [(response.trace.tries[0].node if response.trace.tries else "b") for response in responses]
    after = firsts.index("b", 1)
    assert 4 <= after <= 5 and set(firsts[after:]) == {"b"}
    assert responses[-1].trace.refused == {ASIDE: 1}
    stage.open("mended")

    def time_is_up(health):
        for breaker in health._aside.values():
            breaker.until = 0.0

    health(pair, time_is_up)
    probe = pair.flow.submit(spec, {"n": 99, "wait": "open"}, strategy="ROUND_ROBIN")
    assert stage.await_running(99) == ["a"]
    assert {ask(pair, spec, i).node_id for i in range(20, 24)} == {"b"}, "one at a time"
    stage.open()
    assert probe.result(LIMIT).node_id == "a"
    assert {ask(pair, spec, i).node_id for i in range(24, 28)} == {"a", "b"}


def on(name):
    """A strategy that likes one node best."""

    def likes(request, nodes):
        return sorted(nodes, key=lambda node: node.name != name)

    return likes


class Closed:
    """What nobody can open."""

    def __reduce__(self):
        def opened():
            raise RuntimeError("cannot be opened")

        return opened, ()


def breaker_of(lab, name):
    """Whether a node is set aside, and whether a request is trying it."""
    address = lab.address_of(name)

    def look(dask_scheduler):
        breaker = dask_scheduler.plugins["altlas-control"].placer.health._aside.get(address)
        return breaker is not None, breaker is not None and breaker.probed is not None

    return lab.client.run_on_scheduler(look)


def under_way(lab, name):
    """Requests that a node's worker takes for wanted."""
    address = lab.address_of(name)

    def look(dask_worker):
        tasks = dask_worker.state.tasks.values()
        return sum(task.state in ("executing", "long-running") for task in tasks)

    return lab.client.run(look, workers=[address])[address]


@pytest.mark.parametrize("ends", ["cancelled", "too late", "cannot be opened"])
def test_a_trial_that_says_nothing_of_the_node_leaves_it_set_aside_and_the_next_may_try_it(pair, stage, ends):
    spec, address = stage.model(), pair.address_of("a")
    busy = pair.flow.submit(spec, {"n": 0, "wait": "open"}, strategy=on("a"))
    assert stage.await_running(0) == ["a"]

    def fails(health):
        for _ in range(health.limit):
            health.failed(address, -1000.0)  # long ago: its time is up

    health(pair, fails)
    options = {"deadline": 1.0} if ends == "too late" else {}
    trial = pair.flow.submit(spec, Closed() if "opened" in ends else {"n": 1}, strategy=on("a"), **options)
    if ends == "cancelled":
        until(lambda: breaker_of(pair, "a") == (True, True))
        assert trial.cancel()
        until(lambda: under_way(pair, "a") == 1)  # until its worker has heard of it
    error = trial.response(LIMIT).error
    kinds = {
        "cancelled": "RequestCancelled",
        "too late": "DeadlineExceeded",
        "cannot be opened": "ClusterError",
    }
    assert error.type == kinds[ends], error
    until(lambda: breaker_of(pair, "a") == (True, False))  # neither forgiven nor under trial
    again = pair.flow.submit(spec, {"n": 2}, strategy=on("a"))
    until(lambda: breaker_of(pair, "a") == (True, True))
    stage.open()
    assert [handle.result(LIMIT).node_id for handle in (busy, again)] == ["a", "a"]
    until(lambda: breaker_of(pair, "a") == (False, False))
    assert 1 not in stage.predicted
    assert over(pair)


def test_the_last_node_that_can_do_it_is_never_set_aside(pair, stage):
    health(pair, lambda health: setattr(health, "first", 600.0))
    spec = faulty(stage, RuntimeError("CUDA error: out of luck"))
    pair.flow.cordon("b")
    try:
        for i in range(3):
            assert ask(pair, spec, i).error.nodes == ["a", "a", "a"]
        stage.open("mended")
        assert ask(pair, spec, 3).node_id == "a"
    finally:
        pair.flow.uncordon("b")
