"""Writing behind: in order, in batches, and what fails is said and counted."""

from __future__ import annotations

import threading

import pytest

from altlas_flow.errors import HistoryError
from altlas_flow.history.store import Store
from altlas_flow.history.writer import Writer
from tests.history.test_store import row

LIMIT = 30


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history.sqlite"


def test_what_was_put_is_there_when_it_is_asked_for(path):
    writer = Writer(lambda: Store(path))
    for start in range(0, 1000, 10):
        writer.put(10, lambda start=start: [row(n) for n in range(start, start + 10)])
    found, _ = writer.ask(lambda store: store.read(limit=2000)).result(LIMIT)
    assert [int(one[0], 16) for _, one in found] == list(range(999, -1, -1))
    assert (writer.written, writer.dropped, writer.fault) == (1000, 0, "")
    writer.close()


def test_closing_writes_what_waits(path):
    opens, goes = threading.Event(), threading.Event()

    def slow():
        opens.set()
        assert goes.wait(LIMIT)
        return Store(path)

    writer = Writer(slow)
    assert opens.wait(LIMIT)
    for n in range(500):
        writer.put(1, lambda n=n: [row(n)])
    goes.set()
    writer.close()
    store = Store(path)
    assert store.count() == 500
    store.close()


def test_what_cannot_be_opened_is_said_to_whoever_asks_and_costs_nothing_else(tmp_path):
    (tmp_path / "file").touch()
    said = []
    writer = Writer(lambda: Store(tmp_path / "file" / "history.sqlite"), said.append)
    writer.put(3, lambda: [row(n) for n in range(3)])
    with pytest.raises(HistoryError, match="there is no history"):
        writer.ask(lambda store: store.count()).result(LIMIT)
    assert writer.dropped == 3
    assert said == []
    writer.close()


def test_rows_that_cannot_be_made_do_not_keep_others_out(path):
    writer = Writer(lambda: Store(path))
    writer.put(1, lambda: [row(1)])
    writer.put(1, lambda: 1 / 0)
    writer.put(1, lambda: [row(2)])
    assert writer.ask(lambda store: store.count()).result(LIMIT) == 2
    assert "ZeroDivisionError" in writer.fault
    writer.close()


def test_a_row_that_is_none_costs_the_others_nothing(path):
    writer = Writer(lambda: Store(path))
    writer.put(3, lambda: [row(1), (2**80,) * len(row(1)), row(2)])
    assert writer.ask(lambda store: store.count()).result(LIMIT) == 2
    assert (writer.written, writer.dropped) == (2, 1)
    writer.close()


def test_what_a_full_disk_does_not_take_is_written_once_there_is_room(path, monkeypatch):
    writer = Writer(lambda: Store(path))
    full = [OSError(28, "No space left on device")]
    add = Store.add

    def fails_once(store, rows):
        if full:
            raise full.pop()
        add(store, rows)

    monkeypatch.setattr(Store, "add", fails_once)
    writer.put(1, lambda: [row(1)])
    assert writer.ask(lambda store: store.count()).result(LIMIT) == 0
    writer.put(1, lambda: [row(2)])
    assert writer.ask(lambda store: store.count()).result(LIMIT) == 2
    assert (writer.written, writer.dropped) == (2, 0)
    assert "No space left" in writer.fault
    writer.close()


def test_beyond_a_bound_what_waits_is_dropped_and_counted(path, monkeypatch):
    monkeypatch.setattr("altlas_flow.history.writer.WAITING", 100)
    goes = threading.Event()

    def slow():
        assert goes.wait(LIMIT)
        return Store(path)

    writer = Writer(slow)
    for start in range(0, 500, 50):
        writer.put(50, lambda start=start: [row(n) for n in range(start, start + 50)])
    goes.set()
    assert writer.ask(lambda store: store.count()).result(LIMIT) == 100
    assert writer.dropped == 400
    writer.put(50, lambda: [row(n) for n in range(50)])
    assert writer.ask(lambda store: store.count()).result(LIMIT) == 150
    writer.close()
