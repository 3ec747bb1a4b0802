"""What notebooks show: tables that are read aloud, too, in which everything is escaped."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import altlas_flow as af
from altlas_flow.dataframe.report import Plan, RunSummary
from altlas_flow.errors import PredictError
from altlas_flow.learning.course import Course
from altlas_flow.operations import NODE_COLUMNS, TASK_COLUMNS
from altlas_flow.pipeline.report import Report
from altlas_flow.pipeline.rows import Fault, Note, StageRows
from altlas_flow.records import NodeInfo, TaskInfo, TaskStatus, Trace, Try
from altlas_flow.records.html import LONG, Link, cut, facts, listed, rows, size
from altlas_flow.records.node import ModelLatency
from altlas_flow.records.table import Table
from altlas_flow.selection.replay import Logged, replay

pytestmark = pytest.mark.timeout(60)

LIMIT = 30
EVIL = "<script>alert('x')</script>\" onload=alert(1)\n\x1b[31m"


def decision():
    selector = af.Selector(["a", "b"], task=EVIL)
    made = selector.ask({"length": 3})
    selector.tell(made, quality=0.5, latency=0.1, cost=2.0)
    return selector.ask({"length": 3})


def report():
    told = Report(EVIL_PIPELINE)
    fault = Fault("one", EVIL, EVIL, PredictError("m", EVIL))
    told.add(StageRows([None], {0: fault}, notes={"one": Note(EVIL, EVIL, rows=1, seconds=0.1)}))
    return told


def shown(given):
    return given


RESPONSE = af.InferenceResponse(
    request_id="r",
    model_id=EVIL,
    node_id=EVIL,
    outputs=[EVIL],
    trace=Trace(node=EVIL, notes=[EVIL], tries=[Try(node=EVIL, error=EVIL)]),
)
NODE = NodeInfo(
    node_id="w",
    joined=True,
    slots=2,
    reason=EVIL,
    available_models=[EVIL],
    capabilities={EVIL: EVIL, "memory": 2**31},
    usage={"cpu": 0.5, "memory": 2.0**28},
    latency={EVIL: ModelLatency(count=3, mean=0.1, p50=0.1, p95=0.2)},
)
TASK = TaskInfo(
    task_id=EVIL, model_id="m", client=EVIL, status=TaskStatus.ERROR, error=EVIL, submitted=1.5e9, tries=2
)
EVIL_PIPELINE = af.Pipeline([af.Stage("one", af.ModelSpec(id="<b>", source="nowhere"))], id=EVIL)
SUMMARY = RunSummary(Path(EVIL), EVIL, rows=3, rows_done=3, stages=report())
LOG = [Logged({}, {"a": 0.5, "b": 0.5}, model, 1.0) for model in "ab" * 20]

TABLES = {
    "spec": af.ModelSpec(id="a<b>", source="package:name", runtime="function", task=EVIL),
    "response": RESPONSE,
    "failed": af.InferenceResponse(request_id=EVIL, model_id="m", error=ValueError(EVIL)),
    "trace": RESPONSE.trace,
    "node": NODE,
    "nodes": Table([NODE, NodeInfo(node_id="x")], NODE_COLUMNS, title="nodes"),
    "task": TASK,
    "tasks": Table([TASK] * 100, TASK_COLUMNS, title="tasks"),
    "none": Table([], TASK_COLUMNS, title="tasks"),
    "decision": decision(),
    "run": SUMMARY,
    "plan": Plan(EVIL, 10, 5, 1, 2.0, 5.0, {"a": 8}, EVIL, 2, 0.1),
    "stages": report(),
    "answers": af.Responses([RESPONSE], EVIL, agreement=0.5, missing={EVIL: EVIL}),
    "replay": replay(LOG, lambda features, models: {"a": 1.0}),
}
DRAWINGS = {
    "pipeline": EVIL_PIPELINE,
    "cascade": af.cascade(shown, af.ModelSpec(id="<i>", source="nowhere"), id="<b>"),
    "course": Course(EVIL, (EVIL, "b"), (0, 10), ((3, 7), (5, 5))),
}


class Reader(HTMLParser):
    """The tags, and whether each is closed."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check(html, *, drawn=False):
    """Tables with captions and headings, pictures with a name; nothing of the web, no colours of a page."""
    tags = Reader(html).tags
    known = {"table", "caption", "thead", "tbody", "tr", "th", "td", "ul", "li", "a"}
    known |= {"div", "svg", "g", "title", "rect", "path", "text"} if drawn else set()
    assert {tag for tag, _ in tags} <= known
    assert sum(tag == "caption" for tag, _ in tags) == sum(tag == "table" for tag, _ in tags)
    for tag, attrs in tags:
        assert not [name for name in attrs if name.startswith("on") or name in ("src", "class", "id")]
        assert tag != "th" or attrs["scope"] in ("row", "col")
        assert tag != "svg" or (attrs["role"], bool(attrs["aria-label"])) == ("img", True)
        assert tag != "text" or attrs.get("fill", "currentColor") == "currentColor"
        assert not re.search(r"color|background", attrs.get("style") or "")
        assert tag != "a" or attrs["href"].startswith("http://127.0.0.1")
    assert "\x1b" not in html
    assert "<script" not in html


@pytest.mark.parametrize("name", TABLES)
def test_it_is_a_table_for_those_who_hear_it_and_nothing_in_it_is_markup(name):
    html = TABLES[name]._repr_html_()
    check(html)
    assert "<caption" in html


