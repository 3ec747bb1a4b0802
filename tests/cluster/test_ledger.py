"""What Dask remembers of requests that are over does not grow."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace

import dask
import pytest
from dask.utils import key_split
from distributed import wait

import altlas_flow as af
from altlas_flow.cluster import ledger
from altlas_flow.cluster.keys import SPAN
from tests.laboratory import LIMIT, laboratory

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def lab():
    """Two workers; each request travels alone."""
    with laboratory({"a": {}, "b": {}}, envelope_rows=1) as made:
        yield made


@pytest.fixture(scope="module")
def model(lab):
    return lab.flow.register(af.ModelSpec(id="echo", source=echo)).id


def echo(rows):
    return list(rows)


def remembered(lab):
    """Notes on graphs, task groups in the span of requests, and task groups of requests in computations."""

    def look(dask_scheduler):
        span = dask_scheduler.extensions["spans"].spans[SPAN]
        groups = [group.name for one in dask_scheduler.computations for group in one.groups]
        mine = [name for name in groups if str(name).startswith("altlas-request")]
        return len(span._metadata["collections"]), len(span.groups), len(mine)

    return lab.client.run_on_scheduler(look)


@pytest.mark.long
def test_of_requests_that_are_over_the_scheduler_keeps_a_bounded_number(lab, model):
    for _ in range(2):
        handles = [lab.flow.submit(model, i) for i in range(ledger.ENVELOPES)]
        assert [handle.result(LIMIT).outputs for handle in handles] == list(range(ledger.ENVELOPES))
        # one after the other: each is a task group of its own to Dask
        for i in range(10):
            assert lab.flow.submit(model, i).result(LIMIT).outputs == i
    lab.until(lambda info: info["envelopes"] == 0)
    notes, groups, computations = remembered(lab)
    assert notes <= ledger.ENVELOPES + 1
    assert groups <= ledger.ENVELOPES
    assert computations <= ledger.ENVELOPES

    def forget(dask_scheduler):
        mine = [key for key in dask_scheduler.tasks if str(key).startswith("altlas-request")]
        dask_scheduler.plugins["altlas-control"].ledger.forget()
        return len(mine)

    lab.until(lambda _: lab.client.run_on_scheduler(forget) == 0)
    assert remembered(lab) == (1, 0, 0)
    assert lab.info()["faults"] == 0


@pytest.mark.long
def test_what_is_not_ours_stays_as_dask_keeps_it(lab, model):
    with dask.annotate(span={"name": ("theirs",), "ids": ("theirs",)}):
        futures = [lab.client.submit(echo, [i], pure=False, key=f"theirs-{i}") for i in range(3)]
    wait(futures, timeout=LIMIT)
    for future in futures:
        future.release()
    for i in range(2 * ledger.ENVELOPES):
        lab.flow.submit(model, i)
    assert lab.flow.submit(model, "last").result(LIMIT).outputs == "last"

    def look(dask_scheduler):
        span = dask_scheduler.extensions["spans"].spans["theirs"]
        return len(span._metadata["collections"]), [group.name for group in span.groups]

    assert lab.client.run_on_scheduler(look) == (3, ["theirs"])


@pytest.mark.long
def test_connections_remember_few_messages(lab, model):
    assert lab.flow.submit(model, 1).result(LIMIT).outputs == 1
    # of the scheduler to its workers, and of the client to the scheduler
    lengths = lab.client.run_on_scheduler(
        lambda dask_scheduler: [
            stream.recent_message_log.maxlen for stream in dask_scheduler.stream_comms.values()
        ]
    )
    assert lengths == [ledger.MESSAGES] * 2
    assert lab.client.scheduler_comm.recent_message_log.maxlen == ledger.MESSAGES


@pytest.mark.parametrize(("was", "becomes"), [(1000, ledger.MESSAGES), (None, None), (3, 3)])
def test_a_log_is_shortened_and_never_lengthened_nor_where_all_is_to_be_kept(was, becomes):
    stream = SimpleNamespace(recent_message_log=deque(range(2), was))
    ledger.shorten(stream)
    assert (list(stream.recent_message_log), stream.recent_message_log.maxlen) == ([0, 1], becomes)
    ledger.shorten(None)


def test_keys_that_are_over_are_not_known_by_heart_for_ever():
    scheduler = SimpleNamespace(extensions={}, computations=[], task_groups={})
    for i in range(ledger.KEYS + 1):
        key_split(f"over-{i}")
    book = ledger.Ledger(scheduler)
    for _ in range(ledger.ENVELOPES):
        book.ended()
    assert key_split.cache_info().currsize == 0
