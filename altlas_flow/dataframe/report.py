"""What a run shows: one progress line while it goes, one summary when it is done."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from altlas_flow.pipeline.report import Report

#: Seconds between two times that it is told how far a run is.
TELL = 0.5


@dataclass
class RunSummary:
    """What a run did.

    Attributes
    ----------
    path : Path
        The output folder.
    rows, dead_letters : int
        Rows in the output, and rows put aside in ``_dead_letters``; together all rows of the input.
    rows_done : int
        Rows read and predicted by this run; the others were there already.
    parts, parts_skipped : int
        Parts of the output, and how many of them were there already.
    seconds, load_s : float
        Of the whole run, and the longest that a worker spent loading the model.
    rows_per_s, tokens_per_s : float
        Of this run, from the first part to the last; 0 where nothing was left to do, or no tokens.
    padding : float
        Share of the computed tokens that were padding.
    batch : dict of str to int
        The batch budget that each worker found, in tokens, or rows for models without tokens.
    unit : str
        ``tokens`` or ``rows``: what `batch` counts; rows also where a number was asked for.
    truncated : int
        Inputs longer than the model reads, which were cut.
    stages : Report or None
        Of a pipeline: rows and time of each stage, in this run.
    """

    path: Path
    model: str
    rows: int = 0
    dead_letters: int = 0
    rows_done: int = 0
    parts: int = 0
    parts_skipped: int = 0
    seconds: float = 0.0
    load_s: float = 0.0
    rows_per_s: float = 0.0
    tokens_per_s: float = 0.0
    padding: float = 0.0
    batch: dict[str, int] = field(default_factory=dict)
    unit: str = "rows"
    truncated: int = 0
    stages: Report | None = None

    def table(self) -> list[tuple[str, str]]:
        """Lines of the summary: what, and how much."""
        skipped = f", {self.parts_skipped:,} there already" if self.parts_skipped else ""
        budgets = sorted(set(self.batch.values()))
        lines = [
            ("model", self.model),
            ("output", f"{self.path} ({self.parts:,} part{'s' * (self.parts != 1)}{skipped})"),
            ("rows", f"{self.rows:,}" + (f" ({self.rows_done:,} read now)" if skipped else "")),
            ("dead letters", f"{self.dead_letters:,}"),
        ]
        if self.rows_done:
            lines.append(("rows/s", f"{self.rows_per_s:,.1f}"))
            if self.tokens_per_s:
                lines.append(("tokens/s", f"{self.tokens_per_s:,.0f}"))
                lines.append(("padding wasted", f"{self.padding:.1%}"))
            if budgets:
                lines.append(("batch budget", " and ".join(f"{b:,}" for b in budgets) + f" {self.unit}"))
            lines.append(("seconds loading", f"{self.load_s:.1f}"))
        if self.truncated:
            lines.append(("cut to length", f"{self.truncated:,}"))
        lines.append(("seconds", f"{self.seconds:.1f}"))
        return lines

    def dead_letter_frame(self) -> pd.DataFrame:
        """The rows put aside: row id, phase, error, type of error, model, node, start of the input, stage."""
        from altlas_flow.dataframe.attempts import read_dead_letters

        frame: pd.DataFrame = read_dead_letters(self.path).to_pandas()
        return frame

    def __str__(self) -> str:
        stages = f"\n\n{self.stages}" if self.stages is not None and self.rows_done else ""
        return _plain(self.table()) + stages

    def _repr_html_(self) -> str:
        stages = self.stages._repr_html_() if self.stages is not None and self.rows_done else ""
        return _html(self.table()) + stages


@dataclass
class Plan:
    """What a run would take, from a sample of it.

    Attributes
    ----------
    rows : int
        Of the input; None where only reading it all would tell.
    sampled, faulty : int
        Rows predicted for this, and those of them that failed.
    rows_per_s, seconds : float
        Expected rate over all slots, and time with loading; `seconds` is None where `rows` is.
    batch : dict of str to int
        Budget that each worker came to on the sample.
    slots : int
    load_s : float
    """

    model: str
    rows: int | None
    sampled: int
    faulty: int
    rows_per_s: float
    seconds: float | None
    batch: dict[str, int]
    unit: str
    slots: int
    load_s: float

    def table(self) -> list[tuple[str, str]]:
        """Lines of the plan: what, and how much."""
        budgets = " and ".join(f"{budget:,}" for budget in sorted(set(self.batch.values())))
        budget = [("batch budget", f"{budgets} {self.unit}")] if budgets else []
        return [
            ("model", self.model),
            ("rows", "not known before they are read" if self.rows is None else f"{self.rows:,}"),
            ("sampled", f"{self.sampled:,}" + (f", {self.faulty:,} of them bad" if self.faulty else "")),
            ("slots", f"{self.slots:,}"),
            ("expected rows/s", f"{self.rows_per_s:,.1f}"),
            ("expected time", "unknown" if self.seconds is None else duration(self.seconds)),
            *budget,
            ("seconds loading", f"{self.load_s:.1f}"),
        ]

    def __str__(self) -> str:
        return _plain(self.table())

    def _repr_html_(self) -> str:
        return _html(self.table())


@dataclass
class Tally:
    """Sums over the parts of a run."""

    rows_in: int = 0
    tokens: int = 0
    padded: int = 0
    truncated: int = 0
    predict_s: dict[str, float] = field(default_factory=dict)
    load_s: dict[str, float] = field(default_factory=dict)
    budget: dict[str, int] = field(default_factory=dict)
    unit: str = "rows"

    def add(self, rows_in: int, stats: Mapping[str, Any]) -> None:
        """Book one part."""
        node = stats["node"]
        self.rows_in += rows_in
        self.tokens += stats["tokens"]
        self.padded += stats["padded"]
        self.truncated += stats["truncated"]
        self.predict_s[node] = self.predict_s.get(node, 0.0) + stats["predict_s"]
        self.load_s[node] = max(self.load_s.get(node, 0.0), stats["load_s"])
        if stats["budget"]:
            self.budget[node] = stats["budget"]
        if self.tokens and not stats["rows_limit"]:
            self.unit = "tokens"

    @property
    def padding(self) -> float:
        return 1 - self.tokens / self.padded if self.padded else 0.0


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(5), duration(135), duration(7260)
    ('5 s', '2 min 15 s', '2 h 1 min')
    """
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


