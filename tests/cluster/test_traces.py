"""OpenTelemetry spans, on a cluster in processes."""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
import sys
import threading
import time

import dask
import pandas as pd
import pytest
from distributed import Client
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor

import altlas_flow as af
from altlas_flow import tracing
from altlas_flow.errors import DeadlineExceeded, PredictError, RequestCancelled, StageFailed
from tests import spans
from tests.cluster.stages import echo, in_one_envelope, model
from tests.laboratory import LIMIT, laboratory, until

pytestmark = pytest.mark.timeout(150)


def where(rows):
    """Which trace the model runs in, and which span is its parent."""
    from opentelemetry import trace

    seen = trace.get_current_span().get_span_context()
    return [[f"{seen.trace_id:032x}", f"{seen.span_id:016x}"] for _ in rows]


def upper(rows):
    return [row.upper() for row in rows]


def no_bad(rows):
    if any("bad" in row for row in rows):
        raise ValueError("cannot stand bad")
    return rows


@pytest.fixture(scope="module")
def lab():
    with laboratory({"a": {}, "b": {}}, traces=True) as made:
        yield made


@pytest.fixture(autouse=True)
def _fresh(lab):
    assert lab.flow._transport.afterwards.flush(LIMIT), "what other tests asked is told after its answer"
    spans.exporter().clear()


def only(name):
    """Whoever waits for an answer has that before its span ends."""
    (span,) = all_of(name, 1)
    return span


def all_of(name, count):
    until(lambda: len(spans.ended(name)) >= count, instead=spans.ended)
    return spans.ended(name)


def ids(span):
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


def test_a_request_is_a_span_with_what_became_of_it_one_after_the_other(lab, stage):
    spec = lab.flow.register(stage.model())
    tracer = trace.get_tracer("tests")
    with tracer.start_as_current_span("mine") as mine:
        first = lab.flow.submit(spec, {"n": 1, "sleep": 0.05}).result(LIMIT)
    request = only("altlas.request")
    assert request.parent.span_id == mine.get_span_context().span_id
    assert [child.name for child in spans.children(request)] == [
        "altlas.queue",
        "altlas.load",
        "altlas.predict",
    ]
    spans.check_within(request)
    queue, load, predict = spans.children(request)
    assert load.start_time == queue.end_time and predict.start_time == load.end_time
    assert spans.seconds(request) == pytest.approx(first.latency, abs=1e-5)
    assert spans.seconds(load) == pytest.approx(first.load_time, abs=1e-5)
    assert (
        spans.seconds(predict) == pytest.approx(first.trace.predict, abs=1e-5) and first.trace.predict > 0.05
    )
    held = first.trace.held + first.trace.placing + first.trace.queue - first.load_time
    assert spans.seconds(queue) == pytest.approx(held, abs=1e-5)
    assert request.kind.name == "CLIENT" and request.status.status_code.name == "UNSET"
    said = request.attributes
    assert said["altlas.request_id"] == first.request_id and said["altlas.model"] == spec.id
    assert said["altlas.node"] == first.node_id == predict.attributes["altlas.node"]
    assert said["altlas.strategy"] == "LEAST_LOADED" and said["altlas.status"] == "completed"
    assert said["altlas.tries"] == 1 and said["altlas.envelope.requests"] == 1
    assert predict.attributes["altlas.batch.rows"] == 1


def test_each_request_of_an_envelope_has_its_own(lab):
    spec = lab.flow.register(model(echo))
    numbers = range(50)
    handles = [lab.flow.submit(spec, number) for number in numbers]
    assert [handle.result(LIMIT).outputs for handle in handles] == list(numbers)
    requests = all_of("altlas.request", len(handles))
    assert {span.attributes["altlas.request_id"] for span in requests} == {one.request_id for one in handles}
    for request in requests:
        spans.check_within(request)
        assert request.parent is None
        assert [child.name for child in spans.children(request)][-1] == "altlas.predict"


