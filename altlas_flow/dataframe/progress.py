"""`Progress`: one line that says how far a run is, and what is left of it."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from html import escape
from types import TracebackType
from typing import Any

from altlas_flow.errors import describe, one_line
from altlas_flow.logs import printable

#: Seconds between two times that it is told how far a run is, and that it is shown.
TELL, SHOW = 0.5, 0.1
#: Dead letters that are told at once, at most: the newest.
LETTERS = 20
#: Characters of a title in a terminal, whose lines are short.
NAME = 24


class Progress:
    """One line that says how far a run is: in a terminal, in a notebook, or nowhere.

    A notebook keeps one line of it, however long the run was; it needs no ipywidgets.

    Parameters
    ----------
    title : str
    total : int, optional
        Rows, where they are known.
    show : bool, optional
        By default shown in a terminal and in a notebook, silent where output is piped.
    clock : callable
    tell : callable
        Told how far it is, a few times a second at most, and how it ended.
    after : float
        Seconds before it is shown: what is over sooner shows nothing.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        show: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        tell: Callable[[dict[str, Any]], None] = lambda progress: None,
        after: float = 0.0,
    ) -> None:
        self.title, self.total, self._clock, self._tell, self._after = title, total, clock, tell, after
        self.done = self.skipped = self.dead = 0
        self._letters: deque[dict[str, Any]] = deque(maxlen=LETTERS)  # not told yet
        self._started = clock()
        self._told = self._shown = float("-inf")
        self._bar: Any = None
        self._cell: Any = None
        self._where = _where(show)
        self.tick()

    def advance(self, rows: int, dead: int = 0, letters: Iterable[dict[str, Any]] = ()) -> None:
        """Say that so many rows more are done, how many were put aside, and why some of these were."""
        self.done += rows
        self.dead += dead
        self._letters.extend(letters)
        self.tick()
        self._say("running")

    def skip(self, rows: int, dead: int = 0) -> None:
        """Say that so many rows were there already, and how many of them put aside: no rate is of these."""
        self.done += rows
        self.skipped += rows
        self.dead += dead
        self.tick()

    def tick(self) -> None:
        """Show how far it is, unless that was shown a moment ago."""
        now = self._clock()
        if self._where is None or now - self._shown < SHOW or now - self._started < self._after:
            return
        self._shown = now
        if self._where == "notebook":
            self._show(_Line(*self._running()))
            return
        if self._bar is None:
            self._bar = _terminal_bar(self.title, self.total)
        rate = f"{self._rate():,.1f} rows/s" if self.done > self.skipped else "starting"
        self._bar.update(self._bar.task_ids[0], completed=self.done, rate=rate)

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
                "letters": list(self._letters),
            }
        )
        self._letters.clear()

    def _rate(self) -> float:
        return (self.done - self.skipped) / max(self._clock() - self._started, 1e-9)

    def _running(self) -> tuple[str, str]:
        """What is shown while it goes: a text, and what stands before it."""
        share = f" of {self.total:,}" if self.total is not None else ""
        text = f"{self.title}: {self.done:,}{share} rows"
        if self.done > self.skipped:
            rate = self._rate()
            text += f", {rate:,.1f} rows/s"
            text += f", {duration((self.total - self.done) / rate)} left" if self.total is not None else ""
        else:
            text += f", {duration(self._clock() - self._started)}"
        if not self.total:
            return text, ""  # a bar of unknown length would move for ever in a notebook that was saved
        bar = (
            f'<progress max="{self.total}" value="{self.done}" aria-label="{escape(self.title)}"></progress> '
        )
        return text, bar

    def _over(self, failed: bool) -> str:
        """What is left of it."""
        seconds = self._clock() - self._started
        if failed:
            share = f" of {self.total:,}" if self.total is not None else ""
            return f"{self.title}: stopped after {self.done:,}{share} rows, {duration(seconds)}"
        text = f"{self.title}: {self.done:,} row{'s' * (self.done != 1)} in {duration(seconds)}"
        if self.done > self.skipped:
            text += f", {self._rate():,.1f} rows/s"
        if self.skipped:
            text += f", {self.skipped:,} there already"
        return text + (f", {self.dead:,} dead letter{'s' * (self.dead != 1)}" if self.dead else "")

    def _show(self, line: _Line) -> None:
        if self._cell is None:
            from IPython.display import display

            self._cell = display(line, display_id=True)
        else:
            self._cell.update(line)

    def __enter__(self) -> Progress:
        self._say("running")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done, rate=f"{self._rate():,.1f} rows/s")
            self._bar.stop()
        if self._cell is not None:
            self._show(_Line(self._over(failed=kind is not None)))
        self._say("done" if kind is None else "failed")


@contextmanager
def reported(tell: Callable[[dict[str, Any]], None]) -> Iterator[Callable[[dict[str, Any]], None]]:
    """While a job goes, from its very beginning; where it fails, why is told, too.

    Parameters
    ----------
    tell : callable
        As of `Progress`.

    Yields
    ------
    callable
        For the job's `Progress`.
    """
    began = time.monotonic()
    latest: dict[str, Any] = dict.fromkeys(("done", "skipped", "dead"), 0)
    latest |= {"state": "running", "total": None, "seconds": 0.0, "letters": []}

    def say(progress: dict[str, Any]) -> None:
        latest.update(progress)
        tell(dict(latest))

    say({})
    try:
        yield say
    except BaseException as error:
        why = describe(error)
        say({"state": "failed", "seconds": time.monotonic() - began, "letters": [], "error": why})
        raise


class _Line:
    """A line as notebooks have it, and as all else has it."""

    def __init__(self, text: str, before: str = "") -> None:
        self._text, self._before = " ".join(text.split()), before

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        return f"<div>{self._before}{escape(self._text)}</div>"


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(0.3), duration(5), duration(135), duration(7260)
    ('0.3 s', '5 s', '2 min 15 s', '2 h 1 min')
    """
    if seconds < 1:
        return f"{seconds:.1g} s" if seconds >= 0.05 else "0 s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _where(show: bool | None) -> str | None:
    if show is False:
        return None
    if _in_notebook():
        return "notebook"
    try:
        return "terminal" if show or sys.stderr.isatty() else None
    except (AttributeError, ValueError):  # there is no standard error, or it is closed
        return None


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    # also of what is made of it elsewhere
    return any(kind.__name__ == "ZMQInteractiveShell" for kind in type(shell).__mro__)


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
    bar.add_task(printable(one_line(title, NAME)), total=total, rate="starting")
    bar.start()
    return bar
