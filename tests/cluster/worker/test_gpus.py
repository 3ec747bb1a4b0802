"""GPUs of one machine: each worker takes one that no other has, and keeps it for life."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).parents[3]
#: A worker: it says how many it got, and which, and lives until its input ends.
CLAIM = """
import asyncio, os, sys
from pathlib import Path
from altlas_flow.cluster.worker.gpus import claim_gpus

driver, folder, count = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
got = asyncio.run(claim_gpus(driver, folder, lambda: count))
print(got, os.environ.get("CUDA_VISIBLE_DEVICES", ""), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def claim(tmp_path, monkeypatch):
    """Start a process that claims, and what it got: ``(how many, which)``."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "driver").touch()
    (tmp_path / "locks").mkdir()
    with contextlib.ExitStack() as stack:

        def start(count="2", driver="driver", visible=None):
            if visible is not None:
                monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
            command = [sys.executable, "-c", CLAIM, str(tmp_path / driver), str(tmp_path / "locks"), count]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            process = stack.enter_context(subprocess.Popen(command, cwd=ROOT, text=True, **pipes))
            stack.callback(process.kill)
            count, _, which = process.stdout.readline().rstrip("\n").partition(" ")
            return process, (int(count), which)

        yield start


def test_processes_that_share_a_machine_get_one_each_until_none_is_left(claim):
    assert [claim()[1] for _ in range(3)] == [(1, "0"), (1, "1"), (0, "")]


def test_one_that_ends_gives_its_gpu_back_however_it_ends(claim):
    first, got = claim()
    second, _ = claim()
    assert got == (1, "0")
    first.kill()
    first.wait(30)
    assert claim()[1] == (1, "0")
    second.stdin.close()
    second.wait(30)
    assert claim()[1] == (1, "1")


def test_only_those_that_are_visible_are_taken_by_their_names(claim):
    assert claim(visible="5, GPU-7")[1] == (1, "5")
    assert claim(visible="5, GPU-7")[1] == (1, "GPU-7")


@pytest.mark.parametrize(
    ("count", "driver"),
    [("2", "none"), ("0", "driver"), ("torch is not installed", "driver"), ("", "driver")],
)
def test_without_a_driver_or_a_count_there_is_none(claim, count, driver):
    assert claim(count=count, driver=driver)[1] == (0, "")
