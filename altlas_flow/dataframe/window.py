"""A bounded window of Dask tasks: so many under way, the next one when one ends."""

from __future__ import annotations

import asyncio
import logging
import queue
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from concurrent.futures import Future as Answer
from typing import Any

from distributed import Client, Future
from distributed.scheduler import KilledWorker

from altlas_flow.cluster.connect import call_control
from altlas_flow.errors import AltlasError, ClusterError, ClusterLost, HostClosed, NoEligibleNode, describe
from altlas_flow.models.spec import ModelSpec
from altlas_flow.settings import Settings

logger = logging.getLogger(__name__)

#: Seconds between two looks at the cluster while nothing happens.
LOOK = 1.0
#: How often a piece of work is sent again after it was lost with its worker.
TRIES = 3
#: Seconds that hosts get to say that they are there, after a client or a worker has joined.
GRACE = 3.0

#: The result of a piece; or its error, and whether the task itself ended with that.
Fetched = tuple[Any, Exception | None, bool]


def eligible_slots(client: Client, spec: ModelSpec) -> int:
    """Slots of all nodes that can serve a model.

    Raises
    ------
    NoEligibleNode
        Where no node can; its text says for each why not.
    """
    end = time.monotonic() + GRACE
    while True:
        found = call_control(client, "altlas_eligible", spec=spec.model_dump_json())
        if found["nodes"]:
            return sum(found["nodes"].values())
        # who lacks what the model needs will not get it; who is not ready may be in a moment
        settled = found["refused"] and all("is needed" in why for why in found["refused"].values())
        if settled or time.monotonic() > end:
            raise NoEligibleNode(spec.id, found["refused"])
        time.sleep(0.05)  # nothing tells a client that a host has come


def ask(future: Future[Any], timeout: float) -> Any:
    """Result of a single task, not waited for without end; the task is let go of.

    Raises
    ------
    AltlasError
        What the task raised, or `ClusterLost` where nobody answered.
    """
    try:
        return future.result(timeout)
    except BaseException as caught:
        error, raised = caught, future.status == "error"
        if isinstance(caught, TimeoutError) and not raised:
            error = ClusterLost(
                f"no worker answered within {timeout:.0f} s: see whether workers run, or raise "
                "altlas.load-timeout"
            )
        typed = _typed("a task", error, raised)
        if typed is caught:
            raise
        raise typed from caught
    finally:
        future.release()


def _typed(what: object, error: BaseException, raised: bool) -> BaseException:
    """What a user is told where a task has no result; `raised`: it ended with that error."""
    if isinstance(error, (AltlasError, KeyboardInterrupt, SystemExit)):
        return error
    if isinstance(error, KilledWorker):
        return ClusterError(
            f"{what} was on workers that died, one after the other: look at their logs and memory; the "
            "input may kill the model"
        )
    if raised:
        return ClusterError(f"{what} failed on a worker: {describe(error)}")
    return ClusterLost(
        f"the worker that had {what} went away, {TRIES} times: memory may be short, or the model may crash "
        "on an input: look at the workers' output, and run the same again"
    )


