"""Failing over: workers die, leave, and fall silent; requests are answered all the same, each once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter

import pytest

import altlas_flow as af
from altlas_flow.errors import NodeLost
from tests.cluster.stages import FOUR, await_ahead, in_one_envelope, named, over
from tests.laboratory import LIMIT, laboratory, until

pytestmark = pytest.mark.timeout(120)


def kill_during(lab, stage, *, requests, kills, seconds):
    spec = stage.model()
    handles = lab.flow.submit_many(spec, [{"n": i, "sleep": seconds} for i in range(requests)])
    for k in range(kills):
        until(lambda k=k: sum(handle.done() for handle in handles) >= requests * (k + 1) / (kills + 2))
        lab.await_host(FOUR[k % 4])
        lab.kill(FOUR[k % 4])
    assert not all(handle.done() for handle in handles), "the last kill came too late to matter"
    responses = handles.result(LIMIT)
    assert [response.outputs for response in responses] == list(range(requests))
    assert len({response.request_id for response in responses}) == requests
    assert {response.error for response in responses} == {None}
    assert max(response.tries for response in responses) <= 2
    return over(lab)


def test_of_2000_requests_each_is_answered_once_and_rightly_though_a_worker_is_killed(four, stage):
    assert kill_during(four, stage, requests=2000, kills=1, seconds=0.003)


@pytest.mark.long
def test_of_2000_requests_each_is_answered_once_and_rightly_though_five_workers_are_killed(four, stage):
    assert kill_during(four, stage, requests=2000, kills=5, seconds=0.03)


def poison(lab, stage, poisonous):
    """32 requests in one envelope, some of which kill their workers; how often each of these ran."""
    rows = [{"n": i, "kill": True} if i in poisonous else {"n": i, "sleep": 0.001} for i in range(1, 32)]
    handles = in_one_envelope(lab.flow, stage.model(), [{"n": 0, "wait": "open"}, *rows])
    stage.await_running(0)
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


@pytest.mark.long
def test_two_poisonous_requests_are_stopped_after_three_deaths_each(four, stage):
    deaths = poison(four, stage, {9, 20})
    # where both were in the batch that died first, the second one need not have had its turn
    assert set(deaths) == {9, 20} and deaths[9] == 3 and 2 <= deaths[20] <= 3


@pytest.mark.long
def test_a_poisonous_request_is_stopped_after_three_deaths_on_workers_with_two_threads(stage):
    with laboratory(named("abc", nthreads=2)) as lab:
        # the other slots have something to do meanwhile
        others = lab.flow.submit_many(stage.model(), [{"n": 100 + i, "sleep": 0.05} for i in range(60)])
        assert poison(lab, stage, {20}) == {20: 3}
        assert [response.outputs for response in others.result(LIMIT)] == list(range(100, 160))
        assert over(lab)


@pytest.mark.long
@pytest.mark.parametrize(("idempotent", "runs"), [(True, 3), (False, 1)])
def test_a_large_poisonous_input_is_stopped_as_any_other(four, stage, idempotent, runs):
    """It lies on the worker that dies of it: Dask forgets the envelope together with it."""
    row = {"n": 1, "kill": True, "text": "x" * 2_000_000}
    with pytest.raises(NodeLost) as caught:
        four.flow.submit(stage.model(), row, idempotent=idempotent).result(LIMIT)
    assert caught.value.tries == runs
    assert len(stage.book("began")) == runs
    assert over(four)


#: A module that kills whoever imports it, but for its client; it notes whom.
DEADLY = """
import os, signal
if "STAGE_NAME" in os.environ:
    with open({book!r}, "a") as book:
        book.write(os.environ["STAGE_NAME"] + " ")
    os.kill(os.getpid(), signal.SIGKILL)
def model(rows):
    return rows
