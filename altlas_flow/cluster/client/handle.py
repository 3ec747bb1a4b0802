"""Handles: what the owner of a request holds while it is under way, and afterwards.

The states of a request::

    pending -> running -> completed | error | cancelled
    pending -> completed | error | cancelled

*pending* until its worker says that the batch which holds it begins (again pending when it has to be
tried again elsewhere), then *running*. The last three are final; what comes later is dropped.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

from distributed import Future

from altlas_flow.cluster.client.streaming import Stream
from altlas_flow.errors import AltlasError, BadRequest, RequestCancelled
from altlas_flow.records import Decision, InferenceResponse, Trace, Try
from altlas_flow.records.html import facts, rows
from altlas_flow.records.table import SHOWN

if TYPE_CHECKING:
    from altlas_flow.cluster.client.hedging import Hedged
    from altlas_flow.cluster.client.lanes import Flight, Lane
    from altlas_flow.cluster.client.spans import RequestSpan
    from altlas_flow.cluster.client.transport import Transport

PENDING, RUNNING, COMPLETED, ERROR, CANCELLED = "pending", "running", "completed", "error", "cancelled"


class Handle:
    """A request under way: blocking (`result`) and awaitable, from any event loop.

    Attributes
    ----------
    request_id, model_id : str
    tries : int
        How often it was tried so far.
    """

    # one for each request, and there may be hundreds of thousands
    __slots__ = (
        "__weakref__",
        "_ahead",
        "_answer",
        "_at",
        "_deadline",
        "_deaths",
        "_decision",
        "_ended",
        "_error",
        "_final",
        "_flight",
        "_hedged",
        "_idempotent",
        "_inputs",
        "_inside",
        "_lane",
        "_many",
        "_metadata",
        "_moves",
        "_retry",
        "_rows",
        "_sent",
        "_span",
        "_submitted",
        "_transport",
        "_tried",
        "_waiters",
        "_weight",
        "model_id",
        "request_id",
    )

    def __init__(
        self,
        transport: Transport,
        lane: Lane | None,
        request_id: str,
        inputs: Any,
        submitted: float,
        model: str,
    ) -> None:
        self._transport, self._lane, self.request_id, self.model_id = transport, lane, request_id, model
        self._many = isinstance(inputs, list)
        self._inputs = list(inputs) if self._many else inputs  # the caller may go on with its own
        self._rows = len(inputs) if self._many else 1
        self._weight: float = 0  # bytes of the inputs, about
        self._inside = False  # let in, where what may wait is bounded
        self._submitted = self._sent = self._ended = submitted
        self._final: str | None = None
        self._flight: Flight | None = None
        self._at = 0  # its position in the flight
        self._answer: InferenceResponse | None = None
        self._error: Exception | None = None
        self._waiters: list[Any] | None = None
        self._ahead: Future[Any] | None = None  # its inputs, where they were sent ahead
        self._deadline: float | None = None
        self._deaths = self._moves = 0
        self._tried: list[Try] | None = None  # failed tries
        self._retry: Any = None
        self._idempotent = True
        self._hedged: Hedged | None = None  # where it may be sent a second time
        self._metadata: dict[str, Any] | None = None
        self._decision: Decision | None = None  # where its model was chosen
        self._span: RequestSpan | None = None  # where requests are traced

    # -- what people ask ----------------------------------------------------------------------

    @property
    def status(self) -> str:
        """``pending``, ``running``, ``completed``, ``error`` or ``cancelled``."""
        if self._final is not None:
            return self._final
        flight = self._flight
        return RUNNING if flight is not None and flight.has_begun(self._at) else PENDING

    @property
    def future(self) -> Future[Any] | None:
        """Dask's future of the envelope that carries this request, and maybe others; None before it left.

        Its result is the envelope's, not this request's; cancelling it cancels all that travel in it. It is
        released when the answers have come: they do not stay on the cluster.
        """
        return self._flight.future if self._flight is not None else None

    @property
    def tries(self) -> int:
        """How often it was tried, the present try included."""
        return len(self._tried or ()) + (self._final != ERROR and self._flight is not None)

    @property
    def decision(self) -> Decision | None:
        """Why its model was chosen; None where the request named it."""
        return self._decision

    def done(self) -> bool:
        """Whether it is completed, failed or cancelled."""
        return self._final is not None

    def cancel(self) -> bool:
        """Give the request up; whether that changed anything. What runs already has its result dropped."""
        return self._transport.cancel(self)

    def result(self, timeout: float | None = None) -> InferenceResponse:
        """The answer; waits for it.

        Parameters
        ----------
        timeout : float, optional
            Seconds.

        Raises
        ------
        TimeoutError
            Where there is none by then.
        AltlasError
            What went wrong, with its ``tries``, ``nodes`` and ``root_cause``.
        """
        self.wait(timeout)
        return self._outcome()

    def response(self, timeout: float | None = None) -> InferenceResponse:
        """As `result`, but an error comes in the response, and is not raised."""
        self.wait(timeout)
        return self._response()

    def stream(self) -> Stream:
        """The answer's text while it is made: ``for piece in handle.stream()``, or with ``async for``.

        All pieces together are the outputs of `result`. A model that does not answer piece by piece gives
        its text as one; the request's error is raised at the end. Leaving the loop leaves the request alone.

        Raises
        ------
        BadRequest
            Where the request has several inputs.
        """
        if self._many:
            raise BadRequest("only the answer to one input comes in pieces: submit each input by itself")
        return Stream(self)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is over, however it ended.

        Raises
        ------
        TimeoutError
        """
        if timeout is not None and not isinstance(timeout, (int, float)):
            raise BadRequest(f"timeout={timeout!r} is no number: give seconds")
        if self._final is not None:
            return
        self._transport.check_process()
        if timeout is not None and timeout > threading.TIMEOUT_MAX:
            timeout = None
        if threading.get_ident() == self._transport.thread:
            raise BadRequest("result() on the client's own event loop would never return: await the handle")
        over = threading.Event()
        if self._transport.when_over(self, over.set) and not over.wait(timeout):
            self._transport.forget(self, over.set)
            raise TimeoutError(f"no answer to request {self.request_id} within {timeout:.3g} s: it goes on")

    def __await__(self) -> Generator[Any, None, InferenceResponse]:
        return self._await().__await__()

    async def _await(self) -> InferenceResponse:
        # whoever gives up waiting leaves the answer to those who still wait
        if self._final is None:
            loop = asyncio.get_running_loop()
            over: asyncio.Future[None] = loop.create_future()
            if self._transport.when_over(self, (loop, over)):
                try:
                    await over
                finally:
                    self._transport.forget(self, (loop, over))
        return self._outcome()

    def _repr_html_(self) -> str:
        """The answer where it is there, else how far it is; everything is escaped."""
        if self._final is not None:
            return self._response()._repr_html_()
        pairs = [("tries", self.tries or None), ("decision", self.decision.id if self.decision else None)]
        return facts(f"request {self.request_id} of {self.model_id}: {self.status}", pairs)

    def __repr__(self) -> str:
        return f"<Handle {self.request_id} of {self.model_id}: {self.status}>"

    # -- what the transport does with it ------------------------------------------------------

    def _tried_so_far(self, now: float) -> list[Try]:
        """Its failed tries, and the one that is given up now, where it runs."""
        tried, flight = list(self._tried or ()), self._flight
        if flight is not None and flight.has_begun(self._at):
            tried.append(
                Try(node=flight.node, error="was still running", seconds=max(0.0, now - flight.sent))
            )
        return tried

    def _settle(self, final: str, now: float, error: Exception | None = None) -> list[Any]:
        """End it; those to wake. Called with the transport's lock held."""
        self._final, self._ended, self._error = final, now, error
        if final != CANCELLED:
            self._inputs = self._ahead = None  # any thread cancels, and the loop may be packing them
        waiters, self._waiters = self._waiters, None
        return waiters or []

    def _outcome(self) -> InferenceResponse:
        if self._error is not None:
            # a copy: a traceback holds frames, frames hold futures, and they their results on the cluster
            raise copy(self._error).with_traceback(None) from self._error.__cause__
        return self._response()

    def _response(self) -> InferenceResponse:
        if self._answer is None:
            self._answer = self._make()
        return self._answer

    def _make(self) -> InferenceResponse:
        flight, at = self._flight, self._at
        answers = flight.answers if flight is not None else None
        tried = self._tried or []
        if flight is None or answers is None:
            refused = Counter(getattr(self._error, "reasons", {}).values())
            # of one that left, when it did; of one that never did, all its time
            held = (self._sent if flight is not None else self._ended) - self._submitted
            trace = Trace.build(
                refused=dict(refused), held=held, tries=list(tried), notes=self._why_this_model()
            )
            return InferenceResponse.build(
                self.request_id,
                self.model_id,
                node_id=tried[-1].node if tried else None,
                error=self._error,
                latency=self._ended - self._submitted,
                tries=self.tries,
                trace=trace,
                metadata=self._metadata,
                decision_id=None if self._decision is None else self._decision.id,
            )
        placed = answers.placement
        batch, queue = int(answers.batch[at]), float(answers.queue[at])
        trace = Trace.build(
            placed.get("strategy", ""),
            answers.node if self._error is None else "",
            score=placed.get("score"),
            runners_up=[(str(name), float(score)) for name, score in placed.get("runners_up") or ()],
            refused=dict(placed.get("refused") or {}),
            held=self._sent - self._submitted,
            placing=placed.get("placing", 0.0),
            queue=queue,
            load=answers.load,
            predict=float(answers.predict[at]),
            batch=batch,
            envelope=flight.count,
            tries=tried,
            notes=[
                *self._why_this_model(),
                *(placed.get("notes") or ()),
                *(self._hedged.notes() if self._hedged else ()),
            ],
        )
        return InferenceResponse.build(
            self.request_id,
            self.model_id,
            node_id=answers.node,
            outputs=answers.outputs(at, self._many) if self._error is None else None,
            error=self._error,
            latency=self._ended - self._submitted,
            queue_time=queue,
            load_time=answers.load,
            batch_size=batch,
            tries=self.tries,
            trace=trace,
            metadata=self._metadata,
            decision_id=None if self._decision is None else self._decision.id,
        )

    def _why_this_model(self) -> list[str]:
        if self._decision is None:
            return []
        return [
            f"chosen for {self._decision.task!r} with probability {self._decision.propensity:.3g}, "
            f"on version {self._decision.version}"
        ]


