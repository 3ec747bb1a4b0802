"""What a worker says of answers in pieces: only to those who listen, all of it, and not too often."""

from __future__ import annotations

import asyncio
import threading

import pytest

from altlas_flow.cluster.worker.speaker import PAUSE, Speaker
from altlas_flow.models.watch import Watch
from tests.laboratory import LIMIT

pytestmark = pytest.mark.timeout(60)


class Said:
    """Words, and a wait for so many characters of a request."""

    def __init__(self):
        self.words, self.came = [], asyncio.Event()
        self.loop = asyncio.get_running_loop()
        self.speaker = Speaker(self.loop, self.say)

    def say(self, word, **what):
        assert word == "piece"
        self.words.append(what)
        self.loop.call_soon_threadsafe(self.came.set)

    def text(self, key="k", request=0):
        """What was said of a request, put together."""
        text, run = "", None
        for word in self.words:
            if (word["key"], word["request"]) == (key, request):
                if word["run"] != run or word["offset"] == 0:
                    text, run = "", word["run"]
                assert word["offset"] == len(text)
                text += word["text"]
        return text

    async def until(self, true):
        async with asyncio.timeout(LIMIT):
            while not true():
                self.came.clear()
                if not true():
                    await self.came.wait()


def test_who_listens_late_gets_what_there_is_and_then_what_comes():
    async def run():
        said, watch = Said(), Watch(2, "k")
        for row in (0, 1):
            watch.pieces.begin(row)
        watch.pieces.add(0, "ab")
        watch.pieces.add(1, "nobody listens")
        assert not said.words
        said.speaker.listen("k", 0, watch, 0)
        assert said.text() == "ab"
        await asyncio.to_thread(watch.pieces.add, 0, "cd")
        await said.until(lambda: said.text() == "abcd")
        assert {word["request"] for word in said.words} == {0}
        # somebody else, who has heard nothing yet
        said.speaker.listen("k", 0, watch, 0)
        assert said.words[-1] == {"key": "k", "request": 0, "run": 1, "offset": 0, "text": "abcd"}

    asyncio.run(run())


def test_a_row_that_is_begun_again_is_said_from_its_beginning():
    async def run():
        said, watch = Said(), Watch(1, "k")
        watch.pieces.begin(0)
        said.speaker.listen("k", 0, watch, 0)
        watch.pieces.add(0, "abc")
        await said.until(lambda: said.text() == "abc")
        watch.pieces.begin(0)
        watch.pieces.add(0, "x")
        await said.until(lambda: said.text() == "x")
        assert [(word["run"], word["offset"]) for word in said.words] == [(1, 0), (2, 0)]

    asyncio.run(run())


def test_many_pieces_of_many_requests_are_few_words():
    """However many tokens a second there are: one word of each request in a pause."""

    async def run():
        said, watch = Said(), Watch(3, "k")
        for row in range(3):
            said.speaker.listen("k", row, watch, row)
        began, count = said.loop.time(), 300

        def write():
            for _ in range(count):
                for row in range(3):
                    watch.pieces.add(row, "x")

        writers = [threading.Thread(target=write) for _ in range(2)]
        for writer in writers:
            writer.start()
        await asyncio.gather(*(asyncio.to_thread(writer.join) for writer in writers))
        await said.until(lambda: all(said.text("k", at) == "x" * 2 * count for at in range(3)))
        assert len(said.words) <= 3 * ((said.loop.time() - began) / PAUSE + 2)

    asyncio.run(run())


@pytest.mark.parametrize("how", ["stop", "forget"])
def test_nothing_is_said_once_nobody_listens_or_the_envelope_is_over(how):
    async def run():
        said, watch = Said(), Watch(2, "k")
        for row in (0, 1):
            said.speaker.listen("k", row, watch, row)
        watch.pieces.add(0, "a")
        if how == "stop":
            said.speaker.stop("k", 0)
        else:
            said.speaker.forget("k")
        watch.pieces.add(0, "b")
        said.speaker.listen("other", 0, watch, 1)
        watch.pieces.add(1, "the last word")
        await said.until(lambda: said.text("other") == "the last word")
        assert said.text() == ""

    asyncio.run(run())
