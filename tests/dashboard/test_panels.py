"""What panels show: everything escaped, and what to do where there is nothing."""

from __future__ import annotations

import re

import numpy as np
import pytest
from bokeh.document import Document

from altlas_flow.dashboard.choices import Choices
from altlas_flow.dashboard.counts import Counts
from altlas_flow.dashboard.jobs import Jobs
from altlas_flow.dashboard.page import Looking, as_json
from altlas_flow.dashboard.panels import PANELS, Shown
from altlas_flow.dashboard.panels.base import colours_of, count, table
from altlas_flow.dashboard.panels.faults import Faults
from altlas_flow.dashboard.panels.lines import Lines, _top, smooth
from altlas_flow.dashboard.panels.selection import Selection
from altlas_flow.dashboard.panels.style import COLOURS
from altlas_flow.dashboard.timeline import FIELDS, Timeline
from tests.dashboard.parts import part
from tests.dashboard.test_jobs import job

pytestmark = pytest.mark.timeout(60)

EVIL = "<script>alert('x')</script>\"onmouseover=alert(1) $$x$$"
NODE = {
    "status": "BUSY",
    "cordoned": True,
    "reason": "it is cordoned",
    "in_flight": 2,
    "slots": 1,
    "waiting_rows": 3,
    "cpu": 0.5,
    "memory": 2**30,
    "memory_limit": 2**31,
    "gpus": [{"use": 0.5, "memory": 2.0**30}],
    "served": 3,
    "failures": 1,
    "heartbeat": 0.1,
}


def shown(name=None):
    """What panels are given: nothing at all, or one of everything, by that name."""
    counts = Counts()
    timeline, choices, jobs = Timeline(counts), Choices(counts), Jobs()
    nodes, models, places = [], [], []
    if name is not None:
        timeline.take(0.0)
        choices.take(0.0)
        counts.ended(part(name, [0.2], node=name), name, 0.0)
        counts.ended(part(name, [0.2], status="error", error=name, kind=name, trace=[name]), name, 0.0)
        counts.decided(name, name)
        letter = dict.fromkeys(("row_id", "stage", "error_type", "error", "node"), name)
        jobs.told(name, job(model=name, output=name, letters=[letter]), 20.0, 1e9)
        timeline.take(20.0)
        choices.take(20.0)
        choices.told(name, [{"model": name, "quality": 0.5, "quality_error": 0.1, "errors": 1}], 20.0)
        nodes = [{**NODE, "node": name, "models": [name]}]
        totals = dict.fromkeys(("rows_total", "retries_total"), 1)
        models = [{"model": name, "waiting": 3, **dict.fromkeys(FIELDS, 0.5), **totals}]
        places = [{"node": name, "model": name, "loaded": True, "seconds_per_row": 0.1}]
    now = {
        "at": 1e9,
        "nodes": nodes,
        "models": models,
        "places": places,
        "tasks": choices.latest(),
        "errors": dict(counts.errors),
        "faults": counts.latest(),
        "letters": list(jobs.letters),
        "jobs": jobs.latest(20.0),
        "totals": {
            "nodes": {"BUSY": len(nodes)},
            "in_flight": 2,
            "slots": 1,
            "held": 0,
            "parked": 1,
            "faults_of_plugin": 0,
        },
    }
    return Shown(now, timeline, choices, 20.0, now["at"] - 20.0)


def texts(panel):
    """All that a panel shows as HTML."""
    return [model.text for model in panel.root.references() if type(model).__name__ == "Div"]


@pytest.mark.parametrize("kind", PANELS)
def test_whatever_a_name_holds_is_shown_as_text(kind):
    panel = kind()
    panel.update(shown(EVIL))
    html = "".join(texts(panel))
    assert "<script" not in html
    assert "alert(" in html or kind.name == "places", "there names are drawn, not written"
    for tag in re.findall("<[^>]*>", html):
        assert "onmouseover" not in tag.replace("&quot;onmouseover", ""), tag
    assert all(model.disable_math for model in panel.root.references() if type(model).__name__ == "Div")


