"""`PipelineSender`: requests to pipelines travel together, in as many pieces as the cluster has room for.

What waits for a pipeline while its pieces are under way leaves as one piece. Any thread may submit;
the rest lives on the event loop of Dask's client, beside the transport of single requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from distributed import Future

from altlas_flow.cluster.client import lines
from altlas_flow.cluster.client.lanes import Pace
from altlas_flow.cluster.client.named import named_strategy
from altlas_flow.cluster.client.posting import weight_of
from altlas_flow.cluster.client.transport import Transport, notify
from altlas_flow.errors import (
    AltlasError,
    BadRequest,
    ClusterError,
    ClusterLost,
    Overloaded,
    PipelineError,
    SpecError,
    describe,
)
from altlas_flow.models.memory import estimate
from altlas_flow.pipeline.handle import PipelineHandle, late
from altlas_flow.pipeline.passage import release
from altlas_flow.pipeline.piece import Piece
from altlas_flow.pipeline.result import PipelineResult
from altlas_flow.pipeline.spans import begin_span
from altlas_flow.pipeline.step import Compiled

logger = logging.getLogger(__name__)

#: Seconds that the scheduler gets for what is asked once.
ASK_LIMIT = 60.0
#: Pieces of a pipeline that may be under way for each slot.
PER_SLOT = 2
#: Seconds after which pieces are forgotten where none leaves meanwhile.
LET_GO = 0.05
#: Kinds of requests that are kept ready.
LANES = 32
#: Seconds after which it is asked again how many slots there are.
FRESH = 5.0


@dataclass(eq=False)
class Lane:
    """Requests that may travel together: to one pipeline, with one priority, whose same stages are kept."""

    compiled: Compiled
    priority: int = 0
    keep: tuple[str, ...] = ()
    waiting: deque[PipelineHandle] = field(default_factory=deque)
    places: int = 0  # 0: not known yet
    in_flight: int = 0
    strategies: Mapping[str, str] = field(default_factory=dict)
    preparing: bool = False
    once: bool = False  # its pipeline is not asked again
    asked: float = float("-inf")  # when its places were

    @property
    def name(self) -> str:
        """By which it is remembered how long its rows take."""
        return str(id(self.compiled))


class PipelineSender:
    """Sends requests to pipelines for one Dask client.

    Parameters
    ----------
    transport : Transport
    """

    def __init__(self, transport: Transport) -> None:
        self.transport, self.client, self.settings = transport, transport.client, transport.settings
        self.loop, self.clock = transport.loop, transport.clock
        self.open = 0  # requests that are not over
        self._lanes: dict[Any, Lane] = {}
        self._handles: set[PipelineHandle] = set()
        self.pace = Pace(self.settings.envelope_rows, self.settings.envelope_time)
        self._lock = threading.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._over: list[Future[Any]] = []  # futures of pieces that have come
        self._letting_go: asyncio.TimerHandle | None = None
        self.quarantine = asyncio.Lock()
        transport.companions.append(self)

    def submit(
        self,
        compiled: Compiled,
        inputs: Any,
        *,
        priority: int = 0,
        keep: tuple[str, ...] = (),
        deadline: float | None = None,
        once: bool = False,
        request_id: str | None = None,
    ) -> PipelineHandle:
        """Send a request; never blocks.

        Parameters
        ----------
        compiled : Compiled
        inputs : Any
            A list: that many rows.
        priority : int
        keep : tuple of str
            Steps whose outputs are wanted beside those of the pipeline.
        deadline : float, optional
            Seconds.
        once : bool
            Whether the pipeline will not be asked again: nothing of it is kept.
        request_id : str, optional

        Raises
        ------
        Overloaded, ClusterLost
        """
        self.transport.check_process()
        if self.transport.closed or self.client.status not in ("running", "connecting"):
            raise ClusterLost("the connection to the scheduler is closed: connect again with af.connect()")
        key = (id(compiled), priority, keep)
        with self._lock:
            lane = self._lanes.get(key)
            if lane is not None:
                self._lanes[key] = self._lanes.pop(key)  # the latest one last
            else:
                lane = self._lanes[key] = Lane(compiled, priority, keep, once=once)
                while len(self._lanes) > LANES:
                    del self._lanes[next(iter(self._lanes))]
            if self.open >= self.settings.waiting_limit and self.settings.overload == "raise":
                raise Overloaded(
                    f"{self.open} requests wait already: ask again later, or raise altlas.waiting-limit"
                )
            handle = PipelineHandle(self, lane, request_id or os.urandom(16).hex(), inputs, self.clock())
            handle._weight = weight_of(handle._inputs, self.settings.scatter_size)
            self.open += 1
        if self.transport.tracer is not None:
            # not under the lock: samplers and processors are the user's, and may take their time
            handle._span = begin_span(self.transport.tracer, handle)
        handle._deadline = deadline
        self._enter(handle)
        try:
            self._call(self._came, handle)
        except RuntimeError:  # the loop is closed
            self.end(handle, ClusterLost("the flow was closed: connect and ask again"))
        return handle

    def _enter(self, handle: PipelineHandle) -> None:
        """From here on it may be sent, and ended."""
        with self._lock:
            self._handles.add(handle)
            handle._lane.waiting.append(handle)
        if self.transport.closed:  # meanwhile
            self.end(handle, ClusterLost("the flow was closed: connect and ask again"))

    def end(self, handle: PipelineHandle, outcome: PipelineResult | AltlasError) -> bool:
        """A request is over; False where it was already."""
        with self._lock:
            if handle not in self._handles:
                return False
            self._handles.discard(handle)
            self.open -= 1
            waiters, handle._waiters = handle._waiters, []
        handle._inputs = []
        if isinstance(outcome, PipelineResult):
            handle._done.set_result(outcome)
        else:
            handle._done.set_exception(outcome)
        notify(waiters)
        with contextlib.suppress(RuntimeError):  # the loop is closed: so is everything else
            self._call(self._unwanted, handle)
        now, tell = self.clock(), self.transport.afterwards.tell
        if handle._span is not None:
            handle._span.over(handle, outcome, now)
            tell(handle._span.tell)
        error = outcome.error if isinstance(outcome, PipelineResult) else outcome
        if error is not None and lines.wanted():
            tell(lines.tell, handle.request_id, handle.model_id, now - handle._submitted, None, error)
        return True

    def when_over(self, handle: PipelineHandle, waiter: Any) -> bool:
        """Have `waiter` (event loop, asyncio future) woken when a request is over; False where it is."""
        with self._lock:
            if handle not in self._handles:
                return False
            handle._waiters.append(waiter)
            return True

    def forget(self, handle: PipelineHandle, waiter: Any) -> None:
        """Whoever waited has given up."""
        with self._lock:
            if waiter in handle._waiters:
                handle._waiters.remove(waiter)

    def fail_all(self, error: AltlasError) -> None:
        """End every request that is under way."""
        with self._lock:
            handles = list(self._handles)
        for handle in handles:
            self.end(handle, error)

    # -- on the client's event loop --------------------------------------------------------------

    def _call(self, function: Any, *arguments: Any) -> None:
        self.loop.call_soon_threadsafe(function, *arguments, context=contextvars.Context())

    def _came(self, handle: PipelineHandle) -> None:
        if handle._deadline is not None and not handle.done():
            left = max(0.0, handle._submitted + handle._deadline - self.clock())
            handle._timer = self.loop.call_later(left, self._late, handle)
        self.pump(handle._lane)
        self.transport.wake()  # which sees whether the scheduler lives

    def _late(self, handle: PipelineHandle) -> None:
        self.end(handle, late(handle, handle._deadline or 0.0))

    def _unwanted(self, handle: PipelineHandle) -> None:
        """A request is over: where nobody wants its piece any more, that is given up."""
        if handle._timer is not None:
            handle._timer.cancel()
            handle._timer = None
        piece, handle._piece = handle._piece, None
        if piece is not None:
            piece.left(handle)

    def pump(self, lane: Lane) -> None:
        """Send what may go; a fault of ours ends what waits in this lane, and nothing else."""
        try:
            self._send(lane)
        except Exception as error:
            logger.exception("a piece could not be sent")
            self._refuse(
                lane, ClusterError(f"sending failed ({describe(error)}): this is a fault of altlas_flow")
            )

    def _send(self, lane: Lane) -> None:
        if lane.waiting and not lane.preparing and self.clock() - lane.asked > FRESH:
            lane.preparing, lane.asked = True, self.clock()
            self._start(self._prepare(lane))
        while lane.in_flight < lane.places:
            handles = self._take(lane)
            if not handles:
                break
            try:
                piece = Piece(self, lane, handles)
            except Exception:
                self.back(lane, handles)  # where whoever sends ends them
                raise
            lane.in_flight += 1
            self._start(piece.go())
        if lane.once and not lane.waiting and not lane.in_flight:
            with self._lock:
                self._lanes = {key: one for key, one in self._lanes.items() if one is not lane}

    def _take(self, lane: Lane) -> list[PipelineHandle]:
        rows = self.pace.size(lane.name, len(lane.waiting), lane.places)
        taken: list[PipelineHandle] = []
        room = float(self.settings.scatter_size)
        while lane.waiting and rows > 0:
            handle = lane.waiting[0]
            if not handle.done():
                alone = handle._alone or handle._single
                if taken and (alone or taken[0]._alone or taken[0]._single or handle._weight > room):
                    break
                taken.append(handle)
                rows -= handle._rows
                room -= handle._weight
            lane.waiting.popleft()
        return taken

    async def _prepare(self, lane: Lane) -> None:
        """Have the scheduler know what the stages need, and by which strategies they are placed."""
        try:
            places = [1]
            for spec in lane.compiled.specs():
                told = await self._ask("altlas_eligible", spec=spec.model_dump_json(), memory=estimate(spec))
                places.append(sum(told["nodes"].values()))
            strategies = {}
            for name, step in lane.compiled.steps.items():
                if step.strategy is not None:
                    try:
                        strategies[name], code = named_strategy(step.strategy, "")
                        await self._ask("altlas_strategy", name=strategies[name], function=code)
                    except (BadRequest, SpecError) as error:
                        raise PipelineError(f"stage {name!r}: {error}") from error
            lane.strategies, lane.places = strategies, PER_SLOT * max(places)
        except AltlasError as error:
            self._refuse(lane, error)
        except Exception as error:
            # a client that is closed meanwhile says so in several ways
            self._refuse(lane, ClusterLost(f"the scheduler cannot be asked ({describe(error)}): connect"))
        finally:
            lane.preparing = False
        self.pump(lane)

    async def _ask(self, operation: str, **arguments: Any) -> Any:
        import pickle

        answer = await asyncio.wait_for(getattr(self.client.scheduler, operation)(**arguments), ASK_LIMIT)
        if answer.get("error") is not None:
            raise pickle.loads(answer["error"])
        return answer

    def _refuse(self, lane: Lane, error: AltlasError) -> None:
        lane.asked = float("-inf")
        while lane.waiting:
            self.end(lane.waiting.popleft(), error)

    def _start(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # a fault of ours: whoever it was about must not wait for ever
            logger.error("a task of a pipeline failed", exc_info=error)
            self.fail_all(ClusterError(f"sending failed ({describe(error)}): this is a fault of altlas_flow"))

    def let_go(self, futures: Iterable[Future[Any]]) -> None:
        """Have the cluster forget pieces that have come: right behind the next one, or a little later.

        By itself this message would keep the next piece waiting: Dask's client sends nothing for 10 ms after
        it has sent anything.
        """
        self._over += futures
        if self._letting_go is None and self._over:
            self._letting_go = self.loop.call_later(LET_GO, self.flush)

    def flush(self) -> None:
        """Do so now."""
        if self._letting_go is not None:
            self._letting_go.cancel()
            self._letting_go = None
        over, self._over = self._over, []
        release(over)

    def back(self, lane: Lane, handles: list[PipelineHandle]) -> None:
        """Requests whose piece was given up: they go again."""
        for handle in reversed(handles):
            handle._running, handle._piece = False, None
            lane.waiting.appendleft(handle)


_senders: WeakKeyDictionary[Transport, PipelineSender] = WeakKeyDictionary()
_registry = threading.Lock()


def sender_for(transport: Transport) -> PipelineSender:
    """The sender that goes with a transport."""
    with _registry:
        found = _senders.get(transport)
        if found is None:
            found = _senders[transport] = PipelineSender(transport)
        return found
