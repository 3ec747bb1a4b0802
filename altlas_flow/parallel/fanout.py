"""`FanOut`: one question under way to several models.

Its states::

    pending -> settled | failed | cancelled

*pending* until the aggregator has its verdict, or can have none. Each of the last three is final: what was
still under way is cancelled then, and what comes later is dropped.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

from altlas_flow.aggregation.base import Tally
from altlas_flow.cluster.client.handle import Handle, Handles
from altlas_flow.cluster.client.transport import Transport, notify
from altlas_flow.errors import (
    AggregationError,
    AggregationFailed,
    AltlasError,
    BadRequest,
    NoQuorum,
    ParameterError,
    RequestCancelled,
    located,
)
from altlas_flow.parallel.responses import NOT_NEEDED, Responses
from altlas_flow.records import InferenceResponse
from altlas_flow.records.html import rows

if TYPE_CHECKING:
    from altlas_flow.parallel.referee import Referee


class FanOut:
    """Several models that were asked the same; blocking (`result`) and awaitable, from any event loop.

    Attributes
    ----------
    models : tuple of str
        In the order in which they were named.
    handles : Handles
        Their requests, in that order.
    """

    def __init__(self, transport: Transport, referee: Referee, tally: Tally, *, early: bool = True) -> None:
        self._transport, self._referee, self._tally, self._early = transport, referee, tally, early
        self.models = tally.models
        self.handles = Handles([])
        self._asked = transport.clock()
        self._lock = threading.Lock()
        self._found: Responses | None = None
        self._error: BaseException | None = None
        self._over = False
        self._waiters: list[Any] = []
        self._answers: dict[str, InferenceResponse] = {}  # the referee's alone

    # -- what people ask ----------------------------------------------------------------------

    def done(self) -> bool:
        """Whether there is a verdict, or will be none."""
        return self._over

    @property
    def status(self) -> str:
        """``pending``, ``settled``, ``failed`` or ``cancelled``."""
        if not self._over:
            return "pending"
        if self._error is None:
            return "settled"
        return "cancelled" if isinstance(self._error, RequestCancelled) else "failed"

    def result(self, timeout: float | None = None) -> Responses:
        """The answers and their verdict; waits for it.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; the models go on.

        Raises
        ------
        TimeoutError
            Where there is no verdict by then.
        NoQuorum, Uncombinable, AggregationFailed
            With the answers that there are, as ``.responses``.
        ParameterError
            Where no model takes the parameters.
        RequestCancelled, ClusterLost
        """
        if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float))):
            raise BadRequest(f"timeout={timeout!r} is no number: give seconds")
        if not self._over:
            self._transport.check_process()
            if self._referee.here or threading.get_ident() == self._transport.thread:
                raise BadRequest(
                    "result() on this thread would never return: await it, or wait in another thread"
                )
            if timeout is not None and timeout > threading.TIMEOUT_MAX:
                timeout = None
            woken = threading.Event()
            if self._when_over(woken.set) and not woken.wait(timeout):
                self._forget(woken.set)
                raise TimeoutError(
                    f"no verdict of {len(self.models)} models within {timeout:.3g} s: they go on"
                )
        return self._outcome()

    def cancel(self) -> bool:
        """Give all of it up; whether that changed anything."""
        return self.end(RequestCancelled(f"the question to {', '.join(self.models)} was cancelled"))

    def __await__(self) -> Generator[Any, None, Responses]:
        return self._await().__await__()

    async def _await(self) -> Responses:
        # whoever gives up waiting leaves the verdict to those who still wait
        if not self._over:
            loop = asyncio.get_running_loop()
            over: asyncio.Future[None] = loop.create_future()
            if self._when_over((loop, over)):
                try:
                    await over
                finally:
                    self._forget((loop, over))
        return self._outcome()

    def _repr_html_(self) -> str:
        """The verdict where it is there, else how far each model is; everything is escaped."""
        if self._found is not None:
            return self._found._repr_html_()
        lines = [(one.model_id, one.status) for one in self.handles]
        return rows(f"asked {len(self.models)} models: {self.status}", ("model", "status"), lines)

    def __repr__(self) -> str:
        return f"<FanOut to {', '.join(self.models)}: {self.status}>"

    # -- what the flow and its referee do with it ---------------------------------------------

    def watch(self, handles: Sequence[Handle]) -> None:
        """Its requests were sent: have the referee look at each as it ends."""
        self.handles = Handles(handles)
        for at, handle in enumerate(handles):
            if not self._transport.when_over(handle, _Arrival(self, at)):
                self._referee.tell(self, at)
        if self._over:
            self._give_up()  # the flow was closed meanwhile

    def look(self, at: int) -> None:
        """A model is over: take its answer, and the verdict where it is settled. On the referee's thread."""
        if self._over:
            return
        try:
            self._take(at)
            if self._tally.settled if self._early else self._tally.complete:
                self._settle()
        except BaseException as error:
            # an aggregator of the user's own may raise anything: nobody may wait for ever because of it
            failure = error
            if not isinstance(error, AltlasError):
                failure = AggregationFailed(f"{self._tally.aggregator!r}", located(error))
                failure.__cause__ = error
            if isinstance(failure, AggregationError):
                failure.responses = tuple(self._ordered())
                failure.missing = failure.missing or self._missing()
            if isinstance(failure, NoQuorum):
                first = failure.__cause__ = self._first_error()
                if isinstance(first, ParameterError) and self._misasked():
                    failure = first  # as `submit` does: nothing of the models, or of time, is to be mended
            self.end(failure)

    def end(self, error: BaseException | None, found: Responses | None = None) -> bool:
        """It is over; False where it was already."""
        with self._lock:
            if self._over:
                return False
            # without its traceback: that holds frames, and those all the answers
            self._found, self._error = found, error and error.with_traceback(None)
            self._over = True
            waiters, self._waiters = self._waiters, []
        self._referee.leave(self)
        self._give_up()
        notify(waiters)
        return True

    def _take(self, at: int) -> None:
        model, response = self.models[at], self.handles[at].response()
        if response.error is None:
            self._answers[model] = response
            self._tally.add(model, response.outputs)
        else:
            self._tally.miss(model, response.error.message)

    def _settle(self) -> None:
        verdict = self._tally.verdict()
        now = self._transport.clock()
        self.end(
            None,
            Responses(
                self._ordered(),
                verdict.outputs,
                agreement=verdict.agreement,
                missing=self._missing(),
                latency=now - self._asked,
            ),
        )

    def _ordered(self) -> list[InferenceResponse]:
        """Answers that count; one that the aggregator does not take is among those that are missing."""
        taken = [model for model in self.models if model not in self._tally.missing]
        return [self._answers[model] for model in taken if model in self._answers]

    def _missing(self) -> dict[str, str]:
        heard = self._tally.missing
        return {
            model: heard.get(model, NOT_NEEDED)
            for model in self.models
            if model in heard or model not in self._answers
        }

    def _first_error(self) -> BaseException | None:
        """What kept the first model that failed from answering."""
        for handle in self.handles:
            if handle.done() and (record := handle.response().error) is not None:
                return record.exception()
        return None

    def _misasked(self) -> bool:
        """Whether all of them have refused the parameters."""
        records = [handle.response().error for handle in self.handles if handle.done()]
        wrong = [record for record in records if record and isinstance(record.exception(), ParameterError)]
        return len(wrong) == len(self.models)

    def _give_up(self) -> None:
        for handle in self.handles:
            if not handle.done():
                handle.cancel()

    def _when_over(self, waiter: Any) -> bool:
        with self._lock:
            if not self._over:
                self._waiters.append(waiter)
            return not self._over

    def _forget(self, waiter: Any) -> None:
        with self._lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _outcome(self) -> Responses:
        if self._error is not None:
            raise copy(self._error).with_traceback(None) from self._error.__cause__
        assert self._found is not None
        return self._found


class _Arrival:
    """What a request calls when it is over."""

    __slots__ = ("at", "fanout")

    def __init__(self, fanout: FanOut, at: int) -> None:
        self.fanout, self.at = fanout, at

    def __call__(self) -> None:
        self.fanout._referee.tell(self.fanout, self.at)
