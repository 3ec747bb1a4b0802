"""What people pass by mistake, or models do: one line of text for them, and nothing for anybody else."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from distributed import Client

import altlas_flow as af
from altlas_flow.cluster.client.lanes import Pool
from altlas_flow.cluster.client.pulse import Pulse
from altlas_flow.errors import (
    BadRequest,
    ClusterLost,
    InvalidAnswer,
    PredictError,
    RequestCancelled,
    SpecError,
)
from altlas_flow.placement.strategies import STRATEGIES
from tests.cluster.stages import echo, model
from tests.dataframe.jobs import tasks_of
from tests.ids import spoken
from tests.laboratory import LIMIT, laboratory, until

pytestmark = pytest.mark.timeout(90)


def answers_still_come(lab):
    spec = lab.flow.register(model(echo))
    return [lab.flow.submit(spec.id, i).result(LIMIT).outputs for i in range(4)] == [0, 1, 2, 3]


class Unweighable:
    @property
    def nbytes(self):
        raise RuntimeError("not now")


def nested():
    value = []
    for _ in range(5000):
        value = [value]
    return value


@pytest.mark.parametrize(
    "options",
    [
        {"priority": 2**63},
        {"priority": -(10**30)},
        {"priority": 1001},
        {"priority": "high"},
        {"priority": True},
        {"retry": 3},
        {"retry": {"tries": 2}},
        {"idempotent": "no"},
        {"validator": 7},
        {"strategy": 7},
        {"strategy": lambda request, nodes, lock=threading.Lock(): nodes},  # noqa: B008
        {"deadline": "soon"},
        {"deadline": -5},
        {"deadline": float("nan")},
    ],
    ids=spoken,
)
def test_a_wrong_argument_is_refused_at_once_in_one_line_and_hurts_nobody(lab, options):
    with pytest.raises(BadRequest) as caught:
        lab.flow.submit(model(echo), 1, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    assert answers_still_come(lab)


def test_a_priority_that_dask_could_not_send_is_refused_in_records_too():
    with pytest.raises(BadRequest, match="priority"):
        af.InferenceRequest(model_id="m", inputs=1, priority=2**63)


UNTRAVELLED = {
    "nested": nested(),
    "unweighable": Unweighable(),
    "lock": threading.Lock(),
    "generator": (i for i in range(3)),
}


@pytest.mark.parametrize("kind", UNTRAVELLED)
def test_an_input_that_cannot_travel_ends_alone(lab, kind):
    inputs = UNTRAVELLED[kind]
    spec = lab.flow.register(model(echo))
    good, bad, more = (
        lab.flow.submit(spec.id, 1),
        lab.flow.submit(spec.id, inputs),
        lab.flow.submit(spec.id, 2),
    )
    assert [good.result(LIMIT).outputs, more.result(LIMIT).outputs] == [1, 2]
    if isinstance(inputs, Unweighable):  # that alone does not keep it from travelling
        assert isinstance(bad.result(LIMIT).outputs, Unweighable)
    else:
        with pytest.raises(BadRequest):
            bad.result(LIMIT)


@pytest.mark.long
def test_inputs_that_cannot_travel_make_room_for_those_that_wait():
    with laboratory({"a": {}}, waiting_limit=3) as lab:
        spec = lab.flow.register(model(echo))
        handles = [lab.flow.submit(spec.id, threading.Lock()) for _ in range(12)] + [
            lab.flow.submit(spec.id, 1)
        ]
        for handle in handles:
            handle.wait(LIMIT)
        assert [handle.status for handle in handles] == ["error"] * 12 + ["completed"]


def odd(rows):
    import threading

    return [threading.Lock() if row == 50 else row for row in rows]


def test_an_answer_that_cannot_travel_fails_its_own_request_only(lab):
    responses = lab.flow.submit_many(model(odd), range(100)).result(LIMIT)
    assert [i for i, response in enumerate(responses) if not response.ok] == [50]
    assert responses[50].error.type == "PredictError" and "cannot be sent" in responses[50].error.message
    assert [response.outputs for response in responses if response.ok] == [i for i in range(100) if i != 50]


class Here:
    """Only this process can open it again."""

    def __reduce__(self):
        return _only_here, (threading.get_native_id(),)


def _only_here(thread):
    raise RuntimeError("not here")


def test_an_input_that_no_worker_can_open_fails_alone(lab):
    spec = lab.flow.register(model(echo))
    responses = lab.flow.submit_many(spec.id, [Here() if i == 7 else i for i in range(20)]).result(LIMIT)
    assert [i for i, response in enumerate(responses) if not response.ok] == [7]
    until(lambda: tasks_of(lab.flow) == [], instead=lambda: tasks_of(lab.flow))


def test_a_strategy_that_fails_with_what_is_no_text_hurts_nobody(lab):
    def surrogate(request, nodes):
        raise ValueError("file \udcff.csv")

    response = lab.flow.submit(model(echo), 1, strategy=surrogate).result(LIMIT)
    assert response.outputs == 1 and "surrogate" in response.trace.notes[0]
    assert response.model_dump_json()
    assert answers_still_come(lab)


def test_an_unknown_strategy_is_refused_with_those_there_are(lab):
    with pytest.raises(SpecError) as caught:
        lab.flow.submit(model(echo), 1, strategy="FASTEST").result(LIMIT)
    assert all(name in str(caught.value) for name in STRATEGIES)


def test_a_request_with_other_arguments_beside_it_is_refused(lab):
    request = af.InferenceRequest(model_id="m", inputs=1)
    for more in ({"priority": 4}, {"deadline": 3}, {"inputs": "other"}, {"factor": 2}):
        with pytest.raises(BadRequest, match="leave the other arguments out"):
            lab.flow.submit(request, **more)


@pytest.mark.parametrize("given", [("m",), ("m", None), ("m", "text"), ("m", 3), (None,), (3,)], ids=spoken)
def test_many_of_what_is_no_list_are_refused(lab, given):
    with pytest.raises(BadRequest, match="list of"):
        lab.flow.submit_many(*given)
    with pytest.raises(BadRequest, match="list of"):
        lab.flow.submit_many(af.InferenceRequest(model_id="m", inputs=1))


def test_a_list_that_is_changed_after_it_was_given_was_given_as_it_was(lab):
    spec, rows = lab.flow.register(model(echo)), [1, 2, 3]
    handle = lab.flow.submit(spec.id, rows, deadline=LIMIT)
    rows.clear()
    assert handle.result(LIMIT).outputs == [1, 2, 3]


def test_a_validator_that_leaves_the_interpreter_refuses_the_answer(lab):
    def leave(answer):
        raise SystemExit(3)

    with pytest.raises(InvalidAnswer):
        lab.flow.submit(model(echo), 1, validator=leave).result(LIMIT)
    assert answers_still_come(lab)


def test_what_may_run_once_does_though_its_answer_is_refused_or_its_neighbour_is_bad(lab, tmp_path):
    book = tmp_path / "book"

    def noted(rows):
        with book.open("a") as file:
            file.writelines(f"{row}\n" for row in rows)
        if 3 in rows:
            raise ValueError("three")
        return rows

    spec = lab.flow.register(model(noted))
    refused = lab.flow.submit(spec.id, 100, idempotent=False, validator=lambda answer: False)
    with pytest.raises(InvalidAnswer):
        refused.result(LIMIT)
    handles = [lab.flow.submit(spec.id, i, idempotent=False) for i in range(8)]
    for handle in handles:
        handle.wait(LIMIT)
    assert [handle.status for handle in handles] == ["error" if i == 3 else "completed" for i in range(8)]
    with pytest.raises(PredictError):
        handles[3].result()
    assert sorted(map(int, book.read_text().split())) == [*range(8), 100]


def test_the_trace_of_a_request_that_failed_names_its_tries_and_no_answer(lab):
    (response,) = lab.flow.submit_many(model(echo), [1], validator=lambda answer: False).result(LIMIT)
    assert response.tries == len(response.trace.tries) == 3
    assert "answered on" not in str(response.trace)


def test_a_timeout_that_is_no_number_is_refused(lab):
    with pytest.raises(BadRequest, match="give seconds"):
        lab.flow.submit(model(echo), 1).result("3s")


def test_waiting_in_vain_leaves_nothing_behind(lab, stage):
    handle = lab.flow.submit(stage.model(), {"n": 1, "wait": "open"})
    for _ in range(5):
        with pytest.raises(TimeoutError):
            handle.result(0.01)

    async def impatient():
        await asyncio.wait_for(handle, 0.01)

    with pytest.raises(TimeoutError):
        asyncio.run(impatient())
    assert not handle._waiters
    stage.open()
    assert handle.result(LIMIT).outputs == 1


def test_a_client_that_is_closed_by_its_owner_ends_what_waits(lab):
    client = Client(lab.client.scheduler.address)
    flow = af.connect(client)
    handle = flow.submit(model(echo), 1)
    client.close()
    with pytest.raises((ClusterLost, RequestCancelled)):
        flow.submit(model(echo), 2).result(LIMIT)
    handle.wait(LIMIT)  # answered before, or ended
    flow.close()


@pytest.mark.long
def test_a_scheduler_that_answers_late_but_answers_is_not_taken_for_lost():
    """A report goes out every 50 ms, and each answer takes 200: none is for the latest one."""

    async def live():
        loop, lost, answers = asyncio.get_running_loop(), [], []

        class Slow:
            status, scheduler_comm = "running", None

            def _send_to_scheduler(self, message):
                loop.call_later(0.2, pulse.leased, {}, message["pulse"])
                answers.append(message["pulse"])

        pulse = Pulse(
            Slow(), loop, time.monotonic, limit=1.0, waiting=lambda: True, wake=lambda: None, lost=lost.append
        )
        pulse.pools["p"] = Pool("p")
        pulse.start()
        while len(answers) < 60:
            pulse.report_soon()
            await asyncio.sleep(0.02)
        pulse.close()
        await asyncio.sleep(0.25)
        return lost

    assert asyncio.run(live()) == []
