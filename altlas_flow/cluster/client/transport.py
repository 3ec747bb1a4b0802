"""Transport: what any thread may call to send a request, to wait for it, and to give it up.

Nothing here blocks. A request goes into an inbox, and the client's event loop is woken; `Dispatch`,
which lives on that loop, does the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from distributed import Client

from altlas_flow.cluster.client import lines
from altlas_flow.cluster.client.afterwards import Afterwards
from altlas_flow.cluster.client.dispatch import Dispatch
from altlas_flow.cluster.client.handle import CANCELLED, ERROR, Handle, cancelled, stamped
from altlas_flow.cluster.client.hedging import Hedged, Hedges
from altlas_flow.cluster.client.lanes import Flight, Lane
from altlas_flow.cluster.client.named import named_strategy
from altlas_flow.cluster.client.posting import weight_of
from altlas_flow.cluster.client.spans import begin_span
from altlas_flow.cluster.client.streaming import Ear
from altlas_flow.errors import AltlasError, BadRequest, ClusterLost, Overloaded, describe
from altlas_flow.models.frozen import frozen, thawed
from altlas_flow.models.runtimes import runtime_class
from altlas_flow.models.spec import ModelSpec
from altlas_flow.records import RetryPolicy
from altlas_flow.settings import Settings
from altlas_flow.tracing import tracer_for

if TYPE_CHECKING:
    from altlas_flow.cluster.choosing import Choosing

logger = logging.getLogger(__name__)

#: Kinds of requests (model, parameters, strategy, priority, validator) that are kept ready.
KINDS = 1000
#: Priorities reach from minus this to this: what Dask cannot send would cost it its workers.
PRIORITIES = 1000
#: Seconds for which a closing flow waits until spans and log lines are told.
TELLING = 5.0
#: Seconds that what a closing flow says gets to leave.
FAREWELL = 1.0


class Companion(Protocol):
    """What else waits for answers of the same scheduler, and is told where it is lost."""

    open: int

    def fail_all(self, error: AltlasError) -> None:
        """End all that waits."""


class Transport:
    """Sends the requests of one Dask client.

    Parameters
    ----------
    client : distributed.Client
    settings : Settings
    clock : callable
        Monotonic seconds.
    """

    def __init__(
        self, client: Client, settings: Settings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.client, self.settings, self.clock = client, settings, clock
        self.tracer = tracer_for(settings.traces, clock)
        self.loop: asyncio.AbstractEventLoop = client.loop.asyncio_loop  # type: ignore[union-attr]
        self.thread: int | None = None  # of that loop
        self.open = 0  # requests that are not over
        self.inside = 0  # those of them that were let in
        self.users = 0  # flows
        self.afterwards = Afterwards()
        self.companions: list[Companion] = []  # others that wait for the same scheduler
        self._lock = threading.Lock()
        self._lanes: dict[Any, Lane] = {}
        self._awake = self._closed = False
        self._process = os.getpid()
        self._choosing: Choosing | None = None
        self._dispatch = Dispatch(self)
        self._call(self._begin)

    @property
    def faults(self) -> int:
        """Of the scheduler plugin, as it last said."""
        return self._dispatch.pulse.faults

    @property
    def waits(self) -> bool:
        """Whether anything waits for the scheduler or its workers."""
        return self.open > 0 or any(companion.open > 0 for companion in self.companions)

    @property
    def hedges(self) -> Hedges:
        """How much was hedged so far."""
        return self._dispatch.seconds.counts

    def lane(
        self,
        spec: ModelSpec,
        parameters: Mapping[str, Any],
        *,
        strategy: Any = None,
        priority: int = 0,
        validator: Any = None,
        idempotent: bool = True,
    ) -> Lane:
        """Where requests of a kind wait; its arguments are checked the first time.

        Raises
        ------
        ParameterError, BadRequest
        """
        try:
            given = frozen(parameters)
        except Exception as error:
            # what people pass may refuse to be pickled with any error
            text = f"the parameters cannot be sent to a worker ({describe(error)}): give names and values"
            raise BadRequest(text) from error
        key = (spec.fingerprint, spec.id, spec.validator, given, strategy, priority, validator, idempotent)
        try:
            lane = self._lanes.get(key)
        except TypeError:
            raise BadRequest("strategy and validator have to be hashable: pass a function") from None
        if lane is not None and lane.refused is None:
            return lane
        if isinstance(priority, bool) or not isinstance(priority, int) or abs(priority) > PRIORITIES:
            raise BadRequest(
                f"priority={priority!r} is no whole number from -{PRIORITIES} to {PRIORITIES}: give one, "
                "higher goes first"
            )
        if validator is not None and not callable(getattr(validator, "model_validate", validator)):
            raise BadRequest(
                f"validator={validator!r} is none: give a callable, a pydantic model, or its name"
            )
        runtime_class(spec.runtime)(spec).check_parameters({**spec.parameters, **parameters})
        # a copy: the caller may go on with its own
        lane = Lane(spec, thawed(given), priority=priority, validator=validator or spec.checks())
        lane.once = not idempotent
        lane.strategy, lane.code = named_strategy(strategy, self.settings.default_distribution_strategy)
        with self._lock:
            if len(self._lanes) >= KINDS:
                self._lanes.clear()  # parameters that change each time: what waits, waits elsewhere
            self._lanes[key] = lane
        return lane

    def submit(
        self,
        lane: Lane,
        inputs: Any,
        *,
        request_id: str | None = None,
        deadline: float | None = None,
        retry: RetryPolicy | None = None,
        idempotent: bool = True,
        hedge: bool = False,
        metadata: dict[str, Any] | None = None,
    ) -> Handle:
        """Send a request; never blocks.

        Raises
        ------
        Overloaded
            Where too much waits, and the settings say so.
        ClusterLost
        BadRequest
            Where it must not run twice, and is to be hedged.
        """
        self.check_process()
        if hedge and not idempotent:
            raise BadRequest("hedge=True may run it twice, and idempotent=False forbids that: leave one out")
        if self._closed or self.client.status not in ("running", "connecting"):
            raise ClusterLost("the connection to the scheduler is closed: connect again with af.connect()")
        now = self.clock()
        handle = Handle(self, lane, request_id or os.urandom(16).hex(), inputs, now, lane.spec.id)
        if deadline is not None:
            handle._deadline = now + deadline
        handle._retry, handle._idempotent, handle._metadata = retry, idempotent, metadata
        if hedge:
            handle._hedged = Hedged()
        # here, since deadlines and other requests wait for whatever the client's loop does
        handle._weight = (
            len(inputs) if type(inputs) is str else weight_of(handle._inputs, self.settings.scatter_size)
        )
        with self._lock:
            if self.open >= self.settings.waiting_limit and self.settings.overload == "raise":
                raise Overloaded(
                    f"{self.open} requests wait already: ask again later, or raise altlas.waiting-limit"
                )
            self.open += 1
        if self.tracer is not None:
            handle._span = begin_span(self.tracer, handle)
        if deadline is not None:
            self._dispatch.dated.append(handle)
        self._dispatch.inbox.append(handle)
        if self.closed:  # meanwhile
            self.end(handle, ERROR, ClusterLost("the flow was closed: connect and ask again"))
        self.wake()
        return handle

    def refused(self, request_id: str, model: str, error: AltlasError) -> Handle:
        """The handle of a request that cannot be sent at all: it is over already."""
        handle = Handle(self, None, request_id or os.urandom(16).hex(), None, self.clock(), model)
        if self.tracer is not None:
            handle._span = begin_span(self.tracer, handle)
        handle._settle(ERROR, self.clock(), error)
        self._tell(handle, error)
        return handle

    def cancel(self, handle: Handle) -> bool:
        """Give a request up; False where it is over already."""
        tried = handle._tried_so_far(self.clock())
        if not self.end(handle, CANCELLED, stamped(cancelled(handle), tried)):
            return False
        with contextlib.suppress(RuntimeError):  # the loop is closed: so is everything else
            self._call(self._dispatch.unwanted, handle)
        return True

    def choosing(self) -> Choosing:
        """What chooses models for this client."""
        with self._lock:
            if self._choosing is None:
                from altlas_flow.cluster.choosing import Choosing
                from altlas_flow.cluster.client.choosing import ClientLine

                self._choosing = Choosing(ClientLine(self))
            return self._choosing

    def tell(self, message: dict[str, Any]) -> None:
        """Send something to the plugin; on the client's event loop."""
        self._dispatch.pulse.tell(message)

    def when_over(self, handle: Handle, waiter: Any) -> bool:
        """Have `waiter` woken when the request is over; False where it is over already.

        Parameters
        ----------
        handle : Handle
        waiter : callable, or (event loop, asyncio future)
        """
        with self._lock:
            if handle._final is not None:
                return False
            if handle._waiters is None:
                handle._waiters = []
            handle._waiters.append(waiter)
            return True

    def forget(self, handle: Handle, waiter: Any) -> None:
        """Whoever waited has given up."""
        with self._lock:
            if handle._waiters is not None and waiter in handle._waiters:
                handle._waiters.remove(waiter)

    def listen(self, ear: Ear) -> None:
        """Have pieces of a request's answer told to `ear`."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the request is over
            self._call(self._dispatch.listening.open, ear)

    def unlisten(self, ear: Ear) -> None:
        """No more."""
        with contextlib.suppress(RuntimeError):
            self._call(self._dispatch.listening.close, ear)

    def let_in(self, handle: Handle) -> bool:
        """Count a request as let in; False where it is over already."""
        with self._lock:
            if handle._final is not None:
                return False
            if not handle._inside:
                handle._inside = True
                self.inside += 1
            return True

    def end(self, handle: Handle, final: str, error: Exception | None) -> bool:
        """A request is over; False where it was already."""
        with self._lock:
            if handle._final is not None:
                return False
            waiters = handle._settle(final, self.clock(), error)
            self.open -= 1
            self.inside -= handle._inside
        self._dispatch.journal.over(None, [handle])  # before anybody knows: who asks then is to find it
        notify(waiters)
        if self._dispatch.inbox:
            self.wake()  # there may be room again
        self._tell(handle, error)
        return True

    def _tell(self, handle: Handle, error: Exception | None) -> None:
        """Say what came of a request that was not answered."""
        if handle._span is not None:
            handle._span.over(handle)
            self.afterwards.tell(handle._span.tell)
        if error is not None and lines.wanted():
            self.afterwards.tell(lines.tell, *lines.facts(handle), error)

    def complete(self, handles: list[Handle], final: str, flight: Flight) -> None:
        """As `end`, for many at once that have their answers from one flight."""
        now, waiters, over = self.clock(), [], []
        with self._lock:
            for handle in handles:
                if handle._final is None:
                    waiters += handle._settle(final, now)
                    self.open -= 1
                    self.inside -= handle._inside
                    over.append(handle)
        self._dispatch.journal.over(flight, over)
        notify(waiters)
        if self.tracer is not None:
            for handle in over:
                if handle._span is not None:
                    handle._span.over(handle)
                    self.afterwards.tell(handle._span.tell)
        if lines.all_wanted():
            node = flight.node if flight.answers is None else flight.answers.node
            for handle in over:
                self.afterwards.tell(lines.completed, *lines.facts(handle), node)

    def wake(self) -> None:
        """Have what waits looked at."""
        if not self._awake:
            self._awake = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: `submit` says so next time
                self._call(self._pump)

    def close(self) -> None:
        """Send nothing more; whoever still waits is told."""
        self._closed = True
        if os.getpid() != self._process:
            return  # a forked child has no such thread, and nothing that is its own
        over = threading.Event()

        def end() -> None:
            try:
                if self._choosing is not None:
                    self._choosing.close()
                self._dispatch.close(
                    ClusterLost("the flow was closed before the answer came: connect and ask again")
                )
            finally:
                leave(self.loop.time() + FAREWELL)

        def leave(until: float) -> None:
            # what is let go of has to be said before a cluster ends: its workers would seem to lose results.
            # Dask's stream tells nobody when it is empty
            stream = self.client.scheduler_comm
            if stream is None or stream.closed() or not stream.buffer or self.loop.time() > until:
                over.set()
            else:
                self.loop.call_later(stream.interval, leave, until)

        if threading.get_ident() == self.thread:
            end()
            return  # what is told goes on without it
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._call(end)
            over.wait(5.0)
        if not self.afterwards.flush(TELLING):
            text = (
                "%d spans and log lines of requests are not told yet: they are as long as this program runs"
            )
            logger.warning(text, self.afterwards.waiting)
        if self.afterwards.lost:
            logger.warning("%d spans and log lines of requests were left out", self.afterwards.lost)

    def abandon(self) -> bool:
        """Tell whoever still waits, where the Dask client is closed, and its loop may be at an end.

        Whether it is closed.
        """
        if self.client.status != "closed":
            return False
        lost = ClusterLost("the Dask client was closed before the answer came: connect and ask again")
        try:
            if self.loop.is_running():
                self._call(self._dispatch.fail_all, lost)
                return True
        except RuntimeError:
            pass  # it ends just now
        self._dispatch.fail_all(lost)
        return True

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def check_process(self) -> None:
        """Raise where this is a process that was forked: the threads that would answer are not in it.

        Raises
        ------
        ClusterLost
        """
        if os.getpid() != self._process:
            raise ClusterLost("a forked process cannot use its parent's flow: connect in it, or spawn it")

    def _call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call on the client's loop, without what the calling thread has set, such as Dask's annotations."""
        self.loop.call_soon_threadsafe(function, *arguments, context=contextvars.Context())

    def _begin(self) -> None:
        self.thread = threading.get_ident()
        self._dispatch.listen()

    def _pump(self) -> None:
        self._awake = False
        self._dispatch.pump()


def notify(waiters: list[Any]) -> None:
    """Wake those who wait: threads at once, and each event loop with one call."""
    loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for waiter in waiters:
        if isinstance(waiter, tuple):
            loops.setdefault(waiter[0], []).append(waiter[1])
        else:
            waiter()
    for loop, futures in loops.items():
        with contextlib.suppress(RuntimeError):  # that loop is closed, and nobody waits in it
            loop.call_soon_threadsafe(_release, futures)


def _release(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
