"""What a host says to the scheduler plugin, on a connection of its own.

A batch may kill its worker. So what it holds is said, and handed to the system, before it is
predicted: Dask's own stream waits for some milliseconds, and would take it along into the grave.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from distributed import Worker
from distributed.comm.core import Comm, CommClosedError, connect

logger = logging.getLogger(__name__)

#: The operation on the scheduler that listens.
OPERATION = "altlas_words"
#: Seconds that a batch waits for its word to be on its way.
WORD_LIMIT = 2.0
#: Seconds for which words that nobody waits for are gathered.
GATHER = 0.01


class Words:
    """One connection from a worker to the plugin; may be used from any thread."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._loop: asyncio.AbstractEventLoop = worker.loop.asyncio_loop  # type: ignore[attr-defined]
        self._comm: Comm | None = None
        self._lock = asyncio.Lock()
        self._gathered: deque[dict[str, Any]] = deque()  # any thread appends
        self._steps: set[asyncio.Task[None]] = set()
        self._soon = False
        self._closed = False
        self.lost = 0  # words that did not go

    async def open(self) -> None:
        """Connect, so that the first word need not."""
        worker = self._worker
        comm = await connect(worker.scheduler.address, **worker.connection_args)
        if self._closed:
            comm.abort()
            raise CommClosedError("the worker has closed meanwhile")
        await comm.write({"op": OPERATION, "address": worker.address, "reply": False})
        self._comm = comm

    def say(self, word: str, **what: Any) -> None:
        """Send a word, some time soon; none after `close`."""
        if self._closed:
            return
        self._gathered.append({"word": word, **what})
        if not self._soon:
            self._soon = True
            self._on_loop(self._loop.call_later, GATHER, self._start, self._flush)

    def say_now(self, word: str, **what: Any) -> bool:
        """Send a word; return when it is handed to the system, or `WORD_LIMIT` is over: whether it is."""
        if self._closed:
            return False
        self._gathered.append({"word": word, **what})
        sent = asyncio.run_coroutine_threadsafe(self._flush(), self._loop)
        try:
            sent.result(WORD_LIMIT)
        except TimeoutError:
            logger.warning("a word to the scheduler took longer than %s s", WORD_LIMIT)
            return False
        return True

    def close(self) -> None:
        """Send what was said, and nothing after that; does not wait for it."""
        self._on_loop(self._start, self._end)

    def _on_loop(self, function: Callable[..., object], *args: Any) -> None:
        with suppress(RuntimeError):  # the worker's loop has ended before its threads: nobody hears them
            self._loop.call_soon_threadsafe(function, *args)

    def _start(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = self._loop.create_task(step())
        self._steps.add(task)
        task.add_done_callback(self._steps.discard)

    async def _flush(self) -> None:
        async with self._lock:
            self._soon = False
            words = []
            while self._gathered:
                words.append(self._gathered.popleft())
            if not words or self._closed:
                return
            for _ in range(2):
                try:
                    if self._comm is None or self._comm.closed():
                        await self.open()
                    assert self._comm is not None
                    await self._comm.write(words)
                except OSError:
                    self._comm = None  # CommClosedError is one: once more, on a new connection
                else:
                    return
            self.lost += len(words)  # the scheduler has gone, and this worker will notice

    async def _end(self) -> None:
        try:
            async with asyncio.timeout(WORD_LIMIT):
                if self._comm is not None and not self._comm.closed():
                    await self._flush()
                self._closed = True
                if self._comm is not None:
                    await self._comm.close()  # what was written goes first
        except (OSError, TimeoutError):
            self.lost += 1  # the scheduler has gone as well, or does not listen
        finally:
            self._closed = True
            if self._comm is not None:
                self._comm.abort()
