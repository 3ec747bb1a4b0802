"""An operator's session by commands, from empty terminals to a drained cluster; and on Dask's programs."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import dask
import pandas as pd
import pytest
from click.testing import CliRunner

import altlas_flow as af
from altlas_flow.cli import cli
from altlas_flow.errors import RequestCancelled
from tests.cluster.stages import Stage, model
from tests.dataframe import jobs

pytestmark = pytest.mark.timeout(300)

#: Seconds that any one wait may take: programs start slowly where all start at once.
LIMIT = 100
until = functools.partial(jobs.until, limit=LIMIT, pause=0.01)

OURS = [sys.executable, "-m", "altlas_flow.cli"]
DASK = [sys.executable, "-m", "dask"]
#: Dask's own programs, on loopback and free ports only.
WHERE = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
UPPER = {"id": "upper", "runtime": "function", "source": "beside:upper"}


class Terminal:
    """A folder from which an operator starts programs and gives commands; what they print is in files."""

    def __init__(self, folder):
        self.folder, self.started = folder, []
        self.file = folder / "scheduler.json"
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
            "ALTLAS_SCHEDULER": str(self.file),
        }

    def start(self, name, *arguments, program=OURS):
        """Start a program that runs on."""
        made = Running(self, name, [*program, *map(str, arguments)])
        self.started.append(made)
        return made

    def scheduler(self, *arguments):
        started = self.start(
            "scheduler",
            "scheduler",
            "--port",
            "0",
            "--dashboard",
            "none",
            "--scheduler-file",
            self.file,
            *arguments,
        )
        started.await_line("scheduler at ")
        return started

    def run(self, *arguments, code=0, program=OURS, **variables):
        """Give a command; what it printed."""
        done = subprocess.run(
            [*program, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            cwd=self.folder,
            env={**self.environment, **variables},
            check=False,
        )
        assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
        if code == 0:
            assert done.stderr == ""
            return done.stdout
        # a worker's program says first what it looks for
        said = [line for line in done.stderr.splitlines() if not line.startswith("looking for the scheduler")]
        assert len(said) == 1 and said[0].startswith("error: "), done.stderr
        return done.stderr

    def ask(self, *arguments, code=0):
        """As `run`, in this process: a command takes a second only to import what it needs."""
        done = CliRunner(env={"ALTLAS_SCHEDULER": str(self.file)}).invoke(
            cli, [str(one) for one in arguments]
        )
        assert done.exit_code == code, (arguments, done.output, done.exception)
        if code:
            assert done.output.startswith("error: ") and done.output.count("\n") == 1, done.output
        return done.output

    def close(self):
        for program in reversed(self.started):
            program.end()


class Running:
    """A program that was started."""

    def __init__(self, terminal, name, command):
        self.out, self.err = terminal.folder / f"{name}.out", terminal.folder / f"{name}.err"
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=err, cwd=terminal.folder, env=terminal.environment
            )

    def await_line(self, text, times=1):
        """Wait until it has printed that."""

        def printed():
            assert self.process.poll() is None or self.out.read_text().count(text) >= times, self.said()
            return self.out.read_text().count(text) >= times

        until(printed, instead=self.said)

    def interrupt(self):
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        return self.code()

    def code(self):
        """Wait until it has ended by itself."""
        return self.process.wait(LIMIT)

    def said(self):
        return self.out.read_text(), self.err.read_text()

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(LIMIT / 2)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(LIMIT)


def at_once(*calls):
    """Commands that do not depend on each other; what each printed."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(LIMIT) for future in [pool.submit(call) for call in calls]]


def table(text):
    """A table of nodes by name: what stands in its line."""
    lines = [line for line in text.splitlines() if line.startswith("  ")]
    return {line.split()[0]: line for line in lines[1:]}


