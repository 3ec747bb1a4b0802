"""OpenTelemetry spans, where the setting ``altlas.traces`` is on; where it is off, nothing of it is imported.

Spans of requests, pipelines and jobs are made by the client, from what comes back with the answers: so they
need nothing on the scheduler or the workers, and all their times are of one clock. What travels to workers
is the context (W3C ``traceparent``), for the spans that models make themselves.

A fault in here, or in a span processor of the user's, costs a span, and never an answer.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any

from altlas_flow._version import __version__
from altlas_flow.errors import SettingsError, one_line

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span as OtelSpan

logger = logging.getLogger(__name__)

#: A context as it travels: ``traceparent``, and maybe ``tracestate``.
Carrier = Mapping[str, str]
#: Other requests of one batch that its span names.
LINKS = 64
#: Characters of an error that a span keeps.
LONG = 1_000


class Tracer:
    """Begins spans.

    Parameters
    ----------
    clock : callable
        Monotonic seconds; all times of spans are said in them.

    Raises
    ------
    SettingsError
        Where OpenTelemetry is not installed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            text = "altlas.traces needs the extra 'otel': pip install 'altlas-flow[otel]'"
            raise SettingsError(text) from error
        self.clock, self.api, self.propagator = clock, trace, TraceContextTextMapPropagator()
        # follows whatever provider the program sets up, also later
        self.spans = trace.get_tracer("altlas_flow", __version__)

    def begin(self, name: str, began: float, attributes: Mapping[str, Any]) -> Span:
        """A span of the caller's own that goes over the cluster, within the one that is current here."""
        began_ns = time.time_ns() - int((self.clock() - began) * 1e9)
        span = self.spans.start_span(
            name, kind=self.api.SpanKind.CLIENT, start_time=began_ns, attributes=_known(attributes)
        )
        return Span(self, span, began, began_ns)


def tracer_for(on: bool, clock: Callable[[], float] = time.monotonic) -> Tracer | None:
    """A tracer where that is wanted.

    Raises
    ------
    SettingsError
        Where it is, and OpenTelemetry is not installed.
    """
    return Tracer(clock) if on else None


class Span:
    """A span under way. Times are seconds of the tracer's clock; what is said of it never raises.

    Attributes
    ----------
    began : float
    """

    __slots__ = ("_began_ns", "_context", "_span", "_tracer", "began")

    def __init__(self, tracer: Tracer, span: OtelSpan, began: float, began_ns: int) -> None:
        self._tracer, self._span, self.began, self._began_ns = tracer, span, began, began_ns
        self._context = tracer.api.set_span_in_context(span)

    @property
    def recording(self) -> bool:
        """Whether anybody wants it; one that is not sampled has no children either."""
        return self._span.is_recording()

    def carrier(self) -> Carrier | None:
        """Its context, for those who work for it elsewhere; None where there is none."""
        found: dict[str, str] = {}
        self._tracer.propagator.inject(found, context=self._context)
        return found or None

    def child(
        self,
        name: str,
        begin: float,
        end: float,
        attributes: Mapping[str, Any],
        error: BaseException | None = None,
    ) -> None:
        """A span within this one that is over already."""
        quietly(self._child, name, begin, end, attributes, error)

    def end(self, at: float, attributes: Mapping[str, Any], error: BaseException | None = None) -> None:
        """It is over."""
        quietly(self._end, self._span, self._ns(max(at, self.began)), attributes, error)

    def _child(
        self,
        name: str,
        begin: float,
        end: float,
        attributes: Mapping[str, Any],
        error: BaseException | None,
    ) -> None:
        begin = max(self.began, begin)
        span = self._tracer.spans.start_span(
            name, context=self._context, start_time=self._ns(begin), attributes=_known(attributes)
        )
        self._end(span, self._ns(max(begin, end)), {}, error)

    def _end(
        self, span: OtelSpan, at_ns: int, attributes: Mapping[str, Any], error: BaseException | None
    ) -> None:
        try:
            span.set_attributes(_known(attributes))
            self._fail(span, error, at_ns)
        finally:
            span.end(at_ns)

    def _ns(self, at: float) -> int:
        """By the time of day when the span began: should that be set meanwhile, children stay within."""
        return self._began_ns + int((at - self.began) * 1e9)

    def _fail(self, span: OtelSpan, error: BaseException | None, at_ns: int) -> None:
        if error is None or not span.is_recording():
            return
        kind, text = type(error).__name__, one_line(error, LONG)
        span.set_status(self._tracer.api.StatusCode.ERROR, text)
        span.set_attribute("error.type", kind)
        facts = {"exception.type": kind, "exception.message": text}
        if cause := getattr(error, "root_cause", ""):
            facts["altlas.root_cause"] = one_line(cause, LONG)
        span.add_event("exception", facts, timestamp=at_ns)


