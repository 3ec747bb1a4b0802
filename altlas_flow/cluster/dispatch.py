"""Dispatch: gathers requests in lanes, sends them in envelopes, gives each its outcome or another try.

It lives on the event loop of Dask's client. `pump` sends as many envelopes as this client's leases
allow; `_follow` waits for one of them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
from collections import deque
from collections.abc import Iterable
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from dask.base import tokenize
from distributed.scheduler import KilledWorker

from altlas_flow.cluster.control import BEGAN
from altlas_flow.cluster.deadlines import Deadlines
from altlas_flow.cluster.envelope import Answers
from altlas_flow.cluster.fate import Fate, decide
from altlas_flow.cluster.handle import COMPLETED, ERROR, Handle, stamped
from altlas_flow.cluster.lanes import Flight, Lane, Pace, Pool
from altlas_flow.cluster.lessor import LEASE
from altlas_flow.cluster.packed import Packed
from altlas_flow.cluster.posting import post, weigh
from altlas_flow.cluster.pulse import Pulse
from altlas_flow.errors import (
    AltlasError,
    BadRequest,
    ClusterError,
    ClusterLost,
    DeadlineExceeded,
    NodeLost,
    NoEligibleNode,
    describe,
)
from altlas_flow.models.memory import estimate
from altlas_flow.records import DistributionStrategy, RetryPolicy, Try

if TYPE_CHECKING:
    from altlas_flow.cluster.transport import Transport

logger = logging.getLogger(__name__)

#: Seconds that the scheduler gets for what is asked once.
ASK_LIMIT = 60.0
_DEFAULT_RETRY = RetryPolicy()


class Dispatch:
    """The loop's side of a `Transport`.

    Attributes
    ----------
    inbox : collections.deque of Handle
        Requests that are new; any thread puts them there.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport, self.client = transport, transport.client
        self.settings, self.clock, self.loop = transport.settings, transport.clock, transport.loop
        self.inbox: deque[Handle] = deque()
        self.pulse = Pulse(
            self.client,
            self.loop,
            self.clock,
            limit=self.settings.heartbeat_timeout,
            waiting=lambda: transport.open > 0 and not transport.closed,
            wake=transport.wake,
            lost=self.fail_all,
        )
        self._deadlines = Deadlines(self.loop, self.clock, self._late)
        self._pace = Pace(self.settings.envelope_rows, self.settings.envelope_time)
        self._flights: dict[str, Flight] = {}
        self._retries: dict[Any, Lane] = {}  # lanes of requests that failed elsewhere
        self._lanes: set[Lane] = set()  # those that are not ready yet
        self._ahead: set[Handle] = set()  # whose inputs are being sent
        self._tasks: set[asyncio.Task[Any]] = set()

    def listen(self) -> None:
        """Hear what the scheduler plugin says."""
        self.client._stream_handlers[LEASE] = self.pulse.leased
        self.client._stream_handlers[BEGAN] = self._began

    # -- out ----------------------------------------------------------------------------------

    def pump(self) -> None:
        """Take in what is new, and send what may go."""
        inbox, room = self.inbox, self.settings.waiting_limit - self._inside()
        while inbox and room > 0:
            self._admit(inbox.popleft())
            room -= 1
        for pool in self.pulse.pools.values():
            while pool.in_flight < pool.count and (lane := pool.next_lane()) is not None:
                size = self._pace.size(lane.spec.fingerprint, len(lane.pending), pool.count)
                handles = lane.take(size)
                if handles:
                    self._send(lane, pool, handles)
            if pool.lanes and pool.held:
                self.pulse.report_soon()
        self.pulse.start()

    def _inside(self) -> int:
        """Requests that were let in and are not over."""
        return max(0, self.transport.open - len(self.inbox))

    def _admit(self, handle: Handle) -> None:
        lane = handle._lane
        if handle._final is not None or lane is None:
            return
        if self.transport.closed:
            self._end(handle, ClusterLost("the flow is closed: connect and ask again"))
            return
        if handle._deadline is not None and handle._flight is None and not handle._tried:
            self._deadlines.add(handle)
        if handle._ahead is None and weigh(handle._inputs) >= self.settings.scatter_size:
            self._ahead.add(handle)
            self._start(self._send_ahead(handle))
            return
        if lane.refused is not None:
            self._end(handle, lane.refused)
            return
        lane.pending.append(handle)
        if lane.pool is not None:
            lane.pool.lanes.add(lane)
        elif lane not in self._lanes:
            self._lanes.add(lane)
            self._start(self._prepare(lane))

    async def _prepare(self, lane: Lane) -> None:
        """Make a lane known to the scheduler: what it needs, and by which strategy it is placed."""
        spec = lane.spec
        try:
            if lane.strategy not in DistributionStrategy.__members__:
                await self._ask("altlas_strategy", name=lane.strategy, function=lane.code)
            told = await self._ask(
                "altlas_open", client=self.client.id, spec=spec.model_dump_json(), memory=estimate(spec)
            )
        except (OSError, TimeoutError) as error:
            self._refuse(lane, ClusterLost(f"the scheduler does not answer ({describe(error)}): connect again"))
            return
        except AltlasError as error:
            self._refuse(lane, error)
            return
        finally:
            self._lanes.discard(lane)
        lane.pool = self.pulse.pool(told["pool"], *told["lease"])
        lane.pool.lanes.add(lane)
        self.transport.wake()

    async def _ask(self, operation: str, **arguments: Any) -> Any:
        handler = getattr(self.client.scheduler, operation)
        answer = await asyncio.wait_for(handler(**arguments), ASK_LIMIT)
        if answer.get("error") is not None:
            error = pickle.loads(answer["error"])
            assert isinstance(error, AltlasError)
            raise error
        return answer

    async def _send_ahead(self, handle: Handle) -> None:
        """Send a large input to a worker, once, whatever becomes of the request."""
        try:
            packed = Packed.of(handle._inputs)
            (handle._ahead,) = await self.client._scatter([packed], hash=False)
        except Exception as error:
            # pickling may fail with anything, and so may the way to the workers
            problem = f"request {handle.request_id}: its input cannot be sent to a worker: {describe(error)}"
            self._end(handle, BadRequest(problem))
            return
        finally:
            self._ahead.discard(handle)
        self._admit(handle)
        self.transport.wake()

    def _send(self, lane: Lane, pool: Pool, handles: list[Handle]) -> None:
        """One envelope leaves."""
        now = self.clock()
        try:
            key, future = post(self.client, lane, pool, handles, now)
        except ClusterLost as lost:
            for handle in handles:
                self._end(handle, lost)
            return
        except BadRequest as error:
            good = self._without_bad(handles, error)
            if good:
                self._send(lane, pool, good)
            return
        flight = Flight(key, lane, pool, handles, future, now, live=len(handles))
        self._flights[key] = flight
        pool.in_flight += 1
        for at, handle in enumerate(handles):
            handle._flight, handle._at, handle._sent = flight, at, now
        self._start(self._follow(flight))

    def _without_bad(self, handles: list[Handle], error: BadRequest) -> list[Handle]:
        """Those that can be pickled, where an envelope could not; the others end."""
        good = []
        for handle in handles:
            try:
                Packed.of(handle._inputs)
            except Exception as fault:
                # an input may refuse to be pickled with any error
                problem = f"request {handle.request_id}: its input cannot be sent to a worker: {describe(fault)}"
                self._end(handle, BadRequest(problem))
            else:
                good.append(handle)
        if len(good) == len(handles):  # it is not the inputs
            for handle in handles:
                self._end(handle, error)
            return []
        return good

    # -- and back -----------------------------------------------------------------------------

    async def _follow(self, flight: Flight) -> None:
        """Wait for an envelope; each request in it gets its outcome, or another try."""
        error: Exception | None = None
        try:
            answers: Answers = await self.client._gather(flight.future)
        except AltlasError as problem:
            error = problem
        except KilledWorker as problem:
            node = str(getattr(problem.last_worker, "name", "?"))
            error = NodeLost(node, "died", tuple(range(flight.count)))
        except (CancelledError, asyncio.CancelledError):
            error = self._given_up(flight)
        except Exception as problem:
            # whatever Dask itself raises on the way
            error = ClusterError(f"the envelope failed on its way: {describe(problem)}")
        finally:
            flight.pool.in_flight -= 1
            self._flights.pop(flight.key, None)
        if error is None:
            self._deliver(flight, answers)
        else:
            # its frames would keep the future, and that the task on the scheduler
            error.__traceback__ = getattr(getattr(flight.future, "_state", None), "traceback", None)
            self._lost(flight, error)
        self.transport.wake()

    def _given_up(self, flight: Flight) -> Exception:
        """What it means that Dask says that a task was cancelled."""
        if self.transport.closed or self.client.status != "running":
            return ClusterLost(
                "the request was given up: the flow or its scheduler was closed; connect and ask again"
            )
        if any(handle._ahead is not None for handle in flight.handles):
            for handle in flight.handles:
                handle._ahead = None  # the worker that had it is gone: it is sent again
            return NodeLost("?", "left")
        return ClusterError("the Dask future of the request was cancelled: ask again")

    def _lost(self, flight: Flight, error: Exception) -> None:
        """An envelope came back without answers."""
        node, began = "?", set()
        if isinstance(error, NodeLost):
            node, began = error.node, set(error.started)
        for at, handle in enumerate(flight.handles):
            self._failed(handle, flight, error, node, faulty=isinstance(error, NodeLost), began=at in began)
        if isinstance(error, NoEligibleNode):
            self._refuse(flight.lane, error)  # what waits behind them would fare no better

    def _deliver(self, flight: Flight, answers: Answers) -> None:
        flight.answers = answers
        errors = answers.errors
        if answers.service and len(answers.rows):
            self._pace.observe(flight.lane.spec.fingerprint, len(answers.rows), answers.service)
        good = flight.handles
        if errors:
            good = [handle for at, handle in enumerate(good) if at not in errors]
        self.transport.complete(good, COMPLETED)
        began = set(answers.began)
        for at, (faulty, error) in errors.items():
            self._failed(
                flight.handles[at], flight, error, answers.node, faulty=faulty, began=at in began
            )

    def _failed(
        self, handle: Handle, flight: Flight, error: Exception, node: str, *, faulty: bool, began: bool
    ) -> None:
        """A try failed: another one elsewhere, or the end."""
        if handle._final is not None:
            return
        if isinstance(error, (ClusterLost, DeadlineExceeded, NoEligibleNode)):
            self._end(handle, error)
            return
        handle._deaths += isinstance(error, NodeLost) and error.cause != "left" and began
        fate = decide(
            error,
            faulty=faulty,
            began=began,
            tries=len(handle._tried or ()) + 1,
            deaths=handle._deaths,
            moves=handle._moves,
            idempotent=handle._idempotent,
            policy=handle._retry or _DEFAULT_RETRY,
            limit=self.settings.tries,
        )
        if fate is Fate.MOVE:
            handle._moves += 1
        else:
            what = error.cause if isinstance(error, NodeLost) else describe(error)
            took = max(0.0, self.clock() - flight.sent)
            handle._tried = [*(handle._tried or ()), Try(node=node, error=what, seconds=took)]
        if fate is Fate.END:
            self._end(handle, error)
        else:
            self._again(handle, flight, node)

    def _again(self, handle: Handle, flight: Flight, node: str) -> None:
        """Queue a request for another node, with those that go the same way."""
        old = flight.lane
        exclude = old.exclude if node == "?" else old.exclude | {node}
        solo = handle._deaths > 0
        parameters = json.dumps(old.parameters, sort_keys=True, default=tokenize)
        key = (old.spec.fingerprint, old.spec.id, parameters, old.strategy, old.priority, id(old.validator),
               exclude, solo)  # fmt: skip
        lane = self._retries.get(key)
        if lane is None or lane.refused is not None:
            self._retries = {key: lane for key, lane in self._retries.items() if lane.pending}
            lane = self._retries[key] = Lane(
                old.spec,
                old.parameters,
                old.strategy,
                old.priority,
                old.validator,
                exclude,
                solo,
                old.pool,
                code=old.code,
            )
        handle._lane, handle._flight = lane, None
        self._admit(handle)

    def unwanted(self, handle: Handle) -> None:
        """Nobody wants a request any more: tell its worker, or take the whole envelope back."""
        flight = handle._flight
        if flight is not None and flight.key in self._flights:
            flight.live -= 1
            if flight.live <= 0:
                self._start(self.client._cancel([flight.future]))
            else:
                self.pulse.tell({"op": "altlas-cancel", "key": flight.key, "requests": [handle._at]})
        self.transport.wake()

    def fail_all(self, error: AltlasError) -> None:
        """End every request that is under way."""
        for handle in list(self._all()):
            self._end(handle, error)

    def close(self, error: AltlasError) -> None:
        """End everything."""
        self.pulse.close()
        self._deadlines.close()
        self.fail_all(error)
        self.client._stream_handlers.pop(LEASE, None)
        self.client._stream_handlers.pop(BEGAN, None)

    def _began(self, key: str, requests: list[int] | None = None) -> None:
        """A worker says that members of an envelope run."""
        flight = self._flights.get(key)
        if flight is not None:
            if requests is None:
                flight.begun = None
            elif flight.begun is not None:
                flight.begun.update(requests)

    def _late(self, handle: Handle, error: DeadlineExceeded) -> None:
        if self._end(handle, error):
            self.unwanted(handle)

    def _refuse(self, lane: Lane, error: AltlasError) -> None:
        """End what waits in a lane; the next request of its kind gets a new one."""
        lane.refused = error
        while lane.pending:
            self._end(lane.pending.popleft(), error)

    def _end(self, handle: Handle, error: Exception) -> bool:
        return self.transport.end(handle, ERROR, stamped(error, handle._tried or ()))

    def _all(self) -> Iterable[Handle]:
        for flight in list(self._flights.values()):
            yield from flight.handles
        lanes = {*self._lanes, *(lane for pool in self.pulse.pools.values() for lane in pool.lanes)}
        for lane in lanes:
            yield from list(lane.pending)
        yield from list(self._ahead)
        yield from list(self.inbox)

    def _start(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # a fault of ours: whoever it was about must not wait for ever
            logger.error("a task of the transport failed", exc_info=error)
            self.fail_all(ClusterError(f"sending failed ({describe(error)}): this is a fault of altlas_flow"))


