"""`Rows`: a piece of input as a task holds it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from altlas_flow.dataframe.arrow import CarriesTables
from altlas_flow.dataframe.readers import read_chunk
from altlas_flow.dataframe.sources import Chunk


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
