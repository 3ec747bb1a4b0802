"""Laws of jobs on clusters of their own: late workers, GPU workers, a scheduler that goes away."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import threading
import time

import pytest

import altlas_flow as af
from altlas_flow.errors import ClusterLost
from tests.dataframe import jobs
from tests.dataframe.jobs import frame, nodes_of, read, spec, write
from tests.dataframe.test_job import InFlight
from tests.laboratory import programs

pytestmark = pytest.mark.timeout(90)


@pytest.mark.long
def test_a_worker_that_comes_late_gets_parts_while_all_others_are_busy(tmp_path):
    (tmp_path / "met").mkdir()
    model = spec(jobs.Meet(tmp_path / "met", 2), outputs={"prediction": "string"})
    with programs(tmp_path, ["early"]) as (file, started), af.connect(file) as flow:
        flow.client.wait_for_workers(1, timeout=jobs.LIMIT)

        def join():
            jobs.until(lambda: list((tmp_path / "met").iterdir()))
            command = [*started[-1].args]
            command[command.index("early")] = "late"
            started.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))

        helper = threading.Thread(target=join)
        helper.start()
        flow.run(frame(400), model, input="text", to=tmp_path / "out", part_rows=10)
        helper.join()
    assert set(nodes_of(tmp_path / "out")) == {"early", "late"}
    assert nodes_of(tmp_path / "out")["late"] >= 5


@pytest.mark.long
def test_a_gpu_model_runs_on_gpu_workers_only_one_at_a_time_and_its_io_anywhere(tmp_path):
    log = tmp_path / "log"
    source = write(tmp_path / "in.parquet", frame(200), row_group_size=20)
    workers = (["gpu", "--resources", "GPU=1"], ["cpu"])
    with programs(tmp_path, *workers) as (file, _), af.connect(file) as flow:
        flow.client.wait_for_workers(2, timeout=jobs.LIMIT)
        flow.client.register_plugin(InFlight())
        model = spec(jobs.Logged(log, 0.02), resources={"GPU": 1})
        flow.run(source, model, input="text", to=tmp_path / "out", part_rows=10)
        gpu = flow.client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.aliases["gpu"])
        pid = flow.client.run(os.getpid)[gpu]
        most, bound = flow.client.run_on_scheduler(
            lambda dask_scheduler: (
                dask_scheduler.plugins["test-in-flight"].most,
                dask_scheduler.plugins["test-in-flight"].bound,
            )
        )
    called = sorted(jobs.calls(log), key=lambda call: call[2])
    assert {process for process, *_ in called} == {pid}
    assert set(nodes_of(tmp_path / "out")) == {"gpu"}
    assert all(one[3] <= other[2] for one, other in itertools.pairwise(called)), "one at a time"
    assert len(called) >= 20
    assert not bound, "reading and writing are free to run anywhere"
    assert most <= 3, "two for each slot that counts"
    assert len(read(tmp_path / "out")) == 200


@pytest.mark.long
def test_a_scheduler_that_goes_away_ends_the_job_with_a_typed_error(flow, tmp_path):
    out = tmp_path / "out"
    with programs(tmp_path, ["a"], ["b"]) as (file, started), af.connect(file) as own:
        own.client.wait_for_workers(2, timeout=jobs.LIMIT)

        def kill():
            jobs.until(lambda: jobs.committed(out) >= 3)
            os.kill(started[0].pid, signal.SIGKILL)

        helper = threading.Thread(target=kill)
        helper.start()
        began = time.monotonic()
        with pytest.raises(ClusterLost) as caught:
            own.run(frame(800), spec(jobs.Slow(0.05)), input="text", to=out, part_rows=10)
        helper.join()
        assert time.monotonic() - began < 45
        assert jobs.is_one_line(caught.value)
    done = jobs.committed(out)
    assert 3 <= done < 80
    summary = flow.run(frame(800), spec(jobs.Slow(0.05)), input="text", to=out, part_rows=10)
    assert summary.parts_skipped == done, "what was committed stayed, and another cluster goes on"
