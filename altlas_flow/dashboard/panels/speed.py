"""How fast? Rates and latencies of the models, now and over time."""

from __future__ import annotations

from typing import Any

from bokeh.layouts import column, row
from bokeh.models import InlineStyleSheet
from bokeh.models.widgets import Select

from altlas_flow.dashboard.panels.base import (
    Cell,
    Panel,
    Shown,
    colours_of,
    count,
    dotted,
    empty,
    heading,
    html_div,
    rate,
    seconds,
    short,
    table,
)
from altlas_flow.dashboard.panels.lines import Lines, smooth
from altlas_flow.dashboard.panels.style import CHOICE, COLOURS

#: What is drawn: label of the button, field of the timeline, label of the axis, factor, seconds of which the
#: mean is drawn: rates of half a second jump.
FIELDS = (
    ("requests/s", "requests", "requests per second", 1.0, 5.0),
    ("rows/s", "rows", "rows per second", 1.0, 5.0),
    ("p50", "p50", "latency p50 (ms)", 1000.0, 0.0),
    ("p95", "p95", "latency p95 (ms)", 1000.0, 0.0),
    ("waiting", "queue", "time in the queue (ms)", 1000.0, 0.0),
    ("batch", "batch", "rows a batch", 1.0, 0.0),
)
#: How far back: label, seconds.
SPANS = (("5 min", 300.0), ("1 h", 3600.0), ("24 h", 86400.0))


class Speed(Panel):
    """A line of each model over time, and a table of what is now."""

    name, title = "speed", "How fast?"

    def __init__(self) -> None:
        super().__init__()
        self._ticks = 0
        # numbers as values: what comes back from a page is no more than a place in these lists
        fields: list[Any] = [(str(at), one[0]) for at, one in enumerate(FIELDS)]
        spans: list[Any] = [(str(at), one[0]) for at, one in enumerate(SPANS)]
        self.field = Select(options=fields, value="0", width=130, stylesheets=[InlineStyleSheet(css=CHOICE)])
        self.span = Select(options=spans, value="0", width=90, stylesheets=[InlineStyleSheet(css=CHOICE)])
        self._choices = row(self.field, self.span, sizing_mode="stretch_width")
        self.lines = Lines(height=170)
        self.themed += self.lines.themed
        self.head, self.table = html_div("altlas-speed-head"), html_div("altlas-speed-table")
        self.head.sizing_mode = "stretch_width"
        self.root = column(
            self.head,
            self._choices,
            self.lines.plot,
            self.table,
            name=f"altlas-{self.name}",
            sizing_mode="stretch_both",
        )

    def update(self, shown: Shown) -> None:
        models = sorted(
            shown.now["models"],
            key=lambda one: (-(one["rows"] or 0) - (one["requests"] or 0), -one["rows_total"], one["model"]),
        )
        names = [one["model"] for one in models]
        colours = colours_of(names[: len(COLOURS)], names)
        self._choices.visible = self.lines.plot.visible = bool(models)
        self._draw(shown, colours)
        self._ticks += 1
        if self._ticks % 2 == 0:
            return  # lines go on at each tick, the table at every other one
        total = sum(one["requests"] or 0.0 for one in models)
        rows = sum(one["rows"] or 0.0 for one in models)
        said = f"{rate(total)} requests/s, {rate(rows)} rows/s" if models else ""
        self._say(self.head, heading(self.title, said))
        self._say(self.table, _table(models, colours))

    def failed(self, text: str) -> None:
        self.table.text = empty(text)

    def _say(self, div: Any, text: str) -> None:
        if div.text != text:
            div.text = text

    def _draw(self, shown: Shown, colours: dict[str, str]) -> None:
        _, field, axis, factor, mean = FIELDS[int(self.field.value)]
        _, span = SPANS[int(self.span.value)]
        times, values = shown.timeline.series(field, span)
        now = float(shown.now["at"])
        self.lines.draw(
            times + shown.ahead,
            {
                model: factor * (smooth(times, line, mean) if mean else line)
                for model, line in values.items()
                if model in colours
            },
            colours,
            axis,
            span,
            now,
        )


def _table(models: list[dict[str, Any]], colours: dict[str, str]) -> str:
    if not models:
        return empty(
            'No model has been asked yet: flow.submit("model", "input"), or flow.map(frame, "model").'
        )
    rows = [
        [
            _named(one["model"], colours.get(one["model"])),
            rate(one["requests"]),
            rate(one["rows"]),
            seconds(one["p50"]),
            seconds(one["p95"]),
            seconds(one["p99"]),
            None if one["batch"] is None else f"{one['batch']:.3g}",
            count(one["waiting"]),
        ]
        for one in models
    ]
    columns = ["Model", "#req/s", "#rows/s", "#p50", "#p95", "#p99", "#batch", "#queue"]
    return table(columns, rows, label="models")


def _named(model: str, colour: str | None) -> Cell:
    plain = dotted("", short(model, 20), model)
    style = f' style="background:{colour}"' if colour else ""
    return Cell(plain.html.replace('class="dot "', f'class="dot"{style}', 1), model)
