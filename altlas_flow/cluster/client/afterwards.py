"""`Afterwards`: what is told of requests once all who wait for them know.

Span exporters and log handlers are the user's, and may take their time: nobody's answer waits for them.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Callable
from typing import Any

#: Seconds for which the loop tells before it does something else.
SLICE = 0.005


class Afterwards:
    """Calls what it is given later, on an event loop, in the same order.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._due = False

    def tell(self, what: Callable[..., Any], *args: Any) -> None:
        """Call that when whatever the loop does now is done; from any thread."""
        self._waiting.append((what, args))
        if not self._due:
            self._due = True
            self._later()

    def all(self) -> None:
        """Call at once whatever waits."""
        while self._waiting:
            self._next()

    def _later(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._some, context=contextvars.Context())
        except RuntimeError:  # it is closed
            self._due = False
            self.all()

    def _some(self) -> None:
        self._due = False  # first: what comes from now on asks for another turn
        until = time.monotonic() + SLICE
        try:
            while self._waiting and time.monotonic() < until:
                self._next()
        finally:  # should one of them raise, the loop says so
            if self._waiting and not self._due:
                self._due = True
                self._later()

    def _next(self) -> None:
        try:
            what, args = self._waiting.popleft()
        except IndexError:
            return  # another thread was faster
        what(*args)
