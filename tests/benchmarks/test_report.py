"""The pure parts of the benchmarks: medians, ratios, bars, JSON lines, texts, the plain loop's batches."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import (
    _contest,
    _million,
    _placing,
    _texts,
    _unequal,
    batch_inference,
    composition,
    operations,
    overhead,
    requests,
)
from benchmarks._report import Bar, Measurement, json_lines, judge, machine, ratio, show, write_json
from benchmarks.peers._loop import batches
from benchmarks.peers._protocol import batch_rows

KEYS = {"benchmark", "contestant", "metric", "value", "unit", "ratio_to", "ratio", "runs"}


def rates(**values: tuple[float, ...]) -> list[Measurement]:
    return [Measurement("b", name, "rows/s", "rows/s", found) for name, found in values.items()]


def test_the_value_is_the_median_of_the_runs() -> None:
    (measured,) = rates(peer=(1.0, 9.0, 2.0))
    assert measured.value == 2.0
    assert measured.spread == 4.0


def test_a_measurement_without_values_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        Measurement("b", "peer", "rows/s", "rows/s", ())


def test_a_ratio_is_the_value_over_the_value_of_ratio_to() -> None:
    measured = rates(altlas_flow=(30.0,), peer=(20.0,), stuck=(0.0,))
    assert ratio(measured, "rows/s", "altlas_flow", "peer") == 1.5
    assert ratio(measured, "rows/s", "peer", "altlas_flow") == pytest.approx(2 / 3)
    assert ratio(measured, "rows/s", "altlas_flow", "stuck") is None
    assert ratio(measured, "rows/s", "altlas_flow", "absent") is None
    assert ratio(measured, "other", "altlas_flow", "peer") is None


def test_ours_has_a_json_line_for_each_peer_and_each_peer_has_one_for_ours(tmp_path: Path) -> None:
    measured = rates(altlas_flow=(30.0, 31.0, 29.0), a=(20.0,), b=(60.0,))
    write_json(tmp_path / "out.json", measured)
    lines = [json.loads(line) for line in (tmp_path / "out.json").read_text().splitlines()]
    assert all(set(line) == KEYS for line in lines)
    assert lines == json_lines(measured)
    found = [(line["contestant"], line["ratio_to"], line["ratio"], line["runs"]) for line in lines]
    assert found == [
        ("altlas_flow", "a", 1.5, 3),
        ("altlas_flow", "b", 0.5, 3),
        ("a", "altlas_flow", pytest.approx(2 / 3), 1),
        ("b", "altlas_flow", 2.0, 1),
    ]


def test_what_is_not_compared_has_no_ratio() -> None:
    alone = rates(peer=(1.0,))
    difference = [Measurement("b", "altlas_flow", "difference", "1", (0.0,), compared=False)]
    difference += [Measurement("b", "peer", "difference", "1", (0.5,), compared=False)]
    for line in json_lines([*alone, *difference]):
        assert line["ratio_to"] is None
        assert line["ratio"] is None


@pytest.mark.parametrize(
    ("bar", "found", "reached"),
    [
        (Bar("rows/s", 1.5, "peer"), 1.5, True),
        (Bar("rows/s", 1.6, "peer"), 1.5, False),
        (Bar("rows/s", 1.5, "peer", at_most=True), 1.5, True),
        (Bar("rows/s", 1.5, "peer", at_most=True, strict=True), 1.5, False),
        (Bar("rows/s", 31.0, at_most=True), 30.0, True),
        (Bar("rows/s", 29.0, at_most=True), 30.0, False),
        (Bar("rows/s", 1.0, "absent"), None, None),
        (Bar("absent", 1.0), None, None),
    ],
)
def test_a_bar_is_reached_missed_or_not_measured(bar: Bar, found: float | None, reached: bool | None) -> None:
    (verdict,) = judge(rates(altlas_flow=(30.0,), peer=(20.0,)), [bar])
    assert (verdict.found, verdict.reached) == (found, reached)
    word = {True: "reached", False: "MISSED", None: "not measured"}[reached]
    assert str(verdict).startswith(word)


def test_a_bar_may_judge_one_of_several_that_are_ours() -> None:
    measured = rates(altlas_flow=(30.0,), other=(10.0,), peer=(20.0,))
    verdicts = judge(measured, [Bar("rows/s", 1.0, "peer", of="other"), Bar("rows/s", 10.0, of="other")])
    assert [(verdict.found, verdict.reached) for verdict in verdicts] == [(0.5, False), (10.0, True)]
    assert str(verdicts[0]).startswith("MISSED: other: rows/s >= 1 × of peer")


def test_the_table_shows_every_contestant_and_verdict(capfd: pytest.CaptureFixture[str]) -> None:
    measured = rates(altlas_flow=(30.0, 31.0, 29.0), peer=(20.0, 20.0, 20.0))
    show("title", measured, [Bar("rows/s", 1.6, "peer")], ["a note [in] brackets"])
    printed = capfd.readouterr().out
    for part in ("title", "altlas_flow", "peer", "1.50 ×", "a note [in] brackets", "MISSED: rows/s >= 1.6 ×"):
        assert part in printed


def test_the_machine_is_described_in_one_line() -> None:
    line = machine({"torch": "2.13.0"}, cores=2)
    assert "2 cores" in line
    assert "torch 2.13.0" in line
    assert "\n" not in line


def test_bars_name_contestants_and_metrics_that_exist() -> None:
    names = {contestant.name for contestant in batch_inference.CONTESTANTS}
    assert {bar.against for bar in batch_inference.BARS} - {None} <= names
    assert set(batch_inference.QUICK) <= names
    assert {bar.against for bar in overhead.BARS} - {None} <= {overhead.RAW}
    for contestant in batch_inference.CONTESTANTS:
        assert (_contest.PEERS / contestant.program).is_file()


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_texts_of_every_form_are_read_without_nulls(tmp_path: Path, suffix: str) -> None:
    import pandas as pd

    frame = pd.DataFrame({"id": [1, 2, 3], "body": ["one", None, "three, and more"]})
    file = tmp_path / f"texts{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(file)
    elif suffix == ".csv":
        frame.to_csv(file, index=False)
    else:
        frame.to_json(file, orient="records", lines=True)
    assert _texts.read(str(file), "body") == ["one", "three, and more"]
    with pytest.raises(_texts.BadTexts, match="absent"):
        _texts.read(str(file), "absent")


def test_texts_that_are_not_there_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"not parquet")
    for path in ("none.parquet", "bad.parquet"):
        with pytest.raises(_texts.BadTexts) as caught:
            _texts.read(str(tmp_path / path), "text")
        assert "\n" not in str(caught.value)


def test_a_sample_is_the_same_for_a_seed_and_never_more_than_there_is() -> None:
    texts = [str(n) for n in range(100)]
    assert _texts.sample(texts, 10, 1) == _texts.sample(texts, 10, 1) != _texts.sample(texts, 10, 2)
    assert sorted(_texts.sample(texts, 1000, 0)) == sorted(texts)


def test_the_plain_loop_keeps_every_row_and_the_budget() -> None:
    lengths = [1, 1, 3, 5, 8, 8, 8, 13, 40]
    ids = [[0] * n for n in lengths]
    cut = batches(list(range(len(ids))), ids, budget=24)
    assert [row for batch in cut for row in batch] == list(range(len(ids)))
    # a row longer than the budget goes alone
    assert all(len(batch) * lengths[batch[-1]] <= 24 or len(batch) == 1 for batch in cut)


def test_every_worker_of_a_peer_gets_two_calls() -> None:
    assert batch_rows(10_000, 2) == 512
    assert batch_rows(300, 2) == 75
    assert batch_rows(1, 2) == 1


def test_bars_of_requests_name_contestants_and_strategies_that_exist() -> None:
    names = {*requests.LONE_NAMES, *requests.BURST_NAMES}
    bars = [bar for several in requests.BARS.values() for bar in several]
    assert {bar.against for bar in bars} - {None} <= names
    assert set(requests.STRATEGIES) == set(_placing.NAMES) >= set(requests.UNDER_LOAD)
    assert {bar.of for bar in requests.BARS["million"]} == set(requests.ENVELOPES)


@pytest.mark.parametrize("strategy", _placing.NAMES)
def test_every_strategy_decides_over_unequal_nodes(strategy: str) -> None:
    timing = _placing.measure(strategy, 100, 20, seed=0)
    assert 0 < timing.median <= timing.p99


def test_shares_and_drifts_are_in_percent() -> None:
    assert _unequal.Run(rate=150.0, possible=200.0, p99=1.0).share == 75.0
    assert _million.Growth((100.0, 104.0, 92.0), 1.0).drift == pytest.approx(8.0)


def test_a_failing_contestant_says_why_and_leaves_no_process(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "raise ValueError('no luck')\n"
    )
    before = _contest.children()
    with pytest.raises(_contest.ContestantFailed, match="ValueError: no luck"):
        _contest.run(sys.executable, program, [], folder=tmp_path, timeout=60)
    program.write_text("import time; time.sleep(600)")
    with pytest.raises(_contest.ContestantFailed, match="longer than 1 s"):
        _contest.run(sys.executable, program, [], folder=tmp_path, timeout=1)
    assert _contest.children() <= before


def test_an_unknown_contestant_ends_with_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert batch_inference.main(["--contestants", "nobody"]) == 2
    assert overhead.main(["--contestants", "nobody"]) == 2
    assert requests.main(["--contestants", "nobody"]) == 2
    assert capsys.readouterr().err.count("unknown contestant 'nobody'") == 3
    for benchmark in (requests, operations, composition):
        assert benchmark.main(["--sections", "nothing"]) == 2
        assert "unknown section 'nothing'" in capsys.readouterr().err
