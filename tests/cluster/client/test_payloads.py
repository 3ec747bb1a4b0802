"""Payloads: large ones, all kinds of them, and what cannot be sent."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time

import dask
import numpy as np
import pyarrow as pa
import pytest

import altlas_flow as af
from altlas_flow.cluster.client.lanes import FULL
from altlas_flow.cluster.packed import Packed
from altlas_flow.errors import AltlasError, BadRequest, NoEligibleNode
from tests.cluster.stages import echo, fill, held, model, sent_ahead, together
from tests.dataframe.jobs import tasks_of
from tests.laboratory import LIMIT, laboratory, until

pytestmark = pytest.mark.timeout(120)


def test_a_large_input_is_sent_once_however_often_it_is_tried(lab, monkeypatch, tmp_path):
    mark = tmp_path / "mark"

    def once(rows):
        first = not mark.exists()
        mark.touch()
        if first:
            raise TimeoutError("not yet")
        return [int(row.sum()) for row in rows]

    sent, envelopes = [], []
    scatter, of = lab.client._scatter, Packed.of

    async def counted(*args, **options):
        sent.append(1)
        return await scatter(*args, **options)

    def weighed(value):
        packed = of(value)
        if type(value).__name__ == "Envelope":
            envelopes.append(packed.nbytes)
        return packed

    monkeypatch.setattr(lab.client, "_scatter", counted)
    monkeypatch.setattr(Packed, "of", weighed)
    array = np.ones(3_000_000, np.uint8)
    handle = lab.flow.submit(model(once), array, retry=af.RetryPolicy(on=("TimeoutError",)))
    response = handle.result(LIMIT)
    assert response.outputs == array.sum() and response.tries == 2
    assert len(sent) == 1
    assert len(envelopes) == 2 and max(envelopes) < 50_000
    # a list of inputs, each small, is as large as all of them
    parts = [np.ones(600_000, np.uint8)] * 2
    assert lab.flow.submit(model(once), parts).result(LIMIT).outputs == [600_000] * 2
    assert len(sent) == 2
    assert lab.flow.submit(model(once), [array[:1000]]).result(LIMIT).outputs == [1000]
    assert len(sent) == 2


@pytest.mark.parametrize("size", [10, 500_000])
def test_a_model_that_writes_into_its_input_does_not_change_it_for_the_next_try(lab, tmp_path, size):
    def adds(rows):
        for row in rows:
            row += 1
        return [float(row[0]) for row in rows]

    def second(answer):
        first = not (tmp_path / "tried").exists()
        (tmp_path / "tried").touch()
        return not first

    response = lab.flow.submit(model(adds), np.zeros(size), validator=second).result(LIMIT)
    assert (response.outputs, response.tries) == (1.0, 2)


def len_of(rows):
    return [len(row) for row in rows]


@pytest.mark.long
def test_large_inputs_leave_nothing_on_the_cluster(lab):
    spec = model(len_of)
    handles = [lab.flow.submit(spec, np.ones(2_000_000, np.uint8)) for _ in range(4)]
    assert handles[3].cancel() in (True, False)
    assert [handle.result(LIMIT).outputs for handle in handles[:3]] == [2_000_000] * 3
    handles = None
    until(lambda: tasks_of(lab.flow) == [], instead=lambda: tasks_of(lab.flow))
    assert gc.isenabled()


@pytest.mark.long
def test_a_large_input_that_a_stopped_worker_takes_too_late_stays_nowhere(monkeypatch):
    """It is sent to another one meanwhile; the scheduler hands over what it was asked to in any case."""

    def arrived(dask_scheduler):
        events = dask_scheduler.get_events("all")
        return sum(isinstance(event, dict) and event.get("action") == "scatter" for _, event in events)

    with laboratory({"a": {}, "b": {}}, heartbeat_timeout="2s") as lab:
        begun, scatter = [], lab.client._scatter

        async def counted(*args, **options):
            begun.append(1)
            return await scatter(*args, **options)

        monkeypatch.setattr(lab.client, "_scatter", counted)
        spec, pid = model(len_of), lab.pid_of("a")
        assert lab.flow.submit(spec, [b"abc"]).result(LIMIT).outputs == [3]
        os.kill(pid, signal.SIGSTOP)
        try:
            # workers are asked in turn
            handles = [lab.flow.submit(spec, np.ones(1_500_000 + n, np.uint8)) for n in range(2)]
            assert [handle.result(LIMIT).outputs for handle in handles] == [1_500_000, 1_500_001]
            assert len(begun) > 2
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: lab.client.run_on_scheduler(arrived) == len(begun))
        until(lambda: tasks_of(lab.flow) == [], instead=lambda: tasks_of(lab.flow))


@pytest.mark.long
def test_large_inputs_without_a_worker_end_as_small_ones_do_and_as_soon():
    with laboratory({"a": {}}, no_workers_timeout="2s") as lab:
        spec = model(len_of)
        assert lab.flow.submit(spec, "abc").result(LIMIT).outputs == 3
        lab.remove("a")
        lab.until(lambda info: not info["hosts"])
        began = time.monotonic()
        for size in (10, 2_000_000):
            with pytest.raises(NoEligibleNode):
                lab.flow.submit(spec, "x" * size).result(LIMIT)
        assert time.monotonic() - began < 15  # both; it takes longer to find that a worker is silent


@pytest.mark.long
def test_large_inputs_without_a_worker_wait_for_one():
    with laboratory({"a": {}}) as lab:
        spec = model(len_of)
        assert lab.flow.submit(spec, "abc").result(LIMIT).outputs == 3
        lab.remove("a")
        lab.until(lambda info: not info["hosts"])
        inputs = [np.ones(2_000_000, np.uint8), ["x" * 1_500_000, "abc"], [[1] * 1000] * 1000]
        handles = [lab.flow.submit(spec, item) for item in inputs]
        lab.until(lambda info: info["parked"])
        assert not sent_ahead(lab)
        lab.add("b")
        expected = [2_000_000, [1_500_000, 3], [1000] * 1000]
        assert [handle.result(LIMIT).outputs for handle in handles] == expected
        until(lambda: tasks_of(lab.flow) == [], instead=lambda: tasks_of(lab.flow))


def test_what_travels_together_is_never_much(solo, gate, monkeypatch):
    """Requests whose inputs are not sent ahead: packing and sending them must not keep others waiting."""
    fill(solo, gate)
    sizes, of = [], Packed.of

    def weighed(value):
        packed = of(value)
        sizes.append(packed.nbytes)
        return packed

    monkeypatch.setattr(Packed, "of", weighed)
    spec = model(len_of)
    together(solo.flow, spec)
    handles = [solo.flow.submit(spec, b"x" * (900_000 - n)) for n in range(20)]
    held(solo, 20)
    gate.open("fill")
    assert [handle.result(LIMIT).outputs for handle in handles] == [900_000 - n for n in range(20)]
    assert 1_000_000 < max(sizes) < FULL + 10_000  # together, and not all of them


@pytest.mark.parametrize("size", [10, 2_000_000])
def test_inputs_of_every_kind_arrive_equal(lab, size):
    array = np.arange(size, dtype=np.uint8)
    table = pa.table({"x": array})
    for value in (array, array[::2], {"deep": {"array": array}, "text": "a"}, array.tobytes(), "é" * size):
        found = lab.flow.submit(model(echo), value).result(LIMIT).outputs
        np.testing.assert_equal(found, value)
        (found,) = lab.flow.submit(model(echo), [value]).result(LIMIT).outputs
        np.testing.assert_equal(found, value)
    for value in (table, table.to_batches()[0], pa.array(array), table.column(0)):
        found = lab.flow.submit(model(echo), value).result(LIMIT).outputs
        assert type(found) is type(value) and found.equals(value)


def test_a_slice_of_a_table_travels_without_the_rest(lab, monkeypatch):
    sizes, of = [], Packed.of

    def weighed(value):
        packed = of(value)
        sizes.append(packed.nbytes)
        return packed

    monkeypatch.setattr(Packed, "of", weighed)
    table = pa.table({"x": np.arange(1_000_000)})
    for piece in (table.slice(10, 5), table.to_batches()[0].slice(10, 5), table["x"].slice(10, 5)):
        sizes.clear()
        assert lab.flow.submit(model(echo), piece).result(LIMIT).outputs.equals(piece)
        assert max(sizes) < 50_000


def test_an_input_that_cannot_be_sent_fails_alone(solo, gate):
    fill(solo, gate)
    spec = model(echo)
    together(solo.flow, spec)
    inputs = [1, threading.Lock(), 2, (i for i in range(3)), 3]
    handles = [solo.flow.submit(spec, item) for item in inputs]
    gate.open("fill")
    responses = [handle.response(LIMIT) for handle in handles]
    assert [response.outputs for response in responses] == [1, None, 2, None, 3]
    for at in (1, 3):
        assert responses[at].error.type == "BadRequest"
        assert handles[at].request_id in responses[at].error.message
    large = [np.zeros(2_000_000, np.uint8), threading.Lock()]
    with pytest.raises(BadRequest, match="cannot be sent"):
        solo.flow.submit(spec, large).result(LIMIT)


def test_a_parameter_that_cannot_be_sent_is_a_bad_request(solo):
    def take(rows, lock=None):
        return rows

    with pytest.raises(BadRequest, match="cannot be sent"):
        solo.flow.submit(model(take), 1, lock=threading.Lock()).result(LIMIT)


def test_an_answer_that_cannot_be_sent_back_is_an_error_of_its_own(solo):
    def lock(rows):
        import threading

        return [threading.Lock() for _ in rows]

    with pytest.raises(AltlasError):
        solo.flow.submit(model(lock), 1).result(LIMIT)
    assert solo.flow.submit(model(echo), 1).result(LIMIT).outputs == 1


def test_parameters_are_those_of_the_call_and_keep_their_types(lab):
    def given(rows, words=None, table=None):
        return [(words, table) for _ in rows]

    spec = lab.flow.register(model(given))
    words = ["a"]
    first = lab.flow.submit(spec.id, 0, words=words)
    words.append("b")
    assert first.result(LIMIT).outputs == (["a"], None)
    handles = [
        lab.flow.submit(spec.id, 0, **parameters)
        for parameters in ({"words": ["a"]}, {"words": ("a",)}, {"table": {1: "x"}}, {"table": {"1": "x"}})
    ]
    expected = [(["a"], None), (("a",), None), (None, {1: "x"}), (None, {"1": "x"})]
    assert [handle.result(LIMIT).outputs for handle in handles] == expected


def test_annotations_of_the_caller_stay_with_the_caller(lab):
    """Dask's annotations are variables of the context, which event loops hand on."""
    spec = lab.flow.register(model(echo))
    with dask.annotate(resources={"nobody has it": 1}):
        within = [lab.flow.submit(spec.id, n) for n in range(100)]
    after = [lab.flow.submit(spec.id, n) for n in range(20)]
    assert [handle.result(LIMIT).outputs for handle in (*within, *after)] == [*range(100), *range(20)]
