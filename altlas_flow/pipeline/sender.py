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

import numpy as np
from distributed import Future

from altlas_flow.cluster.client.fate import DEATHS
from altlas_flow.cluster.client.lanes import Pace
from altlas_flow.cluster.client.named import named_strategy
from altlas_flow.cluster.client.posting import INTERACTIVE, weight_of
from altlas_flow.cluster.client.transport import Transport, notify
from altlas_flow.cluster.packed import Packed
from altlas_flow.errors import (
    AltlasError,
    BadRequest,
    ClusterError,
    ClusterLost,
    Overloaded,
    StageFailed,
    describe,
)
from altlas_flow.models.memory import estimate
from altlas_flow.pipeline.graph import Way
from altlas_flow.pipeline.handle import PipelineHandle, late
from altlas_flow.pipeline.passage import MOVES, Died, Passage, Unreadable, release
from altlas_flow.pipeline.result import PieceOutcome, PipelineResult
from altlas_flow.pipeline.rows import StageRows, writable
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
        self._pace = Pace(self.settings.envelope_rows, self.settings.envelope_time)
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
            self._handles.add(handle)
            lane.waiting.append(handle)
        handle._deadline = deadline
        self._call(self._came, handle)
        return handle

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
        self._pump(handle._lane)
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

    def _pump(self, lane: Lane) -> None:
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
                self._back(lane, handles)  # where whoever sends ends them
                raise
            lane.in_flight += 1
            self._start(piece.go())
        if lane.once and not lane.waiting and not lane.in_flight:
            with self._lock:
                self._lanes = {key: one for key, one in self._lanes.items() if one is not lane}

    def _take(self, lane: Lane) -> list[PipelineHandle]:
        rows = self._pace.size(lane.name, len(lane.waiting), lane.places)
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
                    strategies[name], code = named_strategy(step.strategy, "")
                    await self._ask("altlas_strategy", name=strategies[name], function=code)
            lane.strategies, lane.places = strategies, PER_SLOT * max(places)
        except AltlasError as error:
            self._refuse(lane, error)
        except Exception as error:
            # a client that is closed meanwhile says so in several ways
            self._refuse(lane, ClusterLost(f"the scheduler cannot be asked ({describe(error)}): connect"))
        finally:
            lane.preparing = False
        self._pump(lane)

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

    def _back(self, lane: Lane, handles: list[PipelineHandle]) -> None:
        """Requests whose piece was given up: they go again."""
        for handle in reversed(handles):
            handle._running, handle._piece = False, None
            lane.waiting.appendleft(handle)


