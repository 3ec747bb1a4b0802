"""`Panel`: one question and its answer; and tables as HTML in which everything is escaped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, ClassVar

from bokeh.models import InlineStyleSheet, Model
from bokeh.models.widgets import Div

from altlas_flow.dashboard.choices import Choices
from altlas_flow.dashboard.panels.style import COLOURS, STYLE
from altlas_flow.dashboard.timeline import Timeline


@dataclass
class Shown:
    """What panels are given at a tick.

    Attributes
    ----------
    now : dict
        See `altlas_flow.cluster.scheduler.overview.Overview.now`.
    timeline : Timeline
    choices : Choices
    monotonic : float
        The moment, by the clock of the other two.
    ahead : float
        By how much the time of day is ahead of that clock: the same at all ticks, until it is set.
    """

    now: Mapping[str, Any]
    timeline: Timeline
    choices: Choices
    monotonic: float
    ahead: float


class Panel(ABC):
    """One question of an operator.

    Attributes
    ----------
    name : str
        In addresses and of its place on the page.
    title : str
    every : int
        Ticks between two updates.
    root : bokeh.models.Model
    themed : list
        Pairs of a model and the names of its properties that have the colour of texts.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    every: ClassVar[int] = 1
    root: Model

    def __init__(self) -> None:
        self.themed: list[tuple[Model, str]] = []

    @abstractmethod
    def update(self, shown: Shown) -> None:
        """Show what is now."""

    @abstractmethod
    def failed(self, text: str) -> None:
        """Say that this panel failed; the others go on."""


def html_div(name: str, **more: Any) -> Div:
    """A block of HTML; no text in it is taken for a formula."""
    return Div(
        text="",
        name=name,
        disable_math=True,
        sizing_mode="stretch_both",
        stylesheets=[InlineStyleSheet(css=STYLE)],
        **more,
    )


class HtmlPanel(Panel):
    """A panel that is a block of HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.root = self.div = html_div(f"altlas-{self.name}")

    def update(self, shown: Shown) -> None:
        text = self.html(shown)
        if text != self.div.text:  # what has not changed is not sent
            self.div.text = text

    @abstractmethod
    def html(self, shown: Shown) -> str:
        """What is shown now."""

    def failed(self, text: str) -> None:
        self.div.text = heading(self.title) + empty(text)


def colours_of(models: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """A colour for each of a few models, no two alike.

    Parameters
    ----------
    models : iterable of str
        As many as there are colours, at most.
    known : iterable of str
        All that there are. While these are no more than colours, a model has the same one in all panels.
    """
    places = {model: at % len(COLOURS) for at, model in enumerate(sorted(known))}
    free, found, others = dict(enumerate(COLOURS)), dict[str, str](), list[str]()
    for model in sorted(models):
        if (colour := free.pop(places.get(model, -1), None)) is not None:
            found[model] = colour
        else:
            others.append(model)
    return found | dict(zip(others, free.values(), strict=False))


def heading(title: str, said: str = "") -> str:
    """The question, and a few words of the answer."""
    return f"<h2>{escape(title)}<small>{escape(said)}</small></h2>"


def empty(text: str) -> str:
    """What is shown where there is nothing: it says what to do."""
    return f'<p class="empty">{escape(text)}</p>'


@dataclass(frozen=True)
class Cell:
    """A cell whose HTML is made here, of values that were escaped."""

    html: str
    title: str = ""


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, label: str) -> str:
    """A table; texts are escaped, numbers are on the right.

    Parameters
    ----------
    columns : sequence of str
        One that begins with a hash sign is of numbers, with an asterisk of long texts.
    rows : iterable of sequences of str, None or Cell
    label : str
        Says what it is to those who do not see it.
    """
    kinds = ["n" if name[:1] == "#" else "wide" if name[:1] == "*" else "" for name in columns]
    heads = "".join(
        f'<th scope="col"{_class(kind)}>{escape(name.lstrip("#*"))}</th>'
        for name, kind in zip(columns, kinds, strict=True)
    )
    lines = []
    for row in rows:
        cells = "".join(_cell(value, kind) for value, kind in zip(row, kinds, strict=True))
        lines.append(f"<tr>{cells}</tr>")
    body = "".join(lines)
    return f'<table aria-label="{escape(label)}"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _cell(value: object, kind: str) -> str:
    if isinstance(value, Cell):
        title = f' title="{escape(value.title)}"' if value.title else ""
        return f"<td{_class(kind)}{title}>{value.html}</td>"
    text = "–" if value is None else str(value)
    title = f' title="{escape(text)}"' if len(text) > 16 and kind != "wide" else ""
    return f"<td{_class(kind)}{title}>{escape(text)}</td>"


def dotted(word: str, text: str, title: str = "") -> Cell:
    """A text with a dot in the colour of a word; the word is said, too."""
    kind = word if word.isalpha() else ""
    return Cell(f'<span class="dot {kind}"></span>{escape(text)}', title)


def bar(part: float, whole: float, text: str, *, warn: bool = False, small: bool = False) -> Cell:
    """How much of a whole there is; with `warn`, much of it is told by its colour, too."""
    share = min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0
    high = ' class="high"' if warn and share > 0.9 else ""
    kind = "bar small" if small else "bar"
    return Cell(f'<span class="{kind}"><i{high} style="width:{100 * share:.0f}%"></i></span>{escape(text)}')


def seconds(value: float | None) -> str | None:
    """A time in the unit that fits it.

    >>> seconds(0.0123), seconds(2.5), seconds(None)
    ('12 ms', '2.5 s', None)
    """
    if value is None:
        return None
    if value < 1.0:
        return f"{1000 * value:.0f} ms" if value >= 0.01 else f"{1000 * value:.2g} ms"
    if value < 120:
        return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.3g} min" if value < 7200 else f"{value / 3600:.3g} h"


def rate(value: float | None) -> str | None:
    """A number a second, short."""
    return None if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def count(value: int) -> str:
    """A number that fits; a large one to three digits.

    >>> count(9_999), count(131_271), count(2_500_000)
    ('9,999', '131k', '2.5M')
    """
    if value < 10_000:
        return f"{value:,}"
    for unit, name in ((10**9, "G"), (10**6, "M")):
        if value >= 0.9995 * unit:
            return f"{value / unit:.3g}{name}"
    return f"{value / 1000:.3g}k"


def size(value: float) -> str:
    """Bytes as people say them.

    >>> size(3 * 2**30)
    '3.0 GiB'
    """
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def short(text: str, most: int = 26) -> str:
    """A text that fits; its end is kept, too, since names often differ there only."""
    if len(text) <= most:
        return text
    return f"{text[: most - 9]}…{text[-8:]}"