def test_what_fails_says_so_and_what_is_tried_again_shows_each_try(lab, stage):
    bad = lab.flow.submit(lab.flow.register(model(no_bad)), "bad").response(LIMIT)
    assert bad.error.type == PredictError.__name__
    request = only("altlas.request")
    assert spans.failure(request) == ("ERROR", "PredictError")
    assert request.attributes["error.type"] == "PredictError"
    assert spans.failure(spans.children(request)[-1]) == ("ERROR", "PredictError")
    (told,) = request.events
    assert "cannot stand bad" in told.attributes["exception.message"]
    spans.check_within(request)
    spans.exporter().clear()

    spec = lab.flow.register(stage.model())
    twice = lab.flow.submit(spec, {"n": 7, "wrong": True}, validator=lambda answer: answer >= 0).result(LIMIT)
    assert twice.tries == 2
    request = only("altlas.request")
    assert request.status.status_code.name == "UNSET" and request.attributes["altlas.tries"] == 2
    spans.check_within(request)
    predicted = [child for child in spans.children(request) if child.name == "altlas.predict"]
    assert [spans.failure(one) for one in predicted] == [("ERROR", "InvalidAnswer"), ("UNSET",)]
    assert [one.attributes["altlas.try"] for one in predicted] == [1, 2]
    assert predicted[0].attributes["altlas.node"] == twice.trace.tries[0].node
    assert predicted[1].attributes["altlas.node"] == twice.node_id


def test_what_is_given_up_ends_where_it_was_given_up(lab, stage):
    spec = lab.flow.register(stage.model())
    handle = lab.flow.submit(spec, {"n": 1, "wait": "open"})
    stage.await_running(1)
    handle.cancel()
    with pytest.raises(RequestCancelled):
        handle.result(LIMIT)
    request = only("altlas.request")
    assert request.attributes["altlas.status"] == "cancelled" and request.status.status_code.name == "UNSET"
    spans.check_within(request)
    stage.open()
    spans.exporter().clear()
    with pytest.raises(DeadlineExceeded):
        lab.flow.submit(spec, {"n": 2, "sleep": 0.4}, deadline="100ms").result(LIMIT)
    request = only("altlas.request")
    assert spans.failure(request) == ("ERROR", "DeadlineExceeded")
    assert 0.1 <= spans.seconds(request) < 0.4
    spans.check_within(request)
    assert spans.children(request)
    spans.exporter().clear()
    refused = lab.flow.submit_many([af.InferenceRequest(model_id="nobody", inputs=1)]).result(LIMIT)
    assert not refused[0].ok
    assert spans.failure(only("altlas.request")) == ("ERROR", "UnknownModel")


@pytest.mark.long
def test_a_worker_that_dies_ends_a_try(stage):
    with laboratory({"x": {}, "y": {}}, traces=True) as lab:
        lab.await_nannies()
        spec = lab.flow.register(stage.model())
        response = lab.flow.submit(spec, {"n": 1, "kill": True}, retry=af.RetryPolicy(tries=1)).response(
            LIMIT
        )
        assert response.error.type == "NodeLost"
    request = only("altlas.request")
    assert spans.failure(request) == ("ERROR", "NodeLost")
    spans.check_within(request)
    assert spans.failure(spans.children(request)[-1]) == ("ERROR", "NodeLost")


def test_a_model_runs_in_the_trace_of_its_request(lab):
    spec = lab.flow.register(model(where))
    ((seen, parent),) = [lab.flow.submit(spec, 1).result(LIMIT).outputs]
    assert (seen, parent) == ids(only("altlas.request"))


def begin_recording(dask_worker):
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    dask_worker.kept_spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(dask_worker.kept_spans))
    trace.set_tracer_provider(provider)


def recorded(dask_worker):
    return [
        {
            "name": span.name,
            "trace": f"{span.context.trace_id:032x}",
            "span": f"{span.context.span_id:016x}",
            "parent": f"{span.parent.span_id:016x}" if span.parent is not None else None,
            "links": [f"{link.context.span_id:016x}" for link in span.links],
            "status": span.status.status_code.name,
            "failed": (span.attributes or {}).get("altlas.batch.failed"),
            "rows": (span.attributes or {}).get("altlas.batch.rows"),
        }
        for span in dask_worker.kept_spans.get_finished_spans()
    ]


def traced(rows):
    from opentelemetry import trace

    with trace.get_tracer("model").start_as_current_span("look"):
        return list(rows)


