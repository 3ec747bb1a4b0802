"""Frames as Arrow tables: pandas at once, dask partition by partition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from altlas_flow.dataframe.tasks import EXCERPT, Rows
from altlas_flow.errors import SourceError, one_line

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
    except (pa.ArrowException, TypeError, ValueError):
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
        Columns that the model gets. Where one mixes types that Arrow cannot hold together, the rows that
        are not of its most frequent type are bad, and the others go on.
    schema, index
        See `to_table`.

    Raises
    ------
    SourceError
        Where another column, that would have to be kept as it is, mixes such types.
    """
    try:
        return Rows(to_table(frame, schema, index), source)
    except SourceError:
        bad = _misfits(frame, needed)
        if not bad:
            raise
    fit = np.ones(len(frame), bool)
    fit[list(bad)] = False
    table = to_table(frame[fit], schema, index)
    return Rows(table, source, 0, np.flatnonzero(fit), [(row, *bad[row]) for row in sorted(bad)])


def to_table(frame: pd.DataFrame, schema: pa.Schema | None = None, index: bool | None = None) -> pa.Table:
    """A pandas frame as an Arrow table, its index kept as pandas does, or as `index` says.

    Raises
    ------
    SourceError
        Where a column holds a mixture that Arrow has no type for.
    """
    if schema is not None:
        try:
            return pa.Table.from_pandas(frame, schema=schema, preserve_index=index)
        except (pa.ArrowException, KeyError, TypeError, ValueError):
            pass  # the meta promised other types than there are: taken as they are
    try:
        return pa.Table.from_pandas(frame, preserve_index=index)
    except (pa.ArrowException, TypeError, ValueError) as error:
        if not frame.columns.is_unique:
            twice = frame.columns[frame.columns.duplicated()][0]
            raise SourceError(f"the frame has the column {twice!r} more than once: rename one") from error
        name = _unfit(frame)
        raise SourceError(
            f"column {name!r} mixes types that Arrow cannot hold together ({one_line(error, 120)}): give it "
            f"one, as with frame.astype({{{name!r}: str}})"
        ) from error


def _misfits(frame: pd.DataFrame, needed: Sequence[str]) -> dict[int, tuple[str, str]]:
    """Rows whose value has not the type of most in its column: why, and the value's beginning."""
    bad: dict[int, tuple[str, str]] = {}
    for name in needed:
        if frame.columns.tolist().count(name) != 1 or frame[name].dtype != object:
            continue
        values = frame[name].tolist()
        there = np.flatnonzero(frame[name].notna())
        kinds = Counter(type(values[row]) for row in there)
        if len(kinds) < 2:
            continue
        most = kinds.most_common(1)[0][0]
        try:
            column = pa.array([values[row] for row in there if type(values[row]) is most]).type
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            continue  # it is not the mixture that Arrow cannot hold
        for row in there:
            value = values[row]
            if type(value) is most:
                continue
            try:
                pa.array([value], column)
            except (pa.ArrowException, TypeError, ValueError, OverflowError):
                why = f"{name!r} is {type(value).__name__} where most rows have {most.__name__}"
                bad[int(row)] = (why, repr(value)[:EXCERPT])
    return bad


def _unfit(frame: pd.DataFrame) -> str:
    """The first column that Arrow has no type for; the index where it is none of them."""
    for name in frame.columns:
        try:
            pa.Array.from_pandas(frame[name])
        except (pa.ArrowException, TypeError, ValueError):
            return str(name)
    return str(frame.index.name or "index")
