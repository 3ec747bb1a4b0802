"""An embedded cluster whose workers may declare resources, come late, go and be killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

import dask
from distributed import Client
from distributed.deploy.spec import SpecCluster

import altlas_flow as af
from altlas_flow.cluster.embedded import Layout, worker_entry

LIMIT = 40  # seconds that any one wait may take


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
            self.client.wait_for_workers(count, timeout=LIMIT)
        assert not self.client.sync(self.client.scheduler.altlas_ready, timeout=LIMIT)

    def kill(self, name):
        """SIGKILL the worker's process, once its nanny knows that it runs."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"]
        (address,) = (a for a, worker in workers.items() if worker["name"] == name)
        self.client.run(nanny_runs, nanny=True, workers=[address])
        os.kill(self.client.run(os.getpid, workers=[address])[address], signal.SIGKILL)


async def nanny_runs(dask_worker):
    async with asyncio.timeout(LIMIT):
        while dask_worker.status.name != "running":
            await asyncio.sleep(0.01)


@contextlib.contextmanager
def laboratory(workers, **settings):
    """A cluster of the workers given: name -> options of the nanny; `settings` are those of altlas_flow."""
    with dask.config.set({f"altlas.{key.replace('_', '-')}": value for key, value in settings.items()}):
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
