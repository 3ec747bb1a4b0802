"""Spans that this process ends, kept in memory; a program has one provider of tracers for all its life."""

from __future__ import annotations

import functools

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

OURS = "altlas_flow"


@functools.cache
def exporter():
    """Where they are."""
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    trace.set_tracer_provider(provider)
    return kept


def ended(name=None):
    """Spans that have ended, of that name, by their beginning."""
    found = [span for span in exporter().get_finished_spans() if name in (None, span.name)]
    return sorted(found, key=lambda span: (span.start_time, span.end_time))


def children(span):
    """Those within a span, by their beginning."""
    return [one for one in ended() if one.parent is not None and one.parent.span_id == span.context.span_id]


def seconds(span):
    return (span.end_time - span.start_time) / 1e9


def check_within(span):
    """What is within a span lies in its time, one after the other."""
    last = span.start_time
    for child in children(span):
        assert last <= child.start_time <= child.end_time <= span.end_time, (span.name, child.name)
        assert child.context.trace_id == span.context.trace_id
        last = child.end_time


def failure(span):
    """``(status, type of the exception)``."""
    kinds = [event.attributes["exception.type"] for event in span.events if event.name == "exception"]
    return span.status.status_code.name, *kinds
