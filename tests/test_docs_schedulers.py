"""What the pages on Slurm and Kubernetes say, without either: the job script and the manifests.

The manifests are held against what the operator of dask-kubernetes makes of its own, as it was looked up
(2026.3.0); it is not installed here, for it brings three clients of Kubernetes with it, 180 MB.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
import yaml
from distributed.cli.dask_scheduler import main as dask_scheduler
from distributed.cli.dask_worker import main as dask_worker

import altlas_flow as af
from tests.test_docs_run import blocks_of, python_of

# Its defaults have to be there before one of them is set. It makes Ctrl-C end the program at once, whoever
# imports it: tests of other modules run in this program, too.
_interrupted = signal.getsignal(signal.SIGINT)
import dask_jobqueue  # noqa: E402, F401

signal.signal(signal.SIGINT, _interrupted)

HOWTO = Path(__file__).resolve().parents[1] / "docs" / "howto"
LIMIT = 60


# -- Slurm ------------------------------------------------------------------------------------


@pytest.fixture
def slurm() -> Iterator[Any]:
    """The cluster of the page, made by the page's own block."""
    block = python_of(blocks_of((HOWTO / "slurm.md").read_text(encoding="utf-8")))[0].body
    names: dict[str, Any] = {"__name__": "page"}
    # what the page sets holds for this test only; nobody but this machine reaches the scheduler
    with dask.config.set({"altlas.admission": None, "jobqueue.slurm.interface": "lo"}):
        exec(compile(block, "slurm.md", "exec"), names)
        yield names["cluster"]
        names["cluster"].close()


def options_of(command: list[str], program: Any) -> dict[str, Any]:
    """Options of a command of Dask's, as Dask itself reads them."""
    context = program.make_context("dask", list(command))
    return dict(context.params)


def test_the_job_script_starts_a_worker_that_has_its_gpu_and_shows_nothing(slurm):
    script = slurm.job_script()
    for line in (
        "#SBATCH -p gpu",
        "#SBATCH --gres=gpu:1",
        "#SBATCH -t 04:00:00",
        "#SBATCH --cpus-per-task=4",
    ):
        assert line in script.splitlines()
    assert "export DASK_ALTLAS__MEMORY_BUDGET='20 GiB'" in script.splitlines()
    command = script.splitlines()[-1].split()
    at = command.index("distributed.cli.dask_worker")
    given = options_of(command[at + 1 :], dask_worker)
    assert given["scheduler"] == slurm.scheduler_address
    assert given["interface"] == "lo"
    assert given["resources"] == "GPU=1"
    assert given["dashboard_address"] == "127.0.0.1:0"
    assert given["nthreads"] == 4
    assert given["death_timeout"]


def test_its_scheduler_is_one_of_ours_and_shows_nothing_to_others(slurm):
    assert "altlas-control" in slurm.scheduler.plugins
    assert slurm.scheduler.plugins["altlas-control"].ours
    assert slurm.scheduler.http_server.address == "127.0.0.1"