class Handles(Sequence[Handle]):
    """Several requests under way, in the order in which they were given; awaitable like one.

    Parameters
    ----------
    handles : sequence of Handle
    raise_on_error : bool
        Raise the first error, in order, instead of giving it in its response.
    """

    def __init__(self, handles: Sequence[Handle], *, raise_on_error: bool = False) -> None:
        self._handles, self._raise = list(handles), raise_on_error

    def result(self, timeout: float | None = None) -> list[InferenceResponse]:
        """All answers, in order; waits for them.

        Parameters
        ----------
        timeout : float, optional
            Seconds for all of them together.

        Raises
        ------
        TimeoutError
        AltlasError
            With ``raise_on_error``.
        """
        if self._handles:
            clock = self._handles[0]._transport.clock
            ends = None if timeout is None else clock() + timeout
            for handle in self._handles:
                handle.wait(None if ends is None else max(0.0, ends - clock()))
        return self._outcomes()

    def cancel(self) -> int:
        """Give up what is not over; how many that were."""
        return sum(handle.cancel() for handle in self._handles)

    def __await__(self) -> Generator[Any, None, list[InferenceResponse]]:
        return self._await().__await__()

    async def _await(self) -> list[InferenceResponse]:
        for handle in self._handles:
            if handle._final is None:
                loop = asyncio.get_running_loop()
                over: asyncio.Future[None] = loop.create_future()
                if handle._transport.when_over(handle, (loop, over)):
                    await over
        outcomes: list[InferenceResponse] = []
        for start in range(0, len(self._handles), 200):
            outcomes += self._outcomes(start, start + 200)
            await asyncio.sleep(0)  # thousands of records must not hold up the loop
        return outcomes

    def _outcomes(self, start: int = 0, stop: int | None = None) -> list[InferenceResponse]:
        handles = self._handles[start:stop]
        return [handle._outcome() if self._raise else handle._response() for handle in handles]

    def __len__(self) -> int:
        return len(self._handles)

    def __getitem__(self, at: Any) -> Any:
        return self._handles[at]

    def __iter__(self) -> Iterator[Handle]:
        return iter(self._handles)

    def _repr_html_(self) -> str:
        """A line of each of the first ones; everything is escaped."""
        over = sum(handle.done() for handle in self)
        shown = f", the first {SHOWN}" if len(self) > SHOWN else ""
        lines = [(one.request_id, one.model_id, one.status) for one in self._handles[:SHOWN]]
        return rows(f"{len(self):,} requests, {over:,} over{shown}", ("request", "model", "status"), lines)

    def __repr__(self) -> str:
        return f"<Handles: {len(self)} requests, {sum(handle.done() for handle in self)} over>"


def cancelled(handle: Handle) -> RequestCancelled:
    """The error of a request that was cancelled."""
    return RequestCancelled(f"request {handle.request_id} was cancelled")


def stamped(error: Exception, tried: Sequence[Try]) -> Exception:
    """A copy of a request's error that knows its tries, their nodes, and what began it."""
    final = copy(error).with_traceback(None)
    final.__cause__ = error.__cause__
    if isinstance(final, AltlasError):
        final.tries = len(tried)
        final.nodes = tuple(one.node for one in tried)
        final.root_cause = error.root_cause or (tried[0].error if tried else "")  # type: ignore[attr-defined]
    return final


Waiter = Callable[[], Any] | tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]