class Progress:
    """One line that says how far a run is: in a terminal, in a notebook, or nowhere.

    Parameters
    ----------
    show : bool, optional
        By default shown in a terminal and in a notebook, silent where output is piped.
    tell : callable
        Told how far it is, a few times a second at most, and how it ended.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        show: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        tell: Callable[[dict[str, Any]], None] = lambda progress: None,
    ) -> None:
        self.title, self.total, self._clock, self._tell = title, total, clock, tell
        self.done = self.skipped = self.dead = 0
        self._started = clock()
        self._told = -TELL
        self._bar: Any = None
        self._cell: Any = None
        if show is False:
            return
        if _in_notebook():
            from IPython.display import HTML, display

            self._cell = display(HTML(self._line()), display_id=True)
        elif show or sys.stderr.isatty():
            self._bar = _terminal_bar(title, total)

    def advance(self, rows: int, dead: int = 0) -> None:
        """Say that so many rows more are done, and how many of them were put aside."""
        self.done += rows
        self.dead += dead
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], advance=rows, rate=f"{self._rate():,.1f} rows/s")
        self._show()
        self._say("running")

    def skip(self, rows: int) -> None:
        """Say that so many rows were there already: they do not count for the rate."""
        self.done += rows
        self.skipped += rows
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done)
        self._show()

    def _say(self, state: str) -> None:
        now = self._clock()
        if state == "running" and now - self._told < TELL:
            return
        self._told = now
        self._tell(
            {
                "state": state,
                "done": self.done,
                "skipped": self.skipped,
                "dead": self.dead,
                "total": self.total,
                "seconds": now - self._started,
            }
        )

    def _rate(self) -> float:
        return (self.done - self.skipped) / max(self._clock() - self._started, 1e-9)

    def _line(self) -> str:
        left = ""
        if self.total and self.done > self.skipped:
            left = f", {duration((self.total - self.done) / max(self._rate(), 1e-9))} left"
        share = f" of {self.total:,}" if self.total else ""
        rate = f"{self._rate():,.1f} rows/s"
        return f"<div>{escape(self.title)}: <b>{self.done:,}</b>{share} rows, {rate}{left}</div>"

    def _show(self) -> None:
        if self._cell is not None:
            from IPython.display import HTML

            self._cell.update(HTML(self._line()))

    def __enter__(self) -> Progress:
        self._say("running")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._say("done" if kind is None else "failed")


def _terminal_bar(title: str, total: int | None) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    bar.add_task(title, total=total, rate="starting")
    bar.start()
    return bar


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


def _plain(lines: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


def _html(lines: list[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in lines)
    return f"<table>{rows}</table>"


__all__ = ["Plan", "Progress", "RunSummary", "Tally", "duration"]
