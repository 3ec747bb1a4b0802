"""Discovery: schedulers announce themselves, workers and clients find them, by the name of their cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import uuid

import pytest

import altlas_flow as af
from altlas_flow.cluster.discovery import find, look, wanted_name
from altlas_flow.errors import ConnectError
from tests.cluster.stages import echo, model
from tests.laboratory import LIMIT, until

pytestmark = pytest.mark.timeout(120)


@contextlib.contextmanager
def program(*arguments):
    """A command of ours that runs, and its first line on the screen."""
    command = [sys.executable, "-m", "altlas_flow.cli", *map(str, arguments)]
    environment = {**os.environ, "DASK_ALTLAS__DISCOVERY_INTERVAL": "1s"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, "env": environment}
    with subprocess.Popen(command, **pipes) as started:
        try:
            yield started, started.stdout.readline().strip()
        finally:
            if started.poll() is None:
                started.terminate()
            started.wait(LIMIT)


def scheduler(name, port=0):
    return program(
        "scheduler", "--port", port, "--dashboard", "none", "--announce", "--insecure", "--name", name
    )


@pytest.fixture
def name():
    """Of a cluster that nobody else on this machine has."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.mark.long
def test_a_worker_and_a_client_find_the_cluster_of_a_name_among_others(name):
    with scheduler(name) as (_, line), scheduler(f"{name}-b") as (_, other):
        address = line.removeprefix("scheduler at ")
        assert asyncio.run(find(name)) == address
        assert asyncio.run(find(f"{name}-b")) == other.removeprefix("scheduler at ")
        found = {one.name for one in asyncio.run(look())}
        assert {name, f"{name}-b"} <= found
        with pytest.raises(ConnectError, match="several clusters"):
            asyncio.run(find())
        with (
            program("worker", "--discover", "--cluster", name, "--name", "w", "--nthreads", "1") as (_, said),
            af.connect(f"discover:{name}") as flow,
        ):
            assert said.startswith("worker at ")
            assert flow.submit(model(echo), 1).result(LIMIT).node_id == "w"


@pytest.mark.long
def test_a_worker_finds_a_scheduler_that_was_started_again(name):
    with contextlib.ExitStack() as stack:
        first, line = stack.enter_context(scheduler(name))
        port = line.rpartition(":")[2]
        worker, _ = stack.enter_context(
            program("worker", "--discover", "--cluster", name, "--name", "w", "--nthreads", "1")
        )
        first.send_signal(signal.SIGKILL)
        first.wait(LIMIT)
        stack.enter_context(scheduler(name, port))
        assert worker.stdout.readline().startswith("worker at ")
        with af.connect(f"discover:{name}") as flow:
            until(lambda: [info.node_id for info in flow.nodes()] == ["w"])
            assert flow.submit(model(echo), 1).result(LIMIT).node_id == "w"


@pytest.mark.long
def test_a_worker_that_comes_before_its_scheduler_waits_for_it(name):
    command = ["worker", "--discover", "--cluster", name, "--name", "w", "--nthreads", "1"]
    started = subprocess.Popen(
        [sys.executable, "-m", "altlas_flow.cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "DASK_ALTLAS__DISCOVERY_INTERVAL": "500ms"},
    )
    try:
        with scheduler(name):
            assert started.stdout.readline().startswith("worker at ")
            started.terminate()
            started.wait(LIMIT)
    finally:
        started.kill()
        started.stdout.close()


@pytest.mark.long
def test_a_name_that_is_taken_is_refused_in_one_line(name):
    with scheduler(name):
        command = [
            "scheduler",
            "--port",
            "0",
            "--dashboard",
            "none",
            "--announce",
            "--insecure",
            "--name",
            name,
        ]
        done = subprocess.run(
            [sys.executable, "-m", "altlas_flow.cli", *command],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == 2
        assert f"error: a cluster {name!r} is in this network already" in done.stderr


@pytest.mark.long
def test_where_nothing_answers_it_is_said_what_to_start(name):
    with pytest.raises(ConnectError, match="--announce"):
        af.connect(f"discover:{name}")


@pytest.mark.parametrize(
    ("address", "found"),
    [("discover", ""), ("discover:lab", "lab"), ("tcp://discover:1", None), ("discovery.json", None)],
)
def test_what_asks_for_discovery(address, found):
    assert wanted_name(address) == found
