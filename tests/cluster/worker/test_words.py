"""The connection on which a host speaks: closed with it, after its last word, in anybody's process."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace

import pytest
from distributed import Client, LocalCluster

import altlas_flow as af
from altlas_flow.cluster.worker import words
from altlas_flow.cluster.worker.words import Words
from tests.cluster.stages import echo, model
from tests.laboratory import LIMIT, until

pytestmark = pytest.mark.timeout(60)


class Line:
    """A connection: what was written on it; one that is deaf takes nothing."""

    def __init__(self, deaf=False):
        self.written, self.deaf, self.ended = [], deaf, False

    async def write(self, said):
        if self.deaf:
            await asyncio.Event().wait()
        self.written += [word["word"] for word in said]

    async def close(self):
        self.abort()

    def abort(self):
        self.ended = True

    def closed(self):
        return self.ended


def words_on(line, loop):
    made = Words(SimpleNamespace(loop=SimpleNamespace(asyncio_loop=loop)))
    made._comm = line
    return made


async def ended(line):
    async with asyncio.timeout(LIMIT):
        while not line.ended:
            await asyncio.sleep(0.001)


def test_what_was_said_goes_before_the_end_and_nothing_after_it():
    async def say():
        line = Line()
        made = words_on(line, asyncio.get_running_loop())
        made.say("before")
        made.close()
        await ended(line)
        made.say("after")
        await asyncio.to_thread(made.say_now, "after")
        await asyncio.sleep(2 * words.GATHER)  # as long as words are gathered
        assert line.written == ["before"]

    asyncio.run(say())


def test_a_scheduler_that_does_not_listen_holds_nobody_up(monkeypatch, caplog):
    monkeypatch.setattr(words, "WORD_LIMIT", 0.05)

    async def say():
        line = Line(deaf=True)
        made = words_on(line, asyncio.get_running_loop())
        made.say("before")
        made.close()
        await ended(line)

    asyncio.run(say())
    assert not caplog.records


def test_what_is_said_when_the_workers_loop_has_ended_is_dropped():
    loop, line = asyncio.new_event_loop(), Line()
    made = words_on(line, loop)
    loop.close()
    made.say("late")
    made.close()
    assert line.written == []


@pytest.mark.long
def test_a_host_says_its_last_word_before_its_connection_closes(caplog):
    heard = []
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=False,
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
        af.connect(client) as flow,
    ):
        flow.submit(model(echo), 1).result(LIMIT)
        hearing = cluster.scheduler.plugins["altlas-control"].hearing
        hear = hearing._hear
        hearing._hear = lambda address, **said: (heard.append((address, said)), hear(address, **said))
        (worker,) = (w for w in cluster.workers.values() if w.plugins["altlas-host"].host.shelf.loaded())
        spoken, address = worker.plugins["altlas-host"].words, worker.address
        over = hearing._heard[address]
        with caplog.at_level(logging.WARNING):
            client.retire_workers([address])
            until(lambda: spoken._comm.closed() and over.is_set())
        # that its model has gone
        assert heard[-1][0] == address
        assert heard[-1][1]["word"] == "model" and heard[-1][1]["bytes"] is None
        assert not [record for record in caplog.records if record.name.startswith("altlas")]
        assert flow.submit(model(echo), 2).result(LIMIT).outputs == 2
