"""A pipeline as a picture: what is in it, for `svg`, and as a Mermaid flowchart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from altlas_flow.errors import BadRequest, one_line
from altlas_flow.pipeline.flat import Placed, flatten, same
from altlas_flow.pipeline.pipeline import Pipeline
from altlas_flow.pipeline.report import Report, StageReport
from altlas_flow.pipeline.stage import INPUT, Stage
from altlas_flow.records.table import plain

if TYPE_CHECKING:
    from altlas_flow.pipeline.result import PipelineResult

OUTPUT = "output"
#: Characters of a line in a box; the whole is in its tooltip.
WIDTH = 36
#: What is shown of a stage's losses, where there were any.
LOSSES = ("failed", "forgiven", "skipped", "cached")


@dataclass(frozen=True)
class Box:
    """A stage in the picture, or the pipeline's input or output.

    Attributes
    ----------
    name : str
    kind : str
        Of the stage; ``end`` for input and output.
    needs : tuple of str
        Names of boxes.
    lines : tuple of str
        Its text, the name first.
    losses : str
        Rows that failed, were skipped and so on; empty where none.
    failed : bool
        Whether rows failed here.
    share : float or None
        Of the time of all stages, from 0 to 1; None without a report.
    maybe : bool
        Whether it is done for some rows only.
    optional : bool
    tooltip : str
    """

    name: str
    kind: str
    needs: tuple[str, ...]
    lines: tuple[str, ...]
    losses: str = ""
    failed: bool = False
    share: float | None = None
    maybe: bool = False
    optional: bool = False
    tooltip: str = ""


def boxes(pipeline: Pipeline, report: Report | PipelineResult | None = None) -> list[Box]:
    """What is in the picture, each after those that it needs.

    Parameters
    ----------
    pipeline : Pipeline
    report : Report or PipelineResult, optional
        Of this pipeline; what it says nothing of is shown without figures.

    Raises
    ------
    BadRequest
    """
    report = _report(report)
    placed, ends = flatten(pipeline)
    found: list[Box] = []
    if any(need == INPUT for one in placed for _, need in one.needs):
        found.append(Box(INPUT, "end", (), (INPUT,), tooltip="what the pipeline is given"))
    for one in placed:
        figures = report[one.name] if report is not None and one.name in report else None
        found.append(_box(one, figures, report.seconds if report is not None else 0.0))
    needs = tuple(dict.fromkeys(ends))
    found.append(Box(f"{OUTPUT} ", "end", needs, (OUTPUT,), tooltip="what the pipeline gives"))
    return found


def _report(given: Any) -> Report | None:
    """The report that is meant, also by the result that has one."""
    found = getattr(given, "report", given)
    if found is None or isinstance(found, Report):
        return found
    raise BadRequest(f"{one_line(repr(given), 60)} is no report: give result.report, or summary.stages")


def _box(placed: Placed, figures: StageReport | None, whole: float) -> Box:
    stage = placed.stage
    kind = kind_of(placed)
    lines = [_cut(placed.name), _cut(f"{kind} {what(stage)}".strip())]
    share = None
    losses = ""
    if figures is not None:
        share = figures.seconds / whole if whole else 0.0
        rows = f"{figures.rows:,} row{'s' * (figures.rows != 1)}"
        lines.append(f"{took(figures.seconds)} ({share:.0%}), {rows}")
        losses = ", ".join(f"{getattr(figures, one):,} {one}" for one in LOSSES if getattr(figures, one))
    return Box(
        placed.name,
        kind,
        tuple(dict.fromkeys(need for _, need in placed.needs)),
        tuple(lines),
        losses=losses,
        failed=figures is not None and figures.failed > 0,
        share=share,
        maybe=stage.when is not None,
        optional=stage.optional,
        tooltip=_tooltip(placed, kind, figures),
    )


def kind_of(placed: Placed) -> str:
    """What a stage is; ``pipeline`` where the inputs or outputs of one are gathered."""
    return "pipeline" if placed.stage.function is same else placed.stage.kind


def what(stage: Stage) -> str:
    """What a stage does, in a word or two."""
    if stage.function is same:
        return ""
    done: Any = getattr(stage, stage.kind)
    if stage.combine is not None and hasattr(done, "combine"):
        return plain(getattr(done, "name", None) or type(done).__name__)
    if stage.model is not None:
        return plain(done if isinstance(done, str) else done.id)
    if stage.task is not None:
        return plain(stage.task)
    name = getattr(done, "__qualname__", None) or type(done).__name__
    return plain(str(name).rpartition("<locals>.")[2])


def took(seconds: float) -> str:
    """A time in a few characters.

    >>> took(0.0004), took(0.25), took(12.34), took(5000)
    ('<1 ms', '250 ms', '12.3 s', '83 min')
    """
    if seconds < 0.001:
        return "<1 ms" if seconds else "0 s"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 600 else f"{seconds / 60:,.0f} min"


def _cut(text: str) -> str:
    text = plain(text)
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def _tooltip(placed: Placed, kind: str, figures: StageReport | None) -> str:
    stage = placed.stage
    said = [f"{placed.name}: {kind} {what(stage)}".strip()]
    said.append(f"after {', '.join(need for _, need in placed.needs)}")
    if stage.when is not None:
        said.append("done for rows that when= is true of")
    if stage.optional:
        said.append("optional")
    if stage.retry is not None:
        said.append(f"tries: {getattr(stage.retry, 'tries', stage.retry)}")
    if stage.timeout is not None:
        said.append(f"timeout: {stage.timeout} s")
    if stage.cache is not False:
        said.append("cached" if stage.cache is True else f"cached in {stage.cache}")
    if figures is not None:
        said.append(f"queue {took(figures.queue)}, load {took(figures.load)}, {figures.pieces:,} pieces")
        if figures.nodes:
            said.append("nodes: " + ", ".join(name for name, _ in figures.nodes.most_common(8)))
        if figures.error:
            said.append(f"first error: {figures.error}")
    return "\n".join(plain(line) for line in said)


_SHAPES = {
    "end": ("([", "])"),
    "model": ("(", ")"),
    "task": ("(", ")"),
    "function": ("[", "]"),
    "combine": ("{{", "}}"),
    "pipeline": ("[/", "/]"),
}
#: Outlines by kind; legible on white and on black.
COLOURS = {
    "end": "#7f7f7f",
    "model": "#4c8bd6",
    "task": "#2aa6a6",
    "function": "#3fa35b",
    "combine": "#a86bd1",
    "pipeline": "#8c8c8c",
}
HEAT, FAILED = "#f28e2b", "#d9363e"


def mermaid(pipeline: Pipeline, report: Report | PipelineResult | None = None) -> str:
    """See `Pipeline.mermaid`.

    Boxes of models are round, of functions angular, of aggregations hexagons; a dotted arrow leads to a stage
    that is done for some rows only, and an optional stage has a dashed outline.
    """
    found = boxes(pipeline, report)
    ids = {box.name: f"s{at}" for at, box in enumerate(found)}
    lines = ["flowchart LR"]
    for box in found:
        begin, end = _SHAPES[box.kind]
        text = "<br/>".join(_quoted(line) for line in (*box.lines, box.losses) if line)
        lines.append(f'    {ids[box.name]}{begin}"{text}"{end}')
    for box in found:
        arrow = "-.->" if box.maybe else "-->"
        lines += [f"    {ids[need]} {arrow} {ids[box.name]}" for need in box.needs]
    for box in found:
        style = [f"stroke:{FAILED if box.failed else COLOURS[box.kind]}"]
        if box.share is not None and round(box.share, 2) > 0:
            style.append(f"fill:{HEAT}{round(20 + 200 * box.share):02x}")
        if box.optional:
            style.append("stroke-dasharray:5 3")
        lines.append(f"    style {ids[box.name]} {','.join(style)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Text in a label, where Mermaid reads entities, HTML, and Markdown between backticks."""
    return "".join(f"#{ord(letter)};" if letter in '#"&<>`*_\\;' else letter for letter in text)
