"""Stages: every gate is open at the end, so that no test leaves a model behind that waits."""

from __future__ import annotations

import pytest

from tests.cluster.stages import Stage


@pytest.fixture
def stage(tmp_path):
    made = Stage(tmp_path)
    yield made
    made.open("every")


@pytest.fixture
def gate(tmp_path_factory):
    """As `stage`: another one, to fill what has to be full."""
    made = Stage(tmp_path_factory.mktemp("gate"))
    yield made
    made.open("every")
