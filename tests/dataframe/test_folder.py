"""Laws of the output folder: who may write, and what counts."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from altlas_flow.dataframe import attempts, manifest
from altlas_flow.dataframe.folder import (
    DEAD_LETTER_SCHEMA,
    Header,
    OutputFolder,
    PartRecord,
    committed_parts,
    read_dead_letters,
    read_header,
    write_attempt,
)
from altlas_flow.errors import OutputLocked, OutputMismatch, OutputNotWritable

HEADER = Header(("n",), ("out",), "n", 100)
ROOT = Path(__file__).parents[2]


def table(*numbers: int) -> pa.Table:
    return pa.table({"n": pa.array(numbers, pa.int64()), "out": pa.array([-n for n in numbers], pa.int64())})


def dead_table(*ids: str) -> pa.Table:
    return pa.table([list(ids)] * len(DEAD_LETTER_SCHEMA), schema=DEAD_LETTER_SCHEMA)


def part(number: int) -> str:
    return f"part-{number:05d}.parquet"


def commit(
    out: OutputFolder, number: int, rows: pa.Table, dead: pa.Table | None = None, **of: str
) -> PartRecord:
    attempt = write_attempt(rows, out.attempts, part(number))
    letters = None if dead is None else write_attempt(dead, out.attempts, part(number)).path
    count = 0 if dead is None else dead.num_rows
    unit, model = of.get("unit", "u"), of.get("model", "m")
    record = PartRecord(
        part(number), unit, model, rows.num_rows + count, rows.num_rows, count, attempt.bytes, {"tokens": 3}
    )
    out.commit(record, attempt.path, letters)
    return record


def rows_of(path: Path) -> list[int]:
    return sorted(pd.read_parquet(path)["n"]) if list(path.glob("part-*")) else []


def one_line(caught: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    return text


class TestCommitting:
    def test_committed_parts_and_their_dead_letters_are_found_again(self, tmp_path):
        path = tmp_path / "deep" / "out"
        with OutputFolder.open(path, HEADER) as out:
            first = commit(out, 0, table(1, 2), dead_table("a:3"))
            second = commit(out, 1, table(4))
            assert out.committed == {part(0): first, part(1): second}
        assert sorted(entry.name for entry in path.iterdir()) == sorted(
            ["_dead_letters", "_lock", "_manifest", part(0), part(1)]
        )
        with OutputFolder.open(path, HEADER) as out:
            assert out.committed == committed_parts(path) == {part(0): first, part(1): second}
        assert rows_of(path) == [1, 2, 4]
        assert read_dead_letters(path).column("row_id").to_pylist() == ["a:3"]
        assert read_dead_letters(path).schema == DEAD_LETTER_SCHEMA
        assert read_header(path) == HEADER
        assert read_header(tmp_path / "none") is None

    @pytest.mark.filterwarnings("ignore:The inplace keyword")  # dask uses what pandas deprecated
    def test_pandas_and_dask_read_the_folder_as_it_is(self, tmp_path):
        dd = pytest.importorskip("dask.dataframe")
        with OutputFolder.open(tmp_path, HEADER) as out:
            commit(out, 0, table(1, 2), dead_table("a:3"))
            commit(out, 1, table(4))
            write_attempt(table(9), out.attempts, part(2))
            assert rows_of(tmp_path) == [1, 2, 4]
            assert sorted(dd.read_parquet(tmp_path)["n"].compute(scheduler="sync")) == [1, 2, 4]
        assert pd.read_parquet(tmp_path / "_dead_letters")["row_id"].tolist() == ["a:3"]

    def test_an_attempt_shows_nothing_until_it_is_committed(self, tmp_path):
        with OutputFolder.open(tmp_path, HEADER) as out:
            attempt = write_attempt(table(1), out.attempts, part(0))
            assert (attempt.rows, attempt.bytes) == (1, os.path.getsize(attempt.path))
            assert rows_of(tmp_path) == []
            assert out.committed == {}
        assert not os.path.exists(attempt.path)

    def test_a_manifest_line_for_each_step_says_what_was_done(self, tmp_path):
        with OutputFolder.open(tmp_path, HEADER) as out:
            record = commit(out, 0, table(1))
            out.drop([part(0), part(7)])
        lines = [json.loads(line) for line in (tmp_path / "_manifest").read_text().splitlines()]
        assert lines[0] == {
            "kind": "header", "version": 1, "columns": ["n"], "outputs": ["out"],
            "input": "n", "part_rows": 100,
        }  # fmt: skip
        assert lines[1] == {
            "kind": "part", "part": part(0), "unit": "u", "model": "m", "rows_in": 1, "rows": 1,
            "dead_letters": 0, "bytes": record.bytes, "tokens": 3,
        }  # fmt: skip
        assert lines[2] == {"kind": "drop", "parts": [part(0)]}

    def test_each_step_is_durable_before_the_next(self, tmp_path, monkeypatch):
        steps: list[tuple[str, str]] = []

        def record_calls(name: str) -> None:
            real = getattr(os, name)

            def call(first, *rest):
                target = rest[0] if rest else first
                where = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else str(target)
                steps.append((name, os.path.relpath(where, tmp_path)))
                return real(first, *rest)

            monkeypatch.setattr(os, name, call)

        with OutputFolder.open(tmp_path, HEADER) as out:
            attempt = write_attempt(table(1), out.attempts, part(0))
            dead = write_attempt(dead_table("a:1"), out.attempts, part(0))
            for name in ("replace", "fsync", "write", "unlink"):
                record_calls(name)
            out.commit(PartRecord(part(0), "u", "m", 2, 1, 1, attempt.bytes), attempt.path, dead.path)
            committing, steps[:] = list(steps), []
            out.drop([part(0)])
            dropping = list(steps)
            monkeypatch.undo()
        assert committing == [
            ("replace", "_dead_letters/part-00000.rows"),
            ("fsync", "_dead_letters"),
            ("replace", part(0)),
            ("fsync", "."),
            ("write", "_manifest"),
            ("fsync", "_manifest"),
        ]
        assert dropping == [
            ("write", "_manifest"),
            ("fsync", "_manifest"),
            ("unlink", part(0)),
            ("unlink", "_dead_letters/part-00000.rows"),
            ("fsync", "."),
            ("fsync", "_dead_letters"),
        ]

    def test_stats_may_be_numpy_numbers(self, tmp_path):
        with OutputFolder.open(tmp_path, HEADER) as out:
            attempt = write_attempt(table(1), out.attempts, part(0))
            stats = {"seconds": np.float32(0.5), "tokens": np.int64(4)}
            out.commit(PartRecord(part(0), "u", "m", 1, 1, 0, attempt.bytes, stats), attempt.path)
        assert committed_parts(tmp_path)[part(0)].stats == {"seconds": 0.5, "tokens": 4}

    def test_stale_parts_are_those_that_do_not_match_what_is_wanted(self, tmp_path):
        with OutputFolder.open(tmp_path, HEADER) as out:
            for number in range(4):
                commit(out, number, table(number))
            wanted = {part(0): ("u", "m"), part(1): ("other", "m"), part(2): ("u", "other")}
            assert out.stale(wanted) == {part(1), part(2), part(3)}
            out.drop(out.stale(wanted))
            assert out.stale(wanted) == set()
            assert rows_of(tmp_path) == [0]
        assert set(committed_parts(tmp_path)) == {part(0)}

    def test_a_part_committed_again_replaces_its_rows_and_its_dead_letters(self, tmp_path):
        with OutputFolder.open(tmp_path, HEADER) as out:
            commit(out, 0, table(1), dead_table("a:2"))
            commit(out, 0, table(1, 2))
        assert rows_of(tmp_path) == [1, 2]
        assert read_dead_letters(tmp_path).num_rows == 0
        assert not list((tmp_path / "_dead_letters").iterdir())

    def test_wrong_records_are_refused(self, tmp_path):
        with OutputFolder.open(tmp_path, HEADER) as out:
            attempt = write_attempt(table(1), out.attempts, part(0))
            for name in ("_x.parquet", "../part-0.parquet", "part-0.csv", "other.parquet"):
                with pytest.raises(ValueError, match="named like"):
                    out.commit(PartRecord(name, "u", "m", 1, 1, 0, attempt.bytes), attempt.path)
            with pytest.raises(ValueError, match="dead letters"):
                out.commit(PartRecord(part(0), "u", "m", 2, 1, 1, attempt.bytes), attempt.path)
            with pytest.raises(OutputNotWritable, match="bytes"):
                out.commit(PartRecord(part(0), "u", "m", 1, 1, 0, attempt.bytes + 1), attempt.path)
            with pytest.raises(OutputNotWritable, match="share"):
                out.commit(PartRecord(part(0), "u", "m", 1, 1, 0, 1), out.attempts / "gone.parquet.attempt")
            assert out.committed == {}


class TestOtherJobs:
    def test_a_second_job_is_refused_and_told_who_works(self, tmp_path):
        with OutputFolder.open(tmp_path, HEADER) as out:
            commit(out, 0, table(1))
            before = sorted(path.name for path in tmp_path.rglob("*"))
            with pytest.raises(OutputLocked, match=rf"process {os.getpid()} on ") as caught:
                OutputFolder.open(tmp_path, HEADER)
            one_line(caught)
            assert sorted(path.name for path in tmp_path.rglob("*")) == before
            commit(out, 1, table(2))
        OutputFolder.open(tmp_path, HEADER).close()

    def test_a_job_that_is_interrupted_while_it_closes_leaves_no_lock(self, tmp_path, monkeypatch):
        def interrupted(*_, **__):
            raise KeyboardInterrupt

        out = OutputFolder.open(tmp_path, HEADER)
        with monkeypatch.context() as patch:
            patch.setattr("altlas_flow.dataframe.folder.shutil.rmtree", interrupted)
            with pytest.raises(KeyboardInterrupt):
                out.close()
        OutputFolder.open(tmp_path, HEADER).close()

    def test_the_lock_dies_with_its_owner_even_if_its_children_live(self, tmp_path):
        code = (
            "import os, sys, time\n"
            "from altlas_flow.dataframe.folder import Header, OutputFolder\n"
            "out = OutputFolder.open(sys.argv[1], Header(('n',), ('out',), 'n', 100))\n"
            "child = os.fork()\n"
            "if child == 0:\n"
            "    print(os.getpid(), flush=True)\n"
            "    sys.stdin.read()\n"  # ends when the test closes it
            "    os._exit(0)\n"
            "os.waitpid(child, 0)\n"
        )
        owner = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        with owner:
            try:
                child = int(owner.stdout.readline())
                with pytest.raises(OutputLocked, match=f"process {owner.pid} on "):
                    OutputFolder.open(tmp_path, HEADER)
                left = next((tmp_path / "_attempts").iterdir())
                owner.send_signal(signal.SIGKILL)
                owner.wait(30)
                os.kill(child, 0)  # still there
                with OutputFolder.open(tmp_path, HEADER):
                    assert not left.exists()
            finally:
                owner.kill()
                owner.stdin.close()  # lets the child end

    def test_a_worker_left_over_from_a_dead_job_can_neither_write_nor_commit(self, tmp_path):
        with OutputFolder.open(tmp_path, HEADER) as dead:
            old = dead.attempts
        with OutputFolder.open(tmp_path, HEADER) as out:
            with pytest.raises(OutputNotWritable, match="has ended") as caught:
                write_attempt(table(1), old, part(0))
            one_line(caught)
            assert not old.exists()
            old.mkdir()
            attempt = write_attempt(table(1), old, part(0))
            with pytest.raises(OutputMismatch, match="another job"):
                out.commit(PartRecord(part(0), "u", "m", 1, 1, 0, attempt.bytes), attempt.path)
        assert rows_of(tmp_path) == []

    def test_files_that_are_not_ours_are_refused_and_left_alone(self, tmp_path):
        (tmp_path / "thesis.txt").write_text("all of it")
        with pytest.raises(OutputMismatch, match=r"thesis.txt") as caught:
            OutputFolder.open(tmp_path, HEADER)
        one_line(caught)
        assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]

    @pytest.mark.parametrize(
        "data", ["", "not ours\n", '{"kind": "header"}\n', '{"kind":"header","version":9}\n', "[]\n"]
    )
    def test_a_manifest_that_is_not_ours_is_refused(self, tmp_path, data):
        (tmp_path / "_manifest").write_text(data)
        with pytest.raises(OutputMismatch, match="_manifest"):
            OutputFolder.open(tmp_path, HEADER)
        with pytest.raises(OutputMismatch):
            read_dead_letters(tmp_path)
        assert (tmp_path / "_manifest").read_text() == data
        assert not (tmp_path / "_lock").exists()

    def test_other_columns_are_another_jobs_and_the_error_says_which(self, tmp_path):
        with OutputFolder.open(tmp_path, HEADER) as out:
            commit(out, 0, table(1))
        for header, words in (
            (Header(("n", "x"), ("out",), "n", 100), r'input columns, \["n"\] .* \["n", "x"\]'),
            (Header(("n",), ("label",), "n", 100), r'output columns, \["out"\] .* \["label"\]'),
        ):
            with pytest.raises(OutputMismatch, match=words) as caught:
                OutputFolder.open(tmp_path, header)
            one_line(caught)
        assert rows_of(tmp_path) == [1]

    def test_another_cut_is_kept_for_the_next_job(self, tmp_path):
        for part_rows in (100, 50, 50):
            with OutputFolder.open(tmp_path, Header(("n",), ("out",), "n", part_rows)):
                pass
            assert read_header(tmp_path).part_rows == part_rows
        assert len((tmp_path / "_manifest").read_text().splitlines()) == 2

    def test_a_job_killed_before_its_manifest_leaves_a_folder_that_can_be_used(self, tmp_path):
        (tmp_path / "_lock").touch()
        (tmp_path / "_manifest.0123").write_text('{"kind"')
        with OutputFolder.open(tmp_path, HEADER) as out:
            commit(out, 0, table(1))
        assert not (tmp_path / "_manifest.0123").exists()


class TestWhatCounts:
    def fill(self, path: Path) -> dict[str, PartRecord]:
        with OutputFolder.open(path, HEADER) as out:
            for number in range(3):
                commit(out, number, table(number), dead_table(f"é:{number}") if number == 2 else None)
            return dict(out.committed)

    def test_a_last_line_torn_at_any_byte_does_not_count_and_the_rest_does(self, tmp_path):
        full = self.fill(tmp_path)
        data = (tmp_path / "_manifest").read_bytes()
        start = data[:-1].rindex(b"\n") + 1
        header, parts, whole = manifest.parse(data)
        assert (header, parts, whole) == (HEADER, full, len(data))
        for end in range(start, len(data)):
            _, parts, whole = manifest.parse(data[:end])
            assert whole == start
            assert set(parts) == {part(0), part(1)}
        for end in (start, start + 1, (start + len(data)) // 2, len(data) - 1):  # and on disk
            saved = {
                name: (tmp_path / name).read_bytes() for name in (part(2), "_dead_letters/part-00002.rows")
            }
            (tmp_path / "_manifest").write_bytes(data[:end])
            with OutputFolder.open(tmp_path, HEADER) as out:
                assert set(out.committed) == {part(0), part(1)}
                assert (tmp_path / "_manifest").read_bytes() == data[:start]
                assert rows_of(tmp_path) == [0, 1]
                assert not list((tmp_path / "_dead_letters").iterdir())
                assert commit(out, 2, table(2), dead_table("é:2")).bytes == full[part(2)].bytes
            assert (tmp_path / "_manifest").read_bytes() == data
            assert {name: (tmp_path / name).read_bytes() for name in saved} == saved

    @pytest.mark.parametrize("damage", [b"\0" * 30, b'{"kind":"part"', b"\xff\xfe", b""])
    def test_a_garbled_line_elsewhere_costs_its_own_part_only(self, tmp_path, damage):
        self.fill(tmp_path)
        lines = (tmp_path / "_manifest").read_bytes().split(b"\n")
        lines[2] = damage
        (tmp_path / "_manifest").write_bytes(b"\n".join(lines))
        with OutputFolder.open(tmp_path, HEADER) as out:
            assert set(out.committed) == {part(0), part(2)}
            assert rows_of(tmp_path) == [0, 2]
            commit(out, 1, table(1))
        assert set(committed_parts(tmp_path)) == {part(0), part(1), part(2)}

    def test_a_part_counts_only_with_its_file_as_recorded_and_its_dead_letters(self, tmp_path):
        for damage in (
            lambda: (tmp_path / part(2)).unlink(),
            lambda: os.truncate(tmp_path / part(2), 10),
            lambda: (tmp_path / "_dead_letters" / "part-00002.rows").unlink(),
        ):
            self.fill(tmp_path)
            damage()
            assert set(committed_parts(tmp_path)) == {part(0), part(1)}
            with OutputFolder.open(tmp_path, HEADER) as out:
                assert set(out.committed) == {part(0), part(1)}
                assert rows_of(tmp_path) == [0, 1]

    def test_a_lost_part_does_not_come_back_with_a_file_of_the_same_size(self, tmp_path):
        self.fill(tmp_path)
        data = (tmp_path / part(1)).read_bytes()
        (tmp_path / part(1)).unlink()
        OutputFolder.open(tmp_path, HEADER).close()
        (tmp_path / part(1)).write_bytes(data)
        assert part(1) not in committed_parts(tmp_path)

    @pytest.mark.timeout(300)
    @pytest.mark.parametrize(
        "fresh",
        [
            pytest.param([], id="over an older model", marks=pytest.mark.long),
            pytest.param(["fresh"], id="in a new folder"),
        ],
    )
    def test_a_kill_between_any_two_steps_leaves_no_row_torn_or_twice(self, tmp_path, fresh):
        done = subprocess.run(
            [sys.executable, "-m", "tests.dataframe.kill_points", str(tmp_path), *fresh],
            cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-500:] + done.stderr
        rounds = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(rounds) > 30
        assert [r["killed"] for r in rounds] == [True] * (len(rounds) - 1) + [False]
        # Kills found the job at every stage: before its first commit, between commits, at the end.
        assert {r["committed"] for r in rounds} == {0, 1, 2, 3}


@contextlib.contextmanager
def small_disk(path: Path, size: str = "1m") -> Iterator[None]:
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], timeout=20, check=True)


def fill(path: Path) -> None:
    """Write to a file until the disk is full."""
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as stream:
        while stream.write(b"\0" * 4096):
            pass


def big(rows: int) -> pa.Table:
    noise = np.random.default_rng(0).integers(0, 2**62, rows)
    return pa.table({"n": noise, "out": noise[::-1]})


class TestRefusals:
    def test_a_full_disk_costs_nothing_that_was_committed(self, tmp_path):
        disk = tmp_path / "disk"
        with small_disk(disk):
            path = disk / "out"
            with OutputFolder.open(path, HEADER) as out:
                commit(out, 0, table(1, 2))
                with pytest.raises(OutputNotWritable, match=r"disk is full.*free some space") as caught:
                    write_attempt(big(200_000), out.attempts, part(1))
                one_line(caught)
                assert not list(out.attempts.iterdir()), "the partial file is removed"
                commit(out, 1, table(3))
                # Now the rest fits, but not the manifest's next line.
                attempt = write_attempt(table(4), out.attempts, part(2))
                room = 4096 - os.path.getsize(path / "_manifest") % 4096
                filler = disk / "filler"
                fill(filler)
                before = (path / "_manifest").read_bytes()
                record = PartRecord(part(2), "u", "m", 1, 1, 0, attempt.bytes, {"note": "x" * (room + 10)})
                with pytest.raises(OutputNotWritable, match="disk is full"):
                    out.commit(record, attempt.path)
                assert (path / "_manifest").read_bytes() == before
                assert set(out.committed) == {part(0), part(1)}
                assert rows_of(path) == [1, 2, 3]
                filler.unlink()
                commit(out, 2, table(4))
            assert set(committed_parts(path)) == {part(0), part(1), part(2)}
            assert rows_of(path) == [1, 2, 3, 4]

    def test_a_disk_that_is_full_from_the_start_is_refused(self, tmp_path):
        disk = tmp_path / "disk"
        with small_disk(disk):
            fill(disk / ".filler")
            with pytest.raises(OutputNotWritable, match="disk is full"):
                OutputFolder.open(disk / "out", HEADER)
            (disk / ".filler").unlink()
            OutputFolder.open(disk / "out", HEADER).close()

    def test_a_read_only_file_system_is_refused(self, tmp_path):
        disk = tmp_path / "disk"
        with small_disk(disk):
            with OutputFolder.open(disk / "out", HEADER) as out:
                commit(out, 0, table(1))
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], timeout=20, check=True)
            for path in (disk / "out", disk / "new"):
                with pytest.raises(OutputNotWritable, match="read-only") as caught:
                    OutputFolder.open(path, HEADER)
                one_line(caught)
            with pytest.raises(OutputNotWritable, match="read-only"):
                write_attempt(table(1), disk / "out", part(1))
            assert rows_of(disk / "out") == [1]

    @pytest.mark.parametrize("path", ["file", "file/below"])
    def test_a_file_in_the_way_is_refused(self, tmp_path, path):
        (tmp_path / "file").write_text("mine")
        with pytest.raises(OutputNotWritable, match="in the way") as caught:
            OutputFolder.open(tmp_path / path, HEADER)
        one_line(caught)
        assert (tmp_path / "file").read_text() == "mine"

    def test_a_url_is_refused(self):
        with pytest.raises(OutputNotWritable, match="local or shared file system"):
            OutputFolder.open("s3://bucket/out", HEADER)

    @pytest.mark.parametrize(
        "number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO]
    )
    def test_refusals_of_the_system_become_one_line_and_leave_no_partial_file(
        self, tmp_path, monkeypatch, number
    ):
        with OutputFolder.open(tmp_path, HEADER) as out:
            real = os.fsync

            def refuse(handle: int) -> None:
                raise OSError(number, os.strerror(number))

            monkeypatch.setattr(attempts.os, "fsync", refuse)
            with pytest.raises(OutputNotWritable) as caught:
                write_attempt(table(1), out.attempts, part(0))
            one_line(caught)
            assert not list(out.attempts.iterdir())
            monkeypatch.setattr(os, "fsync", real)

    def test_a_failing_manifest_leaves_no_line_and_no_part_and_the_job_may_go_on(self, tmp_path, monkeypatch):
        with OutputFolder.open(tmp_path, HEADER) as out:
            commit(out, 0, table(1))
            before = (tmp_path / "_manifest").read_bytes()
            real = os.write

            def tear(handle: int, data: bytes) -> int:
                real(handle, bytes(data)[:7])
                raise OSError(errno.ENOSPC, "No space left on device")

            with monkeypatch.context() as patch:
                patch.setattr(os, "write", tear)
                with pytest.raises(OutputNotWritable, match="disk is full"):
                    commit(out, 1, table(2), dead_table("a:1"))
                with pytest.raises(OutputNotWritable, match="disk is full"):
                    out.drop([part(0)])
            assert (tmp_path / "_manifest").read_bytes() == before
            assert rows_of(tmp_path) == [1]
            assert not list((tmp_path / "_dead_letters").iterdir())
            commit(out, 1, table(2))
        assert rows_of(tmp_path) == [1, 2]
