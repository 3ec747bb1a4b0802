"""What a host says to the scheduler plugin, on a connection of its own.

A batch may kill its worker. So what it holds is said, and handed to the system, before it is
predicted: Dask's own stream waits for some milliseconds, and would take it along into the grave.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future
from typing import Any

from distributed import Worker
from distributed.comm.core import Comm, connect

logger = logging.getLogger(__name__)

#: The operation on the scheduler that listens.
OPERATION = "altlas_words"
#: Seconds that a batch waits for its word to be on its way.
WORD_LIMIT = 0.5


class Words:
    """One connection from a worker to the plugin; may be used from any thread."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._loop: asyncio.AbstractEventLoop = worker.loop.asyncio_loop  # type: ignore[attr-defined]
        self._comm: Comm | None = None
        self._lock = asyncio.Lock()
        self._closed = False
        self.lost = 0  # words that did not go

    async def open(self) -> None:
        """Connect, so that the first word need not."""
        worker = self._worker
        comm = await connect(worker.scheduler.address, **worker.connection_args)
        await comm.write({"op": OPERATION, "address": worker.address, "reply": False})
        self._comm = comm

    def say(self, word: str, *, wait: bool = False, **what: Any) -> None:
        """Send a word; with `wait` not before it is handed to the system (or `WORD_LIMIT` is over)."""
        if self._closed:
            return
        sent = asyncio.run_coroutine_threadsafe(self._write({"word": word, **what}), self._loop)
        if not wait:
            return
        try:
            sent.result(WORD_LIMIT)
        except TimeoutError:
            self._count(sent)

    async def _write(self, message: dict[str, Any]) -> None:
        async with self._lock:
            try:
                if self._comm is None or self._comm.closed():
                    await self.open()
                assert self._comm is not None
                await self._comm.write(message)
            except OSError:
                # CommClosedError is one: the scheduler has gone, and this worker will notice
                self._comm = None
                self.lost += 1

    def _count(self, sent: Future[None]) -> None:
        self.lost += 1
        logger.warning("a word to the scheduler took longer than %s s", WORD_LIMIT)

    def close(self) -> None:
        """Say no more."""
        self._closed = True
        if self._comm is not None:
            self._comm.abort()
