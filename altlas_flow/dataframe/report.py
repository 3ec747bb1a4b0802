"""What a run, and a plan of one, come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from altlas_flow.dataframe.progress import duration
from altlas_flow.records.html import facts

if TYPE_CHECKING:
    import pandas as pd

    from altlas_flow.pipeline.report import Report


@dataclass(repr=False)
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
    parts_dropped : int
        Parts of earlier runs that were taken out: of another model, or of input that is not there any more.
    seconds, load_s : float
        Of the whole run, and the longest that a worker spent loading the model.
    rows_per_s, tokens_per_s : float
        Of this run, dead letters too, from the first part that was sent to the last: starting, and reading
        what is there already, are not in it. 0 where nothing was left to do, or no tokens.
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
    parts_dropped: int = 0
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
        dropped = f", {self.parts_dropped:,} of earlier runs replaced" if self.parts_dropped else ""
        budgets = sorted(set(self.batch.values()))
        lines = [
            ("model", self.model),
            ("output", f"{self.path} ({self.parts:,} part{'s' * (self.parts != 1)}{skipped}{dropped})"),
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

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The same as a table; everything is escaped."""
        stages = self.stages._repr_html_() if self.stages is not None and self.rows_done else ""
        return facts(f"run of {self.model}", self.table()[1:], stages)


@dataclass(repr=False)
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

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The same as a table; everything is escaped."""
        return facts(f"plan of {self.model}", self.table()[1:])


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


def _plain(lines: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


__all__ = ["Plan", "RunSummary", "Tally"]
