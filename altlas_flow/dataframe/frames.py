"""Frames as Arrow tables: pandas at once, dask partition by partition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from altlas_flow.dataframe.misfits import UNFIT, misfits, why
from altlas_flow.dataframe.rows import Rows
from altlas_flow.errors import SourceError

if TYPE_CHECKING:
    import pandas as pd


def columns_of(frame: Any) -> tuple[str, ...]:
    """Names of a frame's columns.

    Raises
    ------
    SourceError
        Where a name is not a text: Parquet has no other.
    """
    for name in frame.columns:
        if not isinstance(name, str):
            raise SourceError(
                f"column {name!r} has a name that is no text: rename it, as with frame.rename(columns=str)"
            )
    return tuple(frame.columns)


def keeps_index(frame: Any) -> bool:
    """Whether the index of a dask frame holds something; a range only counts, anew in each partition."""
    import pandas as pd

    return not isinstance(frame._meta.index, pd.RangeIndex)


def frame_schema(frame: Any) -> pa.Schema | None:
    """Arrow schema of a dask frame's partitions, as far as its meta tells."""
    try:
        return pa.Schema.from_pandas(frame._meta_nonempty, preserve_index=keeps_index(frame))
    except UNFIT:
        return None  # columns of objects: each partition is taken as it comes


def to_rows(
    frame: pd.DataFrame,
    source: str,
    needed: Sequence[str] = (),
    schema: pa.Schema | None = None,
    index: bool | None = None,
) -> Rows:
    """A pandas frame as `Rows`; for a partition of a dask frame, this runs on a worker.

    Parameters
    ----------
    frame : pandas.DataFrame
    source : str
        Shown in row ids.
    needed : sequence of str
        Columns that the model gets. Where one of them holds objects of more than one type, the rows that
        have not the type of most are bad (see `misfits`), and the others go on.
    schema, index
        See `to_table`.

    Raises
    ------
    SourceError
        Where another column, that would have to be kept as it is, mixes such types.
    """
    bad: dict[int, tuple[str, str]] = {}
    for name in dict.fromkeys(needed):
        if frame.columns.tolist().count(name) != 1 or frame[name].dtype != object:
            continue
        found = misfits(name, frame[name].tolist(), frame[name].notna().to_numpy())
        if found:
            column = frame[name].copy()
            column.iloc[list(found)] = None
            frame = frame.copy(deep=False)
            frame[name] = column
            bad = found | bad
    table = to_table(frame, schema, index)
    if not bad:
        return Rows(table, source)
    fit = np.ones(len(frame), bool)
    fit[list(bad)] = False
    positions = np.flatnonzero(fit)
    return Rows(table.take(positions), source, 0, positions, [(row, *bad[row]) for row in sorted(bad)])


def to_table(frame: pd.DataFrame, schema: pa.Schema | None = None, index: bool | None = None) -> pa.Table:
    """A pandas frame as an Arrow table, its index kept as pandas does, or as `index` says.

    Raises
    ------
    SourceError
        Where a column holds what Arrow has no type for, such as a mixture.
    """
    if schema is not None:
        try:
            return pa.Table.from_pandas(frame, schema=schema, preserve_index=index)
        except (KeyError, *UNFIT):
            pass  # the meta promised other types than there are: taken as they are
    try:
        return pa.Table.from_pandas(frame, preserve_index=index)
    except UNFIT as error:
        if not frame.columns.is_unique:
            twice = frame.columns[frame.columns.duplicated()][0]
            raise SourceError(f"the frame has the column {twice!r} more than once: rename one") from error
        name = _unfit(frame)
        raise SourceError(
            f"column {name!r} holds what Arrow cannot keep in one column ({why(error)}): give it one type, "
            f"as with frame.astype({{{name!r}: str}}), or leave it out"
        ) from error


def _unfit(frame: pd.DataFrame) -> str:
    """The first column that Arrow has no type for; the index where it is none of them."""
    for name in frame.columns:
        try:
            pa.Array.from_pandas(frame[name])
        except UNFIT:
            return str(name)
    return str(frame.index.name or "index")
