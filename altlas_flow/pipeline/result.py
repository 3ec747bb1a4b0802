"""`PipelineResult`: what became of each stage of a pipeline, for one request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from altlas_flow.errors import AltlasError, StageFailed, one_line
from altlas_flow.pipeline.flat import may_fail
from altlas_flow.pipeline.report import Report
from altlas_flow.pipeline.rows import Fault, Note, StageRows
from altlas_flow.pipeline.step import Compiled
from altlas_flow.records import InferenceResponse, Trace
from altlas_flow.records.base import short
from altlas_flow.records.html import facts


class PieceOutcome:
    """What became of a piece, shared by the results of the requests in it; no outputs.

    Parameters
    ----------
    compiled : Compiled
    rows : mapping of str to StageRows
        Outcomes of the steps that were fetched.
    """

    def __init__(self, compiled: Compiled, rows: Mapping[str, StageRows]) -> None:
        self.compiled = compiled
        self.count = max((len(one) for one in rows.values()), default=0)
        self.notes: dict[str, Note] = {}
        self.faults: dict[str, dict[int, Fault]] = {name: one.faults for name, one in rows.items()}
        self.first: dict[int, Fault] = {}  # by row: where it failed first
        for one in rows.values():
            self.notes.update(one.notes)
        order = {name: place for place, name in enumerate(compiled.steps)}
        # what failed before an optional step, and may not, has failed all the same
        forgiven = [note.forgiven.items() for note in self.notes.values()]
        lasting = [
            (row, fault)
            for items in forgiven
            for row, fault in items
            if not may_fail(fault.stage, compiled.optional)
        ]
        for row, fault in [*lasting, *(item for one in self.faults.values() for item in one.items())]:
            known = self.first.get(row)
            if known is None or order[fault.stage] < order[known.stage]:
                self.first[row] = fault

    def report(self) -> Report:
        """Time and rows of each stage."""
        report = Report(self.compiled.pipeline)
        report.add_piece([StageRows([None] * self.count, self.first, notes=self.notes)])
        return report


class PipelineResult(Mapping[str, InferenceResponse]):
    """Responses of the stages by their names, in the order of the pipeline.

    Parameters
    ----------
    piece : PieceOutcome
        Of the piece that the request travelled in.
    request_id : str
    outputs : mapping of str to list or numpy.ndarray
        Outputs of this request's rows, of the steps that were fetched.
    at : range
        Rows of this request in the piece.
    many : bool
        Whether it was asked with a list of inputs.
    latency : float
        Seconds from submission to the answer.

    Attributes
    ----------
    outputs : Any
        Of the pipeline: of its last stage, or a dict by name where it has several outputs; a list of these
        for a list of inputs. None where it failed.
    """

    def __init__(
        self,
        piece: PieceOutcome,
        request_id: str,
        outputs: Mapping[str, Any],
        at: range,
        *,
        many: bool = False,
        latency: float = 0.0,
    ) -> None:
        self.request_id, self.latency = request_id, latency
        self.pipeline = piece.compiled.pipeline
        self._piece, self._compiled = piece, piece.compiled
        self._outputs, self._at, self._many = outputs, at, many
        self._responses: dict[str, InferenceResponse] = {}

    @property
    def ok(self) -> bool:
        """Whether no stage failed, but for optional ones."""
        return not any(row in self._piece.first for row in self._at)

    @property
    def error(self) -> StageFailed | None:
        """The first failure: of the first row, at the first stage."""
        for row in self._at:
            if (fault := self._piece.first.get(row)) is not None:
                return failure(fault)
        return None

    @property
    def outputs(self) -> Any:
        """See the class."""
        found = [self._output(row) for row in self._at]
        return found if self._many else found[0]

    def raise_for_error(self) -> None:
        """Raise the first failure; its ``result`` is this.

        Raises
        ------
        StageFailed
        """
        error = self.error
        if error is not None:
            error.result = self
            raise error

    def outputs_of(self, stage: str) -> Any:
        """Outputs of a stage that was kept.

        Raises
        ------
        KeyError
            Where there is no such stage, or its outputs stayed on the cluster.
        """
        found = [self._value(stage, row) for row in self._at]
        return found if self._many else found[0]

    @property
    def notes(self) -> Mapping[str, Note]:
        """How each stage came by its outputs; other requests may have travelled in the same piece."""
        return self._piece.notes

    @property
    def report(self) -> Report:
        """Time and rows of each stage, of the piece that it travelled in: maybe with other requests."""
        return self._piece.report()

    def mermaid(self) -> str:
        """The pipeline as Mermaid text, with time and rows of each stage."""
        return self.pipeline.mermaid(self.report)

    def _repr_html_(self) -> str:
        """What came, and what each stage took; everything is escaped."""
        error = self.error
        pairs = [
            ("outputs", None if error is not None and not self._many else short(self.outputs, 300)),
            ("error", None if error is None else one_line(error, 300)),
            ("latency", f"{self.latency:.3g} s"),
            ("request", self.request_id),
        ]
        what = "answer" if error is None else "no answer"
        drawn = f'<div style="overflow-x:auto">{self.pipeline.svg(self.report)}</div>'
        return facts(f"{what} of pipeline {self.pipeline.id}", pairs, drawn)

    def _value(self, stage: str, row: int) -> Any:
        if row in self._piece.faults[stage]:
            return None
        value = self._outputs[stage][row - self._at.start]
        # a row of an array is a view of all of it
        return value.copy() if isinstance(value, np.ndarray) and value.base is not None else value

    def _output(self, row: int) -> Any:
        values = [self._value(name, row) for name in self._compiled.ends]
        if self.pipeline.single:
            return values[0]
        return dict(zip(self.pipeline.output, values, strict=True))

    def __getitem__(self, stage: str) -> InferenceResponse:
        if stage not in self._compiled.steps:
            raise KeyError(stage)
        if stage not in self._responses:
            self._responses[stage] = self._response(stage)
        return self._responses[stage]

    def __iter__(self) -> Iterator[str]:
        return iter(self._compiled.steps)

    def __len__(self) -> int:
        return len(self._compiled.steps)

    def _response(self, stage: str) -> InferenceResponse:
        step, note = self._compiled.steps[stage], self.notes.get(stage)
        metadata: dict[str, Any] = {"stage": stage}
        error = self._error_of(stage, note)
        kept = stage in self._outputs
        if note is None:
            return InferenceResponse.build(
                f"{self.request_id}/{stage}", step.spec.id, error=error, tries=0, metadata=metadata
            )
        first = self._at[0] if len(self._at) else 0
        if first in note.skipped:
            metadata["skipped"] = note.skipped[first]
        if first in note.forgiven:
            metadata["forgiven"] = str(note.forgiven[first].error)
        if first in note.cached:
            metadata["cached"] = True
        if not kept:
            metadata["outputs"] = "they stayed on the cluster: ask with keep=True for them"
        placed = note.trace
        trace = Trace.build(
            placed.get("strategy", ""),
            note.node,
            score=placed.get("score"),
            runners_up=[(str(name), float(score)) for name, score in placed.get("runners_up") or ()],
            refused=dict(placed.get("refused") or {}),
            placing=placed.get("placing", 0.0),
            queue=note.queue,
            load=note.load,
            batch=note.rows,
            notes=list(placed.get("notes") or ()),
        )
        return InferenceResponse.build(
            f"{self.request_id}/{stage}",
            step.spec.id,
            node_id=note.node or None,
            # of a list of inputs, those that did not fail
            outputs=self.outputs_of(stage) if kept and (error is None or self._many) else None,
            error=error,
            latency=note.seconds + note.queue,
            queue_time=note.queue,
            load_time=note.load,
            batch_size=note.rows,
            tries=note.tries,
            trace=trace,
            metadata=metadata,
        )

    def _error_of(self, stage: str, note: Note | None) -> AltlasError | None:
        """Of the stage itself as it is; where an earlier one failed, which."""
        for row in self._at:
            known = self._piece.faults.get(stage, self._piece.first)
            fault = known.get(row)
            if fault is None:
                continue
            if fault.stage == stage:
                return fault.error
            if stage in self._outputs or note is None or self._follows(stage, fault.stage):
                return failure(fault)
        return None

    def _follows(self, stage: str, other: str) -> bool:
        """Whether a stage depends on another one, maybe by way of others."""
        seen: set[str] = set()
        waiting = [stage]
        while waiting:
            step = self._compiled.steps.get(waiting.pop())
            for need in step.needs if step is not None else ():
                if need == other:
                    return True
                if need not in seen:
                    seen.add(need)
                    waiting.append(need)
        return False

    def __repr__(self) -> str:
        error = self.error
        what = f"failed: {error}" if error is not None else one_line(repr(self.outputs), 80)
        return f"<PipelineResult of {self.pipeline.id} in {self.latency:.3f} s: {what}>"


def failure(fault: Fault) -> StageFailed:
    """The error of whoever depends on what failed."""
    error = StageFailed(fault.stage, str(fault.error))
    error.root_cause = fault.error.root_cause or str(fault.error)
    error.nodes = (fault.node,) if fault.node else ()
    error.kinds = fault.error.kinds
    error.__cause__ = fault.error
    return error
