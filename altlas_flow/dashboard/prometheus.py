"""Hands metrics to `prometheus_client`, whose registry Dask's ``/metrics`` shows: one for each process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from altlas_flow.dashboard.metrics import Family

logger = logging.getLogger(__name__)

_Source = Callable[[], Iterable[Family]]


class _Exposed:
    """What the registry asks; of several sources of a process it tells of the newest.

    Metrics have their names once, whatever runs in a process, and a registry does not know who asks.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.sources: list[_Source] = []

    def describe(self) -> list[Any]:
        """Nothing: else the registry would have all of it collected at once."""
        return []

    def collect(self) -> Iterator[Any]:
        """What there is now."""
        try:
            families = [_family(family) for family in self.sources[-1]()] if self.sources else []
        except Exception:
            # Dask's own metrics are shown all the same
            logger.exception("the metrics of the %s cannot be told", self.name)
            return
        yield from families


_exposed: dict[str, _Exposed] = {}


def expose(name: str, source: _Source) -> Callable[[], None]:
    """Have metrics told, where `prometheus_client` is there; what is called to end that.

    Parameters
    ----------
    name : str
        Of what tells: ``"scheduler"`` or ``"worker"``.
    source : callable
        Gives what is told now.
    """
    try:
        from prometheus_client import REGISTRY
    except ImportError:
        return lambda: None
    exposed = _exposed.get(name)
    if exposed is None:
        exposed = _exposed[name] = _Exposed(name)
        REGISTRY.register(exposed)
    sources = exposed.sources
    sources.append(source)

    def end() -> None:
        if source in sources:
            sources.remove(source)

    return end


def _family(family: Family) -> Any:
    from prometheus_client import core

    metric, labels = family.metric, list(family.metric.labels)
    if metric.kind == "histogram":
        histogram = core.HistogramMetricFamily(metric.name, metric.help, labels=labels)
        for values, (buckets, total) in family.values:
            histogram.add_metric(list(values), buckets, sum_value=total)
        return histogram
    kind = core.CounterMetricFamily if metric.kind == "counter" else core.GaugeMetricFamily
    found = kind(metric.name, metric.help, labels=labels)
    for values, value in family.values:
        found.add_metric(list(values), value)
    return found
