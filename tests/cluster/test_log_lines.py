"""What programs log of requests, models, nodes and jobs, as JSON, on a cluster in processes."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import pandas as pd
import pytest

import altlas_flow as af
from altlas_flow.errors import DeadlineExceeded, NothingServes, PredictError, RequestCancelled
from altlas_flow.logs import JsonFormatter
from tests.cluster.commands import commands
from tests.cluster.stages import echo, model
from tests.laboratory import LIMIT, laboratory, until

pytestmark = pytest.mark.timeout(150)


def no_bad(rows):
    if any("bad" in row for row in rows):
        raise ValueError("cannot stand\nbad")
    return rows


class Lines(logging.Handler):
    """What is logged, as the lines that it makes."""

    def __init__(self):
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.lines = []

    def emit(self, record):
        self.lines.append(self.format(record))

    def of(self, **wanted):
        found = [json.loads(line) for line in list(self.lines)]
        return [one for one in found if wanted.items() <= one.items()]

    def one(self, **wanted):
        """The only one: whoever waits for an answer has that before it is told of."""
        until(lambda: self.of(**wanted), instead=lambda: self.lines)
        (line,) = self.of(**wanted)
        return line


@pytest.fixture(scope="module")
def lab():
    with laboratory({"a": {}, "b": {}}) as made:
        yield made


@pytest.fixture
def log():
    ours, kept = logging.getLogger("altlas_flow"), Lines()
    ours.addHandler(kept)
    before = ours.level
    ours.setLevel(logging.INFO)
    yield kept
    ours.setLevel(before)
    ours.removeHandler(kept)


def test_a_request_that_fails_and_one_that_is_tried_again_are_a_line_each(lab, stage, log):
    bad = lab.flow.submit(lab.flow.register(model(no_bad)), "bad")
    with pytest.raises(PredictError):
        bad.result(LIMIT)
    line = log.one(request_id=bad.request_id)
    assert line["event"] == "request failed" and line["level"] == "INFO"
    assert line["model"] == bad.model_id and line["node"] in ("a", "b") and line["tries"] == 1
    assert line["kind"] == "PredictError" and "cannot stand bad" in line["error"]
    assert bad.request_id in line["message"] and bad.model_id in line["message"]

    spec = lab.flow.register(stage.model())
    again = lab.flow.submit(spec, {"n": 7, "wrong": True}, validator=lambda answer: answer >= 0)
    response = again.result(LIMIT)
    line = log.one(request_id=again.request_id)
    assert line["event"] == "request retried" and line["kind"] == "InvalidAnswer"
    assert line["node"] == response.trace.tries[0].node and line["tries"] == 1
    assert all("\n" not in one for one in log.lines)


def test_what_is_given_up_or_late_says_so(lab, stage, log):
    spec = lab.flow.register(stage.model())
    handle = lab.flow.submit(spec, {"n": 1, "wait": "open"})
    handle.cancel()
    with pytest.raises(RequestCancelled):
        handle.result(LIMIT)
    stage.open()
    late = lab.flow.submit(spec, {"n": 2, "sleep": 0.3}, deadline="50ms")
    with pytest.raises(DeadlineExceeded):
        late.result(LIMIT)
    assert log.one(request_id=handle.request_id)["event"] == "request cancelled"
    assert log.one(request_id=late.request_id)["event"] == "deadline passed"


def test_answers_are_told_only_where_that_is_wanted(lab, log):
    spec = lab.flow.register(model(echo))
    quiet = lab.flow.submit(spec, 1)
    assert quiet.result(LIMIT).outputs == 1
    logging.getLogger("altlas_flow.cluster.client.lines").setLevel(logging.DEBUG)
    try:
        told = lab.flow.submit(spec, 2)
        response = told.result(LIMIT)
        line = log.one(request_id=told.request_id)  # it is told, or not, after the answer
    finally:
        logging.getLogger("altlas_flow.cluster.client.lines").setLevel(logging.NOTSET)
    assert line["event"] == "request completed" and line["node"] == response.node_id
    assert log.of(request_id=quiet.request_id) == [], "what is told of it would be before this"


def test_pipelines_jobs_and_choices_are_told_of(lab, log, tmp_path):
    chain = af.Pipeline([af.Stage("strict", model(no_bad))], id="strict chain")
    handle = lab.flow.submit(chain, "bad")
    assert not handle.response(LIMIT).ok
    line = log.one(request_id=handle.request_id)
    assert (line["event"], line["model"], line["kind"]) == ("request failed", "strict chain", "StageFailed")

    frame = pd.DataFrame({"text": ["a", "bad", "c"]})
    spec = lab.flow.register(model(no_bad))
    lab.flow.run(frame, spec, input="text", to=tmp_path / "out", progress=False)
    begun, dead, over = log.of(model=spec.id)
    assert [begun["event"], dead["event"], over["event"]] == ["job begun", "rows dead-lettered", "job ended"]
    assert begun["job"] == dead["job"] == over["job"]
    assert dead["dead_letters"] == over["dead_letters"] == 1 and over["rows"] == 3
    with pytest.raises(af.errors.AltlasError):
        lab.flow.map(frame, spec, input="text")
    assert log.of(model=spec.id)[-1]["event"] == "job failed"

    with pytest.raises(NothingServes):
        lab.flow.submit(task="what nobody\ndoes", inputs="x")
    line = log.one(event="decision refused")
    assert line["task"] == "what nobody\ndoes" and "\n" not in line["message"]


def test_an_id_with_lines_in_it_forges_none(lab, log):
    spec = lab.flow.register(model(no_bad))
    forged = 'x\n{"event": "forged"}'
    request = af.InferenceRequest(model_id=spec.id, inputs="bad", request_id=forged)
    assert not lab.flow.submit(request).response(LIMIT).ok
    line = log.one(request_id=forged)
    assert "\n" not in line["message"] and all("\n" not in one for one in log.lines)


FACTORY = """
import logging
import altlas_flow as af

