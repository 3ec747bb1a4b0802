"""Failing over: workers die, leave, and fall silent; requests are answered all the same, each once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import uuid
from collections import Counter

import pytest

import altlas_flow as af
from altlas_flow.errors import NodeLost
from tests.laboratory import LIMIT, laboratory, nanny_runs

pytestmark = pytest.mark.timeout(120)


def named(names, **options):
    """Workers whose models know where they run."""
    return {name: {**options, "env": {"STAGE_NAME": name, **options.get("env", {})}} for name in names}


class Stage:
    """Models of other processes: what they are to do is in their rows, what they did is in files.

    A row is ``(number, verb, word)``: *echo* it, *wait* for the file named, *sleep* so many seconds, or
    *kill* the process. The answer to a row is its number. All but the echoes are noted.
    """

    def __init__(self, folder):
        self.folder = folder

    def open(self, name="open"):
        (self.folder / name).touch()

    def model(self, **fields):
        folder, limit, name = self.folder, LIMIT, f"stage-{uuid.uuid4()}"

        def act(rows, like=name):  # no two are alike
            import os
            import signal
            import time

            where = os.environ.get("STAGE_NAME", "?")

            def note(book, *words):
                with open(folder / book, "a") as stream:
                    stream.write(" ".join(map(str, words)) + "\n")

            for number, verb, word in rows:
                if verb == "echo":
                    continue
                note("began", number, where, os.getpid())
                if verb == "sleep":
                    time.sleep(word)
                if verb == "wait":
                    end = time.monotonic() + limit
                    while not (folder / word).exists():
                        assert time.monotonic() < end
                        time.sleep(0.01)
                if verb == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                note("ended", number, where, os.getpid())
            return [number for number, _, _ in rows]

        return af.ModelSpec(id=name, source=act, **fields)

    def book(self, name):
        """What was noted: (number of the row, name of the worker), in order."""
        try:
            lines = (self.folder / name).read_text().splitlines()
        except FileNotFoundError:
            return []
        return [(int(number), worker) for number, worker, _ in map(str.split, lines)]

    def until_began(self, *numbers):
        """Wait until rows run; the workers they ran on first."""
        until(lambda: set(numbers) <= {number for number, _ in self.book("began")})
        first = dict(reversed(self.book("began")))
        return [first[number] for number in numbers]


def until(true):
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def stage(tmp_path):
    """Its gate is open at the end, so that no model is left that waits."""
    made = Stage(tmp_path)
    yield made
    made.open()


def in_one_envelope(flow, spec, inputs, **options):
    """Requests that travel together: the client's loop stands still until all of them are there."""
    # a row takes next to nothing, as this shows: many may travel together
    flow.submit(spec, [(-1, "echo", None)] * 2000).result(LIMIT)
    stands, goes_on = threading.Event(), threading.Event()
    flow.client.loop.add_callback(lambda: (stands.set(), goes_on.wait(LIMIT)))
    assert stands.wait(LIMIT)
    try:
        handles = [flow.submit(spec, item, **options) for item in inputs]
    finally:
        goes_on.set()
    return handles


def over(lab):
    """Nothing is left of any request: all that was leased has come back."""
    lab.until(
        lambda info: (
            info["envelopes"] == 0
            and info["held"] == {}
            and info["in_flight"] == {}
            and info["parked"] == 0
            and info["faults"] == 0
        )
    )
    return True


def pid_of(lab, name):
    address = address_of(lab, name)
    return lab.client.run(os.getpid, workers=[address])[address]


def address_of(lab, name):
    workers = lab.client.scheduler_info(n_workers=-1)["workers"]
    (address,) = (address for address, worker in workers.items() if worker["name"] == name)
    return address


def here(lab, name):
    """Wait until a worker of that name is there, and its host."""
    lab.until(lambda info: name in {host["name"] for host in info["hosts"].values()})


