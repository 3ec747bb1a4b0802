"""A model over a frame in memory, or lazily over a dask DataFrame."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from altlas_flow.cluster.keys import predict_key
from altlas_flow.cluster.worker import current_host
from altlas_flow.dataframe.columns import Input
from altlas_flow.dataframe.job import Job
from altlas_flow.dataframe.tasks import Predict, Predicted, Rows, predict_part, predict_rows
from altlas_flow.dataframe.units import Source, columns_of, to_table
from altlas_flow.dataframe.window import Window, eligible_slots
from altlas_flow.errors import EmptyInput, InputError

if TYPE_CHECKING:
    import pandas as pd

#: Column that numbers rows while they travel, so that answers find their way back.
NUMBER = "__altlas_row__"
#: Fewest rows that are worth a task of their own.
SMALLEST_PART = 64


@dataclass
class Mapped(Job):
    """A job without a folder: answers come back as columns."""

    def map(self) -> Any:
        """pandas in, pandas out; dask in, lazy dask out.

        Raises
        ------
        AltlasError
            See `altlas_flow.Flow.map`.
        """
        self.check()
        if hasattr(self.source, "to_delayed") and hasattr(self.source, "npartitions"):
            return self._lazily()
        if not hasattr(self.source, "iloc") or not hasattr(self.source, "columns"):
            raise InputError(
                f"a {type(self.source).__name__} is no DataFrame: give one of pandas or dask, or use flow.run for files"
            )
        return self._now()

    def _now(self) -> pd.DataFrame:
        frame: pd.DataFrame = self.source
        self._input = Input.of(self.input, columns_of(frame))
        if not len(frame):
            raise EmptyInput("the frame has no rows: there is nothing to predict; check how it was made")
        needed = self._input.needed()
        slim = frame[needed] if needed else frame
        table = to_table(slim.reset_index(drop=True))
        table = table.replace_schema_metadata(None).append_column(NUMBER, pa.array(np.arange(len(frame))))
        what = replace(self.predict_task(), input=_hide_number(self._input))
        slots = eligible_slots(self.client, self.spec)
        default = self.part_rows or self.settings.part_rows_tokens
        rows = max(SMALLEST_PART, min(default, -(-len(frame) // (2 * slots))))
        starts = list(range(0, len(frame), rows))
        window = Window(
            self.client,
            self.spec,
            per_slot=self.settings.parts_in_flight,
            patience=self.settings.no_workers_timeout,
        )
        done: dict[int, Predicted] = {}
        try:
            while starts or window.busy:
                while starts and window.room:
                    start = starts.pop(0)
                    piece = Rows(table.slice(start, rows), "row", start)
                    window.send(start, lambda piece=piece: self._submit(piece, what))
                start, predicted = window.next()
                done[start] = predicted
        finally:
            window.cancel()
        return self._assemble(frame, [done[start] for start in sorted(done)])

    def _submit(self, piece: Rows, what: Predict) -> Any:
        data = self.client.scatter(piece, hash=False)
        return self.client.submit(
            predict_rows, data, 0, piece.table.num_rows, what, key=self._key(), pure=False
        )

    def _assemble(self, frame: pd.DataFrame, parts: list[Predicted]) -> pd.DataFrame:
        """The frame with the answers as columns; bad rows have null and their error beside it."""
        columns = set(self._input.needed() or frame.columns) | {NUMBER}
        tables = [part.table for part in parts]
        first = tables[0].column_names
        added = [name for name in first[first.index(NUMBER) + 1 :]]
        whole = pa.concat_tables([t.select([NUMBER, *added]) for t in tables], promote_options="permissive")
        places = whole.column(NUMBER).to_numpy()
        complete = len(places) == len(frame)
        new: dict[str, Any] = {}
        for name in added:
            values = whole.column(name).combine_chunks()
            if not complete:
                where = np.full(len(frame), -1)
                where[places] = np.arange(len(places))
                values = values.take(pa.array(where, mask=where < 0))
            new[name] = to_series(values, frame.index)
        if self.on_error == "collect":
            errors: list[str | None] = [None] * len(frame)
            for part in parts:
                for row_id, error in zip(part.dead["row_id"].to_pylist(), part.dead["error"].to_pylist(), strict=True):
                    errors[int(row_id.partition(":")[2])] = error
            new[f"{added[0]}_error"] = to_series(pa.array(errors, pa.string()), frame.index)
        del columns
        return frame.assign(**new)

    def _lazily(self) -> Any:
        import dask
        import dask.dataframe as dd

        frame = self.source
        self._input = Input.of(self.input, columns_of(frame))
        if not frame.npartitions:
            raise EmptyInput("the frame has no partitions: there is nothing to predict; check how it was made")
        what = self.predict_task()
        source = Source(columns_of(frame), [])
        if what.types is None:
            source = _first_rows(self, frame, what)
        types = self.learn_types(source, what)
        what = replace(what, types=types)
        task = dask.delayed(predict_frame, pure=False)
        # Collections lose annotations; the key alone tells the scheduler what the task needs.
        unique = hashlib.sha256(f"{frame._name}{self.digest(what)}".encode()).hexdigest()[:32]
        parts = [
            task(part, what, index, dask_key_name=predict_key(self.spec.fingerprint, f"{unique}-{index}"))
            for index, part in enumerate(frame.to_delayed())
        ]
        meta = frame._meta.assign(**{
            name: to_series(pa.array([], kind), frame._meta.index)
            for name, kind in zip(what.names(), types.values(), strict=True)
        })
        if self.on_error == "collect":
            meta = meta.assign(**{f"{what.names()[0]}_error": to_series(pa.array([], pa.string()), meta.index)})
        divisions = frame.divisions if frame.known_divisions else None
        return dd.from_delayed(parts, meta=meta, divisions=divisions, verify_meta=False)


def _hide_number(given: Input) -> Input:
    """A function of the row must not see the column that numbers rows."""
    if given.function is None:
        return given
    function = given.function

    def without(row: Mapping[str, Any]) -> Any:
        return function({key: value for key, value in row.items() if key != NUMBER})

    return Input(function=without)


def _first_rows(job: Mapped, frame: Any, what: Predict) -> Source:
    """A source of the first rows, to learn the types of a function's answers from."""
    from altlas_flow.dataframe.units import Unit, partition_rows

    def unit(index: int) -> Unit:
        def submit() -> Any:
            computed = job.client.compute(frame.partitions[index].head(20, compute=False))
            return job.client.submit(partition_rows, computed, f"partition-{index}", None, pure=False)

        return Unit(f"partition-{index}", submit)

    del what
    return Source(columns_of(frame), [unit(index) for index in range(frame.npartitions)])


