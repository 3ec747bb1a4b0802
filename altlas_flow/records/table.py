"""Several records, as a sequence, a DataFrame, and a table in terminals and notebooks."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from altlas_flow.records.base import Record

if TYPE_CHECKING:
    import pandas as pd

Item = TypeVar("Item", bound=Record)

#: Rows that a notebook or a terminal shows.
SHOWN = 60


class Table(Sequence[Item], Generic[Item]):
    """Records in an order.

    Parameters
    ----------
    items : sequence of Record
    columns : mapping of str to callable
        What is shown of each: heading -> function of the record, that gives a text or a number.
    title : str
        What they are.
    shown : int
        Rows that a notebook or a terminal shows.
    """

    def __init__(
        self,
        items: Sequence[Item],
        columns: Mapping[str, Callable[[Item], Any]],
        *,
        title: str = "",
        shown: int = SHOWN,
    ) -> None:
        self._items, self._columns, self._shown, self._title = list(items), dict(columns), shown, title

    def frame(self) -> pd.DataFrame:
        """All fields, a column each; times are in UTC."""
        import pandas as pd

        names = list(type(self._items[0]).model_fields) if self._items else []
        frame = pd.DataFrame({name: [getattr(item, name) for item in self._items] for name in names})
        for name in ("submitted", "started", "ended"):
            if name in frame:
                frame[name] = pd.to_datetime(frame[name].astype("float64"), unit="s", utc=True)
        return frame

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, at: Any) -> Any:
        return self._items[at]

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        from rich.box import SIMPLE
        from rich.console import Console
        from rich.table import Table as Drawn
        from rich.text import Text

        table = Drawn(*self._columns, box=SIMPLE)
        for item in self._items[: self._shown]:
            # Text: what a name or an error holds is shown as it is
            table.add_row(*(Text(plain(show(item))) for show in self._columns.values()))
        file = io.StringIO()
        # in a notebook, too, it is only made: rich would show it there at once
        Console(file=file, width=200, no_color=True, force_jupyter=False).print(table)
        more = len(self._items) - self._shown
        return "\n".join(line.rstrip() for line in file.getvalue().splitlines() if line.strip()) + (
            f"\n… and {more} more" if more > 0 else ""
        )

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        """A line of each; everything is escaped."""
        from altlas_flow.records.html import rows

        count = len(self._items)
        many = (
            f"the first {self._shown:,} of {count:,}"
            if count > self._shown
            else f"{count:,}"
            if count
            else "none"
        )
        title = f"{self._title}: {many}" if self._title else many
        lines = [[show(item) for show in self._columns.values()] for item in self._items[: self._shown]]
        return rows(title, list(self._columns), lines)


def plain(value: Any) -> str:
    """A cell: one line, without what steers a terminal."""
    text = "" if value is None else str(value)
    return "".join(letter if letter.isprintable() else "�" for letter in text)
