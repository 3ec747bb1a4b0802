"""The parts of the benchmark of operating a cluster that run without one, and its programs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import _commands, _contest, _drain, _history, _late, _operating
from benchmarks._operating import BARS, SECTIONS
from benchmarks._report import OURS


def note(audit: Path, *lines: dict[str, str]) -> None:
    with audit.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)


def test_every_section_has_bars_and_bars_name_contestants_that_exist() -> None:
    assert list(BARS) == list(SECTIONS)
    bars = [bar for several in BARS.values() for bar in several]
    assert {bar.of for bar in bars} <= {OURS, _operating.KEEPS, _operating.OVER_TLS}
    assert {bar.against for bar in bars} - {None} == {OURS}


def test_what_is_left_of_a_rate_and_what_is_beyond_loading() -> None:
    assert _history.Pair(on=90.0, off=100.0, behind=0.1).ratio == pytest.approx(0.9)
    assert _late.Arrival(program=6.0, joined=5.0, load=4.0).beyond == pytest.approx(1.0)


def test_all_tasks_are_written_and_read_again(tmp_path: Path) -> None:
    written = _history.write(tmp_path / "history.sqlite", 1_300, 30)
    assert written.rate > 0 and written.told > 0


def test_lines_of_an_audit_log_are_found_but_for_one_that_is_half_written(tmp_path: Path) -> None:
    audit = tmp_path / "audit.jsonl"
    assert _commands.audited(audit, "joined") == []
    note(audit, {"event": "joined", "node": "a"}, {"event": "left", "node": "a"})
    with audit.open("a", encoding="utf-8") as stream:
        stream.write('{"event": "joined", "no')
    assert _commands.audited(audit, "joined") == [{"event": "joined", "node": "a"}]


async def given(witness: _drain.Witness, *names: str | None) -> None:
    """Tasks that get workers of these names, or none."""
    tasks = {
        key: SimpleNamespace(processing_on=None if name is None else SimpleNamespace(name=name))
        for key, name in enumerate(names)
    }
    await witness.start(SimpleNamespace(tasks=tasks))
    for key in tasks:
        witness.transition(key, "waiting", "processing")
        witness.transition(key, "processing", "memory")


@pytest.mark.asyncio
async def test_the_witness_tells_what_a_node_was_given_after_its_drain_was_ordered(tmp_path: Path) -> None:
    witness = _drain.Witness(tmp_path / "audit.jsonl")
    await given(witness, "a", "b", None)
    note(witness.audit, {"event": "draining", "node": "b"}, {"event": "cordoned", "node": "a"})
    await given(witness, "a", "b", "b")
    assert witness.given == {("a", False): 2, ("b", False): 1, ("b", True): 2}


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _commands.Cluster:
    """Nothing runs in it yet."""
    monkeypatch.setattr(_commands, "LIMIT", 0.2)
    return _commands.Cluster(tmp_path, {"heartbeat_timeout": "2s"}, None)


def test_a_wait_ends_at_its_limit(programs: _commands.Cluster) -> None:
    assert programs.until("anything", lambda: "found") == "found"
    with pytest.raises(_contest.ContestantFailed, match=r"not within 0.2 s: nothing"):
        programs.until("nothing", lambda: False)


def test_a_program_that_fails_says_why_and_no_process_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _contest.children()
    monkeypatch.setenv("DASK_ALTLAS__NO_SUCH_SETTING", "1")
    with (
        pytest.raises(_contest.ContestantFailed, match=r"scheduler ended with code .*no_such_setting"),
        _commands.cluster(tmp_path / "cluster", ["a"]),
    ):
        pytest.fail("there is no such cluster")
    assert _contest.children() <= before


@pytest.mark.long
def test_programs_end_with_whoever_started_them(tmp_path: Path) -> None:
    import psutil

    before = _contest.children()
    seen: list[psutil.Process] = []

    def interrupted() -> None:
        with _commands.cluster(tmp_path / "cluster", ["a"]) as cluster:
            cluster.until("the worker", lambda: cluster.noted("joined", "a"))
            for process in cluster.programs.values():
                seen.append(psutil.Process(process.pid))
                seen.extend(seen[-1].children(recursive=True))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(seen) >= 3  # the scheduler, the nanny, the worker
    assert _contest.children() <= before
    assert not psutil.wait_procs(seen, timeout=10)[1]
