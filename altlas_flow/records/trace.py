"""`Trace`: why a request went where it went, and where its time was spent."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from altlas_flow.errors import one_line
from altlas_flow.records.base import Record
from altlas_flow.records.html import facts

#: Characters of a reason or an error that are printed.
_LONG = 160


class Try(Record):
    """A try that failed.

    Attributes
    ----------
    node : str
    error : str
        What happened: ``died``, or the error in one line.
    seconds : float
        How long it took.
    """

    model_config = ConfigDict(frozen=True)

    node: str
    error: str
    seconds: float = 0.0


class Trace(Record):
    """Why a request went where it went, and where its time was spent. Prints as some lines.

    Attributes
    ----------
    strategy : str
    node : str
        That answered; empty where none did.
    score : float, optional
        Of that node by the strategy.
    runners_up : list of (str, float)
        The next best nodes with their scores.
    refused : dict of str to int
        Reason -> number of nodes that could not serve the request for it.
    held, placing, queue, load, predict : float
        Seconds: the client held it back; it waited on the scheduler; on the worker; for its model to
        be loaded; and its batch was predicted.
    batch : int
        Rows of that batch.
    envelope : int
        Requests that travelled with it, itself included.
    tries : list of Try
        Those that failed.
    notes : list of str
    """

    strategy: str = ""
    node: str = ""
    score: float | None = None
    runners_up: list[tuple[str, float]] = Field(default=[])
    refused: dict[str, int] = Field(default={})
    held: float = 0.0
    placing: float = 0.0
    queue: float = 0.0
    load: float = 0.0
    predict: float = 0.0
    batch: int = 0
    envelope: int = 0
    tries: list[Try] = Field(default=[])
    notes: list[str] = Field(default=[])

    @classmethod
    def build(
        cls,
        strategy: str = "",
        node: str = "",
        *,
        score: float | None = None,
        runners_up: list[tuple[str, float]] | None = None,
        refused: dict[str, int] | None = None,
        held: float = 0.0,
        placing: float = 0.0,
        queue: float = 0.0,
        load: float = 0.0,
        predict: float = 0.0,
        batch: int = 0,
        envelope: int = 0,
        tries: list[Try] | None = None,
        notes: list[str] | None = None,
    ) -> Trace:
        """A trace of values known to be good: nothing is checked or copied."""
        trace: Trace = cls._of(
            {
                "strategy": strategy,
                "node": node,
                "score": score,
                "runners_up": [] if runners_up is None else runners_up,
                "refused": {} if refused is None else refused,
                "held": held,
                "placing": placing,
                "queue": queue,
                "load": load,
                "predict": predict,
                "batch": batch,
                "envelope": envelope,
                "tries": [] if tries is None else tries,
                "notes": [] if notes is None else notes,
            }
        )
        return trace

    def lines(self) -> list[tuple[str, str]]:
        """What is printed: (label, text) pairs; a line that continues has an empty label."""
        found = [("node", self._chosen())]
        refused = sorted(self.refused.items(), key=lambda item: -item[1])
        found += [("refused", f"{_count(many, 'node')}: {reason}") for reason, many in refused]
        found += [("waited", self._waited()), ("predicted", self._predicted()), ("tries", self._tried())]
        found += [("notes", note) for note in self.notes]
        kept = [(label, one_line(text, 4 * _LONG)) for label, text in found if text.strip()]
        before = ["", *(label for label, _ in kept)]
        return [
            ("" if label == last else label, text) for last, (label, text) in zip(before, kept, strict=False)
        ]

    def _chosen(self) -> str:
        if not self.node:
            return ""  # the tries say where it was
        parts = [part for part in (self.node, self.strategy and f"by {self.strategy}") if part]
        scores = [] if self.score is None else [f"score {self.score:.3g}"]
        if self.runners_up:
            shown = ", ".join(f"{node} {score:.3g}" for node, score in self.runners_up[:3])
            more = f" and {len(self.runners_up) - 3} more" if len(self.runners_up) > 3 else ""
            scores.append(f"then {shown}{more}")
        return ", ".join(parts) + (f" ({'; '.join(scores)})" if scores else "")

    def _waited(self) -> str:
        times = {"held": self.held, "placing": self.placing, "queue": self.queue, "loading": self.load}
        if not any(times.values()):
            return ""
        return ", ".join(f"{label} {_time(value)}" for label, value in times.items())

    def _predicted(self) -> str:
        parts = [f"in {_time(self.predict)}"] if self.predict else []
        parts += [f"in a batch of {_count(self.batch, 'row')}"] if self.batch else []
        parts += [f"an envelope of {_count(self.envelope, 'request')}"] if self.envelope else []
        return ", ".join(parts)

    def _tried(self) -> str:
        if not self.tries:
            return ""
        parts = [_failure(one) for one in self.tries]
        parts += [f"answered on {_named(self.node)}"] if self.node else ["not answered"]
        return f"{len(self.tries) + bool(self.node)}: {'; '.join(parts)}"

    def __repr__(self) -> str:
        spent = _time(self.held + self.placing + self.queue + self.load + self.predict)
        return one_line(f"<Trace: {self.node or 'no node'} by {self.strategy or 'no strategy'}, {spent}>")

    def __str__(self) -> str:
        return "\n".join(f"{label:<10} {text}" for label, text in self.lines())

    def _repr_html_(self) -> str:
        """Why it went where it went, and where its time was spent; everything is escaped."""
        return facts("trace", self.lines())


def _failure(one: Try) -> str:
    error, took = one_line(one.error, _LONG), _time(one.seconds)
    # a state such as "died" makes a sentence; an error has its type and a colon
    if ":" in error or not error[:1].islower():
        return f"{_named(one.node)} failed after {took}" + (f" ({error})" if error else "")
    return f"{_named(one.node)} {error} after {took}"


def _named(node: str) -> str:
    """A node within a sentence: those of an embedded cluster have numbers for names."""
    return f"node {node}" if node.isdigit() else node


def _count(many: int, what: str) -> str:
    return f"{many} {what}" + ("" if many == 1 else "s")


def _time(seconds: float) -> str:
    """A time in the unit that fits it."""
    if not seconds:
        return "0 ms"
    if seconds < 0.1:
        return f"{1000 * seconds:.1f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
