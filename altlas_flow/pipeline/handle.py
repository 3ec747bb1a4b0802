"""`PipelineHandle`: a request to a pipeline that is under way, and afterwards."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future as Done
from typing import TYPE_CHECKING, Any

from altlas_flow.errors import AltlasError, BadRequest, DeadlineExceeded, RequestCancelled, one_line
from altlas_flow.pipeline.result import PipelineResult
from altlas_flow.records.html import facts

if TYPE_CHECKING:
    from distributed import Future

    from altlas_flow.pipeline.sender import Lane, PipelineSender
    from altlas_flow.pipeline.spans import PipelineSpan

PENDING, RUNNING, COMPLETED, ERROR, CANCELLED = "pending", "running", "completed", "error", "cancelled"


class PipelineHandle:
    """A pipeline under way: blocking (`result`) and awaitable, from any event loop.

    Attributes
    ----------
    request_id : str
    model_id : str
        The pipeline's.
    """

    def __init__(
        self, sender: PipelineSender, lane: Lane, request_id: str, inputs: Any, submitted: float
    ) -> None:
        self._sender, self._lane, self.request_id = sender, lane, request_id
        self.model_id = lane.compiled.pipeline.id
        self._many = isinstance(inputs, list)
        self._inputs: Any = list(inputs) if self._many else [inputs]
        self._rows = len(self._inputs)
        self._submitted = submitted
        self._weight = 0.0
        self._deadline: float | None = None
        self._timer: Any = None
        self._running = self._alone = self._single = False
        self._waiters: list[Any] = []
        self._deaths = self._moves = 0  # workers that died while it ran, and under its piece
        self._piece: Any = None  # the piece that it travels in
        self._left: float | None = None  # when that left
        self._span: PipelineSpan | None = None  # where requests are traced
        self._done: Done[PipelineResult] = Done()

    @property
    def status(self) -> str:
        """``pending``, ``running``, ``completed``, ``error`` or ``cancelled``."""
        if not self._done.done():
            return RUNNING if self._running else PENDING
        error = self._done.exception()
        if error is None:
            return COMPLETED if self._done.result().ok else ERROR
        return CANCELLED if isinstance(error, RequestCancelled) else ERROR

    @property
    def futures(self) -> Mapping[str, Future[Any]]:
        """Dask's futures of the stages, while it is under way; other requests may be in the same tasks."""
        piece = self._piece
        return dict(piece.futures) if piece is not None else {}

    def done(self) -> bool:
        """Whether it is completed, failed or cancelled."""
        return self._done.done()

    def stream(self) -> Any:
        """Refused: the answer of a pipeline does not come in pieces."""
        raise BadRequest("the answer of a pipeline does not come in pieces: stream its last model by itself")

    def cancel(self) -> bool:
        """Give it up; whether that changed anything."""
        return self._sender.end(self, RequestCancelled(f"request {self.request_id} was cancelled"))

    def result(self, timeout: float | None = None) -> PipelineResult:
        """What the stages made; waits for it.

        Parameters
        ----------
        timeout : float, optional
            Seconds.

        Raises
        ------
        TimeoutError
            Where there is nothing by then.
        StageFailed
            The first failure; its ``result`` has what other stages made.
        AltlasError
            Where it could not be run at all.
        """
        found = self.response(timeout)
        found.raise_for_error()
        return found

    def response(self, timeout: float | None = None) -> PipelineResult:
        """As `result`, but a stage that failed is not raised."""
        self.wait(timeout)
        return self._outcome()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is over, however it ended.

        Raises
        ------
        TimeoutError
        """
        if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float))):
            raise BadRequest(f"timeout={timeout!r} is no number: give seconds")
        if self._done.done():
            return
        self._sender.transport.check_process()
        if threading.get_ident() == self._sender.transport.thread:
            raise BadRequest("result() on the client's own event loop would never return: await the handle")
        try:
            self._done.exception(None if timeout is None else min(timeout, threading.TIMEOUT_MAX))
        except TimeoutError:
            if self._done.done():
                return
            raise TimeoutError(
                f"no answer to request {self.request_id} within {timeout:.3g} s: it goes on"
            ) from None

    def __await__(self) -> Generator[Any, None, PipelineResult]:
        return self._await().__await__()

    async def _await(self) -> PipelineResult:
        found = await self.settled()
        found.raise_for_error()
        return found

    async def settled(self) -> PipelineResult:
        """As `response`, awaited."""
        await self.over()
        return self._outcome()

    async def over(self) -> None:
        """As `wait`, awaited."""
        if not self._done.done():
            # whoever gives up waiting leaves the answer to those who still wait
            loop = asyncio.get_running_loop()
            over: asyncio.Future[None] = loop.create_future()
            if self._sender.when_over(self, (loop, over)):
                try:
                    await over
                finally:
                    self._sender.forget(self, (loop, over))

    def _outcome(self) -> PipelineResult:
        error = self._done.exception()
        if error is not None:
            raise _fresh(error)
        return self._done.result()

    def _repr_html_(self) -> str:
        """The answer where it is there, else how far it is; everything is escaped."""
        error = self._done.exception() if self._done.done() else None
        if self._done.done() and error is None:
            return self._done.result()._repr_html_()
        why = None if error is None else one_line(error, 300)
        return facts(
            f"request {self.request_id} of pipeline {self.model_id}: {self.status}", [("error", why)]
        )

    def __repr__(self) -> str:
        return f"<PipelineHandle {self.request_id} of {self.model_id}: {self.status}>"


def _fresh(error: BaseException) -> BaseException:
    """A copy: a traceback holds frames, and frames what they worked with."""
    from copy import copy

    found = copy(error).with_traceback(None)
    found.__cause__ = error.__cause__
    return found


def late(handle: PipelineHandle, seconds: float) -> AltlasError:
    """The error of a request that was not answered in time."""
    return DeadlineExceeded(
        f"request {handle.request_id} to pipeline {handle.model_id!r} was not answered within {seconds:.3g} s"
    )


class PipelineHandles(Sequence[PipelineHandle]):
    """Several requests to a pipeline, in the order in which they were given; awaitable like one.

    Parameters
    ----------
    handles : sequence of PipelineHandle
    raise_on_error : bool
        Raise the first error, in order.
    """

    def __init__(self, handles: Sequence[PipelineHandle], *, raise_on_error: bool = False) -> None:
        self._handles, self._raise = list(handles), raise_on_error

    def result(self, timeout: float | None = None) -> list[PipelineResult]:
        """All results, in order; waits for them.

        Parameters
        ----------
        timeout : float, optional
            Seconds for all of them together.

        Raises
        ------
        TimeoutError
        StageFailed
            With ``raise_on_error``; else a result has it as its ``error``.
        AltlasError
            Where one could not be run at all.
        """
        if self._handles:
            clock = self._handles[0]._sender.clock
            ends = None if timeout is None else clock() + timeout
            for handle in self._handles:
                handle.wait(None if ends is None else max(0.0, ends - clock()))
        return self._outcomes()

    def cancel(self) -> int:
        """Give up what is not over; how many that were."""
        return sum(handle.cancel() for handle in self._handles)

    def __await__(self) -> Generator[Any, None, list[PipelineResult]]:
        return self._await().__await__()

    async def _await(self) -> list[PipelineResult]:
        for handle in self._handles:
            await handle.over()
        return self._outcomes()

    def _outcomes(self) -> list[PipelineResult]:
        found = [handle._outcome() for handle in self._handles]
        if self._raise:
            for one in found:
                one.raise_for_error()
        return found

    def __len__(self) -> int:
        return len(self._handles)

    def __getitem__(self, at: Any) -> Any:
        return self._handles[at]

    def __repr__(self) -> str:
        return f"<PipelineHandles: {len(self)} requests, {sum(handle.done() for handle in self)} over>"
