"""Writing behind, with a keeper that is a program: in order, in batches; what fails is said and counted."""

from __future__ import annotations

import threading

import pytest

from altlas_flow.errors import HistoryError
from altlas_flow.history.store import Store
from altlas_flow.history.writer import Writer
from tests.history.parts import part, prompt

LIMIT = 30
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history.sqlite"


@pytest.fixture
def writer(path):
    made = Writer(path)
    yield made
    made.close()


def test_what_was_put_is_there_when_it_is_asked_for(writer):
    for start in range(0, 1000, 10):
        writer.put(part(range(start, start + 10)))
    found, bad = writer.ask("read", limit=2000).result(LIMIT)
    assert [int(one[0], 16) for _, one in found] == list(range(999, -1, -1)) and not bad
    assert writer.ask("find", task_id=f"{7:032x}").result(LIMIT) == next(part([7]).rows())
    assert writer.ask("find", task_id="nobody").result(LIMIT) is None
    assert (writer.written, writer.dropped, writer.fault) == (1000, 0, "")


def test_closing_writes_what_waits(path):
    writer = Writer(path)  # its keeper is not there yet
    for start in range(0, 50_000, 500):
        writer.put(part(range(start, start + 500)))
    writer.close()
    assert (writer.written, writer.keeper) == (50_000, None)
    store = Store(path)
    assert store.count() == 50_000
    store.close()
    writer.put(part([1]))
    writer.close()
    assert writer.dropped == 1
    with pytest.raises(HistoryError, match="closed"):
        writer.ask("count").result(LIMIT)


def test_what_cannot_be_opened_is_said_to_whoever_asks_and_costs_nothing_else(tmp_path):
    (tmp_path / "file").touch()
    said = []
    writer = Writer(tmp_path / "file" / "history.sqlite", said.append)
    writer.put(part(range(3)))
    with pytest.raises(HistoryError, match=r"there is no history: .*cannot be written") as caught:
        writer.ask("count").result(LIMIT)
    assert "\n" not in str(caught.value)
    assert writer.dropped == 3 and "cannot be written" in writer.fault
    writer.close()
    assert said == [""]


def test_a_program_that_cannot_be_started_is_said_to_whoever_asks(path, monkeypatch):
    monkeypatch.setattr("altlas_flow.history.courier.AGAIN", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr("altlas_flow.history.child.sys.executable", str(path / "python"))
        writer = Writer(path)
        with pytest.raises(HistoryError, match="there is no history: no program can be started"):
            writer.ask("count").result(LIMIT)
        writer.put(part(range(3)))
    assert writer.ask("count").result(LIMIT) == 3  # there is one now
    writer.close()


@pytest.mark.parametrize(
    "columns",
    [
        {"submitted": [0.1]},
        {"tries": "many"},
        {"ended": float("nan")},
        {"node": object()},
        {"model": None, "started": 3},
    ],
)
def test_what_clients_sent_may_be_anything_and_does_not_keep_others_out(writer, columns):
    writer.put(part(range(1)))
    writer.put(part(range(5, 7), **columns))
    writer.put(part(range(2, 3)))
    assert writer.ask("count").result(LIMIT) == 2
    assert "tasks could not be taken down" in writer.fault
    assert (writer.written, writer.dropped) == (2, 2)


def test_a_row_that_is_none_costs_the_others_nothing(writer):
    writer.put(part(range(3), tries=[1, 2**80, 1]))
    assert writer.ask("count").result(LIMIT) == 2
    assert (writer.written, writer.dropped) == (2, 1)


def test_a_question_that_is_none_costs_nothing_else(writer):
    with pytest.raises(HistoryError):
        writer.ask("read", limit=object()).result(LIMIT)
    with pytest.raises(HistoryError, match="no question"):
        writer.ask("close").result(LIMIT)
    with pytest.raises(HistoryError, match="too large"):
        writer.ask("read", limit=1, before=2**80).result(LIMIT)
    assert writer.ask("count").result(LIMIT) == 0


def test_beyond_a_bound_what_waits_is_dropped_and_counted(path, monkeypatch):
    monkeypatch.setattr("altlas_flow.history.inbox.WAITING", 100)
    opens, goes = threading.Event(), threading.Event()

    def opened(said):
        opens.set()
        assert goes.wait(LIMIT)

    writer = Writer(path, opened)
    assert opens.wait(LIMIT)  # and its thread is held
    for start in range(0, 500, 50):
        writer.put(part(range(start, start + 50)))
    goes.set()
    assert writer.ask("count").result(LIMIT) == 100
    assert writer.dropped == 400
    writer.put(part(range(50)))
    assert writer.ask("count").result(LIMIT) == 150
    writer.close()


def test_nobody_has_to_ask_for_it_to_be_written(path, writer):
    writer.ask("count").result(LIMIT)
    writer.put(part(range(10)))
    assert prompt(lambda: writer.written == 10)
