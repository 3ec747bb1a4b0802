"""What a host says to the scheduler plugin, on a connection of its own.

A batch may kill its worker. So what it holds is said, and handed to the system, before it is
predicted: Dask's own stream waits for some milliseconds, and would take it along into the grave.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

from distributed import Worker
from distributed.comm.core import Comm, connect

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
        self._flushes: set[asyncio.Task[None]] = set()
        self._soon = False
        self._closed = False
        self.lost = 0  # words that did not go

    async def open(self) -> None:
        """Connect, so that the first word need not."""
        worker = self._worker
        comm = await connect(worker.scheduler.address, **worker.connection_args)
        await comm.write({"op": OPERATION, "address": worker.address, "reply": False})
        self._comm = comm

    def say(self, word: str, **what: Any) -> None:
        """Send a word, some time soon."""
        self._gathered.append({"word": word, **what})
        if not self._soon and not self._closed:
            self._soon = True
            self._loop.call_soon_threadsafe(self._loop.call_later, GATHER, self._start)

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

    def _start(self) -> None:
        flush = self._loop.create_task(self._flush())
        self._flushes.add(flush)
        flush.add_done_callback(self._flushes.discard)

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

    def close(self) -> None:
        """Say no more; called on the worker's event loop."""
        self._closed = True
        if self._comm is not None:
            self._comm.abort()
