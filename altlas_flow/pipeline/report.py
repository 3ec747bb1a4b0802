"""`Report`: what the stages of a pipeline took, over all pieces that passed through it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from altlas_flow.errors import one_line
from altlas_flow.pipeline.flat import WITHIN, Placed, flatten, same
from altlas_flow.pipeline.pipeline import Pipeline
from altlas_flow.pipeline.rows import Fault, Note, StageRows
from altlas_flow.records.table import Table


@dataclass
class StageReport:
    """What one stage took.

    Attributes
    ----------
    name : str
        ``outer.inner`` for a stage of a pipeline in the pipeline.
    kind : str
        ``model``, ``function``, ``combine``; ``pipeline``: where the inputs or outputs of one are gathered.
    model : str
        Id of its model; that of a function is made of the names of pipeline and stage.
    rows : int
        That were predicted; of ``each=True``: items. Those that were tried again count again.
    cached, skipped : int
        Rows whose answers were known, and rows that it was not done for.
    failed : int
        Rows that failed here first, and that it did not forgive itself.
    forgiven : int
        Rows that failed here, or in the pipeline that this is, and that an optional stage gave None for.
    seconds, queue : float
        On the nodes, over all pieces; that they waited there for a slot before.
    load : float
        The longest that a node spent loading its model.
    tries : int
        Over all pieces: as many as `pieces` where nothing was tried again.
    pieces : int
    nodes : Counter of str
        Pieces by node.
    error : str
        The first fault, in one line; empty where there was none.
    """

    name: str
    kind: str = "function"
    model: str = ""
    rows: int = 0
    cached: int = 0
    skipped: int = 0
    failed: int = 0
    forgiven: int = 0
    seconds: float = 0.0
    queue: float = 0.0
    load: float = 0.0
    tries: int = 0
    pieces: int = 0
    nodes: Counter[str] = field(default_factory=Counter)
    error: str = ""

    @property
    def retries(self) -> int:
        """Tries beyond the first of each piece."""
        return max(0, self.tries - self.pieces)

    def add(self, note: Note) -> None:
        """Book one piece."""
        self.model = note.model
        self.rows += note.rows
        self.cached += len(note.cached)
        self.skipped += len(note.skipped)
        self.seconds += note.seconds
        self.queue += note.queue
        self.load = max(self.load, note.load)
        self.tries += note.tries
        self.pieces += 1
        if note.node:
            self.nodes[note.node] += 1

    def to_dict(self) -> dict[str, Any]:
        """Its fields, as JSON can hold them."""
        return {**vars(self), "nodes": dict(self.nodes)}


def _inside(name: str, fault: Fault) -> bool:
    """Whether it was in the pipeline of that name that a row failed."""
    return fault.stage.startswith(name + WITHIN)


class Report:
    """What the stages of a pipeline took, in their order; pieces are added as they are done.

    Parameters
    ----------
    pipeline : Pipeline

    Attributes
    ----------
    pipeline : str
        Its id.
    rows, pieces : int
        That passed through it.

    Examples
    --------
    >>> from altlas_flow.pipeline.stage import Stage
    >>> report = Report(Pipeline([Stage("loud", function=str.upper)], id="shout"))
    >>> note = Note("shout/loud", "node-1", rows=1, seconds=0.5)
    >>> report.add(StageRows(["A"], notes={"loud": note}))
    >>> report["loud"].rows, report["loud"].nodes
    (1, Counter({'node-1': 1}))
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline.id
        self.rows = self.pieces = 0
        placed, _ = flatten(pipeline)
        self._stages = {
            one.name: StageReport(one.name, kind=_kind(one), model=_model(one, pipeline.id)) for one in placed
        }

    @property
    def stages(self) -> list[StageReport]:
        """Of each stage, after those that it depends on."""
        return list(self._stages.values())

    @property
    def seconds(self) -> float:
        """On all nodes, of all stages."""
        return sum(stage.seconds for stage in self._stages.values())

    @property
    def failed(self) -> int:
        """Rows that failed at a stage which is not optional."""
        return sum(stage.failed for stage in self._stages.values())

    def __getitem__(self, name: str) -> StageReport:
        return self._stages[name]

    def __contains__(self, name: object) -> bool:
        return name in self._stages

    def add(self, rows: StageRows) -> None:
        """Book a piece of a pipeline with one last step."""
        self.add_piece([rows])

    def add_piece(self, ends: Iterable[StageRows]) -> None:
        """Book what the last steps returned for one piece.

        A stage that several of them came after counts once.

        Parameters
        ----------
        ends : iterable of StageRows
        """
        notes: dict[str, Note] = {}
        faults: dict[str, dict[int, Fault]] = {}
        count = 0
        for end in ends:
            count = max(count, len(end))
            for name, note in end.notes.items():
                notes.setdefault(name, note)
            _sort_in(faults, end.faults.items())
        for name, note in notes.items():
            # what failed before an optional stage has failed there all the same
            mine = {row: one for row, one in note.forgiven.items() if one.stage == name or _inside(name, one)}
            _sort_in(faults, [item for item in note.forgiven.items() if item[0] not in mine])
            own = self._stages.setdefault(name, StageReport(name))
            own.add(note)
            own.forgiven += len(mine)
            if mine:
                _remember(own, next(iter(mine.values())))
        for name, failed in faults.items():
            stage = self._stages.setdefault(name, StageReport(name))
            stage.failed += len(failed)
            _remember(stage, next(iter(failed.values())))
        self.rows += count
        self.pieces += 1

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        return {
            "pipeline": self.pipeline,
            "rows": self.rows,
            "pieces": self.pieces,
            "stages": [stage.to_dict() for stage in self.stages],
        }

    def table(self) -> Table[Any]:
        """A line for each stage; columns that would hold nothing but 0 are left out."""
        whole = self.seconds
        columns: dict[str, Callable[[StageReport], Any]] = {
            "stage": lambda one: one.name,
            "kind": lambda one: one.kind,
            "model": lambda one: one.model if one.kind == "model" else "",
            "rows": lambda one: f"{one.rows:,}",
        }
        for name in ("cached", "skipped", "forgiven", "failed", "retries"):
            if any(getattr(stage, name) for stage in self.stages):
                columns[name] = _amount(name)
        columns |= {
            "seconds": lambda one: f"{one.seconds:,.2f}",
            "share": lambda one: f"{one.seconds / whole:.0%}" if whole else "",
            "queue": lambda one: f"{one.queue:,.2f}",
            "load": lambda one: f"{one.load:,.2f}",
            "nodes": lambda one: _nodes(one.nodes),
        }
        if any(stage.error for stage in self.stages):
            columns["first error"] = lambda one: one.error
        return Table(self.stages, columns, title=f"stages of {one_line(self._title(), 200)}")

    def _title(self) -> str:
        pieces = f"{self.pieces:,} piece{'s' * (self.pieces != 1)}"
        return f"pipeline {self.pipeline}: {self.rows:,} row{'s' * (self.rows != 1)} in {pieces}"

    def __str__(self) -> str:
        return f"{one_line(self._title(), 200)}\n{self.table()}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """A line of each stage; everything is escaped."""
        return self.table()._repr_html_()


def _kind(placed: Placed) -> str:
    return "pipeline" if placed.stage.function is same else placed.stage.kind


def _model(placed: Placed, pipeline: str) -> str:
    model = placed.stage.model
    if model is None:
        return f"{pipeline}/{placed.name}"[:200]
    return model if isinstance(model, str) else model.id


def _sort_in(faults: dict[str, dict[int, Fault]], given: Iterable[tuple[int, Fault]]) -> None:
    """By the stage that each row failed at first."""
    for row, fault in given:
        faults.setdefault(fault.stage, {}).setdefault(row, fault)


def _remember(stage: StageReport, fault: Fault) -> None:
    stage.error = stage.error or one_line(fault.error, 120)
    stage.model = stage.model or fault.model


def _amount(name: str) -> Callable[[StageReport], str]:
    return lambda one: f"{getattr(one, name):,}"


def _nodes(nodes: Counter[str]) -> str:
    shown = [f"{name} {count:,}" if count > 1 else name for name, count in nodes.most_common(3)]
    return ", ".join(shown) + (f" and {len(nodes) - 3} more" if len(nodes) > 3 else "")