@pytest.mark.long
@pytest.mark.timeout(180)
def test_a_job_joins_and_answers(slurm, tmp_path):
    script = tmp_path / "job.sh"
    script.write_text(slurm.job_script(), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(HOWTO.parents[1])}
    job = subprocess.Popen(
        ["bash", str(script)],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with af.connect(slurm) as flow:
            flow.client.wait_for_workers(1, timeout=LIMIT)
            shout = af.ModelSpec(
                id="shout", source=lambda rows: [row.upper() for row in rows], resources={"GPU": 1}
            )
            assert flow.submit(shout, "hello").result(timeout=LIMIT).outputs == "HELLO"
            (node,) = flow.nodes()
            assert node.capabilities["resources"] == {"GPU": 1}
            assert node.capabilities["memory"] == 20 * 2**30
    finally:
        job.terminate()
        job.wait(timeout=LIMIT)


# -- Kubernetes -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manifests() -> dict[str, Any]:
    """The manifests of the page, by their kinds."""
    blocks = blocks_of((HOWTO / "kubernetes.md").read_text(encoding="utf-8"))
    found = [yaml.safe_load(block.body) for block in blocks if block.language == "yaml"]
    return {manifest["kind"]: manifest for manifest in found}


def container(part: dict[str, Any]) -> dict[str, Any]:
    (only,) = part["spec"]["containers"]
    return only


def settings_in(given: dict[str, Any]) -> dict[str, Any]:
    """What the environment of a container sets of ours, checked as at its start."""
    environment = {pair["name"]: pair["value"] for pair in given.get("env", [])}
    assert all(isinstance(value, str) for value in environment.values())
    with dask.config.set(dask.config.collect_env(environment)):
        return vars(af.settings.Settings.current())


def test_the_manifests_are_of_the_operator(manifests):
    assert set(manifests) == {"DaskCluster", "DaskWorkerGroup", "NetworkPolicy"}
    for kind in ("DaskCluster", "DaskWorkerGroup"):
        assert manifests[kind]["apiVersion"] == "kubernetes.dask.org/v1"
    cluster = manifests["DaskCluster"]
    assert set(cluster["spec"]) == {"scheduler", "worker"}
    assert set(cluster["spec"]["scheduler"]) == {"spec", "service"}
    assert set(cluster["spec"]["worker"]) == {"replicas", "spec"}
    assert manifests["DaskWorkerGroup"]["spec"]["cluster"] == cluster["metadata"]["name"]
    selector = cluster["spec"]["scheduler"]["service"]["selector"]
    assert selector == {"dask.org/cluster-name": "altlas", "dask.org/component": "scheduler"}
    assert manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == selector


def test_the_scheduler_of_the_manifest_is_one_of_ours(manifests):
    given = container(manifests["DaskCluster"]["spec"]["scheduler"])
    assert given["args"][:2] == ["dask", "scheduler"]
    options = options_of(given["args"][2:], dask_scheduler)
    assert (options["host"], options["preload"]) == ("0.0.0.0", ("altlas_flow.cluster.preload",))
    settings = settings_in(given)
    assert settings["registered"] == ("10.244.0.0/16",)
    assert settings["history"] == "/var/lib/altlas/history.sqlite"
    ports = {port["name"]: port["containerPort"] for port in given["ports"]}
    service = manifests["DaskCluster"]["spec"]["scheduler"]["service"]
    assert {port["targetPort"]: port["port"] for port in service["ports"]} == ports
    assert given["readinessProbe"]["httpGet"]["port"] in ports


@pytest.mark.parametrize("kind", ["DaskCluster", "DaskWorkerGroup"])
def test_the_workers_of_the_manifests_are_those_of_dask(manifests, kind):
    part = manifests[kind]["spec"]["worker"]
    given = container(part)
    assert given["args"][:2] == ["dask", "worker"]
    # the operator gives the name of each pod, and where the scheduler is
    options = options_of(given["args"][2:], dask_worker)
    assert options["name"] == "$(DASK_WORKER_NAME)"
    assert settings_in(given)["memory_budget"] in (8 * 2**30, 20 * 2**30)
    assert given["resources"]["limits"] == given["resources"]["requests"]
    assert int(given["resources"]["limits"]["cpu"]) == options["nthreads"]
    pod = dask.utils.parse_bytes(given["resources"]["limits"]["memory"].replace("Gi", "GiB"))
    assert settings_in(given)["memory_budget"] < dask.utils.parse_bytes(options["memory_limit"]) < pod
    wants_gpu = "nvidia.com/gpu" in given["resources"]["limits"]
    assert (options["resources"] == "GPU=1") == wants_gpu
    names = {volume["name"] for volume in part["spec"].get("volumes", [])}
    assert {mount["name"] for mount in given.get("volumeMounts", [])} == names


def test_the_image_is_that_of_the_tests_python():
    text = (HOWTO / "kubernetes.md").read_text(encoding="utf-8")
    version = re.search(r"FROM python:(\d+)\.(\d+)", text)
    assert version is not None
    assert (int(version[1]), int(version[2])) >= (3, 11)
    assert sys.version_info >= (3, 11)
