"""Clusters: embedded ones, whose workers declare resources, come late, go and are killed; and programs."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import subprocess
import sys
import time

import dask
from distributed import Client
from distributed.deploy.spec import SpecCluster

import altlas_flow as af
from altlas_flow.cluster.embedded import Layout, worker_entry
from tests.dataframe import jobs

LIMIT = 40  # seconds that any one wait may take

until = functools.partial(jobs.until, limit=LIMIT, pause=0.002)


class Lab:
    """The cluster, a flow on it, and what the scheduler plugin says of itself."""

    def __init__(self, flow, cluster):
        self.flow, self.cluster, self.client = flow, cluster, flow.client

    def add(self, name, **options):
        entry = worker_entry(Layout(1, 1, 0))
        self.cluster.worker_spec[name] = {
            "cls": entry["cls"],
            "options": {"options": entry["options"]["options"] | options},
        }
        self.cluster.sync(self.cluster._correct_state)

    def remove(self, name):
        del self.cluster.worker_spec[name]
        self.cluster.sync(self.cluster._correct_state)

    def info(self):
        return self.client.sync(self.client.scheduler.altlas_info)

    def until(self, true):
        """Wait for scheduler state that nothing announces; fails loudly at the limit."""
        end = time.monotonic() + LIMIT
        while not true(self.info()):
            assert time.monotonic() < end, self.info()
            time.sleep(0.02)

    def await_hosts(self, count):
        if count:
            try:
                self.client.wait_for_workers(count, timeout=LIMIT)
            except TimeoutError as error:
                raise AssertionError(self.programs()) from error
        assert not self.client.sync(self.client.scheduler.altlas_ready, timeout=LIMIT)

    def await_nannies(self):
        """Wait until all nannies know that their workers run: Dask starts none again that dies before."""
        self.client.run(nanny_runs, nanny=True)

    def programs(self):
        """By name of worker: what its program is, and how it ended."""
        return {
            name: (program.status.name, program.exit_code) for name, program in self.cluster.workers.items()
        }

    def await_host(self, name):
        """Wait until a worker of that name is there, and its host."""
        self.until(lambda info: name in {host["name"] for host in info["hosts"].values()})

    def address_of(self, name):
        workers = self.client.sync(self.client.scheduler.identity, n_workers=-1)["workers"]
        (address,) = (address for address, worker in workers.items() if worker["name"] == name)
        return address

    def status_of(self, name):
        workers = self.client.sync(self.client.scheduler.identity, n_workers=-1)["workers"]
        (status,) = (worker["status"] for worker in workers.values() if worker["name"] == name)
        return status

    def pid_of(self, name):
        address = self.address_of(name)
        return self.client.run(os.getpid, workers=[address])[address]

    def kill(self, name):
        """SIGKILL the worker's process, once its nanny knows that it runs."""
        address = self.address_of(name)
        self.client.run(nanny_runs, nanny=True, workers=[address])
        os.kill(self.client.run(os.getpid, workers=[address])[address], signal.SIGKILL)


async def nanny_runs(dask_worker):
    async with asyncio.timeout(LIMIT):
        # a nanny counts as running, too, while it starts its worker again
        while {dask_worker.status.name, dask_worker.process.status.name} != {"running"}:
            await asyncio.sleep(0.01)


@contextlib.contextmanager
def laboratory(workers, **settings):
    """A cluster of the workers given: name -> options of the nanny; `settings` are those of altlas_flow."""
    ours = {f"altlas.{key.replace('_', '-')}": value for key, value in settings.items()}
    # Dask's SpecCluster gives up a worker that is not back in 15 s: on a machine under load that is soon
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1h", **ours}):
        cluster = SpecCluster(
            scheduler={
                "cls": "distributed.Scheduler",
                "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"},
            },
            workers={},
            silence_logs=50,
        )
        with cluster, Client(cluster) as client, af.connect(client) as flow:
            lab = Lab(flow, cluster)
            for name, options in workers.items():
                lab.add(name, **options)
            lab.await_hosts(len(workers))
            yield lab


@contextlib.contextmanager
def programs(folder, *workers):
    """A scheduler and workers as people start them by hand; the scheduler file and the processes."""
    file = folder / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # --no-dashboard still listens, on all addresses
    where = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
    started = []

    def start(program, *arguments):
        command = [sys.executable, "-m", f"distributed.cli.dask_{program}", *where, *arguments]
        started.append(subprocess.Popen(command, **quiet))

    try:
        start("scheduler", "--port", "0", "--scheduler-file", str(file))
        jobs.until(lambda: file.exists() and file.stat().st_size)  # Dask writes it in place
        for name, *more in workers:
            start(
                "worker",
                "--scheduler-file",
                str(file),
                "--nthreads",
                "1",
                "--no-nanny",
                "--name",
                name,
                *more,
            )
        yield file, started
    finally:
        for process in started:
            process.kill()
            process.wait(jobs.LIMIT)
