"""What Dask remembers of tasks that are over, kept small.

Its scheduler keeps spans, and each task group in them, for ever (dask/distributed issue 7977): some 4 kB for
each lone task, which a scheduler that serves requests for weeks does not have. Its connections
keep their last 1,000 messages, each of up to 1 MB, for whoever debugs them; and a cache keeps the last
100,000 keys.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from dask.utils import key_split

from altlas_flow.cluster.keys import PASSAGE, REQUEST, SPAN

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.batched import BatchedSend

#: Messages that a connection remembers.
MESSAGES = 16
#: Envelopes that end between two looks.
ENVELOPES = 256
#: Keys whose groups Dask may know by heart.
KEYS = 10_000
#: Annotation that puts a task into the span of all requests.
IN_SPAN = {"name": (SPAN,), "ids": (SPAN,)}


def shorten(stream: BatchedSend | None) -> None:
    """Let a connection remember its last few messages only; all of them where Dask is set to keep all."""
    log = getattr(stream, "recent_message_log", None)
    if isinstance(log, deque) and log.maxlen is not None and log.maxlen > MESSAGES:
        stream.recent_message_log = deque(log, MESSAGES)  # type: ignore[union-attr]


class Ledger:
    """Forgets, on the scheduler, what Dask keeps of envelopes that are over."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler, self._ended = scheduler, 0

    def ended(self) -> None:
        """An envelope is over."""
        self._ended += 1
        if self._ended % ENVELOPES == 0:
            self.forget()

    def forget(self) -> None:
        """Drop the task groups that are over, and all but one of many equal notes on graphs."""
        spans: Any = self._scheduler.extensions.get("spans")
        span = spans.spans.get(SPAN) if spans is not None else None
        if span is not None:
            span.groups.difference_update([group for group in span.groups if self._over(group)])
            notes = (span._metadata or {}).get("collections")
            if notes:
                del notes[1:]
        if key_split.cache_info().currsize > KEYS:
            key_split.cache_clear()
        for computation in self._scheduler.computations:
            computation.groups.difference_update([group for group in computation.groups if self._over(group)])

    def _over(self, group: Any) -> bool:
        mine = str(group.name).startswith((REQUEST.rstrip("-"), PASSAGE.rstrip("-")))
        return mine and self._scheduler.task_groups.get(group.name) is not group
