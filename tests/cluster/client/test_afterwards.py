"""What is told afterwards: in order, all of it, and other work of the loop goes on between."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from altlas_flow.cluster.client.afterwards import SLICE, Afterwards

LIMIT = 30


@pytest.mark.asyncio
async def test_it_is_told_in_order_once_the_callback_is_over():
    told, over = [], asyncio.Event()
    after = Afterwards(asyncio.get_running_loop())
    for number in range(10):
        after.tell(told.append, number)
    after.tell(over.set)
    assert told == []
    await asyncio.wait_for(over.wait(), LIMIT)
    assert told == list(range(10))
    after.tell(told.append, "at once")
    after.all()
    assert told[-1] == "at once"


@pytest.mark.asyncio
async def test_the_loop_does_other_things_between():
    loop, told, seen = asyncio.get_running_loop(), [], []
    after, over = Afterwards(loop), asyncio.Event()

    def slow(number):
        time.sleep(SLICE)  # as an exporter that writes to a disk
        told.append(number)

    for number in range(5):
        after.tell(slow, number)
    after.tell(over.set)
    while not over.is_set():
        seen.append(len(told))
        await asyncio.sleep(0)
    assert told == list(range(5)) and set(seen) >= {1, 2, 3, 4}


@pytest.mark.asyncio
async def test_what_raises_keeps_nothing_else_from_being_told():
    loop, told, faults = asyncio.get_running_loop(), [], []
    loop.set_exception_handler(lambda loop, what: faults.append(what["exception"]))
    after, over = Afterwards(loop), asyncio.Event()
    after.tell([].pop)
    after.tell(told.append, 1)
    after.tell(over.set)
    await asyncio.wait_for(over.wait(), LIMIT)
    assert told == [1] and [type(fault) for fault in faults] == [IndexError]


@pytest.mark.asyncio
async def test_other_threads_may_tell_too_and_all_is_told_once():
    loop, told = asyncio.get_running_loop(), []
    after = Afterwards(loop)

    def tell(name):
        for number in range(500):
            after.tell(told.append, (name, number))

    threads = [threading.Thread(target=tell, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    await asyncio.wait_for(
        asyncio.gather(*[asyncio.to_thread(thread.join, LIMIT) for thread in threads]), LIMIT
    )
    over = asyncio.Event()
    after.tell(over.set)
    await asyncio.wait_for(over.wait(), LIMIT)
    for name in "abcd":
        assert [number for one, number in told if one == name] == list(range(500))


def test_where_the_loop_is_closed_it_is_told_at_once():
    loop, told = asyncio.new_event_loop(), []
    loop.close()
    after = Afterwards(loop)
    after.tell(told.append, 1)
    after.tell(told.append, 2)
    assert told == [1, 2]
