"""Rows into batches and answers back into order.

`cut` takes the next batch from what waits for one model, whoever
asked; `execute` predicts it and gives every row its own outcome. No threads and no Dask here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from altlas_flow.errors import PredictError, located
from altlas_flow.models.copies import apart, writables
from altlas_flow.models.faults import Miscount, is_interrupt
from altlas_flow.models.memory import is_out_of_memory, release_memory
from altlas_flow.models.steps import Steps
from altlas_flow.models.work import Work

if TYPE_CHECKING:
    from altlas_flow.models.runtimes.base import Runtime


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
    not slowed down by filling its batch with patient ones. A work that runs alone is not merged at all.
    """
    first = works[0]
    batch = Batch(budget, pads and first.costs is not None)
    for work in works:
        if work.priority != first.priority or not work.waiting or (work.solo and work is not first):
            continue
        room = _room(batch, work)
        if not batch.rows:
            room = max(room, 1)
        if room <= 0:
            break
        batch.width = max(batch.width, work.next_cost())
        batch.add(work, work.take(room))
        if first.solo:
            break
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
    steps: Steps | None = None
    writes = getattr(runtime, "writes", True)
    try:
        # what fails is predicted again, from items as they were
        given = writables(items) if writes else items
        if hasattr(runtime, "predict_steps"):
            steps = Steps(list(batch.rows_of_works()))
            outputs = runtime.predict_steps(given, batch.pieces[0][0].parameters, steps)
        else:
            outputs = runtime.predict(given, batch.pieces[0][0].parameters)
        if len(outputs) != len(items):
            text = f"{len(outputs)} answers for {len(items)} inputs: give one for each"
            raise Miscount(len(outputs), text)
    except BaseException as error:
        # not only Exception: sys.exit, a panic of Rust code, a cancelled coroutine are of their rows as well
        if is_interrupt(error):
            raise
        memory = is_out_of_memory(error)
        if batch.rows == 1:
            work, row = next(batch.rows_of_works())
            work.fail_row(row, _ordinary(error, model))
            return False
        if isinstance(error, Miscount) and not _counts_rows(runtime, items[0], batch.pieces[0][0].parameters):
            # halved until each row stands alone, it would seem to answer all of them
            for work, row in batch.rows_of_works():
                work.fail_row(row, error)
            return False
    else:
        dropped = steps.dropped if steps is not None else {}
        if dropped:
            for position, (work, row) in enumerate(batch.rows_of_works()):
                if position in dropped:
                    work.refuse(row, dropped[position])
        if writes and isinstance(outputs, list):
            outputs = apart(outputs, kept=True)
        done = 0
        for work, rows in batch.pieces:
            work.answer(rows, outputs[done : done + len(rows)])
            done += len(rows)
        return not dropped
    if memory:
        out_of_memory(batch.budget)
        release_memory()
    for half in _halves(batch):
        _predict(runtime, half, model, out_of_memory)
    return False


def _counts_rows(runtime: Runtime, item: Any, parameters: Any) -> bool:
    """Whether a model that gave too few or too many answers does so because of some row.

    A row that is left out is left out twice where it comes twice; the mean of all rows is one however many.
    """
    try:
        return len(runtime.predict(writables([item, item]), parameters)) % 2 == 0
    except Miscount as error:
        return error.count % 2 == 0
    except BaseException as error:
        if is_interrupt(error):
            raise
        return True  # that row may be at fault itself: halving finds out


def _ordinary(error: BaseException, model: str) -> Exception:
    """An error that may be passed on: no other ends the thread or the task of whoever raises it."""
    if isinstance(error, Exception):
        return error
    ordinary = PredictError(model, located(error))
    ordinary.__cause__ = error
    return ordinary


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