class Piece:
    """Requests that travel together through a pipeline.

    Parameters
    ----------
    sender : PipelineSender
    lane : Lane
    handles : list of PipelineHandle
    """

    def __init__(self, sender: PipelineSender, lane: Lane, handles: list[PipelineHandle]) -> None:
        self.sender, self.lane, self.handles = sender, lane, handles
        self._wanted = set(handles)
        # as they are now: a request that ends meanwhile lets go of its inputs
        inputs = [handle._inputs for handle in handles]
        self._counts = [len(one) for one in inputs]
        rows = StageRows(_apart([value for one in inputs for value in one]))
        way = Way(
            len(rows),
            INTERACTIVE + lane.priority,
            solo=handles[0]._alone,
            strategies=lane.strategies,
            kept=frozenset(lane.keep),
        )
        self._passage = Passage(
            sender.client,
            sender.settings,
            lane.compiled,
            rows,
            way,
            lane.keep,
            several=len(handles) > 1,
            sent=sender.flush,
            let_go=sender.let_go,
        )
        self._task: asyncio.Task[Any] | None = None

    @property
    def futures(self) -> Mapping[str, Any]:
        """Dask's, by stage."""
        return self._passage.futures

    def left(self, handle: PipelineHandle) -> None:
        """A request is over for its owner; the last one takes the piece along."""
        self._wanted.discard(handle)
        if not self._wanted and self._task is not None:
            self._task.cancel()

    async def go(self) -> None:
        """Take the piece through, and give each request its outcome."""
        sender, lane = self.sender, self.lane
        self._task = asyncio.current_task()
        for handle in self.handles:
            handle._running, handle._piece = True, self
            if handle.done():  # before it could tell this piece
                handle._piece = None
                self._wanted.discard(handle)
        weight = sum(handle._weight for handle in self.handles)
        counts = self._counts
        try:
            # what may be what kills workers goes one at a time, or it would take the others of its kind along
            if not self._wanted:
                return
            async with sender.quarantine if self.handles[0]._alone else contextlib.nullcontext():
                rows = await self._passage.go(weight)
        except Died as died:
            self._again(died, counts)
        except Unreadable:
            for handle in self.handles:
                handle._single = True
            sender._back(lane, [handle for handle in self.handles if not handle.done()])
        except BadRequest as error:
            self._without_bad(error)
        except AltlasError as error:
            self._fail(error)
        except asyncio.CancelledError:
            if self._wanted:  # it is the loop that ends
                self._fail(ClusterLost("the Dask client was closed before the answer came: connect again"))
        except Exception as error:
            # whatever Dask itself raises on the way, also where inputs cannot be pickled
            self._fail(ClusterError(f"the pipeline could not be run: {describe(error)}"))
        else:
            self._deliver(rows, counts)
        finally:
            lane.in_flight -= 1
            sender._pump(lane)

    def _again(self, died: Died, counts: list[int]) -> None:
        """A worker died: what was running there goes on by itself, the others as if nothing had happened."""
        ran = set(died.rows)
        alone: list[PipelineHandle] = []
        others: list[PipelineHandle] = []
        start = 0
        for handle, count in zip(self.handles, counts, strict=True):
            running = not ran.isdisjoint(range(start, start + count))
            start += count
            if handle.done():
                continue
            handle._moves += 1
            if running and not died.error.beside:
                handle._deaths += 1
            if handle._deaths >= DEATHS or handle._moves > MOVES:
                error = StageFailed(died.stage, str(died.error))
                error.root_cause, error.nodes = died.error.cause, (died.error.node,)
                self.sender.end(handle, error)
            elif handle._deaths or handle._moves >= DEATHS:
                handle._alone = True
                alone.append(handle)
            else:
                others.append(handle)
        self.sender._back(self.lane, others + alone)

    def _without_bad(self, error: BadRequest) -> None:
        """Requests whose inputs cannot be pickled end; the others go again."""
        if len(self.handles) == 1:
            self._fail(error)
            return
        good: list[PipelineHandle] = []
        for handle in self.handles:
            try:
                Packed.of(handle._inputs)
            except Exception as fault:
                # an input may refuse to be pickled with any error
                text = f"request {handle.request_id}: its input cannot be sent to a worker: {describe(fault)}"
                self.sender.end(handle, BadRequest(text))
            else:
                good.append(handle)
        self.sender._back(self.lane, [handle for handle in good if not handle.done()])

    def _fail(self, error: AltlasError) -> None:
        for handle in self.handles:
            self.sender.end(handle, error)

    def _deliver(self, rows: Mapping[str, StageRows], counts: list[int]) -> None:
        now = self.sender.clock()
        piece = PieceOutcome(self.lane.compiled, rows)
        took = sum(note.seconds for note in piece.notes.values())
        self.sender._pace.observe(self.lane.name, sum(counts), took)
        start = 0
        for handle, count in zip(self.handles, counts, strict=True):
            at = range(start, start + count)
            start += count
            if not handle.done():
                # its own rows alone: the others of the piece must not live as long as they do
                own = {name: _part(one.outputs, at) for name, one in rows.items()}
                latency = now - handle._submitted
                result = PipelineResult(piece, handle.request_id, own, at, many=handle._many, latency=latency)
                self.sender.end(handle, result)


def _part(outputs: Any, at: range) -> Any:
    part = outputs[at.start : at.stop]
    return part.copy() if isinstance(part, np.ndarray) else part


def _apart(values: list[Any]) -> list[Any]:
    """Values of requests, none of them another one's, too: a model may write into them."""
    if len(set(map(id, values))) == len(values):
        return values
    seen: set[int] = set()
    found = []
    for value in values:
        found.append(writable(value) if id(value) in seen else value)
        seen.add(id(value))
    return found


_senders: WeakKeyDictionary[Transport, PipelineSender] = WeakKeyDictionary()
_registry = threading.Lock()


def sender_for(transport: Transport) -> PipelineSender:
    """The sender that goes with a transport."""
    with _registry:
        found = _senders.get(transport)
        if found is None:
            found = _senders[transport] = PipelineSender(transport)
        return found
