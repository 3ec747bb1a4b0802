"""Four workers that tests may kill: all of them are there again when the next test begins."""

from __future__ import annotations

import os
import time

import pytest

from tests.cluster.stages import FOUR, named
from tests.dataframe import jobs
from tests.laboratory import LIMIT, laboratory, nanny_runs


@pytest.fixture(scope="module")
def four_workers():
    with laboratory(named(FOUR)) as made:
        yield made


@pytest.fixture
def four(four_workers):
    """Workers a to d, one thread each; their nannies start them again. All are there when a test begins."""
    again = time.monotonic() + LIMIT / 3

    def lacking():
        return set(FOUR) - {host["name"] for host in four_workers.info()["hosts"].values()}

    def all_run():
        nonlocal again
        if time.monotonic() > again:
            # Dask's nannies do not start a worker again that dies while it starts
            for name in lacking():
                four_workers.remove(name)
                four_workers.add(name, **named([name])[name])
            again += LIMIT
        hosts = list(four_workers.info()["hosts"])
        try:
            # one that was killed a moment ago may be listed still
            four_workers.client.run(os.getpid, workers=hosts)
            four_workers.client.run(nanny_runs, nanny=True, workers=hosts)
        except (OSError, KeyError):
            # the scheduler has a connection that is closed, and will make another; or one of them went since
            return False
        return not lacking()

    jobs.until(all_run, limit=2 * LIMIT, pause=0.02, instead=four_workers.info)
    return four_workers
