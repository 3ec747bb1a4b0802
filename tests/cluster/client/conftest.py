"""Clusters that the tests of clients share, each for as long as this package's tests run.

A test that kills workers or changes settings of its cluster starts its own.
"""

from __future__ import annotations

import contextlib

import pytest

from tests.cluster.stages import quiet
from tests.laboratory import laboratory

#: Strategies of tests that fail on purpose: the scheduler counts that as a fault.
FAILING = ("strategy broken", "strategy surrogate")


@contextlib.contextmanager
def shared(workers):
    """A cluster on which nothing has gone wrong when the last test is over."""
    with laboratory(workers) as made:
        yield made
        quiet(made)
        info = made.info()
        assert info["parked"] == 0
        assert info["faults"] == 0 or any(name in info["last_fault"] for name in FAILING), info["last_fault"]


@pytest.fixture(scope="package")
def lab():
    """Two workers of one thread."""
    with shared({"a": {}, "b": {}}) as made:
        yield made


@pytest.fixture(scope="package")
def solo():
    """One worker of one thread: two envelopes may be in flight."""
    with shared({"only": {}}) as made:
        yield made


@pytest.fixture(scope="package")
def gpu():
    """One worker that has a GPU."""
    with shared({"gpu": {"resources": {"GPU": 1}}}) as made:
        yield made
