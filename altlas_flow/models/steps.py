"""Between the steps of a batch: who is still wanted, and what of each answer there is already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from altlas_flow.errors import RequestCancelled

if TYPE_CHECKING:
    from altlas_flow.models.work import Work


class Steps:
    """The `Control` of one batch that is predicted step by step.

    Parameters
    ----------
    rows : sequence of (Work, int)
        What each position of the batch is.

    Attributes
    ----------
    dropped : dict of int to Exception
        Positions that nobody wants any more, and why.
    """

    def __init__(self, rows: Sequence[tuple[Work, int]]) -> None:
        self._rows = rows
        self.dropped: dict[int, Exception] = {}
        for work, row in rows:
            if work.watch is not None:
                work.watch.pieces.begin(row)

    def wanted(self, position: int) -> bool:
        """Whether a row is: not cancelled, not late, and its call not given up."""
        if position in self.dropped:
            return False
        work, row = self._rows[position]
        error: Exception | None = None
        if work.failure is not None:
            error = RequestCancelled("nobody waits for the answer any more")
        elif work.watch is not None:
            error = work.watch.unwanted(row)
        if error is None:
            return True
        self.dropped[position] = error
        return False

    def emit(self, position: int, piece: str) -> None:
        """Keep the next piece for whoever listens."""
        work, row = self._rows[position]
        if work.watch is not None:
            work.watch.pieces.add(row, piece)
