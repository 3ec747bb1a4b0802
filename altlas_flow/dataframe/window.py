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

logger = logging.getLogger(__name__)

#: Seconds between two looks at the cluster while nothing happens.
LOOK = 1.0
#: How often a piece of work is sent again after it was lost with its worker.
TRIES = 3


def eligible_slots(client: Client, spec: ModelSpec) -> int:
    """Slots of all nodes that can serve a model.

    Raises
    ------
    NoEligibleNode
        Where no node can; its text says for each why not.
    """
    found = call_control(client, "altlas_eligible", spec=spec.model_dump_json())
    if not found["nodes"]:
        raise NoEligibleNode(spec.id, found["refused"])
    return sum(found["nodes"].values())


class Window:
    """Runs pieces of work, a bounded number at a time.

    Parameters
    ----------
    client : distributed.Client
    spec : ModelSpec
        Whose eligible nodes give the number.
    per_slot : int
        Pieces under way for each slot.
    patience : float
        Seconds without any node that could do the work before giving up.
    """

    def __init__(self, client: Client, spec: ModelSpec, *, per_slot: int, patience: float) -> None:
        self.client, self.spec, self.per_slot, self.patience = client, spec, per_slot, patience
        self._ended: queue.SimpleQueue[tuple[Any, Answer[Any]]] = queue.SimpleQueue()
        self._flying: dict[Any, tuple[Future, Answer[Any], Callable[[], Future], int]] = {}
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

    def send(self, name: Any, submit: Callable[[], Future], tries: int = 1) -> None:
        """Send a piece of work; `submit` is called again where the piece was lost with its worker."""
        future = submit()
        # waits and fetches on Dask's loop: results arrive while this thread commits others
        answer = asyncio.run_coroutine_threadsafe(
            self.client._gather(future),
            self.client.loop.asyncio_loop,  # type: ignore[attr-defined]
        )
        self._flying[name] = (future, answer, submit, tries)
        answer.add_done_callback(lambda ended: self._ended.put((name, ended)))

    def next(self) -> tuple[Any, Any]:
        """The name and the result of the next piece that ends.

        Raises
        ------
        AltlasError
            What the piece raised, or that the cluster is gone.
        """
        while True:
            try:
                name, answer = self._ended.get(timeout=LOOK)
            except queue.Empty:
                self._look()
                continue
            entry = self._flying.get(name)
            if entry is None or entry[1] is not answer:
                continue
            _, _, submit, tries = self._flying.pop(name)
            try:
                return name, answer.result()
            except KilledWorker as error:
                raise ClusterError(
                    f"{name} was on workers that died, one after the other: look at their logs and memory; the "
                    "input may kill the model"
                ) from error
            except (HostClosed, CancelledError, OSError) as error:
                if tries >= TRIES or self.client.status != "running":
                    raise ClusterLost(
                        f"{name} was lost {tries} times with the workers that had it: run the same again"
                    ) from error
                logger.warning("%s was lost with its worker (%s): sent again", name, describe(error))
            except AltlasError:
                raise
            except Exception as error:
                # a task may raise anything; its owner gets one typed line
                raise ClusterError(f"{name}: {describe(error)}") from error
            self.send(name, submit, tries + 1)

    def cancel(self) -> None:
        """Give up everything under way."""
        futures = [future for future, *_ in self._flying.values()]
        self._flying.clear()
        if futures and self.client.status == "running":
            self.client.cancel(futures, force=True)

    def _look(self) -> None:
        """See, once a second, what the cluster can take; raise where it could take nothing for long."""
        now = time.monotonic()
        if now - self._looked < LOOK:
            return
        self._looked = now
        if self.client.status != "running":
            raise ClusterLost("the scheduler went away: start it again, and run the same again")
        try:
            self._capacity = self.per_slot * eligible_slots(self.client, self.spec)
            self._able_at = now
        except NoEligibleNode:
            if now - self._able_at > self.patience:
                raise
        except OSError as error:
            raise ClusterLost(f"the scheduler went away ({describe(error)}): run the same again") from error