@pytest.mark.parametrize("kind", PANELS)
def test_where_there_is_nothing_it_says_so(kind):
    panel = kind()
    panel.update(shown())
    html = "".join(texts(panel))
    assert 'class="empty"' in html and len(re.sub("<[^>]*>", "", html)) > 30


@pytest.mark.parametrize("kind", PANELS)
def test_what_comes_goes_and_comes_again_is_shown(kind):
    panel = kind()
    for name in (None, "model", None, "other", "other"):
        panel.update(shown(name))
    assert "other" in "".join(texts(panel)) or kind.name == "places"


def test_a_panel_that_fails_says_so_and_the_others_go_on(caplog):
    good, bad = PANELS[0](), PANELS[1]()
    bad.update = lambda shown: 1 / 0
    began, ended = [], []
    looking = Looking(lambda: shown("model"), lambda: began.append(1), lambda: ended.append(1))
    doc = Document()
    looking.open(doc, [bad, good])
    assert "model" in "".join(texts(good))
    assert "cannot be shown now" in "".join(texts(bad))
    assert "division by zero" in caplog.text
    assert looking.faults == 1 and began == [1] and not ended


def test_a_source_that_fails_fails_no_page(caplog):
    looking = Looking(lambda: 1 / 0)
    panels = [kind() for kind in PANELS]
    looking.open(Document(), panels)
    assert all("cannot be shown now" in "".join(texts(panel)) for panel in panels)
    assert "division by zero" in caplog.text


def test_json_is_no_html():
    text = as_json(shown(EVIL).now)
    assert "<" not in text and ">" not in text and "&" not in text
    with pytest.raises(ValueError, match="JSON"):
        as_json({"x": float("nan")})


def test_a_table_is_one_for_those_who_do_not_see_it():
    html = table(["Model", "#p50"], [["<b>", None]], label="models & more")
    assert 'aria-label="models &amp; more"' in html
    assert html.count('scope="col"') == 2
    assert "<td>&lt;b&gt;</td>" in html and "–" in html


def test_a_line_goes_on_without_being_drawn_anew():
    counts = Counts()
    timeline, lines = Timeline(counts), Lines(height=100)
    timeline.take(0.0)
    doc, sent = Document(), []
    doc.add_root(lines.plot)
    doc.on_change(lambda event: sent.append(type(event).__name__))
    for at in range(1, 41):
        counts.ended(part("a", [0.2]), "c", 0.0)
        timeline.take(0.5 * at)
        times, values = timeline.series("requests", 300.0)
        lines.draw(times, values, {"a": COLOURS[0]}, "requests per second", 300.0, 0.5 * at)
    assert sent.count("ColumnsStreamedEvent") > 30, "after the first few steps only what is new is sent"
    assert len(lines.source.data["t"]) == 40
    assert lines.source.data["y0"][-30:].tolist() == [2.0] * 30
    assert np.isnan(lines.source.data["y1"]).all()
    lines.draw(times, values, {"b": COLOURS[0], "a": COLOURS[1]}, "requests per second", 300.0, 20.0)
    assert lines.source.data["y1"][-30:].tolist() == [2.0] * 30


def test_a_line_stands_for_a_while_and_has_gaps():
    lines = Lines(height=100)
    times = np.concatenate([np.arange(0, 20, 0.5), np.arange(100, 120, 0.5)])
    values = np.full(len(times), np.nan)
    values[[0, 3, 30, 45]] = 7.0
    lines.draw(times, {"a": values}, {"a": COLOURS[0]}, "p50", 300.0, 120.0)
    t, y = lines.source.data["t"], lines.source.data["y0"]
    assert len(t) == len(times) + 1, "a step without a value parts what is before from what is after"
    assert np.nansum(y == 7.0) > 20 and np.isnan(y[20:30]).all() and np.isnan(y[40])


