"""The report of a pipeline: each stage of each piece once, and where rows were lost."""

from __future__ import annotations

import json
import pickle

import pytest

from altlas_flow.errors import InputError, PredictError
from altlas_flow.models.spec import ModelSpec
from altlas_flow.pipeline.pipeline import Pipeline
from altlas_flow.pipeline.report import Report
from altlas_flow.pipeline.rows import SKIPPED, Fault, Note, StageRows
from altlas_flow.pipeline.stage import Stage


def diamond():
    return Pipeline(
        [
            Stage("embed", model=ModelSpec(id="minilm", source="nowhere")),
            Stage("left", function=str, after="embed"),
            Stage("right", function=str, after="embed", optional=True),
        ],
        id="diamond",
    )


def note(name, **fields):
    return Note(f"diamond/{name}", fields.pop("node", "node-1"), **fields)


def test_a_stage_before_several_last_ones_counts_once_a_piece():
    report = Report(diamond())
    embed = note("embed", rows=4, seconds=2.0, queue=0.5, load=3.0)
    # what came over two connections is equal, and not the same
    twin = pickle.loads(pickle.dumps(embed))
    for _ in range(2):
        report.add_piece(
            [
                StageRows([1] * 4, notes={"embed": embed, "left": note("left", rows=4, seconds=1.0)}),
                StageRows([1] * 4, notes={"embed": twin, "right": note("right", rows=4, node="node-2")}),
            ]
        )
    assert (report.rows, report.pieces) == (8, 2)
    found = report["embed"]
    assert (found.rows, found.pieces, found.tries, found.retries) == (8, 2, 2, 0)
    assert (found.seconds, found.queue, found.load) == (4.0, 1.0, 3.0), "the load is the longest, not a sum"
    assert report["right"].nodes == {"node-2": 2}
    assert report.seconds == pytest.approx(6.0)


def test_one_last_step_needs_no_list():
    report = Report(diamond())
    report.add(StageRows([1], notes={"embed": note("embed", rows=1)}))
    assert (report.rows, report["embed"].rows) == (1, 1)


def test_a_row_fails_where_it_failed_first_however_many_stages_come_after_it():
    report = Report(diamond())
    fault = Fault("embed", "minilm", "node-1", PredictError("minilm", "too long"))
    report.add_piece(
        [
            StageRows([None, 1], {0: fault}, notes={"embed": note("embed"), "left": note("left")}),
            StageRows([None, 1], notes={"embed": note("embed"), "right": note("right", forgiven={0: fault})}),
        ]
    )
    assert report["embed"].failed == 1
    assert report["left"].failed == report["right"].failed == 0
    assert report["right"].forgiven == 0, "it did not fail there"
    assert report.failed == 1
    assert "too long" in report["embed"].error


def test_what_an_optional_stage_forgives_itself_has_not_failed():
    report = Report(diamond())
    fault = Fault("right", "diamond/right", "node-1", InputError("no digits"))
    report.add(StageRows([None], notes={"right": note("right", forgiven={0: fault})}))
    assert (report["right"].forgiven, report["right"].failed, report.failed) == (1, 0, 0)
    assert report["right"].error == "no digits"


def test_a_stage_that_failed_as_a_whole_is_booked():
    report = Report(diamond())
    fault = Fault("embed", "minilm", "node-1", PredictError("minilm", "no memory"))
    report.add(StageRows.failed(3, fault, optional=False, notes={}))
    assert (report["embed"].failed, report["embed"].rows, report["embed"].pieces) == (3, 0, 1)


def test_stages_come_in_their_order_and_say_what_they_are():
    inner = Pipeline([Stage("a", function=str), Stage("b", function=str)])
    outer = Pipeline(
        [
            Stage("all", pipeline=inner, after="first"),
            Stage("end", combine=max, after="all"),
            Stage("first", model="minilm"),
        ]
    )
    report = Report(outer)
    assert [(one.name, one.kind) for one in report.stages] == [
        ("first", "model"),
        ("all.a", "function"),
        ("all.b", "function"),
        ("all", "pipeline"),
        ("end", "combine"),
    ]
    assert report["first"].model == "minilm"
    assert "all.a" in report
    assert "none" not in report


def test_json_holds_a_report():
    report = Report(diamond())
    report.add(StageRows([1, 2], notes={"embed": note("embed", cached=frozenset({1}), skipped={0: SKIPPED})}))
    said = json.loads(json.dumps(report.to_dict()))
    assert (said["pipeline"], said["rows"], said["pieces"]) == ("diamond", 2, 1)
    first = said["stages"][0]
    assert (first["name"], first["cached"], first["skipped"], first["nodes"]) == (
        "embed",
        1,
        1,
        {"node-1": 1},
    )
    assert pickle.loads(pickle.dumps(report)).to_dict() == report.to_dict()


def test_the_table_shows_columns_that_say_something():
    report = Report(diamond())
    report.add(StageRows([1], notes={"embed": note("embed", rows=1, seconds=3.0, tries=3)}))
    report.add(StageRows([1], notes={"left": note("left", rows=1200, seconds=1.0)}))
    text = str(report)
    heading = text.splitlines()[1].split()
    assert heading == [
        "stage",
        "kind",
        "model",
        "rows",
        "retries",
        "seconds",
        "share",
        "queue",
        "load",
        "nodes",
    ]
    assert text.startswith("pipeline diamond: 2 rows in 2 pieces\n")
    [embed] = [line for line in text.splitlines() if line.split()[:1] == ["embed"]]
    assert embed.split()[1:8] == ["model", "diamond/embed", "1", "2", "3.00", "75%", "0.00"]
    assert "1,200" in text


def test_markup_and_brackets_are_shown_as_they_are():
    pipeline = Pipeline([Stage("one", function=str)], id="<b>bold</b>")
    report = Report(pipeline)
    fault = Fault("one", "m", "<node>", PredictError("m", "[red]wrong[/red] <script>"))
    report.add(StageRows([None], {0: fault}, notes={"one": Note("m", "<node>")}))
    assert "[red]wrong[/red] <script>" in str(report)
    page = report._repr_html_()
    assert "&lt;b&gt;bold" in page
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    assert "<node>" not in page
