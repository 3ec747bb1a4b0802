"""`Work`: the rows of one call while they wait for batches, and `Predictions`, what became of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from altlas_flow.models.batching import Batch
    from altlas_flow.models.runtimes.base import Prepared
    from altlas_flow.models.watch import Watch
    from altlas_flow.tracing import Carrier


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
    together : int
        Rows like these that one batch holds, where another one costs little: predicted step by step.
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
    together: int = 1


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
    watch : Watch, optional
        Deadlines of the rows, and what is to be recorded of them.
    """

    def __init__(
        self,
        prepared: Prepared,
        parameters: Mapping[str, Any],
        *,
        rows_limit: int | None = None,
        priority: int = 0,
        watch: Watch | None = None,
    ) -> None:
        self.watch = watch
        self.traces: Sequence[Carrier | None] | None = None  # contexts of the rows, where they are traced
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

    @property
    def solo(self) -> bool:
        """Whether its rows run alone."""
        return self.watch is not None and self.watch.solo

    def prune(self, now: float) -> None:
        """Drop rows that wait and were cancelled, or are past their deadline."""
        if self.watch is None or not self.watch.due(now):
            return
        rest = np.asarray(self._waiting[self._taken :], np.int64)
        dropped = self.watch.dropped(rest, now)
        if not dropped:
            return
        for row, error in dropped.items():
            self.fail_row(row, error)
        self._waiting, self._taken = rest[[row not in dropped for row in rest.tolist()]], 0
        if self.costs is not None:
            self._sums = np.cumsum(self.costs[self._waiting])
        self.settle()

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

    def refuse(self, row: int, error: Exception) -> None:
        """Have the answer that comes for a row count for nothing: it is not the whole of it."""
        with self._lock:
            self.result.errors[int(row)] = error

    def fail(self, error: Exception) -> None:
        """End the whole call with an error: the host goes, or the work was cancelled."""
        self.failure = error
        self._taken = len(self._waiting)
        self.done.set()

    def count(self, batch: Batch, rows: Sequence[int] | np.ndarray, seconds: float) -> int:
        """Book a batch that held `rows` of this work; their tokens."""
        tokens = 0 if self.costs is None else int(self.costs[rows].sum())
        if self.watch is not None:
            self.watch.end(rows, seconds)
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