def _known(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None and value != ""}


def quietly(what: Callable[..., Any], *args: Any) -> Any:
    """Call what makes spans; None where it fails, which is logged."""
    try:
        return what(*args)
    except Exception as error:
        # samplers and processors are the user's, and may raise anything: that is not the request's fault
        with suppress(Exception):  # nor is what log handlers and filters of the user's raise
            _tell(error)
        return None


_faults = itertools.count(1)


def _tell(error: Exception) -> None:
    """Log the first fault whole; of others, which may be one for each request, how many there were."""
    count = next(_faults)
    if count == 1:
        logger.error("a span could not be made", exc_info=error)
    elif count & (count - 1) == 0:
        logger.error("%d spans could not be made, the last one for: %s", count, one_line(error, LONG))


# -- on workers -----------------------------------------------------------------------------------


class Batch:
    """While a batch is predicted: the first request's context is the current one, and the others are linked.

    Where the program has a tracer provider, the batch is a span of its own, ``altlas.batch``, and what the
    model makes is within that; where it has none, what the model makes is within the request.

    Parameters
    ----------
    carriers : iterable of Carrier or None
        Of its rows.
    attributes : mapping
    faults : callable
        Asked when it is over: errors of its rows. With one of them its span has the status ERROR.
    """

    def __init__(
        self,
        carriers: Iterable[Carrier | None],
        attributes: Mapping[str, Any],
        faults: Callable[[], Sequence[BaseException]] = tuple,
    ) -> None:
        self._carriers, self._attributes, self._faults = carriers, attributes, faults
        self._span: OtelSpan | None = None
        self._stack = ExitStack()

    def __enter__(self) -> None:
        quietly(self._begin)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._span is not None and error is None:  # OpenTelemetry itself tells of what is raised here
            quietly(self._judge, self._span)
        quietly(self._stack.__exit__, kind, error, trace)

    def _begin(self) -> None:
        tracer = _tracer_here()
        if tracer is None:
            return
        distinct = {one["traceparent"]: one for one in self._carriers if one and "traceparent" in one}
        contexts = [tracer.propagator.extract(one) for one in list(distinct.values())[: LINKS + 1]]
        if contexts:
            self._span = self._stack.enter_context(_batch_span(tracer, contexts, self._attributes))

    def _judge(self, span: OtelSpan) -> None:
        tracer = _tracer_here()
        if tracer is None or not span.is_recording() or not (faults := self._faults()):
            return
        span.set_status(tracer.api.StatusCode.ERROR, one_line(faults[0], LONG))
        span.set_attributes({"altlas.batch.failed": len(faults), "error.type": type(faults[0]).__name__})


def _batch_span(tracer: Tracer, contexts: Sequence[Context], attributes: Mapping[str, Any]) -> Any:
    api = tracer.api
    others = [api.get_current_span(context).get_span_context() for context in contexts[1:]]
    return tracer.spans.start_as_current_span(
        "altlas.batch",
        context=contexts[0],
        kind=api.SpanKind.CONSUMER,
        attributes=_known(attributes),
        links=[api.Link(other) for other in others],
    )


@cache
def _tracer_here() -> Tracer | None:
    """Of a worker, which need not have OpenTelemetry."""
    try:
        return Tracer()
    except SettingsError:
        return None
