"""Hedging: what is late goes to a second node, the first answer counts, and nothing is answered twice."""

from __future__ import annotations

import threading

import pytest

import altlas_flow as af
from altlas_flow.errors import BadRequest, ClusterLost, DeadlineExceeded, PredictError, RequestCancelled
from altlas_flow.models.spec import ModelSpec
from tests.cluster.stages import another, echo, model, named, over, quiet, together, waiting_rows
from tests.laboratory import LIMIT, laboratory, until

pytestmark = pytest.mark.timeout(120)

#: Answers after which is known what is late.
KNOWN = 40


@pytest.fixture(scope="module")
def three_workers():
    with laboratory(named("abc"), hedge_share=1.0) as made:
        yield made


@pytest.fixture
def three(three_workers):
    """Workers a to c, one thread each; all that is late may be sent twice."""
    quiet(three_workers)
    yield three_workers
    assert over(three_workers)
    seconds = three_workers.flow._transport._dispatch.seconds
    assert not seconds._unknown and not [lane for lane in seconds._lanes.values() if lane.waiting()]


def slow_once(stage, **fields) -> ModelSpec:
    """A model of which each row waits on the worker where it runs first, until its gate ``1-<n>`` opens.

    And the second time until ``2-<n>`` does, where it says ``both``. It fails the first time, the second, or
    each, where it says ``fail``: 1, 2 or "always". Rows ``with`` another go by its worker and its gates. A
    row that is a number is answered at once.
    """
    folder, limit = stage.folder, LIMIT

    def act(rows, unlike=stage.folder.name):
        import json
        import os
        import time

        where = os.environ.get("STAGE_NAME", "?")
        answers = []
        for row in rows:
            if isinstance(row, int):
                answers.append(row)
                continue
            n = row["n"]
            with open(folder / "began", "a") as stream:
                stream.write(json.dumps([n, where, os.getpid()]) + "\n")
            one = row.get("with", n)
            try:
                os.symlink(where, folder / f"ran-{one}")
            except FileExistsError:
                turn = 1 if os.readlink(folder / f"ran-{one}") == where else 2
            else:
                turn = 1
            gates = [folder / f"gate-{turn}-{one}", folder / "gate-every"]
            end = time.monotonic() + limit
            while (turn == 1 or row.get("both")) and not any(gate.exists() for gate in gates):
                assert time.monotonic() < end
                time.sleep(0.002)
            if row.get("fail") in (turn, "always"):
                raise ValueError(f"it fails the time {turn}")
            answers.append(n)
        return answers

    return model(act, **fields)


def ready(lab, stage, flow=None, **fields):
    """That model, of which is known what is late."""
    spec = slow_once(stage, **fields)
    flow = flow or lab.flow
    for number in range(KNOWN):
        flow.submit(spec, number).result(LIMIT)
    return spec


def await_both(stage, number):
    """Wait until both tries of a row run; the names of their nodes, the first one first."""
    until(lambda: len(tries(stage, number)) == 2)
    return tries(stage, number)


def tries(stage, number):
    return [node for n, node in stage.book("began") if n == number]


# ---------------------------------------------------------------- the first answer counts


def test_the_second_node_answers_while_the_first_is_held_up(three, stage):
    spec, before = ready(three, stage), three.flow.hedges
    handle = three.flow.submit(spec, {"n": 1}, hedge=True)
    response = handle.result(LIMIT)  # its gate is shut still
    first, second = await_both(stage, 1)
    assert first != second
    assert response.outputs == 1 and response.node_id == second and response.tries == 1
    (note,) = response.trace.notes
    assert note.startswith("hedged after ") and note.endswith(" ms; the second node answered")
    assert three.flow.hedges == (before.requests + 1, before.sent + 1, before.won + 1)
    stage.open("1-1")
    quiet(three)
    assert handle.result() is response and tries(stage, 1) == [first, second]


def test_the_first_node_may_still_be_faster(three, stage):
    spec, before = ready(three, stage), three.flow.hedges
    handle = three.flow.submit(spec, [{"n": 1, "both": True}], hedge=True)
    first, second = await_both(stage, 1)
    assert not handle.done()
    stage.open("1-1")
    response = handle.result(LIMIT)
    assert response.outputs == [1] and response.node_id == first != second
    assert response.trace.notes[-1].endswith("the first node answered")
    assert three.flow.hedges == (before.requests + 1, before.sent + 1, before.won)
    stage.open("2-1")