class Window:
    """Runs pieces of work, a bounded number at a time.

    Parameters
    ----------
    client : distributed.Client
    slots : callable
        How many there are now for the work; raises `NoEligibleNode` where there is none.
    per_slot : int
        Pieces under way for each slot.
    patience : float
        Seconds without any node that could do the work before giving up.
    most : int, optional
        Pieces under way at once, however many slots there are.
    """

    def __init__(
        self,
        client: Client,
        slots: Callable[[], int],
        *,
        per_slot: int,
        patience: float,
        most: int | None = None,
    ) -> None:
        self.client, self.per_slot, self.patience, self.most = client, per_slot, patience, most
        self._slots = slots
        self._silence = 1.5 * Settings.current().heartbeat_timeout
        self._ended: queue.SimpleQueue[tuple[Any, Answer[Fetched]]] = queue.SimpleQueue()
        self._flying: dict[Any, tuple[Future[Any], Answer[Fetched], Callable[[], Future[Any]], int]] = {}
        self._loop: asyncio.AbstractEventLoop = client.loop.asyncio_loop  # type: ignore[union-attr]
        self._looked = float("-inf")
        self._able_at = time.monotonic()
        self._capacity = 1

    @property
    def room(self) -> bool:
        """Whether another piece may be sent; late workers make room when they come."""
        self._look()
        return len(self._flying) < self._capacity

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self._flying)

    def send(self, name: Any, submit: Callable[[], Future[Any]], tries: int = 1) -> None:
        """Send a piece of work; `submit` is called again where the piece was lost with its worker."""
        future = self._submit(name, submit)
        # waits and fetches on Dask's loop: results arrive while this thread commits others
        answer = asyncio.run_coroutine_threadsafe(self._fetch(future), self._loop)
        self._flying[name] = (future, answer, submit, tries)
        answer.add_done_callback(lambda ended: self._ended.put((name, ended)))

    def next(self, *, or_room: bool = False, tick: Callable[[], None] = lambda: None) -> Any:
        """The name and the result of the next piece that ends.

        Parameters
        ----------
        or_room : bool
            Return None as soon as there is room for another piece, as when a worker joins.
        tick : callable
            Called about once a second while nothing ends.

        Raises
        ------
        AltlasError
            What the piece raised, or that the cluster is gone.
        """
        while True:
            try:
                name, answer = self._ended.get(timeout=LOOK)
            except queue.Empty:
                tick()
                if self.room and or_room:
                    return None
                continue
            entry = self._flying.get(name)
            if entry is None or entry[1] is not answer:
                continue
            _, _, submit, tries = self._flying.pop(name)
            result, error, raised = (None, CancelledError(), False) if answer.cancelled() else answer.result()
            if error is None:
                return name, result
            if self.client.status != "running":
                raise ClusterLost(
                    "the scheduler went away, or the flow was closed: connect, run it again"
                ) from error
            if (raised and not isinstance(error, HostClosed)) or tries >= TRIES:
                typed = _typed(name, error, raised)
                raise typed from (error if typed is not error else error.__cause__)
            logger.warning("the rows of %s were lost with their worker: sent again", name)
            self.send(name, submit, tries + 1)

    def cancel(self) -> None:
        """Give up everything under way."""
        futures = [future for future, *_ in self._flying.values()]
        self._flying.clear()
        if futures and self.client.status == "running":
            self.client.cancel(futures, force=True)

    async def _fetch(self, future: Future[Any]) -> Fetched:
        """The result of a piece, or its error and whether the task ended with that."""
        try:
            return await self._gathered(future), None, False
        except Exception as error:
            return None, error, future.status == "error"
        finally:
            # Dask keeps the error, the error its traceback, and that the future, and so the task on the
            # cluster: here, for the thread that sent it may be interrupted anywhere
            future.release()

    async def _gathered(self, future: Future[Any]) -> Any:
        """The result of a piece. Dask waits for ever for a worker that has it and is silent."""
        limit = self._silence
        while True:
            gathering, finished = asyncio.ensure_future(self.client._gather(future)), 0.0
            try:
                while future.status != "cancelled" and finished <= limit:
                    await asyncio.wait({gathering}, timeout=LOOK)
                    if gathering.done():
                        return gathering.result()
                    # by then the scheduler plugin has had it made anew, or given up
                    finished = finished + LOOK if future.status == "finished" else 0.0
            finally:
                gathering.cancel()
            if future.status == "cancelled":
                raise CancelledError
            limit *= 2  # it may be that there is much to fetch

    def _submit(self, name: Any, submit: Callable[[], Future[Any]]) -> Future[Any]:
        """Sending rows fails where the worker that is to have them dies: another one gets them."""
        for tries in range(1, TRIES + 1):
            try:
                return submit()
            except (OSError, CancelledError) as error:
                if tries == TRIES or self.client.status != "running":
                    raise ClusterLost(
                        f"no worker took {name} ({describe(error)}): see whether workers run, and run the "
                        "same again"
                    ) from error
                logger.warning("no worker took %s (%s): sent again", name, describe(error))
        raise AssertionError("unreachable")

    def _look(self) -> None:
        """See, once a second, what the cluster can take; raise where it could take nothing for long."""
        now = time.monotonic()
        if now - self._looked < LOOK:
            return
        self._looked = now
        if self.client.status != "running":
            raise ClusterLost("the scheduler went away, or the flow was closed: connect, run it again")
        try:
            slots = self._slots()
            self._capacity = self.most or self.per_slot * slots
            self._able_at = now
        except NoEligibleNode:
            if now - self._able_at > self.patience:
                raise
        except OSError as error:
            raise ClusterLost(f"the scheduler went away ({describe(error)}): run the same again") from error
