"""Choosing on a worker, for the rows of pipelines."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from altlas_flow.cluster.choosing import Choosing
from altlas_flow.cluster.connect import unwrapped
from altlas_flow.errors import ClusterLost, describe

if TYPE_CHECKING:
    from distributed import Worker

#: Seconds that the scheduler gets to answer.
LIMIT = 30.0


class WorkerLine:
    """How a worker that chooses reaches the scheduler; see `altlas_flow.cluster.choosing.Line`.

    Parameters
    ----------
    worker : distributed.Worker
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.loop: asyncio.AbstractEventLoop = worker.loop.asyncio_loop  # type: ignore[attr-defined]
        self.thread: int | None = None  # what runs on rows never runs on the event loop

    @property
    def closed(self) -> bool:
        """Whether the worker closes."""
        return bool(self._worker.status.name in ("closing", "closed", "failed"))

    def clock(self) -> float:
        """Seconds."""
        return time.monotonic()

    def tell(self, message: dict[str, Any]) -> None:
        """Send by the worker's stream."""
        self._worker.batched_send(message)

    def ask(self, operation: str, **arguments: Any) -> Any:
        """Ask, and wait.

        Raises
        ------
        AltlasError
        """

        async def asked() -> Any:
            return await asyncio.wait_for(self.asking(operation, **arguments), LIMIT)

        try:
            answer = asyncio.run_coroutine_threadsafe(asked(), self.loop).result(LIMIT + 5)
        except (OSError, TimeoutError, CancelledError) as gone:
            raise ClusterLost(
                f"the scheduler does not say what was learned ({describe(gone)}): see whether it runs"
            ) from gone
        return unwrapped(answer)

    def asking(self, operation: str, **arguments: Any) -> Awaitable[Any]:
        """Ask, on the worker's event loop."""
        asked: Awaitable[Any] = getattr(self._worker.scheduler, operation)(**arguments)
        return asked


_lock = threading.Lock()


def choosing_here() -> Choosing:
    """What chooses on the worker that runs the current task; made by the first who asks.

    Raises
    ------
    HostClosed
        Where the worker has no host.
    """
    from altlas_flow.cluster.worker.plugin import current_plugin

    plugin = current_plugin()
    with _lock:
        if plugin.choosing is None:
            assert plugin.worker is not None
            plugin.choosing = Choosing(WorkerLine(plugin.worker), quiet=True)  # its client has said it
        return plugin.choosing
