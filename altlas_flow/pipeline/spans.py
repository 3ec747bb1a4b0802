"""Spans of requests to pipelines: one for each, with one for each of its stages."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from altlas_flow.errors import AltlasError, RequestCancelled, StageFailed
from altlas_flow.pipeline.result import PipelineResult
from altlas_flow.pipeline.rows import Note
from altlas_flow.tracing import Carrier, Tracer, quietly

if TYPE_CHECKING:
    from altlas_flow.pipeline.handle import PipelineHandle


class PipelineSpan:
    """The span of one request to a pipeline.

    When a stage began, its node says by its own clock. Where that would be before its piece left the client,
    or after that came back, all stages of the node are moved, by no more than it takes.

    Parameters
    ----------
    tracer : Tracer
    handle : PipelineHandle
    """

    def __init__(self, tracer: Tracer, handle: PipelineHandle) -> None:
        self._clock = tracer.clock
        self._children: list[tuple[str, float, float, dict[str, Any], Exception | None]] = []
        self._end: tuple[float, dict[str, Any], Exception | None] = (handle._submitted, {}, None)
        self.span = tracer.begin(
            "altlas.pipeline",
            handle._submitted,
            {
                "altlas.request_id": handle.request_id,
                "altlas.pipeline": handle.model_id,
                "altlas.rows": handle._rows,
            },
        )

    def over(self, handle: PipelineHandle, outcome: PipelineResult | AltlasError, now: float) -> None:
        """The request is over since then, in whatever way: note what `tell` tells, without its answer."""
        quietly(self._over, handle, outcome, now)

    def tell(self) -> None:
        """Tell of it: whoever processes spans may take time for that."""
        if self.span.recording:
            for child in self._children:
                self.span.child(*child)
        self.span.end(*self._end)

    def carrier(self) -> Carrier | None:
        """Its context, for the workers."""
        found: Carrier | None = quietly(self.span.carrier)
        return found

    def _over(self, handle: PipelineHandle, outcome: PipelineResult | AltlasError, now: float) -> None:
        left = handle._left
        error = outcome.error if isinstance(outcome, PipelineResult) else outcome
        status, fault = "completed" if error is None else "error", error
        if isinstance(error, RequestCancelled):
            status, fault = "cancelled", None
        try:
            self._child("altlas.queue", handle._submitted, now if left is None else left, {})
            if self.span.recording and isinstance(outcome, PipelineResult) and left is not None:
                self._stages(outcome, left, now)
        finally:
            self._end = now, {"altlas.status": status}, fault  # whatever its stages could not say

    def _child(
        self, name: str, begin: float, end: float, said: dict[str, Any], error: Exception | None = None
    ) -> None:
        self._children.append((name, begin, end, said, error))

    def _stages(self, result: PipelineResult, left: float, now: float) -> None:
        notes = result.notes
        ahead = time.time() - self._clock()  # of the time of day before our clock
        shifts = _shifts(notes.values(), ahead, left, now)
        for name, step in result._compiled.steps.items():
            note = notes.get(name)
            error = result._error_of(name, note)
            said: dict[str, Any] = {"altlas.stage": name, "altlas.model": step.spec.id}
            if note is None:
                if error is not None and not isinstance(error, StageFailed):
                    self._child("altlas.stage", now, now, said, error)
                continue  # it was not done
            said |= _facts(note, result._at)
            begin = now if not note.began else note.began - ahead + shifts[note.node]
            end = min(now, begin + note.queue + note.seconds)
            # what failed before it is told where it failed
            own = None if isinstance(error, StageFailed) else error
            said["altlas.status"] = (
                "completed" if error is None else "error" if own is not None else "not done"
            )
            self._child("altlas.stage", max(left, begin), end, said, own)


def _facts(note: Note, at: range) -> dict[str, Any]:
    mine = set(at)
    forgiven = next((str(note.forgiven[row].error) for row in at if row in note.forgiven), None)
    return {
        "altlas.node": note.node,
        "altlas.piece.rows": note.rows,
        "altlas.queue.seconds": note.queue,
        "altlas.load.seconds": note.load,
        "altlas.tries": note.tries,
        "altlas.strategy": note.trace.get("strategy"),
        "altlas.cached": len(mine & note.cached),
        "altlas.skipped": len(mine & note.skipped.keys()),
        "altlas.forgiven": forgiven,
    }


def _shifts(notes: Any, ahead: float, left: float, now: float) -> dict[str, float]:
    """By how much the stages of each node are moved so that they lie between two times of our clock."""
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for note in notes:
        if note.began:
            begin = note.began - ahead
            spans[note.node].append((begin, begin + note.queue + note.seconds))
    found = {}
    for node, times in spans.items():
        first, last = min(begin for begin, _ in times), max(end for _, end in times)
        # its beginning counts where both cannot be
        found[node] = max(left - first, min(0.0, now - last))
    return found


def begin_span(tracer: Tracer, handle: PipelineHandle) -> PipelineSpan | None:
    """The span of a request that has just been submitted; called where its caller's own span is current."""
    found: PipelineSpan | None = quietly(PipelineSpan, tracer, handle)
    return found


def rows_of(handles: list[PipelineHandle], counts: list[int]) -> list[tuple[Carrier | None, int]]:
    """Contexts of requests, each with how many rows it has."""
    return [
        (None if handle._span is None else handle._span.carrier(), count)
        for handle, count in zip(handles, counts, strict=True)
    ]