@pytest.mark.parametrize("name", DRAWINGS)
def test_it_is_drawn_with_a_name_in_the_colours_of_the_page(name):
    html = DRAWINGS[name]._repr_html_()
    check(html, drawn=True)
    assert "<svg" in html


@pytest.mark.parametrize("name", [*TABLES, *DRAWINGS])
def test_a_terminal_gets_text(name):
    text = repr({**TABLES, **DRAWINGS}[name])
    assert text and "<table" not in text and "<svg" not in text


def test_what_is_empty_is_left_out_and_what_is_long_is_cut():
    html = facts("x", [("none", None), ("empty", []), ("zero", 0), ("long", "y" * 10_000)])
    assert re.findall("<th[^>]*>(.*?)</th>", html) == ["zero", "long"]
    assert len(html) < LONG + 600
    assert cut(1.5) == "1.5"
    assert cut("a\tb\x00") == "a b�"
    assert listed({"cores": 2, "labels": {}, "memory": size(3 * 2**30)}) == "cores 2, memory 3.0 GiB"
    assert (size(None), size(5 * 2**20)) == ("", "5 MiB")


def test_only_addresses_of_the_web_can_be_followed():
    html = facts("x", [("a", Link("http://127.0.0.1:1/altlas")), ("b", Link("javascript:alert(1)"))])
    assert html.count("<a ") == 1 and 'href="http://127.0.0.1:1/altlas"' in html


def test_a_line_begins_with_its_heading():
    html = rows("two", ("name", "value"), [("a", 1), ("b", None)])
    assert re.findall('<th scope="(.*?)"', html) == ["col", "col", "row", "row"]


def test_a_long_table_says_what_is_left_out_and_an_empty_one_that_it_is():
    assert "tasks: the first 60 of 100<" in TABLES["tasks"]._repr_html_()
    assert "tasks: none<" in TABLES["none"]._repr_html_()
    assert "nodes: 2<" in TABLES["nodes"]._repr_html_()


def test_the_text_of_a_table_is_made_and_not_shown_in_a_notebook(monkeypatch, capsys):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("rich.jupyter.display", lambda *args: pytest.fail("rich showed it"))
    assert "ONLINE" in str(TABLES["nodes"])
    assert capsys.readouterr() == ("", "")


def test_a_node_and_a_task_are_told_in_units_of_people():
    html = NODE._repr_html_()
    assert "memory 2.0 GiB" in html and "cpu 50%" in html and "memory 256 MiB" in html
    assert "p50 100 ms, p95 200 ms" in html
    assert "2017-07-14 02:40:00.000" in TASK._repr_html_()


def test_a_decision_names_all_models_and_the_chances():
    html = TABLES["decision"]._repr_html_()
    assert html.count("<tr>") == 3
    assert "chance" in html


def test_a_model_tells_what_is_not_usual_and_not_its_code():
    spec = af.ModelSpec(id="shown", source=shown, validator=fails, serves=("task",), batch=4)
    html = spec._repr_html_()
    named = re.findall('<th scope="row"[^>]*>(.*?)</th>', html)
    assert named == ["id", "runtime", "source", "batch", "validator", "serves", "fingerprint"]
    assert html.count("sent by value") == 2
    assert spec.code[:40] not in html
    again = af.ModelSpec.model_validate_json(spec.model_dump_json())  # as it comes from a catalog
    assert again._repr_html_() == html


def test_a_run_of_a_pipeline_has_its_stages():
    html = SUMMARY._repr_html_()
    assert "run of &lt;script&gt;" in html and "stages of pipeline &lt;script&gt;" in html


def test_a_flow_shows_itself(flow):
    html = flow._repr_html_()
    check(html)
    assert "embedded" in html and '/altlas"' in html and "nodes: 2<" in html
    assert "ONLINE" in html or "BUSY" in html


def test_what_is_under_way_says_how_far_it_is_and_then_what_came(flow):
    model = af.ModelSpec(id="html-shown", source=shown)
    handle = flow.submit(model, EVIL)
    assert "request " in handle._repr_html_() or "answer of" in handle._repr_html_()
    handle.result(LIMIT)
    check(handle._repr_html_())
    assert "answer of html-shown on node" in handle._repr_html_()
    handles = flow.submit_many(model, [EVIL] * 3)
    handles.result(LIMIT)
    check(handles._repr_html_())
    assert "3 requests, 3 over" in handles._repr_html_()
    failed = flow.submit(af.ModelSpec(id="html-fails", source=fails), EVIL)
    assert not failed.response(LIMIT).ok
    check(failed._repr_html_())
    assert "no answer of html-fails" in failed._repr_html_()


def fails(rows):
    raise ValueError(rows[0])


def test_answers_of_several_models_and_of_pipelines_say_what_came(flow):
    model, bad = af.ModelSpec(id="html-shown", source=shown), af.ModelSpec(id="html-fails", source=fails)
    asked = flow.fan_out([model, bad], EVIL, combine=af.first(), early_stopping=False)
    check(asked._repr_html_())
    found = asked.result(LIMIT)
    check(found._repr_html_())
    assert asked._repr_html_() == found._repr_html_()
    assert "verdict of 1 of 2 models" in found._repr_html_() and "&lt;script&gt;" in found._repr_html_()
    pipeline = af.Pipeline([af.Stage("same", function=shown), af.Stage("size", function=len)], id="<b>")
    for inputs, what in ((EVIL, "answer of pipeline"), (3, "no answer of pipeline")):
        handle = flow.submit(pipeline, inputs)
        handle.wait(LIMIT)
        check(handle._repr_html_(), drawn=True)
        assert what in handle._repr_html_() and "&lt;b&gt;" in handle._repr_html_()
