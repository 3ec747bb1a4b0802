"""What runs on workers for a partition of a dask frame: pandas in, pandas out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from distributed import Reschedule, get_worker, secede

from altlas_flow.cluster.packed import Packed
from altlas_flow.cluster.worker.plugin import current_host
from altlas_flow.dataframe.answers import Ask, Predicted, alone
from altlas_flow.dataframe.attempts import DEAD_LETTER_SCHEMA
from altlas_flow.dataframe.columns import refuse_replaced
from altlas_flow.dataframe.frames import to_rows
from altlas_flow.dataframe.passage import Through, collect, inputs_of
from altlas_flow.dataframe.rows import Rows
from altlas_flow.dataframe.tasks import Predict, predict_part
from altlas_flow.errors import HostClosed, SpecError, one_line
from altlas_flow.pipeline.rows import StageRows
from altlas_flow.pipeline.tasks import run_stage

if TYPE_CHECKING:
    import pandas as pd


def rows_of(frame: pd.DataFrame, source: str, what: Ask) -> Rows:
    """What the model needs of a frame; rows are told apart by their places, not by the index."""
    needed = what.input.needed()
    rows = to_rows(frame[needed] if needed else frame, source, needed or (), index=False)
    return replace(rows, table=rows.table.replace_schema_metadata(None))


def predict_partition(frame: pd.DataFrame, what: Predict, index: int) -> pd.DataFrame:
    """Predict a partition; runs on a worker. Pandas in, pandas out."""
    host, node = current_host(), str(get_worker().name)
    rows = rows_of(frame, f"partition-{index}", what)
    # A partition that waits holds its rows. Beyond the bound its task keeps a thread of the worker's
    # pool, and so Dask reads no further ahead.
    with host.parts:
        secede()
        try:
            predicted = predict_part(rows, what, host, node)
        except HostClosed as error:
            raise Reschedule() from error  # on another node, where this one is about to go
    return add_answers(frame, [alone(predicted, what)], what)


def partition_inputs(frame: pd.DataFrame, what: Through, index: int) -> StageRows:
    """What of a partition a pipeline is given."""
    rows = rows_of(frame, f"partition-{index}", what)
    return inputs_of(rows, 0, rows.count, what.input, what.name)


def stage_partition(packed: Packed, *upstream: StageRows) -> StageRows:
    """Do one stage for the rows of a partition."""
    try:
        return run_stage(packed, True, 0, range(len(upstream)), *upstream)
    except HostClosed as error:
        raise Reschedule() from error  # on another node, where this one is about to go


def finish_partition(frame: pd.DataFrame, what: Through, index: int, *results: StageRows) -> pd.DataFrame:
    """A partition with the outcomes of its stages."""
    rows = rows_of(frame, f"partition-{index}", what)
    predicted = collect(rows, what, results, str(get_worker().name))
    return add_answers(frame, [alone(predicted, what)], what)


def added(what: Ask, names: Sequence[str] = ()) -> list[str]:
    """Names of the columns that a frame gets; `names`: those of the answers, where they had to be learnt."""
    names = names or what.names()
    return [*names, *([f"{names[0]}_error"] if what.on_error == "collect" else [])]


def no_answers(what: Ask) -> Predicted:
    """The answers to no rows: their columns and types."""
    assert what.types is not None
    columns = zip(what.names(), what.types.values(), strict=True)
    table = pa.table({name: pa.array([], kind) for name, kind in columns})
    return Predicted(table, DEAD_LETTER_SCHEMA.empty_table(), 0, {}, what.types)


def add_answers(frame: pd.DataFrame, parts: Sequence[Predicted], what: Ask) -> pd.DataFrame:
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
            f"the answers of {what.kind} {what.name!r} are of more than one type ({one_line(error, 160)}): "
            f"declare it, as in {what.declare()}"
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
