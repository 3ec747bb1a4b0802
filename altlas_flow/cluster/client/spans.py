"""Spans of requests: queue, load and predict of each try, from what came back with it; told at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from altlas_flow.tracing import Carrier, Tracer, quietly

if TYPE_CHECKING:
    from altlas_flow.cluster.client.handle import Handle
    from altlas_flow.cluster.client.lanes import Flight


class RequestSpan:
    """The span of one request.

    Its tries follow each other within it, each as ``altlas.queue`` (held by the client, placed, waiting on
    the worker), ``altlas.load`` where it had the model loaded, and ``altlas.predict``. Nodes measure how long
    each took; where it lies follows from when the client sent the envelope. What is left at the end is the
    way back.

    Parameters
    ----------
    tracer : Tracer
    handle : Handle
    """

    __slots__ = ("_children", "_end", "_last", "_told", "_tries", "span")

    def __init__(self, tracer: Tracer, handle: Handle) -> None:
        self.span = tracer.begin(
            "altlas.request",
            handle._submitted,
            {
                "altlas.request_id": handle.request_id,
                "altlas.model": handle.model_id,
                "altlas.rows": handle._rows,
            },
        )
        self._children: list[tuple[str, float, float, dict[str, Any], Exception | None]] = []
        self._end: tuple[float, dict[str, Any], Exception | None] = (handle._submitted, {}, None)
        self._last = handle._submitted  # when the last try that was noted ended
        self._told: Flight | None = None  # the envelope of that
        self._tries = 0

    def failed(self, handle: Handle, flight: Flight, error: Exception, node: str, now: float) -> None:
        """A try failed; another one may follow."""
        quietly(self._try, handle, flight, error, node, now)

    def over(self, handle: Handle) -> None:
        """The request is over, in whatever way: note what `tell` tells, without the answer itself."""
        quietly(self._over, handle)

    def tell(self) -> None:
        """Tell of it: whoever processes spans may take time for that."""
        if self.span.recording:
            for child in self._children:
                self.span.child(*child)
        self.span.end(*self._end)

    def _over(self, handle: Handle) -> None:
        error, flight, now = handle._error, handle._flight, handle._ended
        final = str(handle._final)
        fault = None if final == "cancelled" else error
        said: dict[str, Any] = {"altlas.status": final}
        try:
            if flight is None:
                if self._told is None or self._last < now:
                    self._child("altlas.queue", now, {"altlas.try": self._tries + 1}, None)
            elif flight is not self._told:
                self._try(handle, flight, fault, flight.node, now)
            said |= self._outcome(handle)
        finally:
            self._told, self._end = None, (now, said, fault)  # whatever its tries could not say

    def _outcome(self, handle: Handle) -> dict[str, Any]:
        flight = handle._flight
        said: dict[str, Any] = {"altlas.tries": handle.tries}
        if handle._decision is not None:
            said["altlas.decision_id"] = handle._decision.id
        answers = None if flight is None else flight.answers
        if handle._hedged is not None:
            said["altlas.hedge"] = "; ".join(handle._hedged.notes())
        if flight is not None:
            said |= {"altlas.envelope": flight.key, "altlas.envelope.requests": flight.count}
        if answers is not None:
            placed = answers.placement
            said |= {"altlas.node": answers.node, "altlas.strategy": placed.get("strategy")}
            said["altlas.score"] = placed.get("score")
        elif handle._tried:
            said["altlas.node"] = handle._tried[-1].node
        return said

    def _try(self, handle: Handle, flight: Flight, error: Exception | None, node: str, now: float) -> None:
        self._tries += 1
        self._told = flight
        said: dict[str, Any] = {"altlas.try": self._tries}
        at, answers = handle._at, flight.answers
        if node != "?":
            said["altlas.node"] = node
        begun, took, load, answered = flight.since.get(at), None, 0.0, False
        if answers is not None and answers.batch is not None:
            load, answered = answers.load, True
            said["altlas.node"] = answers.node
            rows = int(answers.batch[at])
            begun = None
            if rows:
                placing = float(answers.placement.get("placing", 0.0))
                begun = flight.sent + placing + float(answers.queue[at])
                took = float(answers.predict[at])
                said["altlas.batch.rows"] = rows
        if begun is None:
            # it waited, and nothing ran: for want of its model, or of room, or it was not wanted any more
            name = "altlas.load" if answered and type(error).__name__ == "ModelLoadError" else "altlas.queue"
            if name == "altlas.load":
                self._child("altlas.queue", flight.sent, said, None)
            self._child(name, now, said, error)
            return
        self._child("altlas.queue", begun - load, said, None)
        if load:
            self._child("altlas.load", begun, said, None)
        self._child("altlas.predict", now if took is None else min(now, begun + took), said, error)
        self._last = now

    def _child(self, name: str, until: float, said: dict[str, Any], error: Exception | None) -> None:
        """From the end of what was noted before."""
        self._children.append((name, self._last, until, dict(said), error))
        self._last = max(self._last, until)

    def carrier(self) -> Carrier | None:
        """Its context, for the worker."""
        found: Carrier | None = quietly(self.span.carrier)
        return found


def begin_span(tracer: Tracer, handle: Handle) -> RequestSpan | None:
    """The span of a request that has just been submitted; called where its caller's own span is current."""
    found: RequestSpan | None = quietly(RequestSpan, tracer, handle)
    return found


def carriers_of(handles: Sequence[Handle]) -> list[Carrier | None] | None:
    """Contexts of requests, in their order; None where there are none."""
    found = [None if (span := _first(handle)._span) is None else span.carrier() for handle in handles]
    return found if any(found) else None


def _first(handle: Handle) -> Handle:
    """Of a second try, the request itself."""
    first: Handle = getattr(handle, "first", handle)
    return first