def predict_frame(frame: pd.DataFrame, what: Predict, index: int) -> pd.DataFrame:
    """Predict a partition; runs on a worker. Pandas in, pandas out."""
    from distributed import get_worker, secede

    host, worker = current_host(), get_worker()
    needed = what.input.needed()
    table = to_table((frame[needed] if needed else frame).reset_index(drop=True))
    table = table.replace_schema_metadata(None).append_column(NUMBER, pa.array(np.arange(len(frame))))
    rows = Rows(table, f"partition-{index}")
    numbered = replace(what, input=_hide_number(what.input))
    with host.parts:
        secede()
        predicted = predict_part(rows, numbered, host, str(worker.name))
    places = predicted.table.column(NUMBER).to_numpy()
    where = np.full(len(frame), -1)
    where[places] = np.arange(len(places))
    take = pa.array(where, mask=where < 0)
    new = {
        name: to_series(predicted.table.column(name).combine_chunks().take(take), frame.index)
        for name in what.names()
    }
    if what.on_error == "collect":
        errors: list[str | None] = [None] * len(frame)
        for row_id, error in zip(predicted.dead["row_id"].to_pylist(), predicted.dead["error"].to_pylist(), strict=True):
            errors[int(row_id.partition(":")[2])] = error
        new[f"{what.names()[0]}_error"] = to_series(pa.array(errors, pa.string()), frame.index)
    return frame.assign(**new)


def to_series(values: pa.Array, index: Any) -> pd.Series:
    """An Arrow array as a pandas column: lists stay Arrow, the rest as pandas has it."""
    import pandas as pd

    if pa.types.is_nested(values.type):
        return pd.Series(pd.arrays.ArrowExtensionArray(values), index=index)
    series = values.to_pandas()
    series.index = index
    return series
