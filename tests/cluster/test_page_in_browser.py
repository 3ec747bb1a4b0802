"""The page on the dashboard as people see it: in a browser, on a cluster of programs that does real work."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request

import pandas as pd
import pytest

import altlas_flow as af
from tests.browsing import LIMIT, Tab
from tests.laboratory import programs, until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

EVIL = "<script>window.taken = 1</script>"
SECONDS = LIMIT / 1000


def shout(rows):
    return [row.upper() for row in rows]


def refuse(rows):
    raise ValueError(f"no: <img src=x onerror='window.taken = 1'> {EVIL}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A flow on it, the processes by name, and what was done: requests, failures, choices, a job."""
    folder = tmp_path_factory.mktemp("cluster")
    with programs(folder, ("left",), ("right",)) as (file, started), af.connect(str(file)) as flow:
        until(lambda: len(flow.nodes()) == 2)
        flow.register(af.ModelSpec(id="shout", source=shout, serves=["noise"]))
        flow.register(af.ModelSpec(id=EVIL, source=refuse))
        for handle in flow.submit_many("shout", ["a", "b"] * 100):
            assert handle.response(SECONDS).ok
        for text in (EVIL, "b"):
            assert not flow.submit(EVIL, text).response(SECONDS).ok
        for _ in range(5):
            flow.submit(task="noise", inputs="c").result(SECONDS)
        frame = pd.DataFrame({"text": ["a", None, *"bcdefgh"] * 20})
        flow.run(frame, "shout", input="text", output="loud", to=folder / "out", progress=False)
        yield flow, dict(zip(("scheduler", "left", "right"), started, strict=True))


def address(flow):
    return flow.client.dashboard_link.removesuffix("/status") + "/altlas"


def overview(flow):
    with urllib.request.urlopen(f"{address(flow)}/json", timeout=SECONDS) as answer:
        return json.load(answer)


def section(tab, name):
    return tab.page.locator(f"section[aria-label={name}]")


def rows(tab, name):
    """The cells of a panel's table, as they are read."""
    found = section(tab, name).locator("tbody tr")
    return [row.locator("td").all_inner_texts() for row in found.all()]


def nodes_shown(tab):
    return {cells[0]: (cells[1], cells[2]) for cells in rows(tab, "nodes")}


def test_the_numbers_are_those_of_the_json_and_what_is_injected_stays_text(cluster, tab):
    flow, _ = cluster
    tab.page.goto(address(flow))
    until(lambda: len(rows(tab, "nodes")) == 2 and len(rows(tab, "faults")) > 1 and rows(tab, "jobs"))

    def same():
        now = overview(flow)
        wanted = {one["node"]: (one["status"], f"{one['in_flight']}/{one['slots']}") for one in now["nodes"]}
        return nodes_shown(tab) == wanted

    until(same)
    now = overview(flow)
    (kind,) = now["errors"]
    assert now["errors"] == {kind: 2} and f"2 {kind}" in section(tab, "faults").locator("h2").inner_text()
    (job,) = now["jobs"]
    cells = rows(tab, "jobs")[0]
    assert (job["done"], job["dead"]) == (180, 20)
    assert "180 of 180" in cells[2] and cells[-1] == "20" and "done" in cells[1]
    letters = [row for row in rows(tab, "faults") if "dead letter" in row[1]]
    assert letters and all("'text' is null" in row[1] for row in letters)
    (task,) = now["tasks"]
    said = " ".join(section(tab, "selection").all_inner_texts()) + " ".join(
        section(tab, "selection").locator("td").all_inner_texts()
    )
    assert task["task"] == "noise" and "shout" in said
    speed = {cells[0]: cells for cells in rows(tab, "speed")}
    assert "shout" in speed

    # what could be taken for a part of the page
    newest = section(tab, "faults").locator("tbody tr").filter(has_text="PredictError").first
    assert "<img src=x onerror=" in newest.inner_text() and EVIL in newest.inner_text()
    newest.locator("summary").click()
    assert "tries" in newest.locator("pre").inner_text()
    assert tab.page.evaluate("window.taken") is None
    assert tab.page.locator("section img").count() == 0
    assert tab.wrong == []


