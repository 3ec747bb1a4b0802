"""Which? What the selector chose for each task, and what came of it."""

from __future__ import annotations

import math
from html import escape
from typing import Any

from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, HoverTool, InlineStyleSheet, Range1d
from bokeh.models.widgets import Select
from bokeh.plotting import figure

from altlas_flow.dashboard.panels.base import (
    Cell,
    Panel,
    Shown,
    colours_of,
    empty,
    heading,
    html_div,
    seconds,
    short,
    table,
)
from altlas_flow.dashboard.panels.lines import Lines
from altlas_flow.dashboard.panels.plots import ago_formatter, plain_axes
from altlas_flow.dashboard.panels.style import CHOICE, COLOURS

#: What is drawn: label, which of `altlas_flow.dashboard.choices.ESTIMATED` (none: shares), label of the axis,
#: factor.
FIELDS = (
    ("share", "", "share", 1.0),
    ("quality", "quality", "quality", 1.0),
    ("p50", "latency_p50", "latency p50 (ms)", 1000.0),
    ("p95", "latency_p95", "latency p95 (ms)", 1000.0),
    ("cost", "cost", "cost", 1.0),
)
#: Of models beyond those that have a colour.
OTHER = "#b8bcc2"
#: Seconds that are drawn of estimates, while these are younger than that.
YOUNG = (300.0, 1200.0)
#: Seconds that are drawn.
SPANS = (3600.0, 86400.0)


class Selection(Panel):
    """Shares of the models of a task over time, and estimates of each."""

    name, title, every = "selection", "Which?", 2

    def __init__(self) -> None:
        super().__init__()
        self.source: Any = ColumnDataSource(
            {name: [] for name in ("x", "width", "low", "high", "colour", "model")}
        )
        fields: list[Any] = [(str(at), one[0]) for at, one in enumerate(FIELDS)]
        self.field: Any = Select(
            options=fields,
            value="0",
            width=130,
            stylesheets=[InlineStyleSheet(css=CHOICE)],
        )
        self.lines = Lines(height=150)
        self.lines.plot.visible = False
        self.task = Select(
            options=[], sizing_mode="stretch_width", visible=False, stylesheets=[InlineStyleSheet(css=CHOICE)]
        )
        self.plot: Any = figure(
            height=150,
            sizing_mode="stretch_width",
            tools="",
            toolbar_location=None,
            x_range=Range1d(start=-1, end=0),
            y_range=Range1d(start=0, end=1),
        )
        self.plot.quad(
            left="x",
            right="width",
            bottom="low",
            top="high",
            fill_color="colour",
            line_color=None,
            source=self.source,
        )
        self.plot.add_tools(HoverTool(tooltips=[("model", "@model")]))
        self.plot.yaxis.axis_label, self.plot.xaxis.axis_label = "share", "minutes ago"
        self.plot.xaxis.formatter = ago_formatter()
        self.themed += plain_axes(self.plot) + self.lines.themed
        self.head, self.table = html_div("altlas-selection-head"), html_div("altlas-selection-table")
        self.head.sizing_mode = "stretch_width"
        self.root = column(
            self.head,
            row(self.field, self.task, sizing_mode="stretch_width"),
            self.plot,
            self.lines.plot,
            self.table,
            name=f"altlas-{self.name}",
            sizing_mode="stretch_both",
        )

    def update(self, shown: Shown) -> None:
        tasks = shown.now["tasks"]
        names = [one["task"] for one in tasks]
        if self.task.options != names:
            self.task.options = names
            self.task.visible = len(names) > 1
        if not tasks:
            self.plot.visible = self.field.visible = self.lines.plot.visible = False
            self._say(self.head, heading(self.title))
            self._say(
                self.table,
                empty(
                    'No model was chosen yet: flow.submit(task="...", inputs=...) lets the selector choose.'
                ),
            )
            return
        if self.task.value not in names:
            self.task.value = names[0]
        chosen: dict[str, Any] = next(one for one in tasks if one["task"] == self.task.value)
        models = [one["model"] for one in chosen["models"]]
        drawn = models[: len(COLOURS)]
        colours = {
            **dict.fromkeys(models, OTHER),
            **colours_of(drawn, [one["model"] for one in shown.now["models"]]),
        }
        said = f"{chosen['task']}: {chosen['decisions']:,} decisions"
        self._say(self.head, heading(self.title, said))
        self._say(self.table, _table(chosen["models"], colours))
        _, estimate, axis, factor = FIELDS[int(self.field.value)]
        self.field.visible = True
        self.lines.plot.visible = bool(estimate)
        if not estimate:
            self._draw(shown, chosen["task"], colours)
            return
        self.plot.visible = False
        times, values = shown.choices.estimates(chosen["task"], estimate, SPANS[0], drawn)
        now = float(shown.now["at"])
        age = shown.monotonic - times[0] if len(times) else 0.0
        span = next((one for one in YOUNG if age < one), SPANS[0])
        self.lines.draw(
            times + shown.ahead,
            {model: factor * line for model, line in values.items()},
            {model: colours[model] for model in drawn},
            axis,
            span,
            now,
            of=chosen["task"],
            most=1.0 if estimate == "quality" else math.inf,
        )

    def failed(self, text: str) -> None:
        self.plot.visible = self.lines.plot.visible = False
        self._say(self.table, empty(text))

    def _say(self, div: Any, text: str) -> None:
        if div.text != text:
            div.text = text

    def _draw(self, shown: Shown, task: str, colours: dict[str, str]) -> None:
        times, values = shown.choices.shares(task, SPANS[0])
        self.plot.visible = bool(times)
        data: dict[str, list[Any]] = {name: [] for name in self.source.data}
        before = [times[0] - 10.0, *times[:-1]] if times else []
        for at, time in enumerate(times):
            low = 0.0
            for model in colours:
                share = values.get(model, [0.0] * len(times))[at]
                if share <= 0.0:
                    continue
                data["x"].append(round((max(before[at], time - 60.0) - shown.monotonic) / 60.0, 3))
                data["width"].append(round((time - shown.monotonic) / 60.0, 3))
                data["low"].append(round(low, 4))
                data["high"].append(round(low + share, 4))
                data["colour"].append(colours[model])
                data["model"].append(model)
                low += share
        self.source.data = data
        self.plot.x_range.start = min(-0.5, *data["x"]) if data["x"] else -1.0


def _table(models: list[dict[str, Any]], colours: dict[str, str]) -> str:
    rows = [
        [
            _named(one["model"], colours[one["model"]]),
            f"{one['share']:.0%}",
            _with_error(one["quality"], one["quality_error"]),
            seconds(one["latency_p50"]),
            seconds(one["latency_p95"]),
            _with_error(one["cost"], one["cost_error"]),
            None if one["errors"] is None else f"{one['errors']:,}",
        ]
        for one in models
    ]
    columns = ["Model", "#share", "#quality", "#p50", "#p95", "#cost", "#failed"]
    return table(columns, rows, label="choices")


def _with_error(value: float | None, error: float | None) -> str | None:
    if value is None:
        return None
    known = error is not None and error > 1e-6 * abs(value)
    return f"{value:.3g}" + (f" ± {error:.2g}" if known else "")


def _named(model: str, colour: str) -> Cell:
    return Cell(f'<span class="dot" style="background:{colour}"></span>{escape(short(model, 20))}', model)
