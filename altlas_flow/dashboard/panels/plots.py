"""What all plots share: plain axes, in the colour of texts."""

from __future__ import annotations

import time
from typing import Any

from bokeh.models import CustomJSTickFormatter, Model

#: Colours of texts and of lines where the page is light; `altlas_flow.dashboard.page` has the dark ones.
TEXT, LINE = "#555555", "#d8d8d8"


def plain_axes(plot: Any) -> list[tuple[Model, str]]:
    """Make a figure plain, and give what of it has the colour of texts or lines: pairs of model and kind."""
    themed: list[tuple[Model, str]] = []
    plot.background_fill_color = plot.border_fill_color = None
    plot.outline_line_color = None
    plot.min_border = 4
    for axis in (*plot.xaxis, *plot.yaxis):
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "11px"
        axis.axis_label_text_color = axis.major_label_text_color = TEXT
        axis.axis_line_color = axis.major_tick_line_color = LINE
        axis.minor_tick_line_color = None
        themed.append((axis, "axis"))
    for grid in (*plot.xgrid, *plot.ygrid):
        grid.grid_line_color, grid.grid_line_alpha = LINE, 0.6
        themed.append((grid, "grid"))
    return themed


def ago_formatter() -> CustomJSTickFormatter:
    """Times before now, without their sign."""
    return CustomJSTickFormatter(code="return String(Math.abs(Math.round(tick * 100) / 100))")


def clock_formatter() -> CustomJSTickFormatter:
    """Moments, in milliseconds since 1970, by the scheduler's time zone, as all times on the page."""
    return CustomJSTickFormatter(
        args={"ahead": 1000 * time.localtime().tm_gmtoff},
        code="""
        const said = new Date(tick + ahead).toISOString()
        return said.slice(11, ticks.length > 1 && ticks[1] - ticks[0] < 60000 ? 19 : 16)
        """,
    )