def test_a_worker_that_has_a_provider_records_batches_and_what_models_make(stage):
    with laboratory({"only": {}}, traces=True) as lab:
        lab.client.run(begin_recording)
        spec = lab.flow.register(model(traced))
        lab.flow.submit(spec, 1).result(LIMIT)
        only("altlas.request")
        spans.exporter().clear()
        many = in_one_envelope(lab.flow, spec, [{"n": 1}, {"n": 2}, {"n": 3}])
        assert [one.result(LIMIT).outputs for one in many] == [{"n": 1}, {"n": 2}, {"n": 3}]
        assert not lab.flow.submit(lab.flow.register(model(no_bad)), "bad").response(LIMIT).ok
        (told,) = lab.client.run(recorded).values()
    *good, bad = [one for one in told if one["name"] == "altlas.batch"]
    assert {(one["status"], one["failed"]) for one in good} == {("UNSET", None)}
    assert (bad["status"], bad["failed"]) == ("ERROR", 1)
    batches = {one["span"]: one for one in told if one["name"] == "altlas.batch"}
    looks = [one for one in told if one["name"] == "look"]
    assert looks and all(one["parent"] in batches for one in looks)
    mine = {span.attributes["altlas.request_id"]: ids(span)[1] for span in all_of("altlas.request", 3)}
    wanted = [mine[one.request_id] for one in many]
    (shared,) = [one for one in batches.values() if one["rows"] == 3]
    assert [shared["parent"], *shared["links"]] == wanted


def test_a_pipeline_is_a_span_with_its_stages_and_they_run_in_it(lab):
    chain = af.Pipeline(
        [
            af.Stage("up", model(upper)),
            af.Stage("seen", model(where), after="up"),
            af.Stage("sum", function=lambda given: (given["up"], given["seen"]), after=("up", "seen")),
        ],
        id="chain",
    )
    with trace.get_tracer("tests").start_as_current_span("mine") as mine:
        result = lab.flow.submit(chain, "hello").result(LIMIT)
    whole = only("altlas.pipeline")
    assert whole.parent.span_id == mine.get_span_context().span_id
    assert result.outputs[0] == "HELLO" and tuple(result.outputs[1]) == ids(whole)
    assert spans.seconds(whole) == pytest.approx(result.latency, abs=0.05)
    queue, *stages = spans.children(whole)
    assert queue.name == "altlas.queue"
    assert [one.attributes["altlas.stage"] for one in stages] == ["up", "seen", "sum"]
    spans.check_within(whole)
    for one in stages:
        note = result.notes[one.attributes["altlas.stage"]]
        assert one.name == "altlas.stage" and one.attributes["altlas.status"] == "completed"
        assert one.attributes["altlas.node"] == note.node in ("a", "b")
        assert spans.seconds(one) == pytest.approx(note.queue + note.seconds, abs=0.01)


def test_a_stage_that_fails_says_so_and_what_comes_after_it_is_not_done(lab):
    chain = af.Pipeline(
        [
            af.Stage("up", model(upper)),
            af.Stage("strict", model(no_bad), after="up", inputs=lambda row: row.lower()),
            af.Stage("end", model(upper), after="strict"),
        ],
        id="failing",
    )
    with pytest.raises(StageFailed):
        lab.flow.submit(chain, "bad").result(LIMIT)
    whole = only("altlas.pipeline")
    assert spans.failure(whole) == ("ERROR", "StageFailed")
    stages = {one.attributes["altlas.stage"]: one for one in spans.children(whole)[1:]}
    assert spans.failure(stages["strict"]) == ("ERROR", "PredictError")
    assert spans.failure(stages["up"]) == ("UNSET",)
    assert spans.failure(stages["end"]) == ("UNSET",)
    assert stages["end"].attributes["altlas.status"] == "not done"
    spans.exporter().clear()
    handle = lab.flow.submit(chain, "good")
    handle.cancel()
    assert only("altlas.pipeline").attributes["altlas.status"] == "cancelled"


def test_a_job_is_a_span_with_its_parts_and_models_run_in_it(lab, tmp_path):
    frame = pd.DataFrame({"text": ["a", "b", "c", "d"]})
    seen = lab.flow.register(model(trace_of))
    found = lab.flow.map(frame, seen, input="text", output="trace", part_rows=2)
    job = only("altlas.job")
    assert set(found.trace) == {ids(job)[0]}
    assert job.attributes["altlas.rows"] == 4 and job.attributes["altlas.parts"] == 2
    assert job.attributes["altlas.job.kind"] == "map"
    parts = spans.children(job)
    assert [one.name for one in parts] == ["altlas.part"] * 2
    assert all(job.start_time <= one.start_time <= one.end_time <= job.end_time for one in parts)
    spans.exporter().clear()

    bad = lab.flow.register(model(no_bad))
    frame.loc[2, "text"] = "bad"
    lab.flow.run(frame, bad, input="text", output="out", to=tmp_path / "out", part_rows=2, progress=False)
    job = only("altlas.job")
    assert job.attributes["altlas.dead_letters"] == 1 and job.attributes["altlas.job.kind"] == "run"
    assert sorted(one.attributes["altlas.dead_letters"] for one in spans.children(job)) == [0, 1]
    spans.exporter().clear()
    with pytest.raises(af.errors.AltlasError):
        lab.flow.map(frame, bad, input="text", output="out")
    assert only("altlas.job").status.status_code.name == "ERROR"


