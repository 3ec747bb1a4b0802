"""A model over a frame in memory, or lazily over a dask DataFrame."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from distributed import Future, Reschedule, get_worker, secede

from altlas_flow.cluster.keys import predict_key
from altlas_flow.cluster.plain import scatter, submit_rows, submit_task
from altlas_flow.cluster.worker.plugin import current_host
from altlas_flow.dataframe.attempts import DEAD_LETTER_SCHEMA
from altlas_flow.dataframe.columns import Input, output_names, refuse_replaced
from altlas_flow.dataframe.frames import columns_of, to_rows
from altlas_flow.dataframe.job import PROBE_ROWS, SMALLEST_PART, Job
from altlas_flow.dataframe.tasks import Predict, Predicted, Rows, predict_part, predict_rows
from altlas_flow.dataframe.units import Source, Unit
from altlas_flow.dataframe.window import Window, eligible_slots
from altlas_flow.errors import EmptyInput, HostClosed, InputError, SpecError, one_line

if TYPE_CHECKING:
    import pandas as pd


class _Start(int):
    """A row number; messages name the rows from there on."""

    def __str__(self) -> str:
        return f"the piece of rows that begins at {int(self)}"


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
        lazy = hasattr(self.source, "to_delayed") and hasattr(self.source, "npartitions")
        if not hasattr(self.source, "columns") or not (lazy or hasattr(self.source, "iloc")):
            raise InputError(
                f"a {type(self.source).__name__} is no DataFrame: give one of pandas or dask, or use "
                "flow.run for files"
            )
        self._input = Input.of(self.input, columns_of(self.source))
        if not (self.source.npartitions if lazy else len(self.source)):
            raise EmptyInput("the frame has no rows: there is nothing to predict; check how it was made")
        return self._lazily() if lazy else self._now()

    def _now(self) -> pd.DataFrame:
        frame: pd.DataFrame = self.source
        what = self.predict_task()
        slots = eligible_slots(self.client, self.spec)
        tokens = self.spec.runtime == "transformers"
        largest = self.settings.part_rows_tokens if tokens else self.settings.part_rows
        rows = max(SMALLEST_PART, min(largest, -(-len(frame) // (2 * slots))))
        if what.types is not None:
            refuse_replaced(added(what), self.output, columns_of(frame))
        inputs = inputs_of(frame, "frame", what)
        starts = deque(_Start(row) for row in range(0, len(frame), rows))
        window = Window(
            self.client,
            self.spec,
            per_slot=self.settings.parts_in_flight,
            patience=self.settings.no_workers_timeout,
        )
        done: dict[_Start, Predicted] = {}
        try:
            while starts or window.busy:
                while starts and window.room:
                    start = starts.popleft()
                    window.send(start, partial(self._submit, inputs.part(start, start + rows), what))
                start, predicted = window.next()
                done[start] = predicted
        finally:
            window.cancel()
        return add_answers(frame, [done[start] for start in sorted(done)], what)

    def _submit(self, piece: Rows, what: Predict) -> Future[Any]:
        data = scatter(self.client, piece)
        return submit_rows(
            self.client, predict_answers, data, what, fingerprint=self.spec.fingerprint, rows=piece.count
        )

    def _lazily(self) -> Any:
        import dask.dataframe as dd
        from dask.delayed import delayed

        frame = self.source
        what = self.predict_task()
        source = Source(columns_of(frame), list(self._first_rows()))
        what = replace(what, types=self.learn_types(source, what), learnt=self.spec.outputs is None)
        refuse_replaced(added(what), self.output, source.columns)
        # Collections lose annotations; the key alone tells the scheduler what the task needs.
        parts = [frame._name, self.digest(what), what.names(), self.on_error, self.batch]
        unique = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
        task = delayed(predict_partition, pure=False)
        predicted = [
            task(part, what, index, dask_key_name=predict_key(self.spec.fingerprint, f"{unique}-{index}"))
            for index, part in enumerate(frame.to_delayed())
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


def inputs_of(frame: pd.DataFrame, source: str, what: Predict) -> Rows:
    """What the model needs of a frame; rows are told apart by their places, not by the index."""
    needed = what.input.needed()
    rows = to_rows(frame[needed] if needed else frame, source, needed or (), index=False)
    return replace(rows, table=rows.table.replace_schema_metadata(None))


def predict_answers(rows: Rows, what: Predict) -> Predicted:
    """Predict rows; the answers alone travel back. Runs on a worker."""
    return _alone(predict_rows(rows, 0, rows.count, what), what)


def predict_partition(frame: pd.DataFrame, what: Predict, index: int) -> pd.DataFrame:
    """Predict a partition; runs on a worker. Pandas in, pandas out."""
    host, node = current_host(), str(get_worker().name)
    rows = inputs_of(frame, f"partition-{index}", what)
    # A partition that waits holds its rows. Beyond the bound its task keeps a thread of the worker's
    # pool, and so Dask reads no further ahead.
    with host.parts:
        secede()
        try:
            predicted = predict_part(rows, what, host, node)
        except HostClosed as error:
            raise Reschedule() from error  # on another node, where this one is about to go
    return add_answers(frame, [_alone(predicted, what)], what)


def _alone(predicted: Predicted, what: Predict) -> Predicted:
    """Without the columns that the answers were added to."""
    names = output_names(list(predicted.types), what.output)
    return replace(predicted, table=predicted.table.select(list(names)))


def added(what: Predict, names: Sequence[str] = ()) -> list[str]:
    """Names of the columns that a frame gets; `names`: those of the answers, where they had to be learnt."""
    names = names or what.names()
    return [*names, *([f"{names[0]}_error"] if what.on_error == "collect" else [])]


def no_answers(what: Predict) -> Predicted:
    """The answers to no rows: their columns and types."""
    assert what.types is not None
    columns = zip(what.names(), what.types.values(), strict=True)
    table = pa.table({name: pa.array([], kind) for name, kind in columns})
    return Predicted(table, DEAD_LETTER_SCHEMA.empty_table(), 0, {}, what.types)


def add_answers(frame: pd.DataFrame, parts: Sequence[Predicted], what: Predict) -> pd.DataFrame:
    """The frame with the answers as columns; bad rows have null, and with "collect" their error beside it.

    Parameters
    ----------
    frame : pandas.DataFrame
    parts : sequence of Predicted
        In the order of the frame's rows, together all of them; answers alone.

    Raises
    ------
    SpecError
        Where the answers of two parts fit no common type.
    InputError
        Where the frame has a column of that name, and `output` is not that name.
    """
    errors: dict[int, str] = {}
    for part in parts:
        for row_id, error in zip(*(part.dead[name].to_pylist() for name in ("row_id", "error")), strict=True):
            errors[int(row_id.rpartition(":")[2])] = error
    # where no row has an answer, there was nothing to learn the types of a function's answers from
    tables = [part.table for part in parts if part.table.num_rows] or [parts[0].table]
    try:
        whole = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise SpecError(
            f"the answers of model {what.spec.id!r} are of more than one type ({one_line(error, 160)}): "
            'declare it, as in ModelSpec(outputs={"prediction": "string"})'
        ) from error
    bad = np.zeros(len(frame), bool)
    bad[list(errors)] = True
    places = pa.array(np.cumsum(~bad) - 1, mask=bad)
    columns = {}
    for name in whole.column_names:
        values = whole.column(name).combine_chunks()
        columns[name] = to_series(values.take(places) if errors else values, frame.index)
    refuse_replaced(added(what, whole.column_names), what.output, frame.columns.tolist())
    if what.on_error == "collect":
        texts = pa.array([errors.get(place) for place in range(len(frame))], pa.string())
        columns[f"{whole.column_names[0]}_error"] = to_series(texts, frame.index)
    result = frame.copy(deep=False)
    stale = f"{whole.column_names[0]}_error"
    if stale in result.columns and whole.column_names[0] in result.columns:
        result = result.drop(columns=stale)  # of the answers that are replaced
    for name, series in columns.items():
        result[name] = series
    return result


def to_series(values: pa.Array, index: pd.Index[Any]) -> pd.Series[Any]:
    """An Arrow array as a pandas column.

    Lists stay Arrow's. Whole numbers and booleans become pandas' nullable types, for an answer may be
    missing; the rest is as pandas has it.
    """
    import pandas as pd

    kind = values.type
    if pa.types.is_nested(kind):
        return pd.Series(pd.arrays.ArrowExtensionArray(values), index=index)
    dtype: Any = None
    if pa.types.is_integer(kind):
        dtype = pd.api.types.pandas_dtype(str(kind).replace("int", "Int").replace("u", "U"))
    elif pa.types.is_boolean(kind):
        dtype = pd.BooleanDtype()
    elif pa.types.is_string(kind):
        dtype = pd.Series([""]).dtype  # the same where all are missing
    series: pd.Series[Any] = values.to_pandas(types_mapper={kind: dtype}.get)
    return series.set_axis(index)