"""


@pytest.mark.long
def test_a_model_whose_loading_kills_is_given_up_after_three_workers_and_the_innocent_are_answered(
    stage, tmp_path, monkeypatch
):
    (tmp_path / "deadly.py").write_text(DEADLY.format(book=str(tmp_path / "book")))
    monkeypatch.syspath_prepend(tmp_path)
    with laboratory(named("ab", env={"PYTHONPATH": f"{tmp_path}:{os.getcwd()}"})) as lab:
        good = stage.model()
        innocent = [lab.flow.submit(good, {"n": i, "wait": "open"}) for i in range(2)]
        stage.await_running(0, 1)
        deadly = af.ModelSpec(id="deadly", source="deadly:model")
        errors = [handle.response(LIMIT).error for handle in lab.flow.submit_many(deadly, range(10))]
        assert {error.type for error in errors} == {"ModelLoadError"}
        assert "died while they loaded it" in errors[0].message
        stage.open()
        assert [handle.result(LIMIT).outputs for handle in innocent] == [0, 1]
        # two may have been at it when the third had died of it
        assert 3 <= len((tmp_path / "book").read_text().split()) <= 4
        again = lab.flow.submit(deadly, 1).response(LIMIT)
        assert again.error.type == "ModelLoadError"
        assert over(lab)


class Deadly:
    """Kills whoever opens it."""

    def __init__(self, book):
        self.book = book

    def __reduce__(self):
        return note_and_die, (self.book,)


def note_and_die(book):
    import os
    import signal

    with open(book, "a") as file:
        file.write(os.environ["STAGE_NAME"] + " ")
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_input_that_kills_whoever_opens_it_is_stopped_and_the_innocent_are_answered(four, stage, tmp_path):
    spec = stage.model()
    innocent = [four.flow.submit(spec, {"n": i, "wait": "open"}) for i in range(4)]
    stage.await_running(0, 1, 2, 3)
    error = four.flow.submit(spec, Deadly(str(tmp_path / "book"))).response(2 * LIMIT).error
    assert error.type == "NodeLost"
    stage.open()
    assert [handle.result(LIMIT).outputs for handle in innocent] == list(range(4))
    # once before anybody suspects it, and three times after that
    assert len((tmp_path / "book").read_text().split()) == 4
    assert over(four)


def test_what_merely_waited_on_a_worker_that_died_uses_up_no_try(four, stage):
    spec = stage.model()
    running = [four.flow.submit(spec, {"n": i, "wait": "open"}) for i in range(4)]
    nodes = stage.await_running(*range(4))
    assert sorted(nodes) == list(FOUR)
    waiting = [four.flow.submit(spec, {"n": i, "wait": "open"}) for i in range(4, 8)]
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


@pytest.mark.long
def test_large_inputs_that_were_sent_ahead_to_a_worker_that_dies_are_answered_elsewhere(four, stage):
    """2 MB each: they lie on a worker, and nowhere else, before their requests leave."""
    spec, text = stage.model(), "x" * 2_000_000
    handles = [four.flow.submit(spec, {"n": i, "wait": "open"}) for i in range(8)]
    four.until(lambda info: sorted(info["in_flight"].values()) == [2] * 4)
    large = [four.flow.submit(spec, {"n": i, "text": text}) for i in range(8, 16)]
    four.kill(await_ahead(four, 8))
    stage.open()
    responses = [handle.result(LIMIT) for handle in (*handles, *large)]
    assert [response.outputs for response in responses] == list(range(16))
    assert {response.tries for response in responses[8:]} == {1}
    assert over(four)


# ---------------------------------------------------------------- workers leave


@pytest.mark.long
def test_a_worker_that_is_retired_loses_nothing_and_uses_no_try(stage):
    with laboratory(named("abc")) as lab:
        spec = stage.model()
        handles = lab.flow.submit_many(spec, [{"n": i, "sleep": 0.05} for i in range(200)])
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


@pytest.mark.long
def test_everything_is_answered_though_all_nodes_but_one_are_lost_at_once(stage):
    with laboratory(named("abc")) as lab:
        spec = stage.model()
        handles = lab.flow.submit_many(spec, [{"n": i, "sleep": 0.02} for i in range(100)])
        until(lambda: sum(handle.done() for handle in handles) >= 10)
        for name in "ab":
            # the nanny first: nobody starts them again
            address, worker = lab.address_of(name), lab.pid_of(name)
            os.kill(lab.client.run(os.getpid, nanny=True, workers=[address])[address], signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        assert not all(handle.done() for handle in handles)
        responses = handles.result(LIMIT)
        assert [response.outputs for response in responses] == list(range(100))
        assert max(response.tries for response in responses) <= 3
        assert over(lab)
