"""What Prometheus is told: names, units and labels by its conventions, and their values.

Labels are bounded as `Counts` is: models, nodes, kinds of errors and tasks; never ids of requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from altlas_flow.dashboard.counts import BOUNDS, SUMS, Counts, label

#: Of the bounds of latencies, each so many'th is told: 13 buckets from 1 ms to 1,000 s.
EACH = 4


@dataclass(frozen=True)
class Metric:
    """A metric, as Prometheus names it.

    Attributes
    ----------
    name : str
        With its unit, and ``_total`` of a counter.
    kind : "counter", "gauge" or "histogram"
    help : str
    labels : tuple of str
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


@dataclass
class Family:
    """A metric with its values.

    Attributes
    ----------
    metric : Metric
    values : list
        Pairs of labels and a value; of a histogram the value is its buckets (pairs of an upper end and what
        is up to it), and the sum.
    """

    metric: Metric
    values: list[tuple[tuple[str, ...], Any]] = field(default_factory=list)


def _of_models(name: str, help: str) -> Metric:
    """A counter by model."""
    return Metric(f"altlas_{name}_total", "counter", help, ("model",))


REQUESTS = Metric("altlas_requests_total", "counter", "Requests that ended", ("model", "node", "outcome"))
DURATION = Metric(
    "altlas_request_duration_seconds",
    "histogram",
    "From submit to the answer, of completed requests",
    ("model",),
)
#: Name of a sum of `Counts` -> its metric.
SUMMED = {
    "queue_s": _of_models("request_queue_seconds", "Seconds that requests waited"),
    "retries": _of_models("request_retries", "Tries beyond the first"),
    "rows": _of_models(
        "rows", "Rows given to models, of requests and of frames; samples and bad rows are among them"
    ),
    "predict_s": _of_models("predict_seconds", "Seconds that rows were predicted"),
    "batches": _of_models("batches", "Batches predicted"),
    "batched": _of_models("batch_rows", "Rows of these batches"),
    "loads": _of_models("model_loads", "Times that a host loaded a model"),
    "load_failures": _of_models("model_load_failures", "Times that a host could not load a model"),
    "evictions": _of_models("model_evictions", "Times that a host unloaded a model"),
}
FAILURES = Metric("altlas_request_failures_total", "counter", "Requests that failed", ("kind",))
DECISIONS = Metric("altlas_decisions_total", "counter", "Choices of the selector", ("task", "model"))
IN_FLIGHT = Metric("altlas_requests_in_flight", "gauge", "Envelopes and parts on nodes", ("node",))
WAITING = Metric("altlas_requests_waiting", "gauge", "Requests and rows that wait", ("model",))
NODES = Metric("altlas_nodes", "gauge", "Nodes", ("status",))
SLOTS = Metric("altlas_slots", "gauge", "Slots of all nodes that are not OFFLINE")
#: What a scheduler tells.
SCHEDULER = (REQUESTS, DURATION, *SUMMED.values(), FAILURES, DECISIONS, IN_FLIGHT, WAITING, NODES, SLOTS)

SIZE = Metric("altlas_worker_batch_size_rows", "histogram", "Rows of batches", ("model",))
LOADED = Metric("altlas_worker_model_memory_bytes", "gauge", "Memory of loaded models", ("model",))
ROWS_WAITING = Metric("altlas_worker_rows_waiting", "gauge", "Rows that wait for a slot")
RUNNING = Metric("altlas_worker_batches_running", "gauge", "Batches that run")
#: Name in `altlas_flow.models.tallies` -> its metric.
TALLIED = {
    "loads": _of_models("worker_model_loads", "Times that a model was loaded"),
    "load_failures": _of_models("worker_model_load_failures", "Times that a model could not be loaded"),
    "evictions": _of_models("worker_model_evictions", "Times that a model was unloaded"),
}
#: What a worker tells.
WORKER = (SIZE, LOADED, ROWS_WAITING, RUNNING, *TALLIED.values())


def of_scheduler(counts: Counts, now: Mapping[str, Any]) -> Iterator[Family]:
    """What a scheduler tells.

    Parameters
    ----------
    counts : Counts
    now : mapping
        What the page shows.
    """
    yield Family(REQUESTS, [(key, count) for key, count in counts.requests.items()])
    durations = Family(DURATION)
    for model, row in counts.models.items():
        grown = np.cumsum(counts.latencies[row])
        buckets = [(f"{BOUNDS[at]:.4g}", int(grown[at])) for at in range(0, len(BOUNDS), EACH)]
        seconds = float(counts.sums[row, SUMS.index("seconds")])
        durations.values.append(((model,), ([*buckets, ("+Inf", int(grown[-1]))], seconds)))
    yield durations
    for name, metric in SUMMED.items():
        at = SUMS.index(name)
        yield Family(
            metric, [((model,), float(counts.sums[row, at])) for model, row in counts.models.items()]
        )
    yield Family(FAILURES, [((kind,), count) for kind, count in counts.errors.items()])
    yield Family(DECISIONS, [(key, count) for key, count in counts.decisions.items()])
    yield Family(IN_FLIGHT, [((str(node["node"]),), node["in_flight"]) for node in now["nodes"]])
    yield Family(WAITING, [((str(one["model"]),), one["waiting"]) for one in now["models"]])
    yield Family(NODES, [((status,), count) for status, count in now["totals"]["nodes"].items()])
    yield Family(SLOTS, [((), now["totals"]["slots"])])


def of_worker(
    state: Mapping[str, Any], sizes: Mapping[str, list[int]], kinds: tuple[str, ...], ends: tuple[int, ...]
) -> Iterator[Family]:
    """What a worker tells.

    Parameters
    ----------
    state : mapping
        Of its `altlas_flow.models.host.ModelHost`.
    sizes : mapping
        Of each model how many batches were in each bucket.
    kinds, ends : tuple
        Names of what its tallies count, in their order; upper ends of these buckets.
    """
    tallies = {label(model): totals for model, totals in state["tallies"].items()}
    found = Family(SIZE)
    for model, counted in sizes.items():
        grown = np.cumsum(counted)
        buckets = [(str(end), int(grown[at])) for at, end in enumerate(ends)]
        rows = float(state["tallies"].get(model, [0] * len(kinds))[kinds.index("batched")])
        found.values.append(((label(model),), ([*buckets, ("+Inf", int(grown[-1]))], rows)))
    yield found
    memory: dict[str, int] = {}
    for loaded in state["models"].values():
        memory[label(loaded["id"])] = memory.get(label(loaded["id"]), 0) + loaded["bytes"]
    yield Family(LOADED, [((model,), size) for model, size in memory.items()])
    yield Family(ROWS_WAITING, [((), state["waiting_rows"])])
    yield Family(RUNNING, [((), state["running"])])
    for name, metric in TALLIED.items():
        at = kinds.index(name)
        yield Family(metric, [((model,), totals[at]) for model, totals in tallies.items()])