def test_what_is_not_to_be_hedged_is_not(three, stage):
    spec, before = ready(three, stage), three.flow.hedges
    plain = three.flow.submit(spec, {"n": 1})
    stage.await_running(1)
    hedged = three.flow.submit(spec, {"n": 2}, hedge=True)
    assert hedged.result(LIMIT).outputs == 2  # by then, the first one is later than that
    assert not plain.done() and len(tries(stage, 1)) == 1
    stage.open("every")
    assert plain.result(LIMIT).trace.notes == []
    assert three.flow.hedges == (before.requests + 1, before.sent + 1, before.won + 1)


def test_a_loser_that_waits_on_its_worker_is_never_predicted(three, stage, gate):
    spec, blocks = ready(three, stage), gate.model()
    blockers = {}
    for name in "abc":
        handle = three.flow.submit(blocks, {"n": ord(name), "wait": name}, strategy="ROUND_ROBIN")
        (node,) = gate.await_running(ord(name))
        blockers[node] = (handle, name)
    assert set(blockers) == set("abc")
    handle = three.flow.submit(spec, {"n": 1}, hedge=True)
    key = until_placed(three, spec, 1)[0]
    both = until_placed(three, spec, 2)
    assert handle.future.key == key
    assert both[key] != both[next(other for other in both if other != key)]
    (second,) = set(both.values()) - {both[key]}
    (stage.folder / "ran-1").symlink_to("nobody")  # whoever runs it answers at once
    gate.open(blockers[second][1])
    response = handle.result(LIMIT)
    assert response.node_id == second and response.trace.notes[-1].endswith("the second node answered")
    until(lambda: waiting_rows(three) == 0)  # its worker has been told
    gate.open("every")
    quiet(three)
    assert tries(stage, 1) == [second]


class Placed(dict):
    """Key of an envelope -> name of its node."""

    def __getitem__(self, key):
        return list(self)[key] if isinstance(key, int) else super().__getitem__(key)


def until_placed(lab, spec, count):
    """Wait until so many envelopes of a model have nodes; the one that was first comes first."""
    digits = spec.fingerprint[:8]

    def look(dask_scheduler):
        placer = dask_scheduler.plugins["altlas-control"].placer
        return {key: one.name for key, one in placer.assignments.items() if one.address and digits in key}

    until(lambda: len(lab.client.run_on_scheduler(look)) >= count, instead=lambda: lab.info())
    return Placed(lab.client.run_on_scheduler(look))


def test_what_is_late_of_an_envelope_goes_together_and_each_is_answered_once(three, stage):
    spec = ready(three, stage)
    together(three.flow, spec)
    stands, goes_on = threading.Event(), threading.Event()
    three.client.loop.add_callback(lambda: (stands.set(), goes_on.wait(LIMIT)))
    assert stands.wait(LIMIT)
    before = three.flow.hedges
    handles = [three.flow.submit(spec, {"n": n, "with": 0}, hedge=n != 2) for n in range(6)]
    goes_on.set()
    hedged = [handle for n, handle in enumerate(handles) if n != 2]
    assert [handle.result(LIMIT).outputs for handle in hedged] == [0, 1, 3, 4, 5]
    (second,) = {handle.result().node_id for handle in hedged}
    assert {handle.result().trace.envelope for handle in hedged} == {5}
    assert not handles[2].done()
    stage.open("1-0")
    response = handles[2].result(LIMIT)
    assert response.outputs == 2 and response.node_id != second and response.trace.notes == []
    assert three.flow.hedges == (before.requests + 5, before.sent + 5, before.won + 5)


# ---------------------------------------------------------------- what must not be sent twice


def test_what_must_not_run_twice_is_not_hedged(three, stage):
    spec = three.flow.register(ready(three, stage))
    with pytest.raises(BadRequest, match="idempotent=False forbids"):
        three.flow.submit(spec, {"n": 1}, hedge=True, idempotent=False)
    request = af.InferenceRequest(model_id=spec.id, inputs={"n": 1}, hedge=True, idempotent=False)
    with pytest.raises(BadRequest, match="idempotent=False forbids"):
        three.flow.submit(request)
    (refused,) = three.flow.submit_many([request]).result(LIMIT)
    assert refused.error.type == "BadRequest"
    assert stage.book("began") == []
    with pytest.raises(BadRequest, match="neither True nor False"):
        three.flow.submit(spec, 1, hedge="yes")
    with pytest.raises(BadRequest, match="a request says all"):
        three.flow.submit(af.InferenceRequest(model_id=spec.id, inputs=1), hedge=True)


