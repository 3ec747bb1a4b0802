"""What there is already of answers that come piece by piece, said to those who listen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

from altlas_flow.models.watch import Watch

#: Seconds for which pieces of all requests are gathered: a token takes less.
PAUSE = 0.03


@dataclass
class _Listener:
    """Somebody who listens, and what has been said already."""

    watch: Watch
    row: int
    run: int = 0
    offset: int = 0


class Speaker:
    """Says the pieces that somebody listens to, and no others; may be used from any thread.

    Parameters
    ----------
    loop : asyncio event loop
        Of the worker.
    say : callable
        ``say(word, **what)`` sends a word to the scheduler plugin.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, say: Callable[..., Any]) -> None:
        self._loop, self._say = loop, say
        self._lock = Lock()
        self._listeners: dict[str, dict[int, _Listener]] = {}  # by envelope and request
        self._new: set[tuple[str, int]] = set()  # that have something to say
        self._soon = False

    def listen(self, key: str, request: int, watch: Watch, row: int) -> None:
        """Somebody listens: say what there is, and what comes."""
        with self._lock:
            self._listeners.setdefault(key, {})[request] = _Listener(watch, row)
        watch.pieces.listen(row, partial(self._notice, key, request))
        self._speak({(key, request)})

    def stop(self, key: str, request: int) -> None:
        """Nobody listens any more."""
        with self._lock:
            one = self._listeners.get(key, {}).pop(request, None)
        if one is not None:
            one.watch.pieces.listen(one.row, None)

    def forget(self, key: str) -> None:
        """An envelope is over: its answers have the rest."""
        with self._lock:
            self._listeners.pop(key, None)

    def _notice(self, key: str, request: int) -> None:
        """A piece has come, in the thread of its slot."""
        with self._lock:
            self._new.add((key, request))
            if self._soon:
                return
            self._soon = True
        with suppress(RuntimeError):  # the worker's loop has ended before its threads: nobody hears them
            self._loop.call_soon_threadsafe(self._loop.call_later, PAUSE, self._flush)

    def _flush(self) -> None:
        with self._lock:
            new, self._new = self._new, set()
            self._soon = False
        self._speak(new)

    def _speak(self, requests: set[tuple[str, int]]) -> None:
        with self._lock:  # also while they are said: in their order
            for key, request in requests:
                one = self._listeners.get(key, {}).get(request)
                piece = None if one is None else one.watch.pieces.read(one.row, one.run, one.offset)
                if one is not None and piece is not None:
                    one.run, one.offset = piece.run, piece.offset + len(piece.text)
                    self._say("piece", key=key, request=request, **piece._asdict())
