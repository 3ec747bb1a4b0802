"""`Rows`: a piece of input as a task holds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from dask.sizeof import sizeof
from distributed import Client, Future

from altlas_flow.cluster.packed import Packed
from altlas_flow.cluster.plain import scatter
from altlas_flow.dataframe.arrow import CarriesTables
from altlas_flow.dataframe.readers import read_chunk
from altlas_flow.dataframe.sources import Chunk

#: Bytes up to which rows that a client holds travel with the tasks that need them.
SMALL = 100_000


@dataclass
class Rows(CarriesTables):
    """Rows as a task holds them: a table, where they come from, and what was bad on reading.

    Attributes
    ----------
    table : pyarrow.Table
    source : str
        Shown in row ids.
    positions : numpy.ndarray of int64, optional
        Row numbers within the source; None: consecutive from `first_row`.
    bad : list of (int, str, str)
        Row number within the source, error, excerpt: rows that could not be read.
    """

    table: pa.Table
    source: str
    first_row: int = 0
    positions: np.ndarray | None = None
    bad: list[tuple[int, str, str]] = field(default_factory=list)

    def number(self, position: int) -> int:
        """Number within the source of the row at a position of the table."""
        return self.first_row + position if self.positions is None else int(self.positions[position])

    @property
    def count(self) -> int:
        """Rows as they stand in the source, bad ones included."""
        return int(self.table.num_rows) + len(self.bad)

    def row_id(self, position: int) -> str:
        """How dead letters name the row at a position of the table."""
        return f"{self.source}:{self.number(position)}"

    def part(self, start: int, stop: int) -> Rows:
        """Rows from `start` to `stop`, counted as they stand in the source, bad ones included."""
        low, high = self.first_row + start, self.first_row + stop
        bad = [row for row in self.bad if low <= row[0] < high]
        if self.positions is None:
            return Rows(self.table.slice(start, stop - start), self.source, low, None, bad)
        first, last = np.searchsorted(self.positions, [low, high])
        table = self.table.slice(int(first), int(last - first))
        return Rows(table, self.source, low, self.positions[first:last], bad)


def read_rows(chunk: Chunk) -> Rows:
    """Read one chunk of a source file."""
    table, bad, positions = read_chunk(chunk)
    first = chunk.first_row
    return Rows(
        table,
        chunk.name,
        first,
        None if positions is None else positions + first,
        [(first + row, error, excerpt) for row, error, excerpt in bad],
    )


#: Rows as a task is given them: what it depends on, or what travels with it.
Given = Future[Any] | Packed


def give(client: Client, rows: Rows) -> Given:
    """Rows that this process holds, for tasks; large ones are sent to a worker ahead of them.

    A trip for each of many small pieces would take longer than all that is done with them.
    """
    return Packed.of(rows) if sizeof(rows) <= SMALL else scatter(client, rows)


def taken(given: Rows | Packed) -> Rows:
    """What `give` gave, on a worker."""
    return given.open() if isinstance(given, Packed) else given


def let_go(given: Given) -> None:
    """It is not needed here any more."""
    if isinstance(given, Future):
        given.release()