@pytest.mark.long
def test_a_trace_that_is_open_stays_open_when_more_fails(cluster, tab):
    flow, _ = cluster
    tab.page.goto(address(flow))
    until(lambda: rows(tab, "faults"))
    line = section(tab, "faults").locator("tbody tr").filter(has_text="PredictError")
    before = sum(one["alike"] for one in overview(flow)["faults"] if one["kind"] == "PredictError")
    for more in range(1, 4):  # what was drawn before anybody listened is not listened to
        assert not flow.submit(EVIL, "again").response(SECONDS).ok
        until(lambda more=more: f"{before + more} times" in line.inner_text())
        if more == 1:
            line.locator("summary").click()
    assert line.locator("pre").is_visible()
    assert f"{before + 3} requests failed so" in line.locator("pre").inner_text()
    others = section(tab, "faults").locator("tbody tr").filter(has_not_text="PredictError")
    assert others.count() and not others.first.locator("pre").is_visible()
    assert tab.wrong == []


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1280), ("dark", 1920)], ids=["light, 1280", "dark, 1920"]
)
def test_panels_do_not_overlap_and_are_legible(cluster, chromium, scheme, width):
    flow, _ = cluster
    context = chromium.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme)
    try:
        tab = Tab(context.new_page())
        tab.page.goto(address(flow))
        until(lambda: len(rows(tab, "nodes")) == 2)
        boxes = [one.bounding_box() for one in tab.page.locator("#altlas > section").all()]
        assert len(boxes) == 6
        for at, one in enumerate(boxes):
            assert one["x"] >= 0 and one["x"] + one["width"] <= width
            for other in boxes[at + 1 :]:
                apart = (
                    one["x"] + one["width"] <= other["x"]
                    or other["x"] + other["width"] <= one["x"]
                    or one["y"] + one["height"] <= other["y"]
                    or other["y"] + other["height"] <= one["y"]
                )
                assert apart, (one, other)
        name = section(tab, "nodes").locator("td").first
        text = name.evaluate("one => getComputedStyle(one).color.match(/\\d+/g).map(Number)")
        ground = section(tab, "nodes").evaluate(
            "one => getComputedStyle(one).backgroundColor.match(/\\d+/g).map(Number)"
        )
        assert abs(sum(text[:3]) - sum(ground[:3])) > 300, (text, ground)
        assert (sum(ground[:3]) < 200) == (scheme == "dark")
        assert tab.wrong == []
    finally:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_panes_by_themselves_have_the_ground_of_their_texts(cluster, tab, scheme):
    flow, _ = cluster
    tab.page.emulate_media(color_scheme=scheme)
    tab.page.goto(f"{address(flow).removesuffix('/altlas')}/individual-altlas-nodes")
    cell = tab.page.locator("td").first
    cell.wait_for()
    text = cell.evaluate("one => getComputedStyle(one).color.match(/\\d+/g).map(Number)")
    ground = tab.page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    bright = 255 * 3 if len(ground) == 4 and not ground[3] else sum(ground[:3])
    assert (bright < 200) == (scheme == "dark")
    assert abs(sum(text[:3]) - bright) > 300
    assert tab.wrong == []


def test_a_worker_that_is_killed_is_offline_on_the_page_in_time(cluster, tab):
    flow, processes = cluster
    tab.page.goto(address(flow))
    until(lambda: {name: status for name, (status, _) in nodes_shown(tab).items()}.get("left") == "ONLINE")
    os.kill(processes["left"].pid, signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: nodes_shown(tab).get("left", ("", ""))[0] == "OFFLINE")
    assert time.monotonic() - killed <= af.settings.HEARTBEAT_TIMEOUT + 1
    assert nodes_shown(tab)["right"][0] == "ONLINE"
    assert tab.wrong == []
