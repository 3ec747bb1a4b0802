"""The referee: one thread that looks at answers as they arrive, for all that a flow has asked.

Answers arrive on the event loop of Dask's client, which must not run what people give as keys and
functions; nor may it wait for them. A function that takes its time holds up the other verdicts of its flow,
and nothing else.
"""

from __future__ import annotations

import logging
import threading
import weakref
from queue import SimpleQueue
from typing import TYPE_CHECKING

from altlas_flow.errors import ClusterLost

if TYPE_CHECKING:
    from altlas_flow.parallel.fanout import FanOut

logger = logging.getLogger(__name__)

#: A fan-out and which of its models is over; None ends the thread.
_Queue = SimpleQueue["tuple[FanOut, int] | None"]


class Referee:
    """Has answers looked at, one after the other, in a thread that begins with the first fan-out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: _Queue = SimpleQueue()
        self._open: set[FanOut] = set()
        self._thread: threading.Thread | None = None
        self._closed = False
        # of a flow that nobody has closed and nobody holds: the thread knows the queue alone
        weakref.finalize(self, self._queue.put, None).atexit = False

    @property
    def here(self) -> bool:
        """Whether this is its own thread, which must not wait for itself."""
        return threading.current_thread() is self._thread

    def enter(self, fanout: FanOut) -> None:
        """A fan-out begins.

        Raises
        ------
        ClusterLost
            Where the flow is closed.
        """
        with self._lock:
            if self._closed:
                raise ClusterLost("the flow was closed: connect and ask again")
            self._open.add(fanout)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=_look, args=(self._queue,), name="altlas-referee", daemon=True
                )
                self._thread.start()

    def leave(self, fanout: FanOut) -> None:
        """A fan-out is over."""
        with self._lock:
            self._open.discard(fanout)

    def tell(self, fanout: FanOut, at: int) -> None:
        """One of its models is over; called by whichever thread has ended the request."""
        self._queue.put((fanout, at))

    def close(self) -> None:
        """End what is under way, and the thread; may be called twice."""
        with self._lock:
            self._closed = True
            left, self._open = self._open, set()
        for fanout in left:
            fanout.end(ClusterLost("the flow was closed before the answers came: connect and ask again"))
        self._queue.put(None)


def _look(queue: _Queue) -> None:
    while (arrived := queue.get()) is not None:
        fanout, at = arrived
        fanout.look(at)
        del arrived, fanout  # or the last one would live until the next comes
