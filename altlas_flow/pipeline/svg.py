"""A pipeline's graph as an SVG that reads on light and on dark pages."""

from __future__ import annotations

from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING
from unicodedata import east_asian_width

from altlas_flow.pipeline.layout import Drawing, arrange
from altlas_flow.pipeline.pipeline import Pipeline
from altlas_flow.pipeline.report import Report
from altlas_flow.pipeline.show import COLOURS, FAILED, HEAT, Box, boxes
from altlas_flow.records.table import plain

if TYPE_CHECKING:
    from altlas_flow.pipeline.result import PipelineResult

#: Pixels: of a line of text, around it in a box, around the whole, and of an arrow's head.
LINE, PADDING, MARGIN, HEAD = 16.0, 10.0, 8.0, 7.0
#: Font sizes of a box's first line and of the others; a letter is about so wide, by its size.
FIRST, OTHER, LETTER = 13, 11, 0.62


def svg(pipeline: Pipeline, report: Report | PipelineResult | None = None) -> str:
    """See `Pipeline.svg`.

    Text has the colour of the page around it. Boxes are outlined by their kind: models are round, functions
    angular, aggregations have cut corners, and red is where rows failed. With a report boxes are the fuller
    the more of the time they took.

    Parameters
    ----------
    pipeline : Pipeline
    report : Report or PipelineResult, optional

    Returns
    -------
    str
    """
    found = boxes(pipeline, report)
    drawing = arrange({box.name: box.needs for box in found}, {box.name: _size(box) for box in found})
    width, height = drawing.width + 2 * MARGIN, drawing.height + 2 * MARGIN
    by_name = {box.name: box for box in found}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(plain(repr(pipeline)))}" '
        f'width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="{-MARGIN:.0f} {-MARGIN:.0f} {width:.0f} {height:.0f}" '
        'style="font-family:system-ui,-apple-system,sans-serif">'
    ]
    for (_, end), points in drawing.edges.items():
        parts.append(_arrow(points, dotted=by_name[end].maybe))
    parts += [_drawn(box, drawing) for box in found]
    return "\n".join([*parts, "</svg>"])


def _texts(box: Box) -> list[tuple[str, int, str]]:
    """Lines of a box: text, font size, and how it is drawn."""
    first, *others = box.lines
    found = [(first, FIRST, 'font-weight="600"')]
    found += [(line, OTHER, 'fill-opacity="0.75"') for line in others]
    if box.losses:
        found.append((box.losses, OTHER, 'font-weight="600"' if box.failed else 'fill-opacity="0.75"'))
    return found


def _size(box: Box) -> tuple[float, float]:
    texts = _texts(box)
    widest = max(_letters(text) * size * LETTER for text, size, _ in texts)
    return max(56.0, widest + 2 * PADDING), len(texts) * LINE + 2 * PADDING - 4


def _letters(text: str) -> int:
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def _drawn(box: Box, drawing: Drawing) -> str:
    x, y = drawing.boxes[box.name]
    wide, high = _size(box)
    colour = COLOURS[box.kind]
    fill, opacity = (colour, 0.14) if box.share is None else (HEAT, 0.06 + 0.6 * box.share)
    stroke = (
        f'stroke="{FAILED}" stroke-width="2.5"' if box.failed else f'stroke="{colour}" stroke-width="1.5"'
    )
    outline = f'fill="{fill}" fill-opacity="{opacity:.2f}" {stroke}'
    if box.optional:
        outline += ' stroke-dasharray="5 3"'
    if box.kind == "combine":
        shape = f'<path d="{_cut_corners(x, y, wide, high)}" {outline}/>'
    else:
        round_by = {"end": high / 2, "model": 10.0}.get(box.kind, 2.0)
        place = f'x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}"'
        shape = f'<rect {place} rx="{round_by:.1f}" {outline}/>'
    lines = [f"<g><title>{escape(box.tooltip)}</title>", shape]
    for at, (text, size, how) in enumerate(_texts(box)):
        base = y + PADDING + at * LINE + size * 0.85
        lines.append(
            f'<text x="{x + wide / 2:.1f}" y="{base:.1f}" font-size="{size}" text-anchor="middle" '
            f'fill="currentColor" {how}>{escape(text)}</text>'
        )
    return "".join([*lines, "</g>"])


def _cut_corners(x: float, y: float, wide: float, high: float) -> str:
    cut = 9.0
    points = [
        (x + cut, y),
        (x + wide - cut, y),
        (x + wide, y + cut),
        (x + wide, y + high - cut),
        (x + wide - cut, y + high),
        (x + cut, y + high),
        (x, y + high - cut),
        (x, y + cut),
    ]
    return "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in points) + "Z"


def _arrow(points: list[tuple[float, float]], *, dotted: bool) -> str:
    """A line that leaves and arrives level, with a head of its own: markers need ids, unique in a page."""
    *before, (x, y) = points
    ways = [*before, (x - HEAD, y)]
    path = f"M{ways[0][0]:.1f} {ways[0][1]:.1f}"
    for (x0, y0), (x1, y1) in pairwise(ways):
        half = (x1 - x0) / 2
        path += f"C{x0 + half:.1f} {y0:.1f} {x1 - half:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
    dashes = ' stroke-dasharray="2 4"' if dotted else ""
    how = 'fill="none" stroke="currentColor" stroke-opacity="0.55" stroke-width="1.4"'
    line = f'<path d="{path}" {how}{dashes}/>'
    head = f"M{x:.1f} {y:.1f}l{-HEAD:.1f} {-HEAD / 2:.1f}v{HEAD:.1f}Z"
    return f'{line}<path d="{head}" fill="currentColor" fill-opacity="0.55"/>'
