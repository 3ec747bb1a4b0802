"""`Afterwards`: what is told of requests once all who wait for them know, by a thread of its own.

Span processors, exporters and log handlers are the user's, and may take their time: neither an answer nor the
event loop waits for them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

logger = logging.getLogger(__name__)

#: What waits at most: where telling is slower than asking for as long as that, what is newer is left out.
MOST = 10_000
#: Seconds after which the thread ends where there is nothing to tell; the next thing gets another one.
IDLE = 2.0


class Afterwards:
    """Calls what it is given later, one after the other, in the same order.

    Parameters
    ----------
    most : int
        Calls that may wait.

    Attributes
    ----------
    lost : int
        Calls that were left out, as so many waited already.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._waiting: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._thread: threading.Thread | None = None
        self.lost = 0

    @property
    def waiting(self) -> int:
        """Calls that were not made yet, the one under way included."""
        return len(self._waiting) + self._busy

    def tell(self, what: Callable[..., Any], *args: Any) -> None:
        """Have that called; from any thread, and without waiting for anything."""
        with self._changed:
            if len(self._waiting) < self._most:
                self._waiting.append((what, args))
            else:
                self.lost += 1
                if self.lost == 1:
                    self._waiting.append((self._complain, ()))
            self._begin()
            self._changed.notify_all()

    def flush(self, limit: float) -> bool:
        """Wait until all is told; False where that takes longer than so many seconds."""
        if threading.current_thread() is self._thread:
            return False  # it cannot wait for itself
        with self._changed:
            self._begin()
            if self._thread is None:  # none could be started: nobody would tell it
                return not self.waiting
            return self._changed.wait_for(lambda: not self.waiting, limit)

    def _begin(self) -> None:
        if self._thread is not None or not self._waiting:
            return
        thread = threading.Thread(target=self._run, name="altlas-afterwards", daemon=True)
        with suppress(RuntimeError):  # there are too many now: whatever is told next tries again
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        while True:
            with self._changed:
                until = time.monotonic() + IDLE
                while not self._waiting:
                    left = until - time.monotonic()
                    if left <= 0:
                        self._thread = None
                        return
                    self._changed.wait(left)
                what, args = self._waiting.popleft()
                self._busy = True
            try:
                what(*args)
            except BaseException:
                # also what ends programs: it would end this thread alone, and what waits with it
                with suppress(BaseException):  # of the user's log handlers
                    logger.exception("something could not be told of a request")
            finally:
                del what, args  # or what was told last would live until the next one
                with self._changed:
                    self._busy = False
                    if not self._waiting:
                        self._changed.notify_all()

    def _complain(self) -> None:
        logger.warning(
            "spans and log lines come sooner than they are taken: what is newer is left out while %d wait; "
            "use a BatchSpanProcessor, or a faster log handler",
            self._most,
        )
