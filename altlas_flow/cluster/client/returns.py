"""Envelopes that come back: each request in one gets its outcome, or another try elsewhere.

Lives on the event loop of Dask's client, beside `Dispatch`, which sends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from distributed import Future
from distributed.scheduler import KilledWorker

from altlas_flow.cluster.client import lines
from altlas_flow.cluster.client.fate import DEATHS, UNHEARD, Fate, decide
from altlas_flow.cluster.client.handle import COMPLETED, ERROR, Handle, stamped
from altlas_flow.cluster.client.lanes import Flight, Lane, Pace
from altlas_flow.cluster.client.second import SecondTries, SecondTry
from altlas_flow.cluster.worker.envelope import Answers
from altlas_flow.errors import (
    AltlasError,
    ClusterError,
    ClusterLost,
    DeadlineExceeded,
    HostClosed,
    NodeLost,
    NoEligibleNode,
    RequestCancelled,
    describe,
)
from altlas_flow.models.frozen import frozen
from altlas_flow.records import RetryPolicy, Try

if TYPE_CHECKING:
    from altlas_flow.cluster.client.transport import Transport

logger = logging.getLogger(__name__)

#: Seconds that the scheduler gets to say what ran of an envelope that was lost.
ASK_LIMIT = 10.0
#: Seconds after which answers are forgotten where no envelope leaves meanwhile.
LET_GO = 0.05
_DEFAULT_RETRY = RetryPolicy()


class Returns:
    """What becomes of the requests of envelopes that were sent.

    Parameters
    ----------
    transport : Transport
    pace : Pace
        Learns from the answers.
    admit : callable
        Takes in a request that is tried again.
    seconds : SecondTries
    """

    def __init__(
        self,
        transport: Transport,
        pace: Pace,
        admit: Callable[[Handle], None],
        seconds: SecondTries,
    ) -> None:
        self.transport, self.client, self.settings = transport, transport.client, transport.settings
        self._pace, self._admit, self._seconds = pace, admit, seconds
        self.flights: dict[str, Flight] = {}
        self._retries: dict[Any, Lane] = {}  # lanes of requests that failed elsewhere
        self._over: list[Future[Any]] = []  # futures whose answers have come
        self._letting_go: asyncio.TimerHandle | None = None

    async def follow(self, flight: Flight) -> None:
        """Wait for an envelope."""
        flight.task = asyncio.current_task()
        error: Exception | None = None
        caught: Exception | None = None  # the future has it, too
        try:
            answers: Answers = await self.client._gather(flight.future)
            answers.rows = answers.rows.open()
        except AltlasError as problem:
            error = caught = problem
        except KilledWorker as problem:
            caught = problem
            node = str(getattr(problem.last_worker, "name", "?"))
            error = NodeLost(node, "died", tuple(range(flight.count)))
        except (CancelledError, asyncio.CancelledError):
            error = await self._given_up(flight)
        except Exception as problem:
            # whatever Dask itself raises on the way
            caught = problem
            error = ClusterError(f"the envelope failed on its way: {describe(problem)}")
        finally:
            flight.pool.in_flight -= 1
            self.flights.pop(flight.key, None)
            if flight.hedged:
                self._seconds.ended(flight)
        # or what came of it would stay on the cluster for as long as a handle lives
        self._over.append(flight.future)
        if self._letting_go is None:
            self._letting_go = self.transport.loop.call_later(LET_GO, self.let_go)
        try:
            if error is None:
                self._deliver(flight, answers)
            else:
                if caught is not None:
                    # its frames would keep the future, and that the task on the scheduler
                    caught.__traceback__ = getattr(getattr(flight.future, "_state", None), "traceback", None)
                self._lost(flight, error)
        except Exception as problem:
            logger.exception("answers could not be taken in")
            fault = ClusterError(f"answers were lost ({describe(problem)}): this is a fault of altlas_flow")
            for handle in flight.handles:
                self.end(handle, fault)
        # handles know their flight: without this only the garbage collector would let go of its future
        flight.handles, flight.task = [], None
        self.transport.wake()

    def let_go(self) -> None:
        """Have the cluster forget the answers that have come.

        Right behind an envelope that leaves, or a little later: Dask's client waits for 10 ms after it has
        sent anything, and by itself this message would keep the next request waiting.
        """
        if self._letting_go is not None:
            self._letting_go.cancel()
            self._letting_go = None
        over, self._over = self._over, []
        for future in over:
            future.release()

    def give_up(self) -> None:
        """Have the cluster forget all, also what is under way: it is not predicted any more."""
        self._over += [flight.future for flight in self.flights.values()]
        self.let_go()

    def began(self, key: str, requests: list[int] | None = None, node: str = "?") -> None:
        """A worker says that members of an envelope run."""
        flight = self.flights.get(key)
        if flight is not None:
            flight.node, now = node, self.transport.clock()
            for at in range(flight.count) if requests is None else requests:
                flight.since.setdefault(at, now)
            if requests is None:
                flight.begun = None
            elif flight.begun is not None:
                flight.begun.update(requests)

    def fell(self, key: str, node: str) -> None:
        """The worker that holds the answers of an envelope is silent: they will not come."""
        flight = self.flights.get(key)
        if flight is not None and flight.task is not None:
            flight.fallen = NodeLost(node, "left", tuple(range(flight.count)))
            flight.task.cancel()

    def refuse(self, lane: Lane, error: AltlasError) -> None:
        """End what waits in a lane; the next request of its kind gets a new one."""
        lane.refused = error
        while lane.pending:
            self.end(lane.pending.popleft(), error)
        self.transport.wake()  # there is room again

    def end(self, handle: Handle, error: Exception) -> bool:
        """A request is over, with an error; of a second try, only that."""
        if isinstance(handle, SecondTry):
            self._seconds.drop(handle, outcome="the second try failed")
            return False
        ended = self.transport.end(handle, ERROR, stamped(error, handle._tried or ()))
        self._seconds.over(handle)
        return ended

    async def _given_up(self, flight: Flight) -> Exception:
        """What it means that Dask says that a task was cancelled."""
        if flight.fallen is not None:
            return flight.fallen
        if self.transport.closed or self.client.status != "running":
            return ClusterLost(
                "the request was given up: the flow or its scheduler was closed; connect and ask again"
            )
        gone = [
            handle
            for handle in flight.handles
            if handle._ahead is not None and handle._ahead.status != "finished"
        ]
        if not gone:
            return RequestCancelled("the Dask future of the request was cancelled: ask again")
        for handle in gone:
            handle._ahead = None  # the worker that had it is gone: it is sent again
        scheduler: Any = self.client.scheduler
        try:
            said = await asyncio.wait_for(scheduler.altlas_lost(key=flight.key), ASK_LIMIT)
        except (OSError, TimeoutError, AttributeError, asyncio.CancelledError) as error:
            return ClusterLost(f"the scheduler cannot be asked ({describe(error)}): connect and ask again")
        if said is None:
            return NodeLost("?", "left")  # its inputs were lost before it was anywhere
        started, begun, suspected = map(tuple, said["members"])
        return NodeLost(said["node"], said["cause"], started, begun, suspected, said["beside"])

    def _lost(self, flight: Flight, error: Exception) -> None:
        """An envelope came back without answers."""
        node, running, begun = "?", set(), set()
        if isinstance(error, NodeLost):
            node, running, begun = error.node, set(error.started), set(error.begun)
        elif not isinstance(error, (ClusterLost, HostClosed, NoEligibleNode)):
            begun = set(range(flight.count))  # how far they came, nobody knows
        faulty = isinstance(error, NodeLost)
        if type(error) is ClusterError and flight.count > 1 and not flight.lane.once:
            # something in it could not travel: each by itself, so that only that fails
            for handle in flight.handles:
                if isinstance(handle, SecondTry):
                    self._seconds.drop(handle, outcome="the second try failed")
                elif not handle.done() and not self._seconds.take_over(handle, "?"):
                    self._again(handle, flight, "?", alone=True)
            return
        for at, handle in enumerate(flight.handles):
            self._failed(handle, flight, error, node, faulty=faulty, began=at in running, ever=at in begun)
        if isinstance(error, NoEligibleNode) and flight.lane.apart is None:
            # what waits behind them, and what of this model has been elsewhere, would fare no better
            alike = [
                lane for lane in flight.pool.lanes if lane.spec.fingerprint == flight.lane.spec.fingerprint
            ]
            for lane in {flight.lane, *alike}:
                self.refuse(lane, error)

    def _deliver(self, flight: Flight, answers: Answers) -> None:
        flight.answers = answers
        errors = answers.errors
        if answers.service and len(answers.rows):
            model, rows = flight.lane.spec.fingerprint, len(answers.rows)
            self._pace.observe(model, rows, answers.service, answers.together)
        if not answers.load:  # that is no time which anything will take again
            self._seconds.observe(flight, answers.node)
        good = flight.handles
        if errors:
            good = [handle for at, handle in enumerate(good) if at not in errors]
        if flight.lane.apart is not None:
            good = self._seconds.answered(flight, good)
        self.transport.complete(good, COMPLETED, flight)
        if flight.hedged:
            for handle in good:
                self._seconds.over(handle)
        began = set(answers.began)
        for at, (faulty, error) in errors.items():
            ran = at in began
            gone = isinstance(error, HostClosed)
            self._failed(
                flight.handles[at], flight, error, answers.node, faulty=faulty, began=ran and gone, ever=ran
            )

    def _failed(
        self,
        handle: Handle,
        flight: Flight,
        error: Exception,
        node: str,
        *,
        faulty: bool,
        began: bool,
        ever: bool = False,
    ) -> None:
        """A try failed: another one elsewhere, or the end."""
        if handle.done():
            return
        if isinstance(error, NoEligibleNode) and flight.lane.apart is not None:
            # nobody beside the node of the first try: that says nothing of the request
            if isinstance(handle, SecondTry):
                self._seconds.refused(handle)
            else:
                self._again(handle, flight, "?")  # it has taken the place of a second try
            return
        if isinstance(error, (ClusterLost, DeadlineExceeded, NoEligibleNode, RequestCancelled)):
            self.end(handle, error)
            return
        if isinstance(error, NodeLost) and error.cause != "left":
            began = began and not error.beside
        if isinstance(handle, SecondTry):
            self._second_failed(handle, flight, error, node, began=began)
            return
        if isinstance(error, NodeLost) and error.cause != "left":
            handle._deaths += began or handle._at in error.suspected or handle._moves >= UNHEARD
        fate = decide(
            error,
            faulty=faulty,
            began=began,
            ever=ever,
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
            took = max(0.0, self.transport.clock() - flight.sent)
            handle._tried = [*(handle._tried or ()), Try(node=node, error=what, seconds=took)]
            if handle._span is not None:
                handle._span.failed(handle, flight, error, node, self.transport.clock())
        if self._seconds.take_over(handle, node):
            return  # that decides
        if fate is Fate.END:
            self.end(handle, error)
        else:
            if lines.wanted():
                tries = len(handle._tried or ())
                tell = self.transport.afterwards.tell
                tell(lines.again, handle.request_id, handle.model_id, tries, error, node)
            self._again(handle, flight, node)

    def _second_failed(
        self, second: SecondTry, flight: Flight, error: Exception, node: str, *, began: bool
    ) -> None:
        """The first try goes on, and knows of it."""
        first, lost = second.first, isinstance(error, NodeLost)
        if isinstance(error, NodeLost) and error.cause != "left":
            began = began or second._at in error.suspected
            first._deaths += began
        if not isinstance(error, HostClosed) and (began or not lost):
            what = error.cause if isinstance(error, NodeLost) else describe(error)
            took = max(0.0, self.transport.clock() - flight.sent)
            first._tried = [*(first._tried or ()), Try(node=node, error=what, seconds=took)]
        self._seconds.drop(second, node, "the second node failed")

    def _again(self, handle: Handle, flight: Flight, node: str, *, alone: bool = False) -> None:
        """Queue a request for another node, with those that go the same way."""
        old = flight.lane
        exclude = old.exclude if node == "?" else old.exclude | {node}
        if handle._hedged is not None:
            exclude |= handle._hedged.failed
        # what has moved that often may be what kills, or stand beside it: alone, one knows
        solo = handle._deaths > 0 or handle._moves >= DEATHS
        careful = handle._deaths > 0 or handle._moves > 0
        parameters = frozen(old.parameters)
        key = (
            (old.spec.fingerprint, old.spec.id, parameters, old.strategy, old.priority),
            (id(old.validator), exclude, solo, old.once, alone, careful),
        )
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
                once=old.once,
                alone=alone,
                careful=careful,
            )
        handle._lane, handle._flight = lane, None
        self._admit(handle)
