"""The parts of the benchmark of being watched that run without a cluster, and its programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import _painting, _programs, _remembered, observe
from benchmarks._looker import looking
from benchmarks._observing import BARS, SECTIONS, named
from benchmarks._report import OURS
from benchmarks._swarm import swarm
from benchmarks._watching import STATES, dashboard


def test_every_section_has_bars_and_bars_name_contestants_that_exist() -> None:
    assert list(BARS) == list(SECTIONS)
    bars = [bar for several in BARS.values() for bar in several]
    assert {bar.of for bar in bars} <= {OURS, *map(named, STATES)}


def test_growth_is_told_in_percent_of_the_second_tenth() -> None:
    assert _remembered.drift([1.0, 2.0, 2.1, 2.05]) == pytest.approx(5.0)


def test_events_of_all_kinds_are_remembered() -> None:
    tenths = list(_remembered.measure(2_000))
    assert [tenth.events for tenth in tenths] == list(range(200, 2_001, 200))
    assert all(0 < tenth.size < 100 for tenth in tenths)


def test_what_a_browser_needs_is_said_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_painting, "chromium", lambda: None)
    assert _painting.missing().startswith("skipped paint: ")


def test_a_wrong_number_ends_with_code_2() -> None:
    with pytest.raises(SystemExit) as ended:
        observe.main(["--runs", "0"])
    assert ended.value.code == 2


def test_a_swarm_joins_and_somebody_looks_at_it(tmp_path: Path) -> None:
    import json
    import urllib.request

    import altlas_flow as af

    with (
        _programs.cluster(tmp_path, {}) as programs,
        af.connect(str(programs.scheduler_file)) as flow,
        swarm(programs.scheduler_file, 6),
        looking(dashboard(flow)),
    ):
        with urllib.request.urlopen(f"{dashboard(flow)}/json", timeout=30) as answer:
            now = json.load(answer)
        assert [node["node"] for node in now["nodes"]] == [f"node-{number:03d}" for number in range(6)]
        assert now["totals"]["slots"] == 6
