"""Rows into batches and answers back into order.

`Work` holds the rows of one call; `cut` takes the next batch from what waits for one model, whoever
asked; `execute` predicts it and gives every row its own outcome. No threads and no Dask here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from altlas_flow.errors import PredictError
from altlas_flow.models.memory import is_out_of_memory, release_memory

if TYPE_CHECKING:
    from altlas_flow.models.runtimes.base import Prepared, Runtime


@dataclass
class Predictions:
    """Outcomes of the rows of one call.

    Attributes
    ----------
    outputs : numpy.ndarray of shape (rows, ...) or list of length rows
        Answers in the order of the rows; what stands at a faulty row means nothing.
    errors : dict of int to Exception
        Rows without an answer, by position.
    tokens, padded : int
        Tokens of the rows, and tokens computed, padding included; 0 where rows have none.
    truncated : int
        Rows that were cut to the length that the model reads.
    batches : int
        Batches that held rows of this call.
    predict_s, load_s : float
        Seconds spent predicting (shared batches by share of rows), and loading the model for it.
    budget : int
        The batch budget in use at the end, in tokens or rows.
    settled : bool
        Whether the search for the budget is over.
    """

    outputs: np.ndarray | list[Any]
    errors: dict[int, Exception] = field(default_factory=dict)
    tokens: int = 0
    padded: int = 0
    truncated: int = 0
    batches: int = 0
    predict_s: float = 0.0
    load_s: float = 0.0
    budget: int = 0
    settled: bool = False


class Work:
    """The rows of one call, waiting to be batched.

    Parameters
    ----------
    prepared : Prepared
    parameters : mapping
    rows_limit : int or None
        Rows a batch where the caller fixed them; None: the budget decides.
    priority : int
        Higher goes first.
    """

    def __init__(
        self,
        prepared: Prepared,
        parameters: Mapping[str, Any],
        *,
        rows_limit: int | None = None,
        priority: int = 0,
    ) -> None:
        self.items, self.costs = prepared.items, prepared.costs
        self.parameters, self.rows_limit, self.priority = parameters, rows_limit, priority
        size = len(prepared.items)
        self.result = Predictions([], dict(prepared.faults), truncated=prepared.truncated)
        self._waiting: Sequence[int] | np.ndarray
        if self.costs is None and not prepared.faults:
            self._waiting = range(size)
        else:
            rows = np.fromiter((i for i in range(size) if i not in prepared.faults), np.int64)
            if self.costs is not None:
                # longest first: what needs the most memory is tried first, the short rows fill the end
                rows = rows[np.argsort(-self.costs[rows], kind="stable")]
            self._waiting = rows
            if self.costs is not None:
                self._sums = np.cumsum(self.costs[rows])
        self._taken = 0
        self.open = len(self._waiting)  # rows without an outcome
        self.failure: Exception | None = None
        self.done = Event()
        self._lock = Lock()  # several slots may hold batches of one work
        self.settle()

    @property
    def waiting(self) -> int:
        """Rows that are in no batch yet."""
        return len(self._waiting) - self._taken

    def next_cost(self) -> int:
        """Tokens of the longest row that waits; 1 where rows have none."""
        return 1 if self.costs is None else int(self.costs[self._waiting[self._taken]])

    def fitting(self, tokens: int) -> int:
        """How many of the next rows have at most so many tokens together."""
        before = int(self._sums[self._taken - 1]) if self._taken else 0
        return int(np.searchsorted(self._sums, before + tokens, side="right")) - self._taken

    def take(self, count: int) -> Sequence[int] | np.ndarray:
        """Positions of the next `count` rows."""
        rows = self._waiting[self._taken : self._taken + count]
        self._taken += len(rows)
        return rows

    def answer(self, rows: Sequence[int] | np.ndarray, outputs: np.ndarray | list[Any]) -> None:
        """Put the answers of `rows` where they belong."""
        with self._lock:
            self._answer(rows, outputs)
            self.open -= len(rows)

    def _answer(self, rows: Sequence[int] | np.ndarray, outputs: np.ndarray | list[Any]) -> None:
        result, size = self.result, len(self.items)
        if isinstance(outputs, np.ndarray) and not isinstance(result.outputs, np.ndarray):
            if not len(result.outputs):
                result.outputs = np.zeros((size, *outputs.shape[1:]), outputs.dtype)
            else:
                outputs = list(outputs)
        if isinstance(result.outputs, np.ndarray) and not (
            isinstance(outputs, np.ndarray)
            and outputs.shape[1:] == result.outputs.shape[1:]
            and outputs.dtype == result.outputs.dtype
        ):
            # answers of several shapes or types: arrays cannot hold them
            result.outputs = list(result.outputs)
            outputs = list(outputs)
        if isinstance(result.outputs, list):
            if not result.outputs:
                result.outputs = [None] * size
            if isinstance(rows, range):
                result.outputs[rows.start : rows.stop] = outputs
            else:
                for row, output in zip(rows, outputs, strict=True):
                    result.outputs[int(row)] = output
        elif isinstance(rows, range):
            result.outputs[rows.start : rows.stop] = outputs
        else:
            result.outputs[rows] = outputs

    def fail_row(self, row: int, error: Exception) -> None:
        """Record that one row has no answer."""
        with self._lock:
            self.result.errors[int(row)] = error
            self.open -= 1

    def fail(self, error: Exception) -> None:
        """End the whole call with an error: the host goes, or the work was cancelled."""
        self.failure = error
        self._taken = len(self._waiting)
        self.done.set()

    def count(self, batch: Batch, rows: Sequence[int] | np.ndarray, seconds: float) -> int:
        """Book a batch that held `rows` of this work; their tokens."""
        tokens = 0 if self.costs is None else int(self.costs[rows].sum())
        with self._lock:
            self.result.batches += 1
            self.result.predict_s += seconds * len(rows) / batch.rows
            self.result.tokens += tokens
            if self.costs is not None:
                self.result.padded += len(rows) * batch.width if batch.pads else tokens
        return tokens

    def settle(self) -> None:
        """Wake who waits, where every row has its outcome."""
        if self.open <= 0 and not self.done.is_set():
            if not len(self.result.outputs):
                self.result.outputs = [None] * len(self.items)
            self.done.set()


@dataclass(eq=False)
class Batch:
    """Rows of one or several works that are predicted together."""

    budget: int
    pads: bool = True  # whether its rows are padded to the longest
    pieces: list[tuple[Work, Sequence[int] | np.ndarray]] = field(default_factory=list)
    width: int = 0  # tokens of the longest row; 1 where rows have none
    rows: int = 0
    tokens: int = 0  # without padding; 0 where rows have none
    full: bool = False  # the budget was used: what it took tells about the budget

    def add(self, work: Work, rows: Sequence[int] | np.ndarray) -> None:
        self.pieces.append((work, rows))
        self.rows += len(rows)
        self.tokens += 0 if work.costs is None else int(work.costs[rows].sum())

    def rows_of_works(self) -> Iterator[tuple[Work, int]]:
        for work, rows in self.pieces:
            for row in rows:
                yield work, int(row)


def cut(works: Sequence[Work], budget: int, *, pads: bool = True) -> Batch:
    """Take the next batch from works of one model and one set of parameters, first come first.

    The rows of a batch, padded to its longest where the runtime pads, fit the budget; one row always
    goes, however long. Only works of the priority of the first are merged with it: an urgent row is
    not slowed down by filling its batch with patient ones.
    """
    first = works[0]
    batch = Batch(budget, pads and first.costs is not None)
    for work in works:
        if work.priority != first.priority or not work.waiting:
            continue
        room = _room(batch, work)
        if not batch.rows:
            room = max(room, 1)
        if room <= 0:
            break
        batch.width = max(batch.width, work.next_cost())
        batch.add(work, work.take(room))
    cost = batch.rows * batch.width if batch.pads else batch.tokens or batch.rows
    batch.full = first.rows_limit is None and cost >= 0.7 * budget
    return batch


def _room(batch: Batch, work: Work) -> int:
    """How many of the next rows of a work fit into a batch."""
    if work.rows_limit is not None:
        return work.rows_limit - batch.rows
    if work.costs is None:
        return batch.budget - batch.rows
    if not batch.pads:
        return work.fitting(batch.budget - batch.tokens)
    width = max(batch.width, work.next_cost())
    if batch.rows * (width - batch.width) > batch.budget // 8:
        return 0  # padding the rows that are there up to a longer one costs more than it saves
    return batch.budget // max(width, 1) - batch.rows


@dataclass
class Spent:
    """What a batch took.

    Attributes
    ----------
    seconds : float
    cost : int
        Real tokens, or rows where there are none.
    clean : bool
        Whether no row failed: only then the time tells about the budget.
    """

    seconds: float
    cost: int
    clean: bool


def execute(
    runtime: Runtime,
    batch: Batch,
    *,
    model: str,
    out_of_memory: Callable[[int], None] = lambda budget: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Spent:
    """Predict a batch; every row of it gets an outcome.

    A batch that fails is halved until the rows at fault stand alone. `out_of_memory` is told the
    budget that did not fit.
    """
    started = clock()
    clean = _predict(runtime, batch, model, out_of_memory)
    seconds = clock() - started
    tokens = sum(work.count(batch, rows, seconds) for work, rows in batch.pieces)
    for work, _ in batch.pieces:
        work.settle()
    return Spent(seconds, tokens or batch.rows, clean)


def _predict(runtime: Runtime, batch: Batch, model: str, out_of_memory: Callable[[int], None]) -> bool:
    """Predict, halve what fails; True where nothing did."""
    items: Sequence[Any]
    if len(batch.pieces) == 1:
        work, rows = batch.pieces[0]
        if isinstance(rows, range):
            items = work.items[rows.start : rows.stop]
        else:
            items = [work.items[row] for row in rows]
    else:
        items = [work.items[row] for work, row in batch.rows_of_works()]
    try:
        outputs = runtime.predict(items, batch.pieces[0][0].parameters)
        if len(outputs) != len(items):
            raise PredictError(model, f"{len(outputs)} answers for {len(items)} inputs: give one for each")
    except (Exception, SystemExit) as error:
        # SystemExit: a model that calls sys.exit must not take the host's thread with it
        memory = is_out_of_memory(error)
        if batch.rows == 1:
            work, row = next(batch.rows_of_works())
            work.fail_row(row, error if isinstance(error, Exception) else PredictError(model, "sys.exit()"))
            return False
    else:
        done = 0
        for work, rows in batch.pieces:
            work.answer(rows, outputs[done : done + len(rows)])
            done += len(rows)
        return True
    if memory:
        out_of_memory(batch.budget)
        release_memory()
    for half in _halves(batch):
        _predict(runtime, half, model, out_of_memory)
    return False


def _halves(batch: Batch) -> tuple[Batch, Batch]:
    middle, done = batch.rows // 2, 0
    left, right = (Batch(max(1, batch.budget // 2), batch.pads, width=batch.width) for _ in range(2))
    for work, rows in batch.pieces:
        split = min(max(middle - done, 0), len(rows))
        if split:
            left.add(work, rows[:split])
        if split < len(rows):
            right.add(work, rows[split:])
        done += len(rows)
    return left, right


def rows_limit(batch: Literal["auto"] | int | None) -> int | None:
    """The number of rows a batch that was asked for, None for ``auto``."""
    return None if batch in (None, "auto") else int(batch)