def no_bad(rows):
    raise ValueError("no")

logging.basicConfig(level=logging.INFO, handlers=[logging.NullHandler()])
make = logging.getLogRecordFactory()

def bearing(*args, **kwargs):
    record = make(*args, **kwargs)
    record.request_id, record.node, record.model, record.job = "web-17", "here", "none", "nightly"
    return record

def refuse(record):
    raise RuntimeError("no line today")

logging.setLogRecordFactory(bearing)
with af.connect(workers=1) as flow:
    flow.register(af.ModelSpec(id="no bad", source=no_bad))
    chain = af.Pipeline([af.Stage("bad", "no bad")], id="chain")
    for _ in range(2):
        given_up = flow.submit("no bad", "bad")
        given_up.cancel()
        assert given_up.response(30).error.type == "RequestCancelled"
        assert flow.submit("no bad", "bad").response(30).error.type == "PredictError"
        assert not flow.submit(chain, "bad").response(30).ok
        logging.getLogger("altlas_flow.cluster.client.lines").addFilter(refuse)
"""


@pytest.mark.long
def test_factories_and_filters_of_the_users_cost_no_answer():
    done = subprocess.run(
        [sys.executable, "-c", FACTORY], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("RuntimeError: no line today") == 1  # of many


@pytest.mark.long
def test_programs_of_ours_log_nothing_but_json_where_that_is_asked_for(tmp_path):
    with commands(tmp_path) as start:
        scheduler = start("scheduler", "--port", 0, "--dashboard", "none", "--log-format", "json")
        address = scheduler.address()
        start("worker", address, "--name", "w1", "--nthreads", 1, "--log-format", "json").address()
        with af.connect(address) as flow:
            spec = flow.register(model(no_bad))
            assert flow.submit(spec, "good").result(LIMIT).ok
            flow.cordon("w1")

        def told():
            logs = [path.read_text() for path in tmp_path.glob("*.log")]
            lines = [json.loads(line) for text in logs for line in text.split("\n")[:-1]]
            return {one["event"]: one for one in lines if one["event"] != "log"}

        wanted = {"worker", "node joined", "node ready", "node cordoned", "model loaded"}
        until(lambda: wanted <= told().keys(), instead=told)
        found = told()
    assert found["node joined"]["node"] == found["model loaded"]["node"] == "w1"
    assert found["model loaded"]["model"] == spec.id
    assert found["node cordoned"]["message"].startswith("node cordoned: node=w1")


EMBEDDED = """
import dask, sys
import altlas_flow as af

def no_bad(rows):
    raise ValueError("no")

dask.config.set({"altlas.log-format": "json"})
with af.connect(workers=1) as flow:
    spec = flow.register(af.ModelSpec(id="no bad", source=no_bad))
    handle = flow.submit(spec, "bad")
    assert not handle.response(60).ok
print(handle.request_id)
"""


@pytest.mark.long
def test_an_embedded_cluster_logs_json_where_the_setting_says_so(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", EMBEDDED], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    events = {one["event"]: one for one in lines}
    assert {"node ready", "model loaded", "request failed"} <= events.keys()
    assert events["request failed"]["request_id"] == done.stdout.strip()
    assert events["model loaded"]["model"] == "no bad"


CLOSING = """
import logging
import altlas_flow as af

logging.basicConfig(format="ROOT %(name)s %(message)s", level=logging.INFO)
flow = af.connect(workers=1)
flow.close()
logging.getLogger("altlas_flow").info("after")
"""


@pytest.mark.long
def test_lines_of_a_flow_that_closes_are_json_to_the_last_one():
    done = subprocess.run(
        [sys.executable, "-c", CLOSING],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "DASK_ALTLAS__LOG_FORMAT": "json"},
    )
    *lines, after = done.stderr.splitlines()
    assert after == "ROOT altlas_flow after"
    assert [line for line in lines if line.startswith("ROOT altlas_flow")] == []
    events = [json.loads(line)["event"] for line in lines if line.startswith("{")]
    assert {"node ready", "node closing", "node left"} <= set(events)