def trace_of(rows):
    from opentelemetry import trace

    seen = trace.get_current_span().get_span_context()
    return [f"{seen.trace_id:032x}" for _ in rows]


def test_a_pipeline_over_rows_runs_in_its_job(lab):
    chain = af.Pipeline(
        [af.Stage("up", model(upper)), af.Stage("seen", model(trace_of), after="up")], id="rows"
    )
    found = lab.flow.map(pd.DataFrame({"text": ["a", "b"]}), chain, input="text", output="trace")
    assert set(found.trace) == {ids(only("altlas.job"))[0]}


def test_what_is_not_sampled_has_no_children_and_its_models_know(lab):
    unsampled = trace.NonRecordingSpan(
        trace.SpanContext(trace_id=7, span_id=9, is_remote=True, trace_flags=trace.TraceFlags(0))
    )
    spec = lab.flow.register(model(where))
    with trace.use_span(unsampled):
        seen, _ = lab.flow.submit(spec, 1).result(LIMIT).outputs
    assert seen == f"{7:032x}"
    lab.flow.submit(spec, 2).result(LIMIT)
    trace_id = ids(only("altlas.request"))[0]  # spans of the first one would be there before
    assert {ids(span)[0] for span in spans.ended()} == {trace_id} != {f"{7:032x}"}


class Broken(SpanProcessor):
    """Fails while it is on."""

    on, ended = False, ()

    def on_start(self, span, parent_context=None):
        if self.on:
            raise RuntimeError("no span today")

    def on_end(self, span):
        if self.on:
            self.ended += (span.name,)
            raise RuntimeError("nor its end")


def test_a_processor_that_fails_costs_spans_and_no_answers(lab):
    spans.exporter()
    broken, spec = Broken(), lab.flow.register(model(echo))
    trace.get_tracer_provider().add_span_processor(broken)
    chain = af.Pipeline([af.Stage("up", model(upper))], id="short")
    frame = pd.DataFrame({"text": ["a"]})
    before = lab.flow.submit(spec, {"n": 1}), lab.flow.submit(chain, "a")  # these fail where they end
    broken.on = True
    try:
        assert [one.result(LIMIT).outputs for one in before] == [{"n": 1}, "A"]
        assert lab.flow.submit(spec, {"n": 2}).result(LIMIT).outputs == {"n": 2}
        assert lab.flow.submit(chain, "b").result(LIMIT).outputs == "B"
        assert list(lab.flow.map(frame, model(upper), input="text", output="up").up) == ["A"]
        assert not lab.flow.submit(lab.flow.register(model(no_bad)), "bad").response(LIMIT).ok
        until(
            lambda: {"altlas.request", "altlas.pipeline"} <= set(broken.ended), instead=lambda: broken.ended
        )
    finally:
        broken.on = False


class Picky(SpanProcessor):
    """Fails at one kind of spans."""

    name, ended = "", ()

    def on_end(self, span):
        self.ended += (span.name,)
        if span.name == self.name:
            raise RuntimeError("not this one")


def test_a_processor_that_fails_at_a_child_leaves_no_span_open(lab):
    spans.exporter()
    picky, spec = Picky(), lab.flow.register(model(echo))
    chain = af.Pipeline([af.Stage("up", model(upper))], id="picky")
    trace.get_tracer_provider().add_span_processor(picky)
    for name, ask, whole in (("altlas.queue", spec, "request"), ("altlas.queue", chain, "pipeline")):
        picky.name, picky.ended = name, ()
        try:
            lab.flow.submit(ask, "a").result(LIMIT)
            until(lambda whole=whole: f"altlas.{whole}" in picky.ended, instead=lambda: picky.ended)
        finally:
            picky.name = ""
        assert picky.ended[-2] in ("altlas.predict", "altlas.stage")  # what came after it was told, too


