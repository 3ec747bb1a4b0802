"""Dask's own `compute` goes to the cluster of the test, whatever clients others have opened and closed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def computes_there(request: pytest.FixtureRequest) -> Iterator[None]:
    if "flow" not in request.fixturenames:
        yield
        return
    flow = request.getfixturevalue("flow")
    with flow.client.as_current():
        yield
