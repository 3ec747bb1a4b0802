"""`ModelHost`: one per worker; keeps models loaded, merges what waits, predicts in its own threads.

All work takes a slot here, whatever lane it came by. Callers may be any threads: `predict` blocks
until every row has its outcome. Nothing of Dask is known here.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, nullcontext
from threading import BoundedSemaphore, Condition, Thread, current_thread
from typing import Any, Literal

import numpy as np

from altlas_flow.errors import HostClosed, ModelError, PredictError, describe
from altlas_flow.models.batching import Batch
from altlas_flow.models.loaded import LoadedModel
from altlas_flow.models.queue import Queue
from altlas_flow.models.shelf import Shelf
from altlas_flow.models.spec import ModelSpec
from altlas_flow.models.watch import Watch
from altlas_flow.models.work import Predictions, Work
from altlas_flow.tracing import Batch as Traced
from altlas_flow.tracing import Carrier

logger = logging.getLogger(__name__)

#: Seconds between two looks whether an answer is still wanted.
LOOK = 0.25
#: Seconds within which a call is worth waiting for without further ado.
QUICK = 0.005
#: Batches at most that share a GPU, of models that ask for a part of one.
GPU_SHARES = 4

Rows = Sequence[int] | np.ndarray
_UNTRACED = nullcontext()


class ModelHost:
    """Loads models once and predicts with them.

    Parameters
    ----------
    node : str
        The worker's name, for errors.
    slots : int
        Batches that may run at once on the CPU, each in a thread of its own.
    gpus : float
        GPU tokens: how much of the resource ``GPU`` the batches of models that need one may hold.
    threads : int, optional
        Threads of a torch operation; by default torch's own choice.
    memory_budget : int, optional
        Bytes that loaded models may take together; by default no bound.
    memory_limit : int, optional
        Bytes of the whole process; batches that would come near are not tried.
    parts : int
        Parts of frames that may wait for a slot at once, for each slot; more wait at `parts`.
    load_timeout : float
        Seconds that a caller waits for a model to load.
    retry_delay : float
        Seconds before a load that failed is tried again; doubles with each failure.
    announce : callable
        Called with the name of the slot and ``[(tag, rows)]`` right before a batch is predicted that has
        rows of calls with a `Watch`; whether it is said. It must return soon; what it raises is logged.
    idle : callable
        Called with the name of a slot whose batch is over, where a call with rows in it was given up before.
    loading, changed : callable
        See `Shelf`.
    clock : callable
        Monotonic seconds.

    Notes
    -----
    `close` must be called; it ends the threads and fails what still waits with `HostClosed`.
    """

    def __init__(
        self,
        *,
        node: str = "this process",
        slots: int = 1,
        gpus: float = 0,
        threads: int | None = None,
        memory_budget: int | None = None,
        memory_limit: int | None = None,
        parts: int = 2,
        load_timeout: float = 300.0,
        retry_delay: float = 1.0,
        announce: Callable[[str, list[tuple[str, Rows]]], bool] | None = None,
        idle: Callable[[str], None] = lambda slot: None,
        loading: Callable[[str, bool], None] = lambda fingerprint, begins: None,
        changed: Callable[[str, int | None], None] = lambda fingerprint, size: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.node, self.slots, self.gpus = node, slots, gpus
        self.clock, self._announce, self._idle = clock, announce, idle
        self.shelf = Shelf(
            lambda spec: LoadedModel(
                spec, device=self._device(spec), threads=threads, node=node, memory_limit=memory_limit
            ),
            node=node,
            budget=memory_budget,
            load_timeout=load_timeout,
            retry_delay=retry_delay,
            loading=loading,
            changed=changed,
            clock=clock,
        )
        # A part that waits holds its rows: beyond the bound a task keeps its thread of the worker's
        # pool instead, so that Dask reads no further ahead.
        self.parts = BoundedSemaphore(max(1, parts * max(slots, int(gpus))))
        self._queue = Queue(gpus, clock)
        self._changed = Condition()
        self._closed = False
        self.batches = 0
        self._threads = [
            Thread(target=self._serve, args=(gpu,), name=f"altlas-{kind}-{i}", daemon=True)
            for gpu, kind, count in ((False, "slot", slots), (True, "gpu", GPU_SHARES if gpus > 0 else 0))
            for i in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def predict(
        self,
        spec: ModelSpec,
        rows: Sequence[Any],
        *,
        parameters: Mapping[str, Any] | None = None,
        batch: Literal["auto"] | int | None = None,
        priority: int = 0,
        timeout: float | None = None,
        wanted: Callable[[], bool] = lambda: True,
        watch: Watch | None = None,
        traces: Sequence[Carrier | None] | None = None,
        settle: Callable[[], None] | None = None,
    ) -> Predictions:
        """Predict rows; blocks until each has its outcome.

        Parameters
        ----------
        spec : ModelSpec
        rows : sequence
        parameters : mapping, optional
        batch : int or "auto", optional
            Rows a batch.
        priority : int
            Higher goes first, between batches.
        timeout : float, optional
            Seconds to wait for the outcomes once the model is loaded.
        wanted : callable
            Asked now and then; once it says no, what waits is taken back.
        watch : Watch, optional
            Deadlines of the rows; learns when and with how many others each was predicted.
        traces : sequence of Carrier or None, optional
            Contexts that the rows are predicted in, for what the model traces itself.
        settle : callable, optional
            Called once, where the model or the outcomes are not there within `QUICK` seconds.

        Raises
        ------
        ModelLoadError, UnsafeModel, ParameterError, HostClosed, TimeoutError
        concurrent.futures.CancelledError
            Where the answer is no longer wanted.
        """
        if settle is not None and not self.shelf.has(spec):
            settle()
            settle = None
        with self.shelf.use(spec) as (model, load_s):
            work = model.work(rows, model.parameters(parameters), batch=batch, priority=priority, watch=watch)
            work.traces = traces
            self._enqueue(model, work)
            ends = math.inf if timeout is None else time.monotonic() + timeout
            if settle is not None and not work.done.wait(QUICK):
                settle()
            while not work.done.wait(min(LOOK, max(0.0, ends - time.monotonic()))):
                if time.monotonic() >= ends:
                    self._withdraw(work, TimeoutError(f"no answer of {spec.id!r} within {timeout} s"))
                elif not wanted():
                    self._withdraw(work, CancelledError(f"{spec.id!r} is no longer asked"))
            if work.failure is not None:
                raise work.failure
            result = model.outcome(work)
            result.load_s = load_s
            return result

    def prune(self) -> None:
        """Drop the rows that wait and that their watches no longer want."""
        with self._changed:
            self._queue.prune()

    def describe(self, spec: ModelSpec, parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Load the model; the Arrow types of its answers, memory in bytes, the seconds that loading took."""
        with self.shelf.use(spec) as (model, load_s):
            return {
                "types": model.output_types(parameters),
                "memory": model.runtime.memory(),
                "load_s": load_s,
                "device": model.device,
            }

    def state(self) -> dict[str, Any]:
        """What the worker publishes with each heartbeat; plain types only."""
        with self._changed:
            waiting = self._queue.open_rows
        return {
            "slots": self.slots,
            "gpus": self.gpus,
            "running": len(self._queue.running),
            "waiting_rows": waiting,
            "batches": self.batches,
            "models": self.shelf.loaded(),
            "tallies": self.shelf.tallies.totals(),
        }

    def close(self, timeout: float = 10.0) -> None:
        """Fail what waits, end the threads, let go of the models."""
        with self._changed:
            self._closed = True
            self._queue.fail_all(
                lambda spec: HostClosed(f"the worker {self.node} is shutting down: ask again")
            )
            self._changed.notify_all()
        ends = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))
        with self._changed:  # a batch that does not end keeps nobody waiting
            for batch in self._queue.running:
                for work, _ in batch.pieces:
                    work.fail(HostClosed(f"the worker {self.node} is shutting down: ask again"))
        self.shelf.close()

    def _device(self, spec: ModelSpec) -> str | None:
        """A model gets the GPU that it asked for, and none that it did not ask for."""
        if spec.device != "auto" or spec.needs_gpu:
            return None
        return "cpu"

    def _enqueue(self, model: LoadedModel, work: Work) -> None:
        if work.done.is_set():
            return
        with self._changed:
            if self._closed:
                raise HostClosed(f"the worker {self.node} is shutting down: ask again")
            self._queue.put(model, work)
            self._changed.notify_all()

    def _withdraw(self, work: Work, error: Exception) -> None:
        """Take back what waits of a work; a batch that runs with rows of it goes on."""
        with self._changed:
            self._queue.remove(work)
            if work.watch is not None:
                work.watch.lingers = any(
                    piece is work for batch in self._queue.running for piece, _ in batch.pieces
                )
            work.fail(error)

    def _serve(self, gpu: bool) -> None:
        """One slot: take a batch, predict it, again."""
        while True:
            with self._changed:
                while (taken := None if self._closed else self._next_or_fail(gpu)) is None:
                    if self._closed:
                        return
                    self._changed.wait()
                model, batch = taken
            try:
                if self._begin(batch):
                    with self._traced(model, batch):
                        model.execute(batch)
            except BaseException as error:
                # the slot outlives whatever happened in it, and nobody waits for ever
                logger.exception("a batch of %r failed on %s", model.spec.id, self.node)
                typed = PredictError(model.spec.id, describe(error))
                failure = error if isinstance(error, ModelError) else typed
                for work, _ in batch.pieces:
                    self._withdraw(work, failure)
            finally:
                with self._changed:
                    self._queue.ended(model, batch, gpu)
                    self.batches += 1
                    self.shelf.tallies.batch(model.spec.id, batch.rows)
                    self._changed.notify_all()
                    lingered = any(work.watch is not None and work.watch.lingers for work, _ in batch.pieces)
                if lingered:
                    self._idle(current_thread().name)

    def _begin(self, batch: Batch) -> bool:
        """Say that a batch begins, and note it: whoever owns it must know, should it kill us.

        Whether it may run: what must not run twice does not, where nobody would know that it did.
        """
        watched = [(work, work.watch, rows) for work, rows in batch.pieces if work.watch is not None]
        if not watched:
            return True
        said = True
        if self._announce is not None:
            try:
                said = self._announce(
                    current_thread().name, [(watch.tag, rows) for _, watch, rows in watched]
                )
            except Exception:
                logger.exception("a batch on %s could not be announced", self.node)
                said = False
        if not said and any(watch.once for _, watch, _ in watched):
            for work, _, _ in watched:  # one alone: such rows share no batch
                self._withdraw(
                    work, HostClosed(f"{self.node} cannot tell the scheduler what runs: ask again")
                )
            return False
        now = self.clock()
        for _, watch, rows in watched:
            watch.begin(rows, batch.rows, now)
        return True

    def _traced(self, model: LoadedModel, batch: Batch) -> AbstractContextManager[None]:
        """While a batch is predicted whose rows are traced."""
        if all(work.traces is None for work, _ in batch.pieces):
            return _UNTRACED
        carriers = [work.traces[row] for work, row in batch.rows_of_works() if work.traces is not None]
        said = {"altlas.model": model.spec.id, "altlas.node": self.node, "altlas.batch.rows": batch.rows}

        def faults() -> list[Exception]:
            of_rows = (work.result.errors.get(row) for work, row in batch.rows_of_works())
            return [error for error in of_rows if error is not None]

        return Traced(carriers, said, faults)

    def _next_or_fail(self, gpu: bool) -> tuple[LoadedModel, Batch] | None:
        """The next batch; a fault in choosing ends what waits, not the slot."""
        try:
            return self._queue.next(gpu)
        except Exception as error:
            logger.exception("choosing a batch failed on %s", self.node)
            text = describe(error)
            self._queue.fail_all(lambda spec: PredictError(spec.id, text))
            return None
