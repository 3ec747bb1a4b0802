"""What there is already of answers that come piece by piece, for who listens meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple


class Piece(NamedTuple):
    """A part of a text.

    Attributes
    ----------
    run : int
        Which time the row is predicted: one that failed in a batch is begun again.
    offset : int
        Characters before it.
    text : str
    """

    run: int
    offset: int
    text: str


@dataclass
class _Row:
    run: int = 0
    size: int = 0
    parts: list[str] = field(default_factory=list)


class Pieces:
    """Texts of the rows of one call while they grow; written by slots, read by any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._rows: dict[int, _Row] = {}
        self._listeners: dict[int, Callable[[], None]] = {}

    def begin(self, row: int) -> None:
        """A row begins, maybe again."""
        with self._lock:
            former = self._rows.get(row)
            self._rows[row] = _Row(former.run + 1 if former is not None else 1)

    def add(self, row: int, text: str) -> None:
        """The next piece of a row; whoever listens is told in this thread."""
        text.encode()  # half of a surrogate pair is no text, and would break whatever it is sent by
        with self._lock:
            mine = self._rows.setdefault(row, _Row(1))
            mine.parts.append(text)
            mine.size += len(text)
            listener = self._listeners.get(row)
        if listener is not None:
            listener()

    def listen(self, row: int, listener: Callable[[], None] | None) -> None:
        """Have a callable called after each piece of a row; None: no more."""
        with self._lock:
            if listener is None:
                self._listeners.pop(row, None)
            else:
                self._listeners[row] = listener

    def read(self, row: int, run: int = 0, offset: int = 0) -> Piece | None:
        """What a row has beyond an offset; all of it, where it was begun again since that run.

        None where there is nothing.
        """
        with self._lock:
            mine = self._rows.get(row)
            if mine is None:
                return None
            text = "".join(mine.parts)
            mine.parts = [text]
            if mine.run != run:
                offset = 0
            return Piece(mine.run, offset, text[offset:]) if offset < mine.size else None
