"""What Prometheus is told, and the dashboard of Grafana that asks it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from altlas_flow.dashboard import prometheus
from altlas_flow.dashboard.counts import Counts
from altlas_flow.dashboard.metrics import SCHEDULER, WORKER, of_scheduler, of_worker
from altlas_flow.models.tallies import KINDS, SIZES, Tallies
from tests.dashboard.parts import part
from tests.dashboard.test_panels import shown

pytestmark = pytest.mark.timeout(60)

EVIL = 'a "model"\nwith \\ everything'


def told(families):
    """What is told, as whoever scrapes reads it: sample names and labels -> value."""
    registry = CollectorRegistry()
    exposed = prometheus._Exposed("test")
    exposed.sources.append(lambda: families)
    registry.register(exposed)
    text = generate_latest(registry).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_a_scheduler_tells_what_was_counted():
    counts = Counts()
    counts.ended(part("m", [0.05, 0.5], node="w", queue=0.02, tries=2), "c", 0.0)
    counts.ended(part("m", [0.1], node="w", status="error", kind="PredictError"), "c", 0.0)
    counts.decided("t", "m")
    found = told(of_scheduler(counts, shown("m").now))
    model = ("model", "m")
    assert found["altlas_requests_total", (model, ("node", "w"), ("outcome", "completed"))] == 2
    assert found["altlas_requests_total", (model, ("node", "w"), ("outcome", "error"))] == 1
    assert found["altlas_request_duration_seconds_count", (model,)] == 2
    assert found["altlas_request_duration_seconds_sum", (model,)] == pytest.approx(0.55)
    assert found["altlas_request_duration_seconds_bucket", (("le", "0.1"), model)] == 1
    assert found["altlas_request_duration_seconds_bucket", (("le", "+Inf"), model)] == 2
    assert found["altlas_request_retries_total", (model,)] == 2
    assert found["altlas_request_queue_seconds_total", (model,)] == pytest.approx(0.04)
    assert found["altlas_request_failures_total", (("kind", "PredictError"),)] == 1
    assert found["altlas_decisions_total", (model, ("task", "t"))] == 1
    assert found["altlas_requests_waiting", (model,)] == 3
    assert found["altlas_requests_in_flight", (("node", "m"),)] == 2


def test_a_worker_tells_what_its_host_did():
    tallies = Tallies()
    for rows in (1, 3, 3, 1000):
        tallies.batch("m", rows)
    tallies.add("m", loads=2, evictions=1)
    state = {
        "tallies": tallies.totals(),
        "models": {"f1": {"id": "m", "bytes": 5}, "f2": {"id": "m", "bytes": 7}},
        "waiting_rows": 9,
        "running": 1,
    }
    found = told(of_worker(state, tallies.sizes(), KINDS, SIZES))
    model = ("model", "m")
    buckets = [
        found["altlas_worker_batch_size_rows_bucket", (("le", end), model)]
        for end in ("1", "2", "4", "512", "+Inf")
    ]
    assert buckets == [1, 1, 3, 3, 4]
    assert found["altlas_worker_batch_size_rows_sum", (model,)] == 1007
    assert found["altlas_worker_model_memory_bytes", (model,)] == 12
    assert found["altlas_worker_model_loads_total", (model,)] == 2
    assert (found["altlas_worker_rows_waiting", ()], found["altlas_worker_batches_running", ()]) == (9, 1)


def test_names_follow_the_conventions():
    names = [metric.name for metric in (*SCHEDULER, *WORKER)]
    assert len(set(names)) == len(names)
    for metric in (*SCHEDULER, *WORKER):
        assert re.fullmatch("altlas_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.help[0].isupper() and not metric.help.endswith(".")
        assert "id" not in metric.labels and "request" not in metric.labels


def test_whatever_a_model_is_called_it_can_be_scraped():
    counts = Counts()
    counts.ended(part(EVIL, [0.1]), "c", 0.0)
    found = told(of_scheduler(counts, shown(EVIL).now))
    (name,) = {labels[0][1] for (sample, labels) in found if sample == "altlas_rows_total"}
    assert "\n" not in name and "model" in name


def test_what_fails_hides_nothing_else(caplog):
    def broken():
        yield from ()
        raise ValueError("no")

    registry = CollectorRegistry()
    exposed = prometheus._Exposed("test")
    exposed.sources.append(broken)
    registry.register(exposed)
    assert generate_latest(registry) == b""
    assert "the metrics of the test cannot be told" in caplog.text


def test_the_newest_of_a_process_tells_and_the_others_after_it():
    ends = [
        prometheus.expose("tested", lambda at=at: of_scheduler(Counts(), shown(f"m{at}").now))
        for at in range(2)
    ]

    def told_of():
        registry = CollectorRegistry()
        registry.register(prometheus._exposed["tested"])
        return set(re.findall('altlas_requests_waiting{model="(.*?)"}', generate_latest(registry).decode()))

    assert told_of() == {"m1"}
    ends[1]()
    assert told_of() == {"m0"}
    ends[0]()
    ends[0]()
    assert told_of() == set()


def test_the_dashboard_of_grafana_asks_for_what_there_is():
    file = Path(__file__).parents[2] / "docs" / "grafana.json"
    panels = json.loads(file.read_text())["panels"]
    known = {metric.name for metric in (*SCHEDULER, *WORKER)}
    histograms = {metric.name for metric in (*SCHEDULER, *WORKER) if metric.kind == "histogram"}
    asked = set()
    for panel in panels:
        for target in panel["targets"]:
            for name in re.findall("altlas_[a-z_]+", target["expr"]):
                plain = re.sub("_(bucket|sum|count)$", "", name)
                asked.add(plain if plain in histograms else name)
    assert asked <= known, asked - known
    assert len(asked) > 12
    assert len({panel["id"] for panel in panels}) == len(panels)
