"""What is told of a job while it goes: log lines, and, where jobs are traced, spans of it and its parts."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from altlas_flow.errors import describe
from altlas_flow.logs import event
from altlas_flow.tracing import Carrier, Span, quietly, tracer_for

if TYPE_CHECKING:
    from altlas_flow.dataframe.answers import Ask

logger = logging.getLogger(__name__)

AskKind = TypeVar("AskKind", bound="Ask")


class Told:
    """One job.

    Parameters
    ----------
    kind : str
        ``run`` or ``map``.
    model, output : str
        What runs, and where its rows go.
    traces : bool
        Whether it is traced.
    """

    def __init__(self, kind: str, model: str, output: str, traces: bool) -> None:
        self.job, self.kind, self.model, self.output = uuid.uuid4().hex, kind, model, output
        self._began = time.monotonic()
        self._sent: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._span: Span | None = None
        if (tracer := tracer_for(traces)) is not None:
            said = {"altlas.job": self.job, "altlas.job.kind": kind, "altlas.model": model}
            said["altlas.output"] = output
            self._span = quietly(tracer.begin, "altlas.job", self._began, said)
        if output:
            self._log("job begun", "job %s begins: %s of %s into %s", kind, model, output)
        else:
            self._log("job begun", "job %s begins: %s of %s", kind, model)

    def within(self, what: AskKind) -> AskKind:
        """What is asked, in the context of this job."""
        if self._span is None:
            return what
        carrier: Carrier | None = quietly(self._span.carrier)
        return what if carrier is None else replace(what, trace=carrier)

    def sent(self, part: str) -> None:
        """A part is under way."""
        if self._span is not None:
            self._sent.setdefault(part, time.monotonic())

    def done(self, part: str, rows: int, dead: int, node: str) -> None:
        """A part is done; `dead`: rows of it that were put aside."""
        self._counts = {
            "rows": self._counts.get("rows", 0) + rows,
            "dead_letters": self._counts.get("dead_letters", 0) + dead,
            "parts": self._counts.get("parts", 0) + 1,
        }
        if dead:
            text = "job %s: %d of %d rows of %s were put aside"
            self._log("rows dead-lettered", text, dead, rows, part, node=node, rows=rows, dead_letters=dead)
        if self._span is not None and self._span.recording:
            now = time.monotonic()
            said: dict[str, Any] = {"altlas.part": part, "altlas.node": node}
            said |= {"altlas.rows": rows, "altlas.dead_letters": dead}
            quietly(self._span.child, "altlas.part", self._sent.pop(part, now), now, said)

    def over(self, error: BaseException | None) -> None:
        """The job is over."""
        now = time.monotonic()
        counts = {"rows": 0, "dead_letters": 0, "parts": 0, **self._counts}
        seconds = round(now - self._began, 3)
        if error is None:
            text = "job %s has ended: %d rows, %d put aside, in %.3f s"
            done = (counts["rows"], counts["dead_letters"], seconds)
            self._log("job ended", text, *done, seconds=seconds, **counts)
        else:
            why = describe(error)
            text = "job %s failed after %.3f s: %s"
            self._log("job failed", text, seconds, why, seconds=seconds, error=why, **counts)
        if self._span is not None:
            said: dict[str, Any] = {f"altlas.{name}": count for name, count in counts.items()}
            said["altlas.status"] = "completed" if error is None else "error"
            quietly(self._span.end, now, said, error)

    def _log(self, name: str, text: str, *args: Any, **fields: Any) -> None:
        event(logger, logging.INFO, name, text, self.job, *args, job=self.job, model=self.model, **fields)


@contextmanager
def told(kind: str, model: str, output: str, traces: bool) -> Iterator[Told]:
    """While a job goes; how it ends is told, too."""
    job = Told(kind, model, output, traces)
    try:
        yield job
    except BaseException as error:
        job.over(error)
        raise
    job.over(None)
