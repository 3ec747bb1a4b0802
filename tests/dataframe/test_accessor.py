"""``frame.altlas``, on the flow that was connected last."""

from __future__ import annotations

import gc

import dask.dataframe as dd
import pandas as pd
import pyarrow.parquet as pq
import pytest

import altlas_flow as af
from altlas_flow.dataframe import accessor
from altlas_flow.errors import ConnectError
from altlas_flow.flow import open_flow

pytestmark = pytest.mark.timeout(120)


def shout(rows):
    return [row.upper() for row in rows]


SHOUT = {"id": "accessor-shout", "source": shout}
FRAME = pd.DataFrame({"text": ["a", "b", "c"]})


class Fake:
    """A flow that is there, and says who was asked."""

    def __init__(self, closed=False):
        self.closed = closed

    def map(self, frame, model=None, **options):
        return self


@pytest.fixture
def alone(monkeypatch):
    """No flow but those of the test."""
    monkeypatch.setattr(accessor, "_flows", [])


def test_pandas_and_dask_frames_map_and_run(flow, tmp_path):
    accessor.offer(flow)  # other tests may have connected since
    model = af.ModelSpec(**SHOUT)
    assert FRAME.altlas.map(model, input="text", output="loud")["loud"].tolist() == ["A", "B", "C"]
    lazy = dd.from_pandas(FRAME, npartitions=2).altlas.map(model, input="text", output="loud")
    assert isinstance(lazy, dd.DataFrame)
    assert lazy.compute()["loud"].tolist() == ["A", "B", "C"]
    FRAME.altlas.run(model, input="text", output="loud", to=tmp_path / "out", progress=False)
    assert sorted(pq.read_table(tmp_path / "out").column("loud").to_pylist()) == ["A", "B", "C"]
    assert "text" in repr(FRAME.altlas)


def test_the_flow_connected_last_is_used_of_those_that_are_open(alone):
    first, second = Fake(), Fake()
    accessor.offer(first)
    accessor.offer(second)
    assert FRAME.altlas.map("m", input="text") is second
    second.closed = True
    assert FRAME.altlas.map("m", input="text") is first


def test_without_an_open_flow_it_says_what_to_do(alone):
    accessor.offer(Fake(closed=True))
    with pytest.raises(ConnectError, match=r"altlas_flow\.connect\(\)"):
        FRAME.altlas.map("m", input="text")


def test_it_keeps_no_flow_alive(alone):
    accessor.offer(Fake())
    gc.collect()
    with pytest.raises(ConnectError):
        FRAME.altlas.map("m", input="text")
    accessor.offer(Fake())
    assert len(accessor._flows) == 1


def test_connecting_offers_and_what_has_no_frames_does_not(alone):
    with af.connect(workers=1) as connected:
        assert accessor.last_flow() is connected
        with open_flow(connected.client) as other:
            assert not other.closed
            assert accessor.last_flow() is connected
    with pytest.raises(ConnectError):
        accessor.last_flow()
