"""``altlas-flow doctor``: without a cluster, on one that is well, on one that is not, and on none."""

from __future__ import annotations

import os
import signal

import dask
import pytest
from click.testing import CliRunner
from distributed import LocalCluster

import altlas_flow as af
from altlas_flow.cli import cli
from altlas_flow.cluster.secure import listens_on_loopback
from tests.laboratory import laboratory, until

pytestmark = pytest.mark.timeout(150)


def shout(rows):
    return [row.upper() for row in rows]


def doctor(*arguments):
    return CliRunner().invoke(cli, ["doctor", *arguments])


@pytest.fixture(autouse=True)
def no_scheduler_of_the_environment(monkeypatch):
    monkeypatch.delenv("ALTLAS_SCHEDULER", raising=False)


def test_without_a_cluster_it_says_what_is_here():
    said = doctor()
    assert said.exit_code == 0, said.output
    assert f"altlas_flow        {af.__version__}" in said.output
    assert "torch" in said.output and "no cluster was looked at" in said.output
    assert "nothing looks wrong" in said.output


def test_what_cannot_be_reached_is_one_line():
    with dask.config.set({"altlas.start-timeout": "2s"}):
        said = doctor("--scheduler", "tcp://127.0.0.1:1")
    assert said.exit_code == 2
    assert "127.0.0.1:1" in said.output.strip().splitlines()[-1]


def test_a_cluster_that_is_well_and_then_is_not():
    with laboratory({"w": {}}, heartbeat_timeout="2s") as lab:
        lab.flow.register(af.ModelSpec(id="shout", source=shout))
        assert lab.flow.submit("shout", "a").result(40).outputs == "A"
        address = lab.client.scheduler.address
        until(lambda: "shout" in doctor("--scheduler", address).output)
        said = doctor("--scheduler", address)
        assert said.exit_code == 0, said.output
        for text in (f"{address} (reached by this machine only)", "none: plain TCP", "/altlas", "ONLINE"):
            assert text in said.output
        process = lab.pid_of("w")
        os.kill(process, signal.SIGSTOP)
        try:
            until(lambda: doctor("--scheduler", address).exit_code == 1)
            said = doctor("--scheduler", address)
            assert "node w is OFFLINE" in said.output and "-> see its log" in said.output
        finally:
            os.kill(process, signal.SIGCONT)
        until(lambda: doctor("--scheduler", address).exit_code == 0)


def test_a_scheduler_that_listens_everywhere_is_open_to_others_however_it_is_reached():
    options = {"host": "0.0.0.0", "protocol": "tcp://", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=1, processes=False, silence_logs=50, **options) as theirs:
        address = theirs.scheduler_address
        if listens_on_loopback(address):
            pytest.skip("this machine has no address but that of its own")
        said = doctor("--scheduler", f"tcp://127.0.0.1:{address.rpartition(':')[2]}")
    assert said.exit_code == 1 and "(reached by others, too)" in said.output
    assert "is open to others without TLS" in said.output
