"""The embedded cluster: how it lays out its workers, starts them, and closes them."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time

import dask
import psutil
import pytest
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

import altlas_flow as af
from altlas_flow.cluster.embedded import EmbeddedCluster, EmbeddedWorker, layout
from altlas_flow.errors import ConnectError
from tests.laboratory import LIMIT

GIB = 2**30


@given(
    cores=st.integers(1, 256),
    memory=st.integers(1, 4096),
    per_worker=st.integers(0, 64),
    models=st.lists(st.integers(0, 512), max_size=4),
)
def test_workers_follow_cores_and_what_copies_of_the_models_take(cores, memory, per_worker, models):
    plan = layout(cores, memory * GIB, per_worker * GIB, [size * GIB for size in models])
    assert plan.workers >= 1
    assert plan.workers * plan.threads <= cores
    assert plan.workers * plan.memory_limit <= memory * GIB
    larger = layout(cores, memory * GIB, per_worker * GIB, [size * GIB for size in models] + [GIB])
    assert larger.workers <= plan.workers
    if plan.workers > 1:
        assert sum(models) * GIB <= plan.memory_limit * 0.5
        assert per_worker * GIB + sum(models) * GIB <= plan.memory_limit


def test_small_models_get_one_single_threaded_worker_for_each_core():
    assert layout(8, 64 * GIB, 2 * GIB, [GIB // 10]).workers == 8
    assert layout(8, 64 * GIB, 2 * GIB, [GIB // 10]).threads == 1


def test_a_worker_that_cannot_start_is_told_at_once(monkeypatch):
    monkeypatch.setattr("altlas_flow.cluster.embedded.sys.executable", "/bin/false")
    started = time.monotonic()
    with pytest.raises(ConnectError, match="ended with code 1"):
        af.connect(workers=1)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("after", ["_start", "_correct_state"])
def test_starting_that_is_interrupted_leaves_no_worker(after, monkeypatch):
    before = set(psutil.Process().children(recursive=True))
    seen = []

    def interrupted(self, function, *arguments, **options):
        result = sync(self, function, *arguments, **options)
        if function.__name__ == after:
            seen.extend(set(psutil.Process().children(recursive=True)) - before)
            raise KeyboardInterrupt
        return result

    sync = EmbeddedCluster.sync
    monkeypatch.setattr(EmbeddedCluster, "sync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        af.connect(workers=1)
    assert bool(seen) == (after == "_correct_state")
    assert not psutil.wait_procs(seen, LIMIT)[1]


@pytest.mark.long
def test_an_embedded_worker_is_started_again_however_often_it_dies():
    def pid():
        return next(iter(flow.client.run(os.getpid).values()))

    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"}), af.connect(workers=1) as flow:
        spec = flow.register(af.ModelSpec(id="lengths", source="builtins:len", single=True))
        for n in range(3):
            assert flow.submit(spec.id, "x" * n).result(60).outputs == n
            os.kill(pid(), signal.SIGKILL)
        # now the program itself: nobody is left that would start its worker again
        assert flow.submit(spec.id, "xxx").result(60).outputs == 3
        parent = psutil.Process(pid()).parent()
        os.kill(pid(), signal.SIGKILL)
        parent.kill()
        assert flow.submit(spec.id, "four").result(90).outputs == 4


@pytest.mark.long
def test_closing_one_embedded_cluster_does_not_make_another_one_loud(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(
        "import altlas_flow as af\n"
        "first, second = af.connect(workers=1), af.connect(workers=1)\n"
        "first.close()\n"
        "second.client.submit(sum, [1, 2]).result(60)\n"
        "second.close()\n"
        "print('closed')\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed\n", "")


def test_an_embedded_cluster_that_closes_says_nothing_of_results_that_end_with_it(caplog):
    flow = af.connect(workers=1)
    with Client(flow.client.scheduler.address, set_as_default=False) as other:
        kept = other.submit(int, "7", pure=False)
        assert kept.result(30) == 7
        with caplog.at_level(logging.WARNING, "distributed.scheduler"):
            flow.close()
        assert [record.getMessage() for record in caplog.records if "lose" in record.getMessage()] == []
    assert not logging.getLogger("distributed.scheduler").filters


def test_a_worker_that_ends_as_its_time_runs_out_is_closed(monkeypatch):
    """On a machine that stands still for a while its end and the end of its time are seen together."""
    asked = []

    async def close():
        worker = EmbeddedWorker("tcp://127.0.0.1:1")
        program = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=subprocess.PIPE)
        wait, worker.process = program.wait, program

        async def late():
            asked.append(await wait())
            if len(asked) == 1:
                raise TimeoutError
            return asked[-1]

        monkeypatch.setattr(program, "wait", late)
        await worker.close()
        return worker

    worker = asyncio.run(asyncio.wait_for(close(), LIMIT))
    assert asked == [0, 0]
    assert worker.process is None
