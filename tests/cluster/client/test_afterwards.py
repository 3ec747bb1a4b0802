"""What is told afterwards: in order, all of it, by a thread that neither keeps anybody nor stays."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref

import pytest

from altlas_flow.cluster.client import afterwards
from altlas_flow.cluster.client.afterwards import Afterwards

LIMIT = 30


@pytest.fixture
def said(monkeypatch):
    """What is logged, whatever other tests have done to loggers."""
    logger, kept = logging.Logger("tests"), []
    logger.addFilter(kept.append)
    monkeypatch.setattr(afterwards, "logger", logger)
    return kept


def test_it_is_told_in_order_by_another_thread():
    told, after = [], Afterwards()
    for number in range(1000):
        after.tell(told.append, number)
    after.tell(lambda: told.append(threading.current_thread().name))
    assert after.flush(LIMIT)
    assert told == [*range(1000), "altlas-afterwards"] and after.waiting == 0


def test_nobody_waits_while_it_is_told_but_who_wants_to():
    told, free, after = [], threading.Event(), Afterwards()
    after.tell(free.wait, LIMIT)
    after.tell(told.append, 1)
    assert not after.flush(0.01) and told == [] and after.waiting == 2
    free.set()
    assert after.flush(LIMIT) and told == [1]


def test_who_tells_may_flush_without_waiting_for_itself():
    said, after = [], Afterwards()
    after.tell(lambda: said.append(after.flush(LIMIT)))
    assert after.flush(LIMIT) and said == [False]


def test_what_raises_keeps_nothing_else_from_being_told(said):
    told, after = [], Afterwards()
    after.tell([].pop)
    after.tell(told.append, 1)
    assert after.flush(LIMIT) and told == [1]
    (line,) = said
    assert line.levelno == logging.ERROR and line.exc_info[0] is IndexError


def test_what_would_end_a_program_keeps_nothing_else_from_being_told(said):
    def leave():
        raise SystemExit

    told, after = [], Afterwards()
    after.tell(leave)
    after.tell(told.append, 1)
    assert after.flush(LIMIT) and told == [1]
    (line,) = said
    assert line.exc_info[0] is SystemExit


def test_where_no_thread_can_be_started_nobody_waits_for_it(monkeypatch):
    def full(thread):
        raise RuntimeError("can't start new thread")

    told, after = [], Afterwards()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", full)
        after.tell(told.append, 1)
        began = time.monotonic()
        assert not after.flush(LIMIT) and after.waiting == 1
    assert time.monotonic() - began < LIMIT / 2
    assert after.flush(LIMIT) and told == [1]


def test_where_no_thread_can_be_started_the_next_time_tells_all(monkeypatch):
    def full(thread):
        raise RuntimeError("can't start new thread")

    told, after = [], Afterwards()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", full)
        after.tell(told.append, 1)
    assert after.waiting == 1
    assert after.flush(LIMIT) and told == [1]


def test_what_waits_for_a_thread_is_told_also_where_no_more_may_wait(monkeypatch, said):
    told, after = [], Afterwards(most=2)
    monkeypatch.setattr(afterwards, "IDLE", 0.0)
    with monkeypatch.context() as patched:
        patched.setattr(Afterwards, "_begin", lambda after: None)  # as where threads are too many
        for number in range(5):
            after.tell(told.append, number)
    after.tell(told.append, 5)
    assert after.flush(LIMIT) and told == [0, 1] and after.lost == 4 and len(said) == 1


def test_many_threads_may_tell_and_all_is_told_once():
    told, after = [], Afterwards()

    def tell(name):
        for number in range(500):
            after.tell(told.append, (name, number))

    threads = [threading.Thread(target=tell, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert after.flush(LIMIT)
    for name in "abcd":
        assert [number for one, number in told if one == name] == list(range(500))


def test_what_waits_is_bounded_and_what_is_left_out_is_said_once(said):
    told, free, after = [], threading.Event(), Afterwards(most=10)
    begun = threading.Event()
    after.tell(begun.set)
    after.tell(free.wait, LIMIT)
    assert begun.wait(LIMIT)
    for number in range(100):
        after.tell(told.append, number)
    assert after.waiting <= 12
    free.set()
    assert after.flush(LIMIT)
    assert told == list(range(len(told))) and 9 <= len(told) <= 10 and after.lost == 100 - len(told)
    (line,) = said
    assert "BatchSpanProcessor" in line.getMessage()


def test_nothing_is_kept_once_it_is_told_and_the_thread_ends(monkeypatch):
    monkeypatch.setattr(afterwards, "IDLE", 0.05)

    class Heavy:
        pass

    after, heavy = Afterwards(), Heavy()
    gone = weakref.ref(heavy)
    threads = []
    after.tell(lambda heavy: threads.append(threading.current_thread()), heavy)
    del heavy
    assert after.flush(LIMIT)
    gc.collect()
    assert gone() is None
    threads[0].join(LIMIT)
    assert not threads[0].is_alive()
    after.tell(threads.append, 1)  # and another one takes its place
    assert after.flush(LIMIT) and threads[1:] == [1]
