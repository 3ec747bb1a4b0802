"""Notices workers that are there and say nothing: stopped, or with a blocked event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from distributed.core import Status
from distributed.scheduler import heartbeat_interval

from altlas_flow.cluster.keys import HANG_UP, is_envelope
from altlas_flow.cluster.scheduler.placer import Placer
from altlas_flow.logs import event

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, WorkerState

logger = logging.getLogger(__name__)

#: Looks within one timeout.
LOOKS = 10
#: Of Dask's heartbeats, those that may fail to come.
MISSED = 3
#: What a worker is that ought to speak.
ALIVE = (Status.running, Status.paused, Status.closing_gracefully)


class Watchman:
    """Looks at the heartbeats of all workers, and has the work of silent ones moved."""

    def __init__(
        self,
        scheduler: Scheduler,
        placer: Placer,
        timeout: float,
        fell: Callable[[Any, Iterable[str], str], None],
    ) -> None:
        self.scheduler, self.placer, self.timeout, self._fell = scheduler, placer, timeout, fell
        self.loop = asyncio.get_running_loop()
        self.silent: dict[str, tuple[float, Status]] = {}  # by address: its last heartbeat, and what it was
        self._heard: dict[
            str, tuple[float, float]
        ] = {}  # by address: its last heartbeat, and when that was new
        self._timer = self.loop.call_later(timeout / LOOKS, self._look)
        self._due = self.loop.time() + timeout / LOOKS

    def limit(self) -> float:
        """Seconds after which a worker counts as silent."""
        return max(self.timeout, MISSED * heartbeat_interval(len(self.scheduler.workers)))

    def close(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def forget(self, address: str) -> None:
        """A worker is gone."""
        self.silent.pop(address, None)
        self._heard.pop(address, None)

    def _look(self) -> None:
        late = self.loop.time() - self._due
        pause = self.timeout / LOOKS
        try:
            self._check(late > 2 * pause)
        except Exception as error:
            self.placer.fault(f"looking for silent workers failed: {error!r}")
        self._due = self.loop.time() + pause
        self._timer = self.loop.call_later(pause, self._look)

    def _check(self, was_away: bool) -> None:
        """See whose heartbeats have stopped; not where it was this process that slept.

        Measured by the clock of this loop: the machine's may be set, or go on while all sleep.
        """
        limit, now = self.limit(), self.loop.time()
        for address, ws in list(self.scheduler.workers.items()):
            last = self._heard.get(address)
            if last is None or last[0] != ws.last_seen:
                age = min(max(time.time() - ws.last_seen, 0.0), self.timeout / LOOKS)
                last = self._heard[address] = ws.last_seen, now - age
            seen = self.silent.get(address)
            if seen is not None:
                if ws.last_seen != seen[0]:
                    del self.silent[address]
                    self._log("node speaks", "worker %s speaks again", ws)
                    if seen[1] == Status.running:
                        self.scheduler.handle_worker_status_change("running", ws, f"altlas-speaks-{now}")
                else:
                    self._hang_up(address)
            elif self.placer.roster.get(address) is None:
                continue  # none of ours
            elif not was_away and now - last[1] > limit and ws.status in ALIVE:
                self.silent[address] = ws.last_seen, ws.status
                moved = self.placer.silent(ws)
                for ts in ws.has_what:
                    if is_envelope(ts.key) and len(ts.who_has or ()) == 1:
                        self._fell(ts.key, [wants.client_key for wants in ts.who_wants or ()], str(ws.name))
                self._hang_up(address)
                text = "worker %s is silent for %.1f s: its %d tasks move"
                self._log("node silent", text, ws, limit, moved)

    def _log(self, name: str, text: str, ws: WorkerState, *args: Any) -> None:
        event(logger, logging.WARNING, name, text, str(ws.name), *args, node=str(ws.name), worker=ws.address)

    def _hang_up(self, silent: str) -> None:
        """End what other workers are fetching from a silent one, as often as it is found silent.

        Dask waits for that for ever, and makes nothing anew on a worker that is fetching it; and a worker
        may begin to fetch after the first such word. What the scheduler itself waits for goes on: it may be
        what blocks the worker.
        """
        for node in self.placer.roster:
            if node.address != silent:
                self.scheduler.worker_send(node.address, {"op": HANG_UP, "address": silent})