def test_rates_are_drawn_as_means_of_what_there_is():
    times = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    found = smooth(times, np.array([np.nan, 1.0, 3.0, np.nan, np.nan, np.nan, 5.0]), 3.0)
    np.testing.assert_array_equal(found, [np.nan, 1.0, 2.0, 2.0, 3.0, np.nan, 5.0])
    np.testing.assert_array_equal(smooth(10 * times, times, 3.0), times)  # coarse steps stay as they are
    assert smooth(np.array([]), np.array([]), 3.0).size == 0


def test_the_axis_ends_above_all_values_and_rarely_moves():
    tops = {_top([np.array([np.nan, value])]) for value in np.linspace(100, 140, 50)}
    assert tops == {150.0}
    assert _top([np.array([98.5])]) > 98.5
    assert _top([]) == _top([np.array([np.nan])]) == _top([np.array([0.0])]) == 1.0


def test_numbers_are_short_and_right():
    assert [count(value) for value in (0, 9_999, 10_000, 131_271, 999_600, 2_500_000, 7 * 10**9)] == [
        "0",
        "9,999",
        "10k",
        "131k",
        "1M",
        "2.5M",
        "7G",
    ]


def test_failures_and_dead_letters_are_shown_the_newest_first():
    panel, given = Faults(), shown("m")
    given.now["letters"][0] |= {"at": 2e9, "row": "a.csv:7", "error": "the later one"}
    panel.update(given)
    html = panel.div.text
    assert html.index("the later one") < html.index("request ")
    assert "row a.csv:7" in html and "_dead_letters" in html and html.count("<details") == 2


def test_estimates_are_drawn_over_time():
    panel, given = Selection(), shown("m")
    panel.update(given)
    assert panel.plot.visible and not panel.lines.plot.visible
    panel.field.value = "1"
    panel.update(given)
    assert panel.lines.plot.visible and not panel.plot.visible
    assert panel.lines.source.data["y0"].tolist() == [0.5]
    given.choices.told("m", [{"model": "m", "quality": 0.75}], 30.0)
    panel.update(given)
    assert panel.lines.source.data["y0"][-1] == 0.75
    panel.field.value = "0"
    panel.update(given)
    assert panel.plot.visible and not panel.lines.plot.visible


def test_lines_go_over_from_coarse_steps_to_fine_ones_and_end_at_gaps():
    lines = Lines(height=100)
    times = np.concatenate(
        [np.arange(0.0, 100.0, 10.0), np.arange(100.0, 130.0, 0.5), np.arange(200.0, 210.0, 0.5)]
    )
    values = np.ones(len(times))
    lines.draw(times, {"a": values}, {"a": COLOURS[0]}, "p50", 300.0, 210.0)
    drawn = lines.source.data
    assert np.isnan(drawn["y0"]).sum() == 1, "one gap"
    at = int(np.flatnonzero(np.isnan(drawn["y0"]))[0])
    assert 129_000 <= drawn["t"][at] <= 200_000


def test_another_task_begins_its_lines_anew():
    lines = Lines(height=100)
    for of, value in (("a", 1.0), ("b", 2.0)):
        lines.draw(
            np.array([0.0, 1.0]), {"m": np.full(2, value)}, {"m": COLOURS[0]}, "quality", 300.0, 1.0, of=of
        )
    assert lines.source.data["y0"].tolist() == [2.0, 2.0]


def test_lines_stay_whole_while_somebody_looks_and_nothing_is_new():
    lines, rng = Lines(height=100), np.random.default_rng(0)
    times, values = np.arange(0.0, 3600.0, 10.0), np.arange(360.0)
    sent = []
    doc = Document()
    doc.add_root(lines.plot)
    doc.on_change(lambda event: sent.append(type(event).__name__))
    for tick in range(2000):
        now = 3600.0 + 0.5 * tick
        shaken = times + 1e9 + rng.normal(0, 1e-3)  # as where two clocks are read one after the other
        lines.draw(shaken, {"m": values}, {"m": COLOURS[0]}, "quality", 3600.0, 1e9 + now)
    assert lines.source.data["y0"].tolist() == values.tolist()
    assert "ColumnsStreamedEvent" not in sent


