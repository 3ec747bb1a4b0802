"""Clients and schedulers that go away: nobody waits for ever, and nobody pays for another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import psutil
import pytest

import altlas_flow as af
from altlas_flow.errors import ClusterLost
from altlas_flow.flow import REPR_LIMIT
from tests.cluster.stages import named, over
from tests.laboratory import LIMIT, laboratory, programs, until

pytestmark = pytest.mark.timeout(90)

ROOT = Path(__file__).parents[3]
#: Seconds that the scheduler may be silent, and what may be added on a machine that does much else.
TIMEOUT, SLACK = 3.0, 3.0


# ---------------------------------------------------------------- a client is killed

#: Another client: its requests wait for a gate of their own.
SECOND = """
import sys
from pathlib import Path
import altlas_flow as af
from tests.cluster.stages import Stage

with af.connect(sys.argv[1]) as flow:
    spec = Stage(Path(sys.argv[2])).model()
    handles = flow.submit_many(spec, [{"n": 1000 + i, "wait": "second"} for i in range(50)])
    handles.result(100)
"""


@contextlib.contextmanager
def second_client(lab, stage):
    command = [sys.executable, "-c", SECOND, lab.client.scheduler.address, str(stage.folder)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait(LIMIT)


@pytest.mark.long
def test_when_one_of_two_clients_is_killed_the_other_is_answered_and_has_all_credits_again(stage):
    with laboratory(named("ab")) as lab, second_client(lab, stage) as other:
        spec, mine = stage.model(), lab.client.id
        handles = lab.flow.submit_many(spec, [{"n": i, "sleep": 0.005} for i in range(300)])
        until(lambda: any(number >= 1000 for number, _ in stage.book("began")))
        more = lab.flow.submit_many(spec, [{"n": i, "sleep": 0.005} for i in range(300, 600)])
        handles = [*handles, *more]
        lab.until(lambda info: set(info["held"]) - {mine})
        other.kill()
        other.wait(LIMIT)
        lab.until(lambda info: set(info["held"]) <= {mine})
        stage.open("second")  # what ran of it when it was killed may end now
        assert [handle.result(LIMIT).outputs for handle in handles] == list(range(600))
        assert {handle.result().tries for handle in handles} == {1}
        assert over(lab)
        assert not {number for number, _ in stage.book("began") if number >= 1004}, "nobody wants these"
        waiting = [lab.flow.submit(stage.model(), {"n": i, "wait": "open"}) for i in range(600, 606)]
        lab.until(lambda info: info["envelopes"] == 4)
        stage.open()
        assert [handle.result(LIMIT).outputs for handle in waiting] == list(range(600, 606))
        assert over(lab)


# ---------------------------------------------------------------- the scheduler is lost


class Waiting:
    """Six who wait for answers: two threads, two coroutines, and two who ask later."""

    def __init__(self, flow, spec):
        self.errors, self.times = {}, {}
        self.handles = [flow.submit(spec, {"n": i, "wait": "open"}) for i in range(6)]
        self.threads = [threading.Thread(target=self._block, args=(i,)) for i in (0, 1)]
        self.threads.append(threading.Thread(target=lambda: asyncio.run(self._gather())))
        for thread in self.threads:
            thread.start()

    def _note(self, i, error):
        self.errors[i], self.times[i] = error, time.monotonic()

    def _block(self, i):
        try:
            self.handles[i].result(LIMIT)
        except Exception as error:
            self._note(i, error)

    async def _await(self, i):
        try:
            await asyncio.wait_for(self.handles[i], LIMIT)
        except Exception as error:
            self._note(i, error)

    async def _gather(self):
        await asyncio.gather(self._await(2), self._await(3))

    def ended(self):
        """Those who waited; what they were told, and when at the latest."""
        for thread in self.threads:
            thread.join(LIMIT)
        for i in (4, 5):
            until(self.handles[i].done)
            self._note(i, self.handles[i].response(0).error.exception())
        return self.errors, max(self.times.values())


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.long)])
def test_whoever_waits_is_told_in_time_that_the_scheduler_is_lost(stage, tmp_path, how, monkeypatch):
    said, handler = [], logging.Handler(logging.ERROR)
    handler.emit = said.append
    monkeypatch.setattr(logging.getLogger("distributed.client"), "handlers", [handler])
    with (
        dask.config.set({"altlas.heartbeat-timeout": f"{TIMEOUT}s"}),
        programs(tmp_path, ["only"]) as (file, started),
    ):
        until(lambda: file.read_text().endswith("}"))
        with af.connect(file) as flow:
            flow.client.wait_for_workers(1, timeout=LIMIT)
            waiting = Waiting(flow, stage.model())
            until(lambda: stage.book("began"))
            os.kill(started[0].pid, how)
            began = time.monotonic()
            try:
                errors, last = waiting.ended()
                assert last - began < TIMEOUT + SLACK
                assert sorted(errors) == list(range(6))
                assert {type(error) for error in errors.values()} == {ClusterLost}
                assert all("\n" not in str(error) for error in errors.values())
                assert {handle.status for handle in waiting.handles} == {"error"}
                began = time.monotonic()
                assert "the scheduler does not answer" in repr(flow)  # a notebook shows it
                assert time.monotonic() - began < REPR_LIMIT + SLACK
            finally:
                if how == signal.SIGSTOP:
                    os.kill(started[0].pid, signal.SIGCONT)
        assert not [one for one in said if one.exc_info], "closing what connects again is no error"


@pytest.mark.long
def test_a_large_input_on_its_way_when_the_scheduler_goes_is_lost_with_the_cluster(
    stage, tmp_path, monkeypatch
):
    """To a worker that is stopped: it never arrives."""
    with (
        dask.config.set({"altlas.heartbeat-timeout": f"{TIMEOUT}s"}),
        programs(tmp_path, ["only"]) as (file, started),
    ):
        until(lambda: file.read_text().endswith("}"))
        with af.connect(file) as flow:
            flow.client.wait_for_workers(1, timeout=LIMIT)
            spec = stage.model()
            assert flow.submit(spec, {"n": 1}).result(LIMIT).outputs == 1
            begun, scatter = threading.Event(), flow.client._scatter

            async def noted(*args, **options):
                begun.set()
                return await scatter(*args, **options)

            monkeypatch.setattr(flow.client, "_scatter", noted)
            os.kill(started[1].pid, signal.SIGSTOP)
            handle = flow.submit(spec, {"n": 2, "text": "x" * 2_000_000})
            assert begun.wait(LIMIT)
            started[0].kill()
            with pytest.raises(ClusterLost):
                handle.result(LIMIT)


# ---------------------------------------------------------------- the client stands still

#: A client that stops itself right after it has said something: the answer comes while it stands still.
STANDS = """
import os
import signal
import sys
from pathlib import Path
import altlas_flow as af
from tests.cluster.stages import Stage