# ---------------------------------------------------------------- workers die


NAMES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def shared():
    with laboratory(named(NAMES)) as made:
        yield made


@pytest.fixture
def four(shared):
    """Workers a to d, one thread each; their nannies start them again. All are there when a test begins."""
    ends = time.monotonic() + LIMIT / 2
    while lacking := set(NAMES) - {host["name"] for host in shared.info()["hosts"].values()}:
        if time.monotonic() > ends:
            # Dask's nannies do not start a worker again that dies while it starts
            for name in lacking:
                shared.remove(name)
                shared.add(name, **named([name])[name])
            ends += LIMIT
        time.sleep(0.01)

    def nannies_know():
        try:
            shared.client.run(nanny_runs, nanny=True, workers=list(shared.info()["hosts"]))
        except OSError:
            return False  # the scheduler has a connection that is closed: it will make another
        return True

    until(nannies_know)
    return shared


def kill_during(lab, stage, *, requests, kills, seconds):
    spec = stage.model()
    handles = lab.flow.submit_many(spec, [(i, "sleep", seconds) for i in range(requests)])
    for k in range(kills):
        until(lambda k=k: sum(handle.done() for handle in handles) >= requests * (k + 1) / (kills + 2))
        here(lab, NAMES[k % 4])
        lab.kill(NAMES[k % 4])
    assert not all(handle.done() for handle in handles), "the last kill came too late to matter"
    responses = handles.result(LIMIT)
    assert [response.outputs for response in responses] == list(range(requests))
    assert len({response.request_id for response in responses}) == requests
    assert {response.error for response in responses} == {None}
    assert max(response.tries for response in responses) <= 2
    assert over(lab)


def test_of_2000_requests_each_is_answered_once_and_rightly_though_a_worker_is_killed(four, stage):
    kill_during(four, stage, requests=2000, kills=1, seconds=0.003)


@pytest.mark.long
def test_of_2000_requests_each_is_answered_once_and_rightly_though_five_workers_are_killed(four, stage):
    kill_during(four, stage, requests=2000, kills=5, seconds=0.03)


def poison(lab, stage, poisonous):
    """32 requests in one envelope, some of which kill their workers."""
    verbs = ["kill" if i in poisonous else "sleep" for i in range(32)]
    inputs = [(0, "wait", "open"), *((i, verbs[i], 0.001) for i in range(1, 32))]
    handles = in_one_envelope(lab.flow, stage.model(), inputs)
    stage.until_began(0)
    assert len({handle.future.key for handle in handles}) == 1
    stage.open()
    for number, handle in enumerate(handles):
        response = handle.response(LIMIT)
        if number not in poisonous:
            assert response.outputs == number
        else:
            error = response.error.exception()
            assert isinstance(error, NodeLost) and error.cause == "died"
            assert error.tries == response.tries == 3
            assert len(error.nodes) == 3
            # two may have killed all nodes, so that a third try has to be where another was
            assert len(set(error.nodes)) == 3 or len(poisonous) > 1
    assert over(lab)
    return Counter(number for number, _ in stage.book("began") if number in poisonous)


def test_a_poisonous_request_is_stopped_after_three_deaths_alone(four, stage):
    assert poison(four, stage, {20}) == {20: 3}


def test_two_poisonous_requests_are_stopped_after_three_deaths_each(four, stage):
    deaths = poison(four, stage, {9, 20})
    # where both were in the batch that died first, the second one need not have had its turn
    assert set(deaths) == {9, 20} and deaths[9] == 3 and 2 <= deaths[20] <= 3


def test_a_poisonous_request_is_stopped_after_three_deaths_on_workers_with_two_threads(tmp_path):
    stage = Stage(tmp_path)
    with laboratory(named("abc", nthreads=2)) as lab:
        # the other slots have something to do meanwhile
        others = lab.flow.submit_many(stage.model(), [(100 + i, "sleep", 0.05) for i in range(60)])
        assert poison(lab, stage, {20}) == {20: 3}
        assert [response.outputs for response in others.result(LIMIT)] == list(range(100, 160))
        assert over(lab)


