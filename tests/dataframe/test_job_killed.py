"""Laws of jobs that are killed: what was committed stays, and is not done again."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import dask.dataframe as dd
import numpy as np
import pandas as pd
import psutil
import pytest

import altlas_flow as af
from altlas_flow.dataframe.folder import committed_parts, read_dead_letters
from tests.dataframe import jobs
from tests.dataframe.jobs import frame, part_lines, read, spec, stamps, write
from tests.dataframe.kill_job import PART_ROWS

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame"),
]

ROOT = Path(__file__).parents[2]
PARTS = 204
STEPS = ("replace", "append", "appended")


@pytest.fixture(scope="module")
def clean(flow, tmp_path_factory):
    """The source, and the output of a job that nobody killed, as both readers see it."""
    folder = tmp_path_factory.mktemp("clean")
    data = frame(PARTS * PART_ROWS)
    data.loc[::97, "text"] = "bad one"
    source = write(folder / "in.parquet", data, row_group_size=700)
    flow.run(source, spec(jobs.no_bad), input="text", to=folder / "out", part_rows=PART_ROWS)
    assert len(committed_parts(folder / "out")) >= PARTS
    return source, *outcome(folder / "out")


def outcome(out):
    """All rows by pandas and by Dask, and all dead letters but where they came from."""
    letters = read_dead_letters(out).drop_columns(["node", "model"])
    return pd.read_parquet(out), dd.read_parquet(out).compute(scheduler="sync"), letters


def said(out):
    """Where a job in a process of its own complains."""
    return out.with_suffix(".stderr")


@contextlib.contextmanager
def job(source, out, *how):
    """A job in a process of its own, and the ids of its workers; all of it is dead on leaving."""
    command = [sys.executable, "-m", "tests.dataframe.kill_job", str(source), str(out), *map(str, how)]
    with open(said(out), "w") as stderr:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr)
    workers = []
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"it did not start: {said(out).read_text()}"
        for number in json.loads(line):
            with contextlib.suppress(psutil.NoSuchProcess):
                workers.append(psutil.Process(number))
        yield process, workers
    finally:
        for one in [*workers, process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait(jobs.LIMIT)
        process.stdout.close()
        psutil.wait_procs(workers, timeout=jobs.LIMIT)


def snapshot(out):
    return stamps(out), (out / "_manifest").read_bytes()


def killed(source, out, *how, after=0):
    """Run a job until it is killed: by itself, or by us once so many parts are committed."""
    with job(source, out, *how) as (process, workers):
        if not how:
            jobs.until(lambda: jobs.committed(out) >= after or process.poll() is not None, pause=0.001)
            for one in [process, *workers]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.send_signal(signal.SIGKILL)
        assert process.wait(jobs.LIMIT) == -signal.SIGKILL, f"it came to its end: {said(out).read_text()}"
        left = snapshot(out)
        _, alive = psutil.wait_procs(workers, timeout=20)
        assert not alive, "workers outlive their client"
        assert snapshot(out) == left, "a worker that was left over changed the folder"


def resumes(flow, clean, out):
    """See that what is committed stays, and that the job then ends as if nothing had been."""
    source, *wanted = clean
    done = committed_parts(out)
    assert 0 < len(done) < PARTS, "some parts are committed, and some are missing"
    before = {name: stamp for name, stamp in stamps(out).items() if name in done}
    assert before.keys() == done.keys()
    summary = flow.run(source, spec(jobs.no_bad), input="text", to=out, part_rows=PART_ROWS)
    assert summary.parts_skipped == len(done)
    assert before.items() <= stamps(out).items(), "a committed part was done twice"
    assert set(part_lines(out).values()) == {1}
    by_pandas, by_dask, letters = outcome(out)
    pd.testing.assert_frame_equal(by_pandas, wanted[0])
    pd.testing.assert_frame_equal(by_dask, wanted[1])
    assert letters.equals(wanted[2])
    assert not list(out.glob("_attempts/*"))


class TestKilled:
    @pytest.mark.long
    @pytest.mark.parametrize("seed", [0, 1])
    def test_killed_at_a_random_instant_a_job_resumes(self, flow, clean, tmp_path, seed):
        killed(clean[0], tmp_path / "out", after=random.Random(seed).randint(1, PARTS // 2))
        resumes(flow, clean, tmp_path / "out")

    @pytest.mark.parametrize(
        ("step", "n", "who"),
        [
            ("replace", 60, "all"),
            pytest.param("append", 11, "all", marks=pytest.mark.long),
            pytest.param("appended", 100, "client", marks=pytest.mark.long),
        ],
    )
    def test_killed_between_write_rename_and_manifest_line_a_job_resumes(
        self, flow, clean, tmp_path, step, n, who
    ):
        killed(clean[0], tmp_path / "out", step, n, who)
        resumes(flow, clean, tmp_path / "out")

    @pytest.mark.long
    @pytest.mark.timeout(900)
    def test_killed_fifty_times_jobs_resume(self, flow, clean, tmp_path):
        for seed in range(50):
            rng, out = random.Random(1000 + seed), tmp_path / f"out-{seed}"
            if seed % 2:
                step, who = STEPS[seed // 2 % 3], rng.choice(["all", "client"])
                killed(clean[0], out, step, rng.randint(2, PARTS - 20), who)
            else:
                killed(clean[0], out, after=rng.randint(1, PARTS // 2))
            resumes(flow, clean, out)

    @pytest.mark.long
    @pytest.mark.timeout(300)
    def test_killed_again_and_again_one_job_comes_to_its_end(self, flow, clean, tmp_path):
        out = tmp_path / "out"
        for round_ in range(1, 6):
            killed(clean[0], out, after=round_ * 30)
            assert set(part_lines(out).values()) == {1}
        resumes(flow, clean, out)


@pytest.fixture(scope="module")
def own():
    """A cluster whose workers may be killed."""
    with af.connect(workers=2, threads_per_worker=1) as flow:
        yield flow


class TestWorkersDie:
    @pytest.mark.parametrize(
        "kind",
        [
            "frame",
            pytest.param("files", marks=pytest.mark.long),
            pytest.param("dask", marks=pytest.mark.long),
        ],
    )
    def test_a_killed_worker_costs_no_row(self, own, tmp_path, kind):
        data, out = frame(800), tmp_path / "out"
        source = {
            "frame": lambda: data,
            "files": lambda: write(tmp_path / "in.parquet", data),
            "dask": lambda: dd.from_pandas(data, npartitions=4),
        }[kind]()
        own.client.wait_for_workers(2, timeout=jobs.LIMIT)
        victim = sorted(own.client.run(os.getpid).values())[0]
        error = []

        def kill():
            try:
                jobs.until(lambda: jobs.committed(out) >= 5)
                os.kill(victim, signal.SIGKILL)
            except BaseException as caught:
                error.append(caught)

        helper = threading.Thread(target=kill)
        helper.start()
        summary = own.run(source, spec(jobs.Slow(0.02)), input="text", to=out, part_rows=10)
        helper.join()
        assert not error
        assert (summary.rows, summary.dead_letters) == (800, 0)
        found = read(out)
        np.testing.assert_array_equal(found["n"], data["n"])
        assert found["prediction"].tolist() == data["text"].tolist()
        assert set(part_lines(out).values()) == {1}
        assert not psutil.pid_exists(victim) or psutil.Process(victim).status() == psutil.STATUS_ZOMBIE
