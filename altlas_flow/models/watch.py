"""What the owner of rows says while they wait, and learns of each: deadlines, cancelling, batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from altlas_flow.errors import AltlasError, DeadlineExceeded, RequestCancelled
from altlas_flow.models.pieces import Pieces


class Watch:
    """Goes with the rows of one call to a host.

    Parameters
    ----------
    rows : int
    tag : str
        Names the call to those who are told that a batch begins.
    deadlines : sequence of float, optional
        When each row is no longer worth predicting, in seconds of the host's clock.
    solo : bool
        Run alone: no other batch on the host meanwhile, no other rows in its batches.
    once : bool
        None of the rows may run twice; each is a batch of its own.
    clock : callable, optional
        Seconds of the host's clock; without it, deadlines are looked at before a batch only.

    Attributes
    ----------
    began : numpy.ndarray of float64, shape (rows,)
        When a row's batch began; NaN before.
    took : numpy.ndarray of float64, shape (rows,)
        Seconds of that batch.
    sizes : numpy.ndarray of int64, shape (rows,)
        Rows of that batch.
    lingers : bool
        Whether the call was given up while a batch with rows of it ran, which runs on.
    pieces : Pieces
        Of answers that come piece by piece.
    """

    def __init__(
        self,
        rows: int,
        tag: str,
        *,
        deadlines: Sequence[float] | None = None,
        solo: bool = False,
        once: bool = False,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.tag, self.solo, self.once = tag, solo, once
        self.began = np.full(rows, np.nan)
        self.took = np.zeros(rows)
        self.sizes = np.zeros(rows, np.int64)
        self._deadlines = None if deadlines is None else np.asarray(deadlines, np.float64)
        self._earliest = math.inf if deadlines is None else min(deadlines, default=math.inf)
        self._cancelled: set[int] = set()
        self.lingers = False
        self.pieces, self._clock = Pieces(), clock

    def cancel(self, rows: Iterable[int]) -> None:
        """Rows that nobody wants any more; what runs already runs on, where it has no steps."""
        self._cancelled.update(rows)

    def due(self, now: float) -> bool:
        """Whether rows may have to be dropped."""
        return bool(self._cancelled) or now >= self._earliest

    def dropped(self, rows: np.ndarray, now: float) -> dict[int, AltlasError]:
        """Those of `rows` that are not to be predicted, and why."""
        found: dict[int, AltlasError] = {
            row: RequestCancelled("the request was cancelled while it waited")
            for row in self._cancelled.intersection(rows.tolist())
        }
        if self._deadlines is not None:
            for row in rows[self._deadlines[rows] <= now].tolist():
                found[row] = DeadlineExceeded("the request's deadline passed while it waited for a slot")
        return found

    def unwanted(self, row: int) -> AltlasError | None:
        """Why a row that runs is not to go on; None where it is."""
        if row in self._cancelled:
            return RequestCancelled("the request was cancelled while it ran")
        if self._deadlines is not None and self._clock is not None and self._deadlines[row] <= self._clock():
            return DeadlineExceeded("the request's deadline passed while it ran")
        return None

    def begin(self, rows: Sequence[int] | np.ndarray, size: int, now: float) -> None:
        """A batch of `size` rows begins, with these."""
        at: Any = slice(rows.start, rows.stop) if isinstance(rows, range) else rows
        self.began[at], self.sizes[at] = now, size

    def end(self, rows: Sequence[int] | np.ndarray, seconds: float) -> None:
        """The batch with these rows is over."""
        self.took[slice(rows.start, rows.stop) if isinstance(rows, range) else rows] = seconds