@pytest.fixture(scope="module")
def terminal(tmp_path_factory):
    folder = tmp_path_factory.mktemp("operator")
    (folder / "beside.py").write_text("def upper(rows):\n    return [row.upper() for row in rows]\n")
    (folder / "words.csv").write_text("word\none\ntwo\n")
    made = Terminal(folder)
    yield made
    made.close()


@pytest.mark.long
def test_an_operators_session_from_empty_terminals_to_a_drained_cluster(terminal):
    folder = terminal.folder
    scheduler = terminal.scheduler("--admission", "registered", "--audit", "audit.jsonl", "--history", "h.db")
    watches = []
    with contextlib.ExitStack() as stack:
        workers = stack.enter_context(two_workers_join(terminal))
        watches = [terminal.start(f"watch-{what}", what, "--watch") for what in ("nodes", "tasks")]
        operate(terminal, folder)
        stage = Stage(folder)
        stack.callback(stage.open, "every")
        with af.connect(terminal.file) as flow:
            give_up_a_request(terminal, flow, stage)
            drain_under_load(terminal, flow, stage, workers[0])
        assert "second is drained" in terminal.ask("drain", "second")
        assert workers[1].code() == 0
        assert "has retired this worker" in workers[1].said()[1]
    assert "second is registered no more" in terminal.ask("unregister", "second")
    left = table(terminal.ask("nodes"))
    assert {*left} == {"w1"} and "it has not joined" in left["w1"]
    for watch in watches:
        watch.await_line("until Ctrl-C", times=2)
    assert watches[0].interrupt() == 0
    assert watches[0].said()[1] == ""
    assert scheduler.interrupt() == 0
    assert scheduler.said()[1].count("Traceback") == 0
    # the other one still watches: it says that there is nothing to see any more
    assert watches[1].code() == 1
    error = watches[1].said()[1]
    assert error.startswith("error: the scheduler at ") and error.count("\n") == 1
    events = [json.loads(line)["event"] for line in (folder / "audit.jsonl").read_text().splitlines()]
    assert {"refused", "registered", "joined", "cordoned", "drained", "unregistered"} <= {*events}
    assert (folder / "h.db").stat().st_size > 0


@contextlib.contextmanager
def two_workers_join(terminal):
    """One registered by its name, one by its address; who is not registered is refused, in one line."""
    run = terminal.run
    joining = ["worker", "--scheduler-file", terminal.file, "--nthreads", "1", "--name"]
    refused, *_ = at_once(
        lambda: run(*joining, "stranger", code=2),
        lambda: run("register", "w1"),
        lambda: wrong_input(terminal.ask),
    )
    assert "refuses this worker: neither a node of the name 'stranger'" in refused
    more = ["--label", "zone=a", "--resources", "GPU=1", "--memory-budget", "64 MiB"]
    first = terminal.start("w1", *joining, "w1", *more)
    assert "second is registered" in terminal.ask("register", "second", "--address", "127.0.0.1")
    second = terminal.start("w2", *joining, "w2")
    for worker in (first, second):
        worker.await_line("worker at ")
    yield first, second


def wrong_input(ask):
    """Each gets one line, and soon."""
    assert "no node 'nobody' is known" in ask("cordon", "nobody", code=2)
    assert "no task 'nothing' is known" in ask("cancel", "nothing", code=2)
    assert "neither an address nor a range" in ask("register", "x", "--address", "nowhere", code=2)
    with dask.config.set({"altlas.start-timeout": "1s"}):
        nowhere = ask("nodes", "--scheduler", "tcp://127.0.0.1:1", code=2)
    assert "no Dask scheduler answers at tcp://127.0.0.1:1" in nowhere


