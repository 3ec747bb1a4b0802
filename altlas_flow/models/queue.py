"""What waits on a host, and which batch is next. No threads: the host calls it with its lock held."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from dask.base import tokenize

from altlas_flow.errors import PredictError, describe
from altlas_flow.models.batching import Batch
from altlas_flow.models.frozen import frozen
from altlas_flow.models.loaded import LoadedModel
from altlas_flow.models.spec import ModelSpec
from altlas_flow.models.work import Work


@dataclass
class Lane:
    """What waits for one model with one set of parameters: it may share batches."""

    model: LoadedModel
    works: list[tuple[int, Work]] = field(default_factory=list)  # (order of arrival, work)

    @property
    def urgency(self) -> tuple[int, int]:
        """Smaller goes first: the priority, then who came first."""
        order, work = self.works[0]
        return -work.priority, order


class Queue:
    """Works in lanes, and the GPU tokens that running batches hold.

    Parameters
    ----------
    gpus : float
        GPU tokens.
    clock : callable
        Monotonic seconds; deadlines are in them.
    """

    def __init__(self, gpus: float, clock: Callable[[], float]) -> None:
        self.gpus, self._free, self._clock = gpus, gpus, clock
        self.running: list[Batch] = []
        self._on_gpu: list[ModelSpec] = []  # of each running batch that holds tokens
        self._lanes: dict[tuple[str, bytes, int | None], Lane] = {}
        self._order = itertools.count()

    @property
    def open_rows(self) -> int:
        """Rows that have no outcome yet, of works that wait."""
        return sum(work.open for lane in self._lanes.values() for _, work in lane.works)

    def put(self, model: LoadedModel, work: Work) -> None:
        """A work waits."""
        try:
            parameters = frozen(work.parameters)
        except Exception:
            # what came packed by value may refuse to be packed again
            parameters = tokenize(work.parameters).encode()
        key = (model.spec.fingerprint, parameters, work.rows_limit)
        lane = self._lanes.setdefault(key, Lane(model))
        lane.works.append((next(self._order), work))
        lane.works.sort(key=lambda entry: (-entry[1].priority, entry[0]))

    def remove(self, work: Work) -> None:
        """Take back what waits of a work."""
        for lane in self._lanes.values():
            lane.works = [entry for entry in lane.works if entry[1] is not work]
        self._sweep()

    def fail_all(self, error: Callable[[ModelSpec], Exception]) -> None:
        """End all that waits."""
        for lane in self._lanes.values():
            for _, work in lane.works:
                work.fail(error(lane.model.spec))
        self._lanes.clear()

    def prune(self) -> None:
        """Drop rows past their deadline, and cancelled ones."""
        now = self._clock()
        for lane in self._lanes.values():
            for _, work in lane.works:
                try:
                    work.prune(now)
                except Exception as error:
                    # a fault in one call's deadlines must not end the others
                    work.fail(PredictError(lane.model.spec.id, describe(error)))
        self._sweep()

    def next(self, gpu: bool) -> tuple[LoadedModel, Batch] | None:
        """Take the next batch for a slot of this kind; it counts as running from here."""
        self.prune()
        if not self._lanes or any(work.solo for batch in self.running for work, _ in batch.pieces):
            return None  # what runs alone, runs alone
        first = min(self._lanes.values(), key=lambda lane: lane.urgency)
        if first.works[0][1].solo and (self.running or not self._may_run(first.model.spec, gpu)):
            return None  # it begins when all others have ended; nothing overtakes it
        lanes = [lane for lane in self._lanes.values() if self._may_run(lane.model.spec, gpu)]
        if not lanes:
            return None
        lane = min(lanes, key=lambda lane: lane.urgency)
        if lane.works[0][1].solo and self.running:
            return None
        batch = lane.model.cut([work for _, work in lane.works])
        self._sweep()
        self.running.append(batch)
        if gpu:
            self._free -= self._tokens(lane.model.spec)
            self._on_gpu.append(lane.model.spec)
        return lane.model, batch

    def ended(self, model: LoadedModel, batch: Batch, gpu: bool) -> None:
        """A batch has run."""
        self.running.remove(batch)
        if gpu:
            self._free += self._tokens(model.spec)
            self._on_gpu.remove(model.spec)

    def _sweep(self) -> None:
        for key, lane in list(self._lanes.items()):
            lane.works = [entry for entry in lane.works if entry[1].waiting]
            if not lane.works:
                del self._lanes[key]

    def _may_run(self, spec: ModelSpec, gpu: bool) -> bool:
        # where nobody declared a GPU, a model that wants one still runs, in a plain slot
        if (spec.needs_gpu and self.gpus > 0) != gpu:
            return False
        if not gpu or not self._on_gpu:
            return True
        # CUDA work runs one at a time, but for models that ask for a part of a GPU
        whole = any(other.resources.get("GPU", 0) >= 1 for other in (spec, *self._on_gpu))
        return not whole and self._tokens(spec) <= self._free

    def _tokens(self, spec: ModelSpec) -> float:
        return min(spec.resources.get("GPU", 0.0), self.gpus)
