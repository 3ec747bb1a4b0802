"""The parts of the benchmark of composing models that run without a cluster of their own."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import _bounded, _chain, _composing, _first, _hedging, _programs, _sent, composition
from benchmarks._composing import BARS, SECTIONS
from benchmarks._findings import Findings
from benchmarks._report import OURS, judge

NAMES = {
    "first": {OURS, _composing.RAW},
    "losers": {_composing.WAITING, _composing.WRITING, _composing.DEAF},
    "chain": {*_chain.NAMES},
    "memory": {OURS, _composing.UNBOUNDED},
    "hedging": {*_hedging.CONTESTANTS},
}


@pytest.mark.parametrize("section", list(NAMES))
def test_bars_name_contestants_that_exist(section: str) -> None:
    assert {bar.of for bar in BARS[section]} <= NAMES[section]
    assert {bar.against for bar in BARS[section]} - {None} <= NAMES[section]


def test_every_section_has_bars() -> None:
    assert list(BARS) == list(SECTIONS) == list(NAMES)


def test_how_much_an_answer_takes_is_counted_in_lone_requests() -> None:
    assert _first.Run(first=0.056, worst=0.1, lone=0.003, others=0).beyond == pytest.approx(2.0)


class Instant:
    """Stands for a chain: a contestant takes as long an input as its place says."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def count(self, name: str, inputs: int) -> int:
        return min(inputs, _chain.FEWER) if name == _chain.RAW else inputs

    def seconds(self, name: str, inputs: int) -> float:
        self.asked.append((name, inputs))
        return {_chain.RAW: 1e-2, _chain.CHUNKED: 1e-4}.get(name, 1e-4 if inputs == 1_000 else 1.25e-4)

    def __enter__(self) -> Instant:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing was started."""


def test_what_is_measured_over_fewer_inputs_stands_beside_all_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Instant()
    monkeypatch.setattr(_chain, "chain", lambda *arguments: chain)
    found = Findings("composition", "")
    args = Namespace(runs=2, chunk=256, quick=True, timeout=1.0)
    SECTIONS["chain"](args, tmp_path, found)
    assert (_chain.RAW, 10_000) not in chain.asked
    raw = {m.metric: m.value for m in found.measured if m.contestant == _chain.RAW}
    assert raw == {_composing.rate(1_000): 100.0, _composing.rate(10_000): 100.0}
    verdicts = {(v.bar.of, v.bar.metric, v.bar.against): v for v in judge(found.measured, BARS["chain"])}
    verdict = verdicts[OURS, _composing.rate(10_000), _chain.CHUNKED]
    assert (verdict.found, verdict.reached) == (pytest.approx(0.8), True)
    assert verdicts[OURS, _composing.growth(10_000, 1_000), None].found == pytest.approx(1.25)
    assert verdicts[OURS, _composing.growth(10_000, 1_000), None].reached is False
    assert verdicts[OURS, _composing.rate(100_000), _chain.RAW].reached is None


@pytest.mark.long
@pytest.mark.parametrize("name", _chain.NAMES)
def test_every_contestant_of_the_chain_answers_each_input(flow: Any, name: str) -> None:
    chain = _chain.Chain(flow, flow.client, chunk=8, timeout=60)
    assert chain.seconds(name, 20) > 0


def test_the_growth_of_memory_is_told_as_a_ratio_and_for_each_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(folder: Path, sizes: Sequence[int], bounded: bool) -> list[_bounded.Peak]:
        assert folder.is_dir()
        return [_bounded.Peak(300.0 if bounded else 300.0 + inputs, 280.0, 1.0) for inputs in sizes]

    monkeypatch.setattr(_bounded, "measure", measured)
    found = Findings("composition", "")
    SECTIONS["memory"](Namespace(memory_runs=2, quick=True), tmp_path, found)
    values = {(m.contestant, m.metric): m.value for m in found.measured}
    assert values[OURS, _composing.GROWTH] == 1.0
    assert values[OURS, _composing.EACH] == 0.0
    assert values[_composing.UNBOUNDED, _composing.EACH] == pytest.approx(1.0)
    assert all(verdict.reached for verdict in judge(found.measured, BARS["memory"]))


def test_the_sampler_keeps_the_largest() -> None:
    with _bounded.Sampler([os.getpid()]) as sampler:
        before = sampler.now()
        held = np.ones(64 * _bounded.MIB // 8)
        now, seen = sampler.now(), sampler.looks
        assert held[-1] == 1.0
        for _ in range(1_000):
            if sampler.looks >= seen + 2:
                break
            sampler._over.wait(_bounded.LOOK)
        del held
    assert now >= before + 60
    assert sampler.most >= before + 60


def test_stages_take_a_number_through_arrays_of_one_megabyte() -> None:
    made = _sent.blow_up(3.0)
    assert made.nbytes == _sent.double(made).nbytes == 1_000_000
    assert _sent.total(_sent.double(made)) == 2 * _sent.NUMBERS * 3.0


def test_a_model_that_ran_is_found_in_the_file(tmp_path: Path) -> None:
    row = str(tmp_path / "notes")
    assert _sent.note([row], name="a") == _sent.note([row], name="b") == [row]
    assert (tmp_path / "notes").read_text() == "a\nb\n"


def test_labels_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import dask.config

    from altlas_flow.settings import Settings

    (item,) = _programs.labelled(worker="north").items()
    with dask.config.set(dask.config.collect_env(dict([item]))):
        assert dict(Settings.current().labels) == {"worker": "north"}


def test_a_section_that_fails_says_why_and_the_next_ones_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fails(args: Any, folder: Path, found: Findings) -> None:
        found.add(OURS, _composing.BEYOND, "1", [1.0])
        raise ValueError("no luck")

    def works(args: Any, folder: Path, found: Findings) -> None:
        found.add(OURS, _composing.GROWTH, "1", [1.0])

    monkeypatch.setitem(SECTIONS, "first", fails)
    monkeypatch.setitem(SECTIONS, "memory", works)
    file = tmp_path / "out.jsonl"
    assert composition.main(["--sections", "first,memory", "--quick", "--json", str(file)]) == 1
    said = capsys.readouterr().out
    assert "first: failed: ValueError: no luck" in said
    assert f"reached: {_composing.GROWTH}" in said
    assert file.read_text().count("\n") == 1


def test_wrong_sizes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        composition.main(["--rounds", "0"])
    assert "at least 1" in capsys.readouterr().err
