"""A model or a pipeline over a frame in memory, or lazily over a dask DataFrame."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from distributed import Future

from altlas_flow.cluster.plain import submit_task
from altlas_flow.dataframe.answers import Ask, Predicted, alone
from altlas_flow.dataframe.columns import Input, refuse_replaced
from altlas_flow.dataframe.frames import columns_of, to_rows
from altlas_flow.dataframe.job import PROBE_ROWS, SMALLEST_PART, Job
from altlas_flow.dataframe.lazily import add_answers, added, no_answers, rows_of
from altlas_flow.dataframe.progress import Progress
from altlas_flow.dataframe.rows import Rows, give
from altlas_flow.dataframe.told import Told, told
from altlas_flow.dataframe.units import Source, Unit
from altlas_flow.dataframe.window import Window
from altlas_flow.errors import EmptyInput, InputError

if TYPE_CHECKING:
    import pandas as pd


#: Seconds that rows in memory take before it is shown how far they are.
QUICK = 1.0


class _Start(int):
    """A row number; messages name the rows from there on."""

    def __str__(self) -> str:
        return f"the piece of rows that begins at {int(self)}"


@dataclass
class Mapped(Job):
    """A job without a folder: answers come back as columns."""

    def map(self, *, progress: bool | None = None) -> Any:
        """pandas in, pandas out; dask in, lazy dask out.

        Raises
        ------
        AltlasError
            See `altlas_flow.Flow.map`.
        """
        self.check()
        lazy = hasattr(self.source, "to_delayed") and hasattr(self.source, "npartitions")
        if not hasattr(self.source, "columns") or not (lazy or hasattr(self.source, "iloc")):
            raise InputError(
                f"a {type(self.source).__name__} is no DataFrame: give one of pandas or dask, or use "
                "flow.run for files"
            )
        self._input = Input.of(self.input, columns_of(self.source))
        if lazy and (self.max_in_flight or self.part_rows):
            raise InputError(
                "max_in_flight= and part_rows= are for frames of pandas and for flow.run: Dask computes a "
                "dask frame partition by partition, as it sees fit"
            )
        if lazy and progress:
            raise InputError(
                "progress= is for frames of pandas and for flow.run: a dask frame is computed later, and "
                "distributed.progress shows how far it is"
            )
        if not (self.source.npartitions if lazy else len(self.source)):
            raise EmptyInput("the frame has no rows: there is nothing to predict; check how it was made")
        if lazy:
            return self._lazily()
        with told("map", self.subject.id, "", self.settings.traces) as telling:
            return self._now(telling, progress)

    def _now(self, telling: Told, progress: bool | None) -> pd.DataFrame:
        frame: pd.DataFrame = self.source
        what = telling.within(self.predict_task())
        slots = self.subject.slots(self.client)
        rows = max(SMALLEST_PART, min(self.largest_part, -(-len(frame) // (2 * slots))))
        rows = self.part_rows or rows
        if what.types is not None:
            refuse_replaced(added(what), self.output, columns_of(frame))
        inputs = rows_of(frame, "frame", what)
        starts = deque(_Start(row) for row in range(0, len(frame), rows))
        window = Window(
            self.client,
            partial(self.subject.slots, self.client),
            per_slot=self.settings.parts_in_flight,
            patience=self.settings.no_workers_timeout,
            most=self.max_in_flight,
        )
        done: dict[_Start, Predicted] = {}
        with Progress(self.subject.id, len(frame), progress, after=QUICK) as bar:
            try:
                while starts or window.busy:
                    while starts and window.room:
                        start = starts.popleft()
                        telling.sent(f"rows {int(start)}")
                        window.send(start, partial(self._submit, inputs.part(start, start + rows), what))
                    start, predicted = window.next(tick=bar.tick)
                    done[start] = predicted
                    dead, node = predicted.dead.num_rows, str(predicted.stats["node"])
                    telling.done(f"rows {int(start)}", predicted.rows_in, dead, node)
                    bar.advance(predicted.rows_in, dead)
            finally:
                window.cancel()
        return add_answers(frame, [done[start] for start in sorted(done)], what)

    def _submit(self, piece: Rows, what: Ask) -> Future[Any]:
        data = give(self.client, piece)
        return self.subject.send(self.client, data, 0, piece.count, what, alone)

    def _lazily(self) -> Any:
        import dask.dataframe as dd

        frame = self.source
        what = self.predict_task()
        source = Source(columns_of(frame), list(self._first_rows()))
        what = replace(what, types=self.learn_types(source, what), learnt=what.types is None)
        refuse_replaced(added(what), self.output, source.columns)
        # Collections lose annotations; the key alone tells the scheduler what the task needs.
        parts = [frame._name, self.digest(what), what.names(), self.on_error, self.subject.batch]
        unique = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
        predicted = [
            self.subject.lazily(part, what, index, unique) for index, part in enumerate(frame.to_delayed())
        ]
        meta = add_answers(frame._meta, [no_answers(what)], what)
        divisions = frame.divisions if frame.known_divisions else None
        return dd.from_delayed(predicted, meta=meta, divisions=divisions, verify_meta=False)

    def _first_rows(self) -> Iterator[Unit]:
        """Units of the first rows of each partition, to learn the types of a function's answers from."""

        needed = self._input.columns

        def submit(index: int) -> Future[Any]:
            head = self.source.partitions[index].head(PROBE_ROWS, compute=False)
            computed = self.client.compute(head)
            return submit_task(self.client, to_rows, computed, f"partition-{index}", needed)

        for index in range(self.source.npartitions):
            yield Unit(f"partition-{index}", partial(submit, index))
