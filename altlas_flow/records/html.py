"""What notebooks show of one thing: plain tables that are read aloud, too, and survive being exported.

There are no colours and no style sheets: a table looks as others do where it is shown, light or dark.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from altlas_flow.errors.words import text_of

#: Characters of a value that are shown.
LONG = 400
_LEFT = ' style="text-align: left"'


class Link(str):
    """An address that can be followed, where it is one of the web."""

    __slots__ = ()


def facts(title: str, pairs: Iterable[tuple[str, Any]], more: str = "") -> str:
    """A table of names and values; those that are None or empty are left out.

    Parameters
    ----------
    title : str
        What it is.
    pairs : iterable of (str, value)
        One with the name "" goes on with what is above it.
    more : str
        HTML that comes after it.
    """
    rows = "".join(
        f'<tr><th scope="row"{_LEFT}>{escape(name)}</th><td{_LEFT}>{_cell(value)}</td></tr>'
        for name, value in pairs
        if not _empty(value)
    )
    return f"<table><caption{_LEFT}>{escape(cut(title))}</caption><tbody>{rows}</tbody></table>{more}"


def rows(title: str, columns: Sequence[str], lines: Iterable[Sequence[Any]], more: str = "") -> str:
    """A table with a heading over each column; the first cell of each line is the heading of that line.

    Parameters
    ----------
    title : str
        What it is.
    columns : sequence of str
    lines : iterable of sequences of values
    more : str
        HTML that comes after it.
    """
    head = "".join(f'<th scope="col"{_LEFT}>{escape(name)}</th>' for name in columns)
    body = "".join(
        f'<tr><th scope="row"{_LEFT}>{escape(cut(first))}</th>'
        f"{''.join(f'<td{_LEFT}>{escape(cut(value))}</td>' for value in others)}</tr>"
        for first, *others in lines
    )
    caption = f"<caption{_LEFT}>{escape(cut(title))}</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def cut(value: Any) -> str:
    """A value as one line that is not too long."""
    text = "" if value is None else value if isinstance(value, str) else text_of(value)
    text = text[: 2 * LONG]
    text = "".join(letter if letter.isprintable() else " " if letter.isspace() else "�" for letter in text)
    return text if len(text) <= LONG else text[: LONG - 1] + "…"


def moment(seconds: float | None) -> str:
    """A time in UTC; `seconds` are since 1970."""
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="milliseconds").partition("+")[0]


def size(memory: float | None) -> str:
    """Bytes as people say them.

    >>> size(3 * 2**20), size(1.5 * 2**30)
    ('3 MiB', '1.5 GiB')
    """
    if not memory:
        return ""
    return f"{memory / 2**30:.1f} GiB" if memory >= 2**30 else f"{memory / 2**20:.0f} MiB"


def listed(mapping: Mapping[str, Any]) -> str:
    """Names and values on one line; those that are empty are left out."""
    return ", ".join(f"{name} {text_of(value)}" for name, value in mapping.items() if not _empty(value))


def _cell(value: Any) -> str:
    text = escape(cut(value))
    if isinstance(value, Link) and value.startswith(("http://", "https://")):
        return f'<a href="{text}" target="_blank" rel="noopener">{text}</a>'
    return text


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, (str, bytes, Mapping, list, tuple)) and not value)