def test_requests_and_many_at_once_say_it_as_well(three, stage):
    spec = three.flow.register(ready(three, stage))
    request = af.InferenceRequest(model_id=spec.id, inputs={"n": 1}, hedge=True)
    assert three.flow.submit(request).result(LIMIT).trace.notes[-1].endswith("the second node answered")
    (many,) = three.flow.submit_many(spec, [{"n": 2}], hedge=True).result(LIMIT)
    assert many.trace.notes[-1].endswith("the second node answered")
    stage.open("every")


@pytest.mark.long
def test_where_there_is_no_other_node_nothing_is_hedged_and_nothing_fails(solo, stage):
    with another(solo, hedge_share=1.0) as flow:
        spec = ready(solo, stage, flow)
        handle = flow.submit(spec, {"n": 1}, hedge=True)
        stage.await_running(1)
        counts = flow._transport._dispatch.seconds
        until(lambda: handle._hedged.second is not None or handle._hedged.notes())
        until(lambda: handle._hedged.second is None)  # the scheduler has said no
        assert not handle.done() and counts.counts.sent == 0
        stage.open("1-1")
        response = handle.result(LIMIT)
        assert response.outputs == 1 and response.tries == 1
        assert response.trace.notes[-1].endswith("no other node could do it")
        # and other requests of the model are not refused for it
        assert flow.submit(spec, 7, hedge=True).result(LIMIT).outputs == 7
        assert tries(stage, 1) == ["?"]


def test_no_more_is_sent_twice_than_the_share_allows(three, stage):
    with another(three, hedge_share=0.05) as flow:
        spec, other = ready(three, stage, flow), model(echo)

        def go_on():
            flow.submit(other, 1, hedge=True).result(LIMIT)
            assert flow.hedges.sent <= 0.05 * flow.hedges.requests
            return flow.hedges.requests

        for n in (1, 2):
            handle = flow.submit(spec, {"n": n}, hedge=True)
            stage.await_running(n)
            while not handle.done() and go_on() < 20 * n - 1:
                assert flow.hedges.sent < n
            until(lambda handle=handle: go_on() and handle.done())
            assert flow.hedges.requests >= 20 * n and flow.hedges.won >= n
            stage.open(f"1-{n}")


@pytest.mark.long
def test_with_a_share_of_nothing_nothing_is_sent_twice(three, stage):
    with another(three, hedge_share=0) as flow:
        spec, other = ready(three, stage, flow), model(echo)
        handle = flow.submit(spec, {"n": 1}, hedge=True)
        stage.await_running(1)
        for number in range(30):
            flow.submit(other, number).result(LIMIT)  # by then, it is late
        stage.open("1-1")
        assert handle.result(LIMIT).trace.notes == []
        assert flow.hedges == (1, 0, 0)


# ---------------------------------------------------------------- when one of the two fails


def test_a_worker_that_dies_with_the_first_leaves_it_to_the_second(three, stage):
    spec = ready(three, stage)
    handle = three.flow.submit(spec, {"n": 1, "both": True}, hedge=True)
    first, second = await_both(stage, 1)
    three.kill(first)
    until(lambda: handle._hedged.second is None)  # it is the request itself now
    assert not handle.done()
    three.await_host(first)
    stage.open("2-1")
    response = handle.result(LIMIT)
    assert response.outputs == 1 and response.node_id == second
    (lost,) = response.trace.tries
    assert (lost.node, lost.error) == (first, "died") and response.tries == 2
    assert response.trace.notes[-1].endswith("the first node failed")
    assert tries(stage, 1) == [first, second]


@pytest.mark.long
def test_a_worker_that_dies_with_the_second_leaves_it_to_the_first(three, stage):
    spec = ready(three, stage)
    handle = three.flow.submit(spec, {"n": 1, "both": True}, hedge=True)
    first, second = await_both(stage, 1)
    three.kill(second)
    until(lambda: handle._hedged.second is None)
    assert not handle.done()
    three.await_host(second)
    stage.open("1-1")
    response = handle.result(LIMIT)
    assert response.outputs == 1 and response.node_id == first
    assert [(one.node, one.error) for one in response.trace.tries] == [(second, "died")]
    assert tries(stage, 1) == [first, second]


