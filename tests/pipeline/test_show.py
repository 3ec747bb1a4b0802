"""Pictures of pipelines: all stages and dependencies are in them, nothing overlaps, and text is only text."""

from __future__ import annotations

import random
import re
from itertools import combinations
from xml.etree import ElementTree

import pytest

import altlas_flow as af
from altlas_flow.errors import PredictError
from altlas_flow.models.spec import ModelSpec
from altlas_flow.pipeline.layout import GAP, arrange
from altlas_flow.pipeline.report import Report
from altlas_flow.pipeline.rows import SKIPPED, Fault, Note, StageRows
from altlas_flow.pipeline.show import boxes
from tests.pipeline import functions

SVG = "{http://www.w3.org/2000/svg}"


def reviews():
    inner = af.Pipeline([af.Stage("clean", function=functions.clean), af.Stage("detect", model="langid")])
    return af.Pipeline(
        [
            af.Stage("prepare", pipeline=inner),
            af.Stage("embed", model=ModelSpec(id="minilm", source="x"), after="prepare", cache=True),
            af.Stage("large", model="roberta", after=["prepare", "embed"], when=bool, optional=True),
            af.Stage("end", combine=functions.largest, after=["embed", "large"], retry=3, timeout=2),
        ],
        id="reviews",
    )


def report_of(pipeline):
    fault = Fault("embed", "minilm", "node-1", PredictError("minilm", "too <long>"))
    notes = {
        "prepare.clean": Note("f", "node-1", rows=1200, seconds=1.0),
        "embed": Note("minilm", "node-1", rows=1200, seconds=3.0, cached=frozenset({1, 2})),
        "large": Note("roberta", "node-2", skipped=dict.fromkeys(range(800), SKIPPED)),
    }
    report = Report(pipeline)
    report.add(StageRows([None] * 1200, {0: fault}, notes=notes))
    return report


def parsed(text):
    return ElementTree.fromstring(text)


def texts(root):
    return [element.text for element in root.iter(f"{SVG}text")]


# ---------------------------------------------------------------- what is in a picture


def test_every_stage_is_a_box_and_every_dependency_an_arrow():
    pipeline = reviews()
    root = parsed(pipeline.svg())
    names = ["input", "prepare.clean", "prepare.detect", "prepare", "embed", "large", "end", "output"]
    assert [text for text in texts(root) if " " not in text] == [*names[:4], "pipeline", *names[4:]]
    assert "model minilm" in texts(root)
    assert "combine largest" in texts(root)
    wanted = sum(len(box.needs) for box in boxes(pipeline))
    lines = [path for path in root.iter(f"{SVG}path") if path.get("fill") == "none"]
    assert len(lines) == wanted == 10
    dotted = [path for path in lines if path.get("stroke-dasharray")]
    assert len(dotted) == 2, "those that lead to a stage with when="


def test_the_flowchart_says_the_same():
    lines = [line.strip() for line in reviews().mermaid().splitlines()]
    assert lines[0] == "flowchart LR"
    assert 's1["prepare.clean<br/>function clean"]' in lines
    assert 's4("embed<br/>model minilm")' in lines
    assert 's6{{"end<br/>combine largest"}}' in lines
    arrows = [line for line in lines if "->" in line]
    assert "s3 --> s4" in arrows
    assert [line for line in arrows if "-.->" in line] == ["s3 -.-> s5", "s4 -.-> s5"]
    assert len(arrows) == 10
    [style] = [line for line in lines if line.startswith("style s5")]
    assert "stroke-dasharray" in style


def test_input_and_output_are_joined_to_the_stages_that_take_and_give_them():
    found = boxes(af.Pipeline([af.Stage("a", model="x"), af.Stage("side", model="x")], output="a"))
    assert [box.name.strip() for box in found] == ["input", "a", "side", "output"]
    assert [box.needs for box in found] == [(), ("input",), ("input",), ("a",)]


def test_tooltips_tell_how_a_stage_is_done():
    root = parsed(reviews().svg(report_of(reviews())))
    titles = {title.text.splitlines()[0]: title.text for title in root.iter(f"{SVG}title")}
    assert "done for rows that when= is true of\noptional" in titles["large: model roberta"]
    assert "tries: 3\ntimeout: 2.0 s" in titles["end: combine largest"]
    assert "cached" in titles["embed: model minilm"]
    assert "first error: model 'minilm' failed on its input: too <long>" in titles["embed: model minilm"]
    assert "nodes: node-2" in titles["large: model roberta"]


# ---------------------------------------------------------------- with a report


def test_a_report_adds_time_and_rows_and_what_was_lost():
    pipeline = reviews()
    report = report_of(pipeline)
    found = texts(parsed(pipeline.svg(report)))
    assert "3.0 s (75%), 1,200 rows" in found
    assert "1 failed, 2 cached" in found
    assert "800 skipped" in found
    assert sum("failed" in text for text in found) == 1, "a stage where nothing failed does not say so"
    assert "embed<br/>model minilm<br/>3.0 s (75%), 1,200 rows<br/>1 failed, 2 cached" in pipeline.mermaid(
        report
    )


