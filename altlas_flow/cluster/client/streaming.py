"""Streaming: the answer to a request, piece by piece, while it is made."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any

from altlas_flow.cluster.worker.plugin import LISTEN
from altlas_flow.errors import BadRequest, StreamBroken

if TYPE_CHECKING:
    from altlas_flow.cluster.client.handle import Handle
    from altlas_flow.cluster.client.lanes import Flight

#: Stands for the try that was answered.
ANSWER = "the answer"


class Stream:
    """The text of an answer, piece by piece: ``for piece in stream``, or ``async for piece in stream``.

    All pieces together are the answer's outputs. Each iteration begins at the beginning, whenever it is
    begun, and ends with the request: with the rest of the answer, or by raising its error. What does not
    come piece by piece comes as one. Whoever leaves an iteration, or closes its iterator, gives up listening;
    the request goes on.

    Where a request had to be begun again elsewhere, an iteration goes on where it was, as long as the
    text begins as it did.

    Raises
    ------
    StreamBroken
        Where it does not: tokens were drawn without a seed.
    BadRequest
        Where the answer is no text.
    """

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def __iter__(self) -> Generator[str, None, None]:
        """Wait for each piece, in this thread."""
        self._handle._transport.check_process()
        if threading.get_ident() == self._handle._transport.thread:
            raise BadRequest("streaming on the client's own event loop would never end: use async for")
        changed = threading.Event()
        return self._blocking(Ear(self._handle, changed.set), changed)

    def _blocking(self, ear: Ear, changed: threading.Event) -> Generator[str, None, None]:
        with ear:
            while True:
                changed.clear()
                piece, over = ear.take()
                if piece:
                    yield piece
                elif over:
                    return
                else:
                    changed.wait()  # for the request's own end at the latest

    async def __aiter__(self) -> AsyncGenerator[str, None]:
        """Await each piece, on any event loop."""
        self._handle._transport.check_process()
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # that loop is closed, and nobody waits in it
                loop.call_soon_threadsafe(changed.set)

        with Ear(self._handle, wake) as ear:
            while True:
                changed.clear()
                piece, over = ear.take()
                if piece:
                    yield piece
                elif over:
                    return
                else:
                    await changed.wait()

    def __repr__(self) -> str:
        return f"<Stream of {self._handle!r}>"


class Ear:
    """One iteration's: what it has heard, and what of that it has passed on.

    Parameters
    ----------
    handle : Handle
    wake : callable
        Called, in any thread, when there is something new.
    """

    def __init__(self, handle: Handle, wake: Callable[[], None]) -> None:
        self.handle, self._wake = handle, wake
        self._lock = threading.Lock()
        self._try: Any = None  # the envelope, and the time that its worker predicts the row
        self._text = self._passed = ""
        self._whole = False  # whether all of the try was heard so far; else it is asked for
        self._agreed: Any = None  # the try whose text begins with what was passed on

    def __enter__(self) -> Ear:
        transport = self.handle._transport
        if transport.when_over(self.handle, self._wake):
            transport.listen(self)
        return self

    def __exit__(self, *exc: object) -> None:
        transport = self.handle._transport
        transport.forget(self.handle, self._wake)
        transport.unlisten(self)

    def hear(self, run: Any, offset: int, text: str) -> bool:
        """Take a piece; False where something before it is missing, and is to be asked for."""
        with self._lock:
            if run != self._try and offset == 0:
                self._try, self._text = run, ""
            elif run != self._try or offset > len(self._text):
                asked, self._whole = not self._whole, False
                return asked
            self._whole = True
            self._text += text[len(self._text) - offset :]
        self._wake()
        return True

    def take(self) -> tuple[str, bool]:
        """What is to be passed on now, maybe nothing; and whether the request is over, and nothing comes.

        Raises
        ------
        StreamBroken, BadRequest
        AltlasError
            The request's.
        """
        over = self.handle.done()
        with self._lock:
            if over:
                self._end()
            self._compare(over)
            piece = self._text[len(self._passed) :]
            self._passed += piece
            return piece, over

    def _end(self) -> None:
        """The answer, in place of what was heard of it; or the error, once what was heard is passed on."""
        rest = self._text.startswith(self._passed) and self._text != self._passed
        if self.handle._error is not None and rest:
            return
        text = self.handle._outcome().outputs
        if not isinstance(text, str):
            raise BadRequest(
                f"model {self.handle.model_id!r} answers with a {type(text).__name__}, and only texts come "
                "in pieces: use result()"
            )
        self._text, self._try = text, ANSWER

    def _compare(self, over: bool) -> None:
        """See that what was passed on is how the text begins."""
        if self._agreed == self._try:
            return
        size = min(len(self._text), len(self._passed))
        if self._text[:size] != self._passed[:size] or (over and size < len(self._passed)):
            raise StreamBroken(
                f"request {self.handle.request_id} was begun again, and its text is another one than what "
                "was streamed: use result(), and give a seed where tokens are drawn"
            )
        if size == len(self._passed):
            self._agreed = self._try


class Listening:
    """Tells workers what is listened to, and hears them; all on the client's event loop.

    Parameters
    ----------
    tell : callable
        Sends a message to the scheduler plugin.
    flights : mapping
        Envelopes under way, by key.
    """

    def __init__(self, tell: Callable[[dict[str, Any]], None], flights: Mapping[str, Flight]) -> None:
        self._tell, self._flights = tell, flights
        self._ears: dict[Handle, list[Ear]] = {}

    def open(self, ear: Ear) -> None:
        """Somebody listens."""
        if not ear.handle.done():
            self._ears.setdefault(ear.handle, []).append(ear)
            self._ask(ear.handle)

    def close(self, ear: Ear) -> None:
        """Somebody listens no more."""
        ears = self._ears.get(ear.handle, [])
        if ear in ears:
            ears.remove(ear)
            if not ears:
                del self._ears[ear.handle]
                self._ask(ear.handle, on=False)

    def began(self, key: str) -> None:
        """Members of an envelope run: what is listened to of it, its worker is told."""
        flight = self._flights.get(key) if self._ears else None
        if flight is not None:
            for handle in flight.handles:
                if handle in self._ears:
                    self._ask(handle)

    def heard(self, key: str, request: int, run: int, offset: int, text: str, **more: Any) -> None:
        """A worker says a piece."""
        flight = self._flights.get(key) if self._ears else None
        if flight is None:
            return
        handle = flight.handles[request]
        whole = [ear.hear((key, run), offset, text) for ear in self._ears.get(handle, ())]
        if not all(whole):
            self._ask(handle)

    def _ask(self, handle: Handle, *, on: bool = True) -> None:
        """Tell the worker that has a request; one that has not begun is nowhere yet."""
        flight = handle._flight
        if flight is not None and flight.key in self._flights and flight.has_begun(handle._at):
            self._tell({"op": LISTEN, "key": flight.key, "request": handle._at, "on": on})