def operate(terminal, folder):
    """What a session is mostly: look, load, run a job, cordon, look again."""
    run, ask = terminal.run, terminal.ask
    job = ["--input", "words.csv", "--column", "word", "--output", "out"]
    seen, _ = at_once(lambda: run("nodes"), lambda: run("map", "--model", json.dumps(UPPER), *job))
    nodes = table(seen)
    assert {*nodes} == {"w1", "w2"}
    assert "ONLINE" in nodes["w1"] and "GPU=1 zone=a" in nodes["w1"]
    assert list(pd.read_parquet(folder / "out").prediction) == ["ONE", "TWO"]
    # w2 was registered by its address, as second: that names it as well
    at_once(lambda: run("load", "w1", "upper"), lambda: run("cordon", "second"))
    assert "beside:upper" in ask("models")
    nodes = table(ask("nodes"))
    assert "upper" in nodes["w1"]
    assert "BUSY (cordoned)" in nodes["w2"] and "ONLINE" in nodes["w1"]
    ask("unload", "w1", "upper")
    ask("uncordon", "second")
    nodes = table(ask("nodes"))
    assert "upper" not in nodes["w1"] and "ONLINE" in nodes["w2"]


def give_up_a_request(terminal, flow, stage):
    """A client waits; an operator, elsewhere, gives its request up."""
    handle = flow.submit(stage.model(), {"n": 0, "wait": "never"})
    stage.await_running(0)
    until(lambda: flow.task(handle.request_id).status == "running")
    assert handle.request_id in terminal.ask("tasks", "--status", "running")
    assert terminal.run("cancel", handle.request_id) == f"{handle.request_id} is cancelled\n"
    with pytest.raises(RequestCancelled):
        handle.result(LIMIT)
    assert "was over already" in terminal.ask("cancel", handle.request_id)
    stage.open("never")


def drain_under_load(terminal, flow, stage, worker):
    """No request fails, none is tried twice, and the worker's program ends by itself."""
    spec = stage.model()
    handles, stop = [], threading.Event()

    def load():
        while not stop.is_set():
            handles.extend(flow.submit(spec, {"n": 10 + len(handles), "sleep": 0.01}) for _ in range(5))
            handles[-1].wait(LIMIT)

    loader = threading.Thread(target=load)
    loader.start()
    try:
        until(lambda: any(one.done() and one.result().node_id == "w1" for one in list(handles)))
        assert terminal.run("drain", "w1") == "w1 is drained, and its worker retired\n"
        assert worker.code() == 0
    finally:
        stop.set()
        loader.join(LIMIT)
    assert "has retired this worker" in worker.said()[1]
    found = [handle.result(LIMIT) for handle in handles]
    assert [response.outputs for response in found] == list(range(10, 10 + len(found)))
    assert {response.tries for response in found} == {1}


@pytest.mark.long
def test_on_dasks_own_programs(tmp_path):
    terminal = Terminal(tmp_path)
    try:
        preload = ["--preload", "altlas_flow.cluster.preload", "--scheduler-file", terminal.file]
        terminal.start("scheduler", "scheduler", "--port", "0", *WHERE, *preload, program=DASK)
        for name, nanny in (("bare", "--no-nanny"), ("kept", "--nanny")):
            options = [*WHERE, "--nthreads", "1", "--name", name, nanny, "--scheduler-file", terminal.file]
            terminal.start(name, "worker", *options, program=DASK)
        until(lambda: terminal.file.exists() and terminal.file.read_text().endswith("}"))
        with af.connect(terminal.file) as flow:
            flow.client.wait_for_workers(2, timeout=LIMIT)
            until(lambda: {info.node_id for info in flow.nodes()} == {"bare", "kept"})
            here = model(lambda rows: list(rows))  # by value: these workers do not know the tests
            assert flow.submit(here, 5).result(LIMIT).outputs == 5
        assert {*table(terminal.run("altlas", "nodes", program=DASK))} == {"bare", "kept"}
        at_once(
            lambda: terminal.run("altlas", "drain", "kept", program=DASK),
            lambda: terminal.run("altlas", "drain", "bare", program=DASK),
        )
        assert [worker.code() for worker in terminal.started[1:]] == [0, 0]
    finally:
        terminal.close()
