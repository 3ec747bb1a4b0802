"""Dispatch: gathers requests in lanes, and sends them in envelopes, as many as this client's leases allow.

It lives on the event loop of Dask's client. What comes back is for `Returns`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import pickle
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from altlas_flow.cluster.client.deadlines import Deadlines
from altlas_flow.cluster.client.handle import Handle
from altlas_flow.cluster.client.inbox import Inbox
from altlas_flow.cluster.client.journal import ASKED, Journal
from altlas_flow.cluster.client.lanes import Flight, Lane, Pace, Pool
from altlas_flow.cluster.client.posting import post
from altlas_flow.cluster.client.pulse import Pulse
from altlas_flow.cluster.client.returns import Returns
from altlas_flow.cluster.client.second import SecondTries, SecondTry
from altlas_flow.cluster.client.streaming import Listening
from altlas_flow.cluster.packed import Packed
from altlas_flow.cluster.plain import scatter_soon
from altlas_flow.cluster.scheduler.control import FELL
from altlas_flow.cluster.scheduler.hearing import BEGAN, PIECE
from altlas_flow.cluster.scheduler.lessor import LEASE
from altlas_flow.errors import (
    AltlasError,
    BadRequest,
    ClusterError,
    ClusterLost,
    DeadlineExceeded,
    describe,
)
from altlas_flow.models.memory import estimate
from altlas_flow.records import DistributionStrategy, RetryPolicy

if TYPE_CHECKING:
    from altlas_flow.cluster.client.transport import Transport

logger = logging.getLogger(__name__)

#: Seconds that the scheduler gets for what is asked once.
ASK_LIMIT = 60.0
#: Seconds of sending after which answers and deadlines have their turn on the loop.
TURN = 0.01
_DEFAULT_RETRY = RetryPolicy()
#: Dask ends what runs on its client's event loop where the client is closed.
LOOP_ENDED = "the Dask client was closed before the answer came: connect and ask again"
#: Tells the transports of one client apart, of which a later one may open what an earlier one leaves.
_numbers = itertools.count(1)


class Dispatch:
    """The loop's side of a `Transport`.

    Attributes
    ----------
    inbox : Inbox
        Requests that are not let in yet; any thread puts them there.
    dated : collections.deque of Handle
        Those of them that have a deadline: it counts also for what is not let in yet.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport, self.client = transport, transport.client
        self.settings, self.clock, self.loop = transport.settings, transport.clock, transport.loop
        self.inbox = Inbox()
        self.dated: deque[Handle] = deque()
        self.pulse = Pulse(
            self.client,
            self.loop,
            self.clock,
            limit=self.settings.heartbeat_timeout,
            waiting=lambda: transport.waits and not transport.closed,
            wake=transport.wake,
            lost=self.fail_all,
        )
        self._deadlines = Deadlines(self.loop, self.clock, self._late)
        self._pace = Pace(self.settings.envelope_rows, self.settings.envelope_time)
        self.journal = Journal(
            self.loop,
            self.clock,
            tell=self.pulse.tell,
            everything=self._all,
            cancel=transport.cancel,
        )
        self.seconds = SecondTries(
            self.loop,
            self.clock,
            self.settings.hedge_share,
            withdraw=self._withdraw,
            wake=transport.wake,
        )
        self.returns = Returns(transport, self._pace, self._admit, self.seconds)
        self.listening = Listening(self.pulse.tell, self.returns.flights)
        self._unready: set[Lane] = set()  # lanes that the scheduler does not know yet
        self._ahead: set[Handle] = set()  # whose inputs are being sent
        self._tasks: set[asyncio.Task[Any]] = set()
        self._number = next(_numbers)
        self._closed = False
        self._hears: dict[str, Callable[..., None]] = {
            LEASE: self.pulse.leased,
            BEGAN: self.began,
            PIECE: self.listening.heard,
            FELL: self.returns.fell,
            ASKED: self.asked,
        }

    def asked(self, ask: int, ids: list[str] | None, limit: int, cancel: bool, **more: Any) -> None:
        """The plugin asks what is under way."""
        self.journal.asked(ask, ids, limit, cancel)

    def began(self, key: str, **said: Any) -> None:
        """A worker says that members of an envelope run."""
        self.returns.began(key, **said)
        self.listening.began(key)

    def listen(self) -> None:
        """Hear what the scheduler plugin says."""
        self.client._stream_handlers.update(self._hears)

    # -- out ----------------------------------------------------------------------------------

    def pump(self) -> None:
        """Take in what is new, and send what may go."""
        while self.dated:
            self._deadlines.add(self.dated.popleft())
        while self.inbox and (room := self.settings.waiting_limit - self.transport.inside) > 0:
            for handle in self.inbox.take(room):
                if self.transport.let_in(handle):
                    self._admit(handle)
        ends = self.clock() + TURN
        for pool in self.pulse.pools.values():
            while pool.in_flight < pool.count and (lane := pool.next_lane()) is not None:
                if self.clock() > ends:
                    self.transport.wake()
                    break
                size = self._pace.size(lane.spec.fingerprint, len(lane.pending), pool.count)
                handles = lane.take(size)
                if handles:
                    self._send_or_end(lane, pool, handles)
            if (pool.lanes and pool.held) or (pool.taken_over < pool.version and not pool.over):
                self.pulse.report_soon()
        self.journal.flush_soon()
        self.pulse.start()

    def _send_or_end(self, lane: Lane, pool: Pool, handles: list[Handle]) -> None:
        """Send; where that fails in a way that nobody thought of, end them: they are in no lane any more."""
        try:
            self._send(lane, pool, handles)
        except Exception as error:
            logger.exception("an envelope could not be sent")
            fault = ClusterError(f"sending failed ({describe(error)}): this is a fault of altlas_flow")
            for handle in handles:
                self.returns.end(handle, fault)

    def _admit(self, handle: Handle, *, ahead: bool = True) -> None:
        """Take a request in; a large input is sent ahead of it, unless that was tried."""
        lane = handle._lane
        if handle._final is not None or lane is None:
            return
        if self.transport.closed:
            self.returns.end(handle, ClusterLost("the flow is closed: connect and ask again"))
            return
        if ahead and handle._ahead is None and handle._weight >= self.settings.scatter_size:
            self._ahead.add(handle)
            self._start(self._send_ahead(handle))
            return
        if lane.refused is not None:
            self.returns.end(handle, lane.refused)
            return
        lane.pending.append(handle)
        if lane.pool is not None:
            lane.pool.lanes.add(lane)
        elif lane not in self._unready:
            self._unready.add(lane)
            self._start(self._prepare(lane))

    async def _prepare(self, lane: Lane) -> None:
        """Make a lane known to the scheduler: what it needs, and by which strategy it is placed."""
        spec = lane.spec
        try:
            if lane.strategy not in DistributionStrategy.__members__:
                await self._ask("altlas_strategy", name=lane.strategy, function=lane.code)
            told = await self._ask(
                "altlas_open",
                client=self.client.id,
                transport=self._number,
                spec=spec.model_dump_json(),
                memory=estimate(spec),
            )
        except (OSError, TimeoutError) as error:
            self.returns.refuse(
                lane, ClusterLost(f"the scheduler does not answer ({describe(error)}): connect again")
            )
            return
        except AltlasError as error:
            self.returns.refuse(lane, error)
            return
        except Exception as error:
            # a client that is closed meanwhile says so in several ways
            self.returns.refuse(
                lane, ClusterLost(f"the scheduler cannot be asked ({describe(error)}): connect")
            )
            return
        except asyncio.CancelledError:
            self.returns.refuse(lane, ClusterLost(LOOP_ENDED))
            raise
        finally:
            self._unready.discard(lane)
        if self._closed:
            return  # what waited has ended
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
        """Send a large input to a worker, once, whatever becomes of the request.

        Where no worker runs it goes with its request, and the scheduler plugin says what becomes of that.
        """
        try:
            packed = await self._pack(handle)
            if not handle.done():  # it may be given up meanwhile, also below
                handle._ahead = await scatter_soon(self.client, packed, patient=False)
        except AltlasError as error:
            self.returns.end(handle, error)
            return
        except Exception as error:
            # whatever Dask itself raises on the way, also that its client is closed
            lost = ClusterError if self.client.status == "running" else ClusterLost
            text = f"request {handle.request_id}: its input could not be sent to a worker: {describe(error)}"
            self.returns.end(handle, lost(text))
            return
        except asyncio.CancelledError:
            self.returns.end(handle, ClusterLost(LOOP_ENDED))
            raise
        finally:
            self._ahead.discard(handle)
        if handle._ahead is None:
            handle._inputs, handle._weight = packed, packed.nbytes
        if handle.done():
            handle._inputs = handle._ahead = None
            return
        self._admit(handle, ahead=False)
        self.transport.wake()

    async def _pack(self, handle: Handle) -> Packed:
        """A large input, packed in a thread: deadlines and other requests must not wait for that."""
        if isinstance(handle._inputs, Packed):
            return handle._inputs  # of an earlier try, when no worker ran
        try:
            return await asyncio.to_thread(Packed.of, handle._inputs)
        except Exception as error:
            # an input may refuse to be pickled with any error
            raise _unfit(handle, error) from error

    def _send(self, lane: Lane, pool: Pool, handles: list[Handle]) -> None:
        """One envelope leaves."""
        now = self.clock()
        try:
            key, future = post(
                self.client, lane, pool, handles, now, traced=self.transport.tracer is not None
            )
        except ClusterLost as lost:
            for handle in handles:
                self.returns.end(handle, lost)
            return
        except BadRequest as error:
            good = self._without_bad(handles, error)
            if good:
                self._send(lane, pool, good)
            return
        flight = Flight(key, lane, pool, handles, future, now, len(handles), len(handles))
        pool.in_flight += 1
        hedged = lane.apart is not None
        for at, handle in enumerate(handles):
            handle._flight, handle._at, handle._sent = flight, at, now
            hedged = hedged or handle._hedged is not None
        self.returns.flights[key] = flight
        if hedged:
            self.seconds.sent(flight)
        self._start(self.returns.follow(flight))
        self.returns.let_go()
        self.journal.flush()

    def _without_bad(self, handles: list[Handle], error: BadRequest) -> list[Handle]:
        """Those that can be pickled, where an envelope could not; the others end."""
        good = []
        for handle in handles:
            try:
                Packed.of(handle._inputs)
            except Exception as fault:
                # an input may refuse to be pickled with any error
                self.returns.end(handle, _unfit(handle, fault))
            else:
                good.append(handle)
        if len(good) == len(handles):  # it is not the inputs
            for handle in handles:
                self.returns.end(handle, error)
            return []
        return good

    # -- given up ------------------------------------------------------------------------------

    def unwanted(self, handle: Handle) -> None:
        """Nobody wants a request any more: tell its worker, or take the whole envelope back."""
        if handle._flight is not None:
            self._withdraw(handle._flight, handle._at)
        self.seconds.over(handle)
        handle._inputs = handle._ahead = None
        self.transport.wake()

    def _withdraw(self, flight: Flight, at: int) -> None:
        """Nobody wants a member of an envelope any more."""
        if flight.key in self.returns.flights:
            flight.live -= 1
            # its worker is told in any case: it would find out by itself, but later
            self.pulse.tell({"op": "altlas-cancel", "key": flight.key, "requests": [at]})
            if flight.live <= 0:
                self._start(self.client._cancel([flight.future]))

    def fail_all(self, error: AltlasError) -> None:
        """End every request that is under way."""
        self.seconds.forget(list(self._everything()))
        for handle in list(self._all()):
            self.returns.end(handle, error)
        for companion in self.transport.companions:
            companion.fail_all(error)

    def close(self, error: AltlasError) -> None:
        """End everything."""
        self._closed = True
        self.pulse.close()
        self._deadlines.close()
        self.seconds.close()
        self.fail_all(error)
        self.journal.flush()
        for flight in self.returns.flights.values():
            everything = list(range(flight.count))
            self.pulse.tell({"op": "altlas-cancel", "key": flight.key, "requests": everything})
        self.returns.give_up()
        self.pulse.tell({"op": "altlas-leave", "transport": self._number})
        handlers = self.client._stream_handlers
        for operation, hears in self._hears.items():
            if handlers.get(operation) == hears:  # no later transport listens instead
                handlers[operation] = _ignore  # the client may live on, and be told still

    def _late(self, handle: Handle, error: DeadlineExceeded) -> None:
        if not handle.done():
            handle._tried = handle._tried_so_far(self.clock())
        if self.returns.end(handle, error):
            self.unwanted(handle)

    def _all(self) -> Iterable[Handle]:
        """All requests that are under way, each once."""
        return (handle for handle in self._everything() if not isinstance(handle, SecondTry))

    def _everything(self) -> Iterable[Handle]:
        for flight in list(self.returns.flights.values()):
            yield from flight.handles
        lanes = {*self._unready, *(lane for pool in self.pulse.pools.values() for lane in pool.lanes)}
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


def _unfit(handle: Handle, error: Exception) -> BadRequest:
    """The error of a request whose input cannot be pickled."""
    return BadRequest(f"request {handle.request_id}: its input cannot be sent to a worker: {describe(error)}")


def _ignore(**message: Any) -> None:
    """What the plugin says to a client whose flows are closed."""