def test_what_merely_waited_on_a_worker_that_died_uses_up_no_try(four, stage):
    spec = stage.model()
    running = [four.flow.submit(spec, (i, "wait", "open")) for i in range(4)]
    nodes = stage.until_began(*range(4))
    assert sorted(nodes) == list(NAMES)
    waiting = [four.flow.submit(spec, (i, "wait", "open")) for i in range(4, 8)]
    four.until(lambda info: sorted(info["in_flight"].values()) == [2] * 4)
    assert {handle.status for handle in running} == {"running"}
    assert {handle.status for handle in waiting} == {"pending"}
    four.kill("a")
    until(lambda: sum(handle.status == "running" for handle in running) == 3)
    stage.open()
    died = nodes.index("a")
    for i, handle in enumerate([*running, *waiting]):
        response = handle.result(LIMIT)
        assert response.outputs == i
        assert response.tries == (2 if i == died else 1)
        assert [one.node for one in response.trace.tries] == (["a"] if i == died else [])
    assert over(four)


def test_large_inputs_that_were_sent_ahead_to_a_worker_that_dies_are_answered_elsewhere(four, stage):
    """2 MB each: they lie on a worker, and nowhere else, before their requests leave."""
    spec, text = stage.model(), "x" * 2_000_000
    handles = [four.flow.submit(spec, (i, "wait", "open")) for i in range(8)]
    four.until(lambda info: sorted(info["in_flight"].values()) == [2] * 4)
    large = [four.flow.submit(spec, (i, "echo", text)) for i in range(8, 16)]

    def sent_ahead(dask_scheduler):
        held = [ts for ts in dask_scheduler.tasks.values() if ts.state == "memory" and ts.nbytes > 1e6]
        return len(held), {ws.name for ts in held for ws in ts.who_has}

    until(lambda: four.client.run_on_scheduler(sent_ahead) == (8, set(NAMES)))
    four.kill("a")
    stage.open()
    responses = [handle.result(LIMIT) for handle in (*handles, *large)]
    assert [response.outputs for response in responses] == list(range(16))
    assert {response.tries for response in responses[8:]} == {1}
    assert over(four)


# ---------------------------------------------------------------- workers leave


def test_a_worker_that_is_retired_loses_nothing_and_uses_no_try(stage):
    with laboratory(named("abc")) as lab:
        spec = stage.model()
        handles = lab.flow.submit_many(spec, [(i, "sleep", 0.05) for i in range(200)])
        until(lambda: sum(handle.done() for handle in handles) >= 10)
        lab.remove("a")
        assert not all(handle.done() for handle in handles)
        lab.remove("b")
        assert not all(handle.done() for handle in handles), "it shrank too late to matter"
        responses = handles.result(LIMIT)
        assert [response.outputs for response in responses] == list(range(200))
        assert {response.tries for response in responses} == {1}
        assert responses[-1].node_id == "c"
        assert over(lab)


def test_everything_is_answered_though_all_nodes_but_one_are_lost_at_once(stage):
    with laboratory(named("abc")) as lab:
        spec = stage.model()
        handles = lab.flow.submit_many(spec, [(i, "sleep", 0.02) for i in range(100)])
        until(lambda: sum(handle.done() for handle in handles) >= 10)
        for name in "ab":
            # the nanny first: nobody starts them again
            address = address_of(lab, name)
            worker = pid_of(lab, name)
            os.kill(lab.client.run(os.getpid, nanny=True, workers=[address])[address], signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        assert not all(handle.done() for handle in handles)
        responses = handles.result(LIMIT)
        assert [response.outputs for response in responses] == list(range(100))
        assert max(response.tries for response in responses) <= 3
        assert over(lab)
