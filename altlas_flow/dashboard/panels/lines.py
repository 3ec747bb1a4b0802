"""`Lines`: a line of each of a few models over time; only what is new is sent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from bokeh.models import ColumnDataSource, HoverTool, Range1d
from bokeh.plotting import figure

from altlas_flow.dashboard.panels.plots import clock_formatter, plain_axes
from altlas_flow.dashboard.panels.style import COLOURS

Floats = npt.NDArray[np.float64]

#: Steps for which the last value stands where there is none: one answer a second is a line, not dots.
STANDS = 10
#: Seconds within which two moments are one: steps are longer.
SAME = 0.05
#: Steps in which the axis of time moves on, as long as it is: some pixels each, and not with each tick.
STEPS = 150


class Lines:
    """A plot of as many lines as there are colours.

    Parameters
    ----------
    height : int
        Pixels.
    """

    def __init__(self, height: int) -> None:
        slots = [f"y{at}" for at in range(len(COLOURS))]
        self.source: Any = ColumnDataSource({"t": [], **{slot: [] for slot in slots}})
        self.plot: Any = figure(
            height=height,
            sizing_mode="stretch_width",
            tools="",
            toolbar_location=None,
            x_range=Range1d(start=0, end=1),
            y_range=Range1d(start=0, end=1),
            x_axis_type="datetime",
        )
        self._lines = [
            self.plot.line("t", slot, line_color=colour, line_width=2, source=self.source)
            for slot, colour in zip(slots, COLOURS, strict=True)
        ]
        self.plot.add_tools(HoverTool(tooltips=[("model", "$name"), ("value", "$y")]))
        self.plot.xaxis.formatter = clock_formatter()
        self.themed = plain_axes(self.plot)
        self._slots = slots
        self._drawn: tuple[Any, ...] = ()
        self._last = -np.inf

    def draw(
        self,
        times: Floats,
        values: Mapping[str, Floats],
        colours: Mapping[str, str],
        what: str,
        span: float,
        now: float,
        of: str = "",
        most: float = math.inf,
    ) -> None:
        """Draw, or go on with what is drawn.

        Parameters
        ----------
        times : numpy.ndarray
            Seconds since 1970.
        values : mapping
            By model; NaN where there is nothing.
        colours : mapping of str to str
            Models that have a line, each with one of `COLOURS` of its own.
        what : str
            Is written at the axis; another one begins anew.
        span : float
            Seconds that are shown, up to `now` or a little later.
        of : str
            Of what these lines are; what is of another begins anew.
        most : float
            No value is above.
        """
        owners = {colour: name for name, colour in colours.items()}
        names = [owners.get(colour, "") for colour in COLOURS]
        columns = [_standing(values.get(name, np.full(len(times), np.nan))) for name in names]
        new = np.flatnonzero(times > self._last + SAME)
        drawn = (tuple(names), what, span, of)
        if drawn != self._drawn or len(new) > len(times) // 2:
            whole, filled = _with_gaps(times, columns)
            self.source.data = self._data(whole, filled)
            self._drawn = drawn
            self.plot.yaxis.axis_label = what
            for line, name in zip(self._lines, [*names, *[""] * len(self._lines)], strict=False):
                line.name = name
        elif len(new):
            kept = max(1000, 2 * len(times))
            data = self._data(times[new], [column[new] for column in columns])
            # an array would travel as two messages of its own, a list within the one that there is anyway
            self.source.stream({name: column.tolist() for name, column in data.items()}, rollover=kept)
        self._last = float(times[-1]) if len(times) else -np.inf
        self.plot.y_range.end = min(_top(columns), most)
        step = span / STEPS
        end = step * math.ceil(now / step)
        self.plot.x_range.start, self.plot.x_range.end = 1000.0 * (end - span), 1000.0 * end

    def _data(self, times: Floats, columns: Sequence[Floats]) -> dict[str, Any]:
        nothing = np.full(len(times), np.nan)
        lines = [*columns, *[nothing] * (len(self._slots) - len(columns))]
        return {"t": 1000.0 * times, **dict(zip(self._slots, lines, strict=True))}


def _standing(values: Floats) -> Floats:
    """Values, where there are none for a few steps the last ones."""
    at = np.arange(len(values))
    last = np.maximum.accumulate(np.where(np.isnan(values), -1, at)) if len(values) else at
    stands = (last >= 0) & (at - last <= STANDS)
    return np.where(stands, values[last], np.nan)


def smooth(times: Floats, values: Floats, seconds: float) -> Floats:
    """The mean of each value and of those within so many seconds before it; of those that there are.

    >>> smooth(np.array([0.0, 1.0, 2.0, 9.0]), np.array([1.0, 3.0, np.nan, 5.0]), 2.0)
    array([1., 2., 3., 5.])
    """
    there = ~np.isnan(values)
    sums = np.cumsum(np.concatenate([[0.0], np.where(there, values, 0.0)]))
    counts = np.cumsum(np.concatenate([[0], there]))
    ends = np.arange(1, len(values) + 1)
    begins = np.searchsorted(times, times - seconds, side="right")
    many = counts[ends] - counts[begins]
    means: Floats = np.full(len(values), np.nan)
    np.divide(sums[ends] - sums[begins], many, out=means, where=many > 0)
    return means


def _top(columns: Sequence[Floats]) -> float:
    """Where the axis ends: above all values, and the same while they change little."""
    highest = max(
        (float(one[there].max()) for one in columns if (there := np.isfinite(one)).any()), default=0.0
    )
    if highest <= 0:
        return 1.0
    unit = 10.0 ** np.floor(np.log10(highest)) / 2
    return float(unit * np.ceil(1.02 * highest / unit))


def _with_gaps(times: Floats, columns: Sequence[Floats]) -> tuple[Floats, list[Floats]]:
    """Lines that end where nothing was noted for longer than usual, and begin anew."""
    if len(times) < 3:
        return times, list(columns)
    steps = np.diff(times)
    # steps are of several lengths, where nobody looked for a while: each is held against its neighbours
    beside = np.maximum(np.append(0.0, steps[:-1]), np.append(steps[1:], 0.0))
    gaps = np.flatnonzero(steps > 5 * beside) + 1
    return np.insert(times, gaps, times[gaps - 1]), [np.insert(column, gaps, np.nan) for column in columns]