def test_an_error_of_one_does_not_end_it_while_the_other_is_under_way(three, stage):
    spec = ready(three, stage)
    handle = three.flow.submit(spec, {"n": 1, "fail": 2}, hedge=True)
    await_both(stage, 1)
    until(lambda: handle._hedged.second is None)
    assert not handle.done()
    stage.open("1-1")
    assert handle.result(LIMIT).outputs == 1 and handle.result().tries == 2
    handle = three.flow.submit(spec, {"n": 2, "both": True, "fail": 1}, hedge=True)
    first, second = await_both(stage, 2)
    stage.open("1-2")
    until(lambda: handle._hedged.second is None)
    assert not handle.done()
    stage.open("2-2")
    response = handle.result(LIMIT)
    assert response.outputs == 2 and response.node_id == second
    assert [one.node for one in response.trace.tries] == [first]


def test_where_both_fail_it_fails(three, stage):
    spec = ready(three, stage)
    handle = three.flow.submit(spec, {"n": 1, "both": True, "fail": "always"}, hedge=True)
    first, second = await_both(stage, 1)
    stage.open("1-1")
    until(lambda: handle._hedged.second is None)
    assert not handle.done()
    stage.open("2-1")
    with pytest.raises(PredictError, match="fails the time 2") as caught:
        handle.result(LIMIT)
    assert caught.value.nodes == (first, second) and caught.value.tries == 2
    assert tries(stage, 1) == [first, second]


# ---------------------------------------------------------------- when it is over for its owner


def test_cancelling_ends_both(three, stage):
    spec = ready(three, stage)
    handle = three.flow.submit(spec, {"n": 1, "both": True}, hedge=True)
    await_both(stage, 1)
    assert handle.cancel()
    with pytest.raises(RequestCancelled):
        handle.result(LIMIT)
    flights = three.flow._transport._dispatch.returns.flights
    until(lambda: not flights)  # nobody waits for either
    stage.open("every")


def test_a_deadline_ends_both(three, stage):
    spec = ready(three, stage)
    handle = three.flow.submit(spec, {"n": 1, "both": True}, hedge=True, deadline=1.0)
    await_both(stage, 1)
    with pytest.raises(DeadlineExceeded):
        handle.result(LIMIT)
    until(lambda: not three.flow._transport._dispatch.returns.flights)
    stage.open("every")


@pytest.mark.long
def test_a_flow_that_closes_ends_both(three, stage):
    with another(three, hedge_share=1.0) as flow:
        spec = ready(three, stage, flow)
        handle = flow.submit(spec, {"n": 1, "both": True}, hedge=True)
        await_both(stage, 1)
    with pytest.raises(ClusterLost):
        handle.result(LIMIT)
    stage.open("every")


@pytest.mark.long
def test_a_second_try_that_waits_for_a_place_is_let_go_with_its_request(solo, stage):
    """Under full load nothing leaves twice."""
    with another(solo, hedge_share=1.0, envelope_rows=1) as flow:
        spec = ready(solo, stage, flow)
        handles = [flow.submit(spec, {"n": n}, hedge=True) for n in range(2)]
        pools = flow._transport._dispatch.pulse.pools
        until(lambda: any(lane.apart and lane.waiting() for pool in pools.values() for lane in pool.lanes))
        stage.open("1-0")
        response = handles[0].result(LIMIT)
        assert response.outputs == 0 and response.trace.notes == []
        stage.open("1-1")
        assert handles[1].result(LIMIT).outputs == 1
        until(lambda: not any(lane.waiting() for pool in pools.values() for lane in pool.lanes))
        assert len(tries(stage, 0)) == len(tries(stage, 1)) == 1


# ---------------------------------------------------------------- what is learnt


@pytest.mark.long
def test_a_slow_node_whose_requests_are_given_up_is_known_to_be_slow(three, stage):
    """Else it would look as fast as ever: nobody waits for its answers any more."""
    spec = ready(three, stage)
    handle = three.flow.submit(spec, {"n": 1}, hedge=True)
    handle.result(LIMIT)
    first, second = await_both(stage, 1)
    expected = latency(three, spec, first)
    other = model(echo)
    for _ in range(20):
        three.flow.submit(other, 1).result(LIMIT)  # meanwhile it is held up
    stage.open("1-1")
    quiet(three)
    until(lambda: latency(three, spec, first) > max(2 * expected, 0.01))
    assert latency(three, spec, second) < latency(three, spec, first) / 2


def latency(lab, spec, name):
    """Seconds that a row of a model is thought to take on a node."""
    digits = spec.fingerprint

    def look(dask_scheduler):
        placer = dask_scheduler.plugins["altlas-control"].placer
        node = placer.roster.get(placer.names[name])
        return next((one.mean for model, one in node.latency.items() if digits.startswith(model)), 0.0)

    return lab.client.run_on_scheduler(look)
