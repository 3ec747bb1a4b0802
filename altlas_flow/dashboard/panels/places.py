"""Where? Which node has which model, and how fast it is there."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from bokeh.layouts import column
from bokeh.models import (
    ColumnDataSource,
    CustomJSHover,
    FixedTicker,
    HoverTool,
    LogColorMapper,
    LogTicker,
    Range1d,
)
from bokeh.models.annotations import ColorBar
from bokeh.palettes import Cividis256
from bokeh.plotting import figure

from altlas_flow.dashboard.panels.base import Panel, Shown, empty, heading, html_div, short
from altlas_flow.dashboard.panels.plots import plain_axes

#: Nodes up to which each is named at the axis; beyond, where the pointer is. Models that are named at most.
NAMED = 24
#: Nodes up to which what is loaded has a dot.
DOTS = 48
#: Colour of a place where a model is loaded and has not answered yet.
IDLE = "#b8bcc2"
#: How much of its colour a place has where a model is not loaded any more.
FAINT = 0.4


class Places(Panel):
    """A heat map: models by nodes; what is loaded has a dot."""

    name, title, every = "places", "Where?", 8

    def __init__(self) -> None:
        super().__init__()
        self.source: Any = ColumnDataSource({name: [] for name in ("x", "y", "seconds", "size", "alpha")})
        # each name once, not in each place
        self._nodes: Any = ColumnDataSource({"name": []})
        self._models: Any = ColumnDataSource({"name": []})
        self.mapper = LogColorMapper(palette=Cividis256, low=1e-3, high=1.0, nan_color=IDLE)
        self.plot: Any = figure(
            x_range=Range1d(start=-0.5, end=0.5),
            y_range=Range1d(start=-0.5, end=0.5),
            sizing_mode="stretch_both",
            tools="",
            toolbar_location=None,
            min_height=120,
        )
        self.plot.rect(
            "x",
            "y",
            width=0.94,
            height=0.94,
            fill_color={"field": "seconds", "transform": self.mapper},
            fill_alpha="alpha",
            line_color=None,
            source=self.source,
        )
        self.plot.scatter("x", "y", size="size", fill_color="white", line_color="#333333", source=self.source)
        said = {
            name: CustomJSHover(args={"names": source}, code="return names.data.name[value]")
            for name, source in (("@x", self._nodes), ("@y", self._models))
        }
        took = CustomJSHover(code="return isNaN(value) ? 'not known yet' : value.toPrecision(2) + ' s'")
        tooltips = [("model", "@y{custom}"), ("node", "@x{custom}"), ("a row takes", "@seconds{custom}")]
        self.plot.add_tools(HoverTool(tooltips=tooltips, formatters={**said, "@seconds": took}))
        self.plot.xgrid.visible = self.plot.ygrid.visible = False
        self.themed += plain_axes(self.plot)
        bar = ColorBar(
            color_mapper=self.mapper,
            ticker=LogTicker(desired_num_ticks=3),
            width=8,
            title="seconds a row",
            title_text_font_size="10px",
            major_label_text_font_size="10px",
            background_fill_color=None,
        )
        self.plot.add_layout(bar, "right")
        self.themed.append((bar, "bar"))
        self.head = html_div("altlas-places-head")
        self.head.sizing_mode = "stretch_width"
        self.root = column(self.head, self.plot, name=f"altlas-{self.name}", sizing_mode="stretch_both")

    def update(self, shown: Shown) -> None:
        places = shown.now["places"]
        if not places:
            text = empty(
                "No model is loaded anywhere: it loads when it is first asked, or by flow.load(node, model)."
            )
            self._show(heading(self.title) + text, visible=False)
            return
        nodes = sorted({place["node"] for place in places})
        models = sorted({place["model"] for place in places}, reverse=True)
        places_of, columns_of = ({name: at for at, name in enumerate(names)} for names in (models, nodes))
        times = [place["seconds_per_row"] for place in places]
        dot = 6 if len(nodes) <= NAMED else 3 if len(nodes) <= DOTS else 0
        data = {
            "x": np.array([columns_of[place["node"]] for place in places], dtype=np.int32),
            "y": np.array([places_of[place["model"]] for place in places], dtype=np.int32),
            "seconds": np.array([_rounded(time) for time in times], dtype=np.float32),
            "size": np.array([dot if place["loaded"] else 0 for place in places], dtype=np.int32),
            "alpha": np.array([1.0 if place["loaded"] else FAINT for place in places], dtype=np.float32),
        }
        before = self.source.data
        if any(not np.array_equal(data[name], before[name], equal_nan=name == "seconds") for name in data):
            self.source.data = data
        for source, names in ((self._nodes, nodes), (self._models, models)):
            if source.data["name"] != names:
                source.data = {"name": names}
        known = [time for time in times if time]
        self.mapper.low, self.mapper.high = _limits(known)
        self._axes(nodes, models)
        loaded = sum(place["loaded"] for place in places)
        said = (
            f"{loaded} loaded{' (dots)' if dot else ''}: {_many(models, 'model')} on {_many(nodes, 'node')}"
        )
        self._show(heading(self.title, said), visible=True)

    def failed(self, text: str) -> None:
        self._show(heading(self.title) + empty(text), visible=False)

    def _show(self, text: str, *, visible: bool) -> None:
        if self.head.text != text:
            self.head.text = text
        self.plot.visible = visible

    def _axes(self, nodes: list[str], models: list[str]) -> None:
        plot = self.plot
        plot.x_range.start, plot.x_range.end = -0.5, len(nodes) - 0.5
        plot.y_range.start, plot.y_range.end = -0.5, len(models) - 0.5
        named = nodes if len(nodes) <= NAMED else []
        for axis, names in ((plot.xaxis[0], named), (plot.yaxis[0], models)):
            every = -(-len(names) // NAMED)
            labels = {at: short(name, 22) for at, name in enumerate(names) if at % every == 0}
            if axis.major_label_overrides != labels:
                axis.ticker = FixedTicker(ticks=list(labels))
                axis.major_label_overrides = labels
        plot.xaxis[0].major_label_orientation = 0 if max(map(len, nodes)) * len(nodes) < 40 else math.pi / 3
        plot.xaxis[0].axis_label = "" if named else f"{len(nodes)} nodes"
        plot.yaxis[0].major_label_text_font_size = "11px" if len(models) <= NAMED // 2 else "9px"


def _many(names: list[str], what: str) -> str:
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'}"


def _rounded(time: float | None) -> float:
    """Seconds, to two digits: what changes less is not sent."""
    return math.nan if time is None else float(f"{max(time, 1e-9):.2g}")


def _limits(known: list[float]) -> tuple[float, float]:
    if not known:
        return 1e-3, 1.0
    low, high = min(known), max(known)
    # at least a power of ten: small differences are no contrast
    wider = max(1.0, math.sqrt(10 * low / high))
    return low / wider, high * wider
