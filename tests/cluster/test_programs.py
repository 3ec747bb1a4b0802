"""What programs of a cluster say where they cannot do what they were asked for: one line, and an end."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from click.testing import CliRunner

import altlas_flow as af
from altlas_flow.cli import cli
from tests.cluster.stages import echo, named
from tests.laboratory import LIMIT, laboratory

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def taken():
    """A port on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nodes", "--scheduler", "tls://127.0.0.1:1"], "speaks TLS: give the folder of your certificates"),
        (["worker", "tls://127.0.0.1:1"], "speaks TLS: give the folder of your certificates"),
        (["scheduler", "--dashboard", "foo"], "is no place to listen: give HOST:PORT, or none"),
        (["scheduler", "--dashboard", "127.0.0.1:99999"], "is no place to listen: give HOST:PORT, or none"),
        (["scheduler", "--port", "0", "--dashboard", "127.0.0.1:TAKEN"], "give another --dashboard, or none"),
    ],
)
def test_what_cannot_be_is_said_at_once(arguments, said, taken):
    done = CliRunner().invoke(cli, [one.replace("TAKEN", str(taken)) for one in arguments])
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output


def test_a_scheduler_that_cannot_listen_or_keep_its_history_ends_with_one_line(taken, tmp_path):
    (tmp_path / "other").write_bytes(b"something else")
    command = [sys.executable, "-m", "altlas_flow.cli", "scheduler", "--dashboard", "none"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    programs = [
        subprocess.Popen([*command, "--port", str(taken)], **pipes),
        subprocess.Popen([*command, "--port", "0", "--history", str(tmp_path / "other")], **pipes),
    ]
    try:
        port, history = (program.communicate(timeout=LIMIT)[1].splitlines() for program in programs)
    finally:
        for program in programs:
            program.kill()
            program.wait(LIMIT)
    assert [program.returncode for program in programs] == [2, 2]
    (line,) = port
    assert line.startswith(f"error: the scheduler cannot listen on 127.0.0.1:{taken}")
    assert history[-1].endswith("holds something else: name a file that is not there yet")
    assert not any("Traceback" in line for line in history)


def test_a_model_that_is_given_is_registered_and_loaded():
    with laboratory(named("a")) as lab:
        lab.flow.load("a", af.ModelSpec(id="given", source=echo))
        assert lab.flow.node("a").available_models == ["given"]
        assert "given" in lab.flow.models()