def test_axes_end_where_values_can_and_are_finite():
    lines = Lines(height=100)
    for value, most, end in ((1.0, 1.0, 1.0), (np.inf, 9.0, 0.55), (1e30, np.inf, 1.5e30)):
        values = {"m": np.array([0.5, value])}
        lines.draw(np.array([0.0, 1.0]), values, {"m": COLOURS[0]}, str(value), 300.0, 1.0, most=most)
        assert lines.plot.y_range.end == pytest.approx(end)


def test_axes_end_above_what_comes_as_above_what_was_drawn_first():
    for value, most, end in ((25_000.0, np.inf, 30_000.0), (1.0, 1.0, 1.0)):
        lines = Lines(height=100)
        for tick in range(4):
            times = np.arange(0.0, 300.5 + 0.5 * tick, 0.5)
            values = {"m": np.full(len(times), value)}
            lines.draw(times, values, {"m": COLOURS[0]}, "rows/s", 300.0, times[-1], most=most)
            assert lines.plot.y_range.end == end


def test_a_model_has_one_colour_in_all_panels_and_no_two_have_the_same():
    few = ["alpha", "beta", "gamma"]
    assert colours_of(few[1:], few)["gamma"] == colours_of(few, few)["gamma"]
    many = [f"m{at}" for at in range(50)]
    drawn = many[3:40:5]
    found = colours_of(drawn, many)
    assert set(found) == set(drawn) and len(set(found.values())) == len(drawn) == len(COLOURS)
    assert len(set(colours_of(["unknown", *few], few).values())) == 4


def test_failures_that_say_the_same_are_one_line_and_leave_room_for_jobs():
    panel, given = Faults(), shown("m")
    fault = given.now["faults"][0]
    given.now["faults"] = [{**fault, "at": 2e9, "task": "r0", "alike": 1234}]
    given.now["faults"] += [{**fault, "at": 1e9 - at, "error": f"other {at}"} for at in range(100)]
    given.now["jobs"][0] |= {"state": "failed", "error": "its <b>worker</b> died", "at": 1e8}
    given.now["letters"][0] |= {"at": 1e8}
    panel.update(given)
    html = panel.div.text
    assert html.count("<details") == 40
    assert html.count(", 1,234 times") == 1 and "request r0 " in html
    assert "its &lt;b&gt;worker" in html and "a dead letter" in html


def test_dead_letters_that_say_the_same_are_one_line_and_a_folder_has_its_own_once():
    panel, given = Faults(), shown("m")
    letter, one = given.now["letters"][0], given.now["jobs"][0]
    given.now["letters"] = [{**letter, "at": 1e9 - at, "row": f"a.csv:{at}"} for at in range(50)]
    given.now["letters"] += [{**letter, "output": "elsewhere", "row": "b.csv:0"}] * 3
    jobs = [("running", 1, "here"), ("done", 3, "here"), ("done", 2, "here"), ("failed", 0, "elsewhere")]
    jobs += [("failed", 7, "elsewhere"), ("running", 0, "third"), ("failed", 7, "fourth")]
    jobs += [("done", 2, "fourth"), ("done", 0, "fifth"), ("failed", 9, "fifth")]
    given.now["jobs"] = [
        {**one, "state": state, "dead": dead, "output": output, "at": 1e9 - at}
        for at, (state, dead, output) in enumerate(jobs)
    ]
    panel.update(given)
    html = panel.div.text
    assert html.count("a dead letter") == 2 and html.count("and others") == 1
    assert "row a.csv:0, put aside" in html and "such as a.csv:1, a.csv:2" in html and "a.csv:9" not in html
    assert "17 dead letters" in html
    given.now["letters"].insert(0, {**letter, "at": 2e9, "row": "a.csv:77"})
    panel.update(given)
    keys = [re.findall(r"data-key='([^']*)'", text) for text in (html, panel.div.text)]
    assert set(keys[0]) == set(keys[1]), "what is open stays open where more comes"