flow = af.connect(sys.argv[1])
handle = flow.submit(Stage(Path(sys.argv[2])).model(), {"n": 1, "wait": "go"})
pulse = flow._transport._dispatch.pulse

def stand():
    pulse.report()
    os.kill(os.getpid(), signal.SIGSTOP)

for line in sys.stdin:
    flow.client.loop.add_callback(stand)
print(handle.result(100).outputs, flush=True)
"""


@pytest.mark.long
def test_a_client_that_stood_still_does_not_take_the_scheduler_for_lost(stage):
    with laboratory(named("a"), heartbeat_timeout="1s") as lab:
        command = [sys.executable, "-c", STANDS, lab.cluster.scheduler_address, str(stage.folder)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        environment = {**os.environ, "DASK_ALTLAS__HEARTBEAT_TIMEOUT": "1s"}
        with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as client:
            try:
                stage.await_running(1)
                for _ in range(3):
                    client.stdin.write("\n")
                    client.stdin.flush()
                    assert os.WIFSTOPPED(os.waitpid(client.pid, os.WUNTRACED)[1])
                    time.sleep(1.5)  # longer than a scheduler may be silent
                    os.kill(client.pid, signal.SIGCONT)
                    until(lambda: psutil.Process(client.pid).status() != psutil.STATUS_STOPPED)
                stage.open("go")
                client.stdin.close()
                assert client.stdout.readline() == "1\n"
            finally:
                client.kill()