class Kept(logging.Logger):
    """Keeps what it is told."""

    def handle(self, record):
        self.records = [*getattr(self, "records", ()), record]


def test_of_spans_that_cannot_be_made_one_is_told_whole(monkeypatch):
    log = Kept("tests")
    monkeypatch.setattr(tracing, "_faults", itertools.count(1))
    monkeypatch.setattr(tracing, "logger", log)

    def fail():
        raise RuntimeError("no span today")

    for _ in range(9):
        assert tracing.quietly(fail) is None
    assert [record.exc_info is not None for record in log.records] == [True, False, False, False]
    assert log.records[-1].getMessage().startswith("8 spans could not be made")


def test_a_slow_processor_keeps_no_answer_back(lab):
    spans.exporter()
    spec, free = lab.flow.register(model(echo)), threading.Event()

    class Slow(SpanProcessor):
        def on_end(self, span):
            assert free.wait(LIMIT)

    lab.flow.submit(spec, 0).result(LIMIT)
    only("altlas.request")
    trace.get_tracer_provider().add_span_processor(Slow())
    try:
        assert lab.flow.submit(spec, 1).result(LIMIT / 2).outputs == 1
    finally:
        free.set()


def test_nobody_of_an_envelope_waits_until_the_others_are_told_of(lab):
    spec, over, sent = lab.flow.register(model(no_bad)), [], threading.Event()

    class Waiting(SpanProcessor):
        def on_end(self, span):
            if span.name == "altlas.request":
                assert sent.wait(LIMIT)
                over.append([one.response(LIMIT).ok for one in handles])  # which would have no end

    trace.get_tracer_provider().add_span_processor(Waiting())
    handles = lab.flow.submit_many(spec, ["a", "bad", "b", "bad"] * 10)
    sent.set()
    until(lambda: len(over) >= len(handles))
    assert all(oks == [True, False, True, False] * 10 for oks in over)


@pytest.mark.long
def test_nothing_is_lost_where_the_users_client_is_closed_first(lab):
    spans.exporter()

    class Slow(SpanProcessor):
        on = True

        def on_end(self, span):
            if self.on:
                time.sleep(0.002)  # as one that writes to a disk
                told.append(span.name)

    told = []
    trace.get_tracer_provider().add_span_processor(Slow())
    with dask.config.set({"altlas.traces": True}), Client(lab.client.scheduler.address) as client:
        flow = af.connect(client)
        spec = flow.register(model(echo))
        for handle in [flow.submit(spec, number) for number in range(300)]:
            handle.result(LIMIT)
    flow.close()
    Slow.on = False
    assert told.count("altlas.request") == 300


OFF = """
import json, sys
import altlas_flow as af

def loaded(rows):
    import sys
    return [sorted(name for name in sys.modules if name.startswith("opentelemetry")) for _ in rows]

def up(rows):
    return [row.upper() for row in rows]

from altlas_flow.cluster.client import posting
sent, pack = [], posting.Packed.of
class Seen:
    of = staticmethod(lambda value: (sent.append(dict(vars(value))), pack(value))[1])
posting.Packed = Seen
with af.connect(workers=1) as flow:
    spec = af.ModelSpec(id="loaded", source=loaded)
    flow.register(spec)
    there = flow.submit("loaded", 1).result(60).outputs
    first = af.Stage("up", af.ModelSpec(id="up", source=up))
    chain = af.Pipeline([first, af.Stage("seen", "loaded", after="up")])
    there += flow.submit(chain, "a").result(60).outputs
here = sorted(name for name in sys.modules if name.startswith("opentelemetry"))
print(json.dumps([there, here, [sorted(one) for one in sent]]))
"""


def test_where_it_is_off_nothing_is_imported_and_nothing_travels():
    done = subprocess.run(
        [sys.executable, "-c", OFF], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    there, here, sent = json.loads(done.stdout)
    assert there == [] and here == []
    assert sent and all("traces" not in names for names in sent)


def test_an_extra_that_is_missing_is_said_when_connecting(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with (
        dask.config.set({"altlas.traces": True}),
        pytest.raises(af.errors.SettingsError, match=r"altlas-flow\[otel\]"),
    ):
        af.connect(workers=1)