def test_a_stage_is_the_fuller_the_more_of_the_time_it_took():
    pipeline = reviews()
    root = parsed(pipeline.svg(report_of(pipeline)))
    fill, outline = {}, {}
    for group in root.iter(f"{SVG}g"):
        shape = group[1]
        name = group.find(f"{SVG}text").text
        fill[name], outline[name] = float(shape.get("fill-opacity")), shape.get("stroke")
    assert fill["embed"] > fill["prepare.clean"] > fill["large"]
    assert outline["embed"] != outline["large"] == outline["prepare.detect"], "red where rows failed"


def test_a_report_of_nothing_shows_zeros():
    pipeline = reviews()
    assert "0 s (0%), 0 rows" in texts(parsed(pipeline.svg(Report(pipeline))))


def test_stages_that_a_report_does_not_know_are_shown_without_figures():
    other = Report(af.Pipeline([af.Stage("other", model="x")]))
    found = texts(parsed(reviews().svg(other)))
    assert not any("rows" in text for text in found)


# ---------------------------------------------------------------- text is only text

NASTY = '<script>alert("x")</script> & `#35;` \x00\x1b[31m\n'


def test_names_of_models_and_pipelines_are_no_markup():
    pipeline = af.Pipeline([af.Stage("a", model=NASTY)], id=NASTY)
    root = parsed(pipeline.svg())
    assert any(text.startswith("model <script>") for text in texts(root))
    assert "<script" not in pipeline.svg()
    assert "<script" not in pipeline._repr_html_()
    chart = pipeline.mermaid()
    [label] = re.findall(r's1\("(.*)"\)', chart)
    assert "<script" not in label
    assert '"' not in label
    assert "`" not in label
    assert "#60;script#62;" in label


def test_a_long_name_is_cut_in_the_box_and_whole_in_the_tooltip():
    name = "a" * 90
    root = parsed(af.Pipeline([af.Stage(name, model="x")]).svg())
    assert max(map(len, texts(root))) == 36
    assert any(name in title.text for title in root.iter(f"{SVG}title"))


def test_a_notebook_shows_the_picture_in_the_colours_of_the_page():
    page = reviews()._repr_html_()
    root = parsed(page)
    assert root.tag == "div"
    [picture] = root
    assert picture.tag == f"{SVG}svg"
    assert {text.get("fill") for text in root.iter(f"{SVG}text")} == {"currentColor"}
    assert " id=" not in page, "ids would collide with those of other pictures on the page"


# ---------------------------------------------------------------- where things go


def graph(seed, count):
    """Any graph, its boxes of several sizes."""
    rng = random.Random(seed)
    needs = {}
    for at in range(count):
        before = [f"n{one}" for one in range(at)]
        needs[f"n{at}"] = rng.sample(before, min(len(before), rng.randint(0, 3)))
    return needs, {name: (rng.uniform(50, 200), rng.uniform(30, 90)) for name in needs}


@pytest.mark.parametrize("seed", range(12))
def test_boxes_do_not_overlap_and_arrows_go_forward(seed):
    needs, sizes = graph(seed, 5 + 3 * seed)
    drawing = arrange(needs, sizes)
    assert set(drawing.boxes) == set(needs)
    for one, other in combinations(needs, 2):
        (x0, y0), (x1, y1) = drawing.boxes[one], drawing.boxes[other]
        apart_across = x0 + sizes[one][0] <= x1 or x1 + sizes[other][0] <= x0
        first, second = (one, other) if y0 <= y1 else (other, one)
        below = drawing.boxes[first][1] + sizes[first][1] + GAP - 0.01 <= drawing.boxes[second][1]
        assert apart_across or below
    for (begin, end), points in drawing.edges.items():
        assert begin in needs[end]
        across = [x for x, _ in points]
        assert across == sorted(across)
    assert sum(map(len, needs.values())) == len(drawing.edges)
    for name, (x, y) in drawing.boxes.items():
        assert -0.01 <= x <= drawing.width - sizes[name][0] + 0.01
        assert -0.01 <= y <= drawing.height - sizes[name][1] + 0.01


@pytest.mark.parametrize("seed", range(6))
def test_long_arrows_pass_between_boxes(seed):
    needs, sizes = graph(seed, 14)
    drawing = arrange(needs, sizes)
    for (begin, end), points in drawing.edges.items():
        for (x0, y), (x1, again) in zip(points[1:-1:2], points[2:-1:2], strict=True):
            assert y == again, "it passes a column level"
            for name in set(needs) - {begin, end}:
                x, top = drawing.boxes[name]
                wide, high = sizes[name]
                assert x1 <= x or x + wide <= x0 or y <= top or top + high <= y


def test_two_arrows_that_need_not_cross_do_not():
    needs = {"a": [], "b": [], "c": ["b"], "d": ["a"]}
    places = arrange(needs, dict.fromkeys(needs, (60.0, 40.0))).boxes
    assert (places["a"][1] < places["b"][1]) == (places["d"][1] < places["c"][1])


def test_hundreds_of_stages_are_drawn():
    stages = [af.Stage("s0", model="x")]
    stages += [af.Stage(f"s{at}", model="x", after=["s0", f"s{at - 1}"][at == 1 :]) for at in range(1, 300)]
    root = parsed(af.Pipeline(stages).svg())
    assert len(list(root.iter(f"{SVG}g"))) == 302
