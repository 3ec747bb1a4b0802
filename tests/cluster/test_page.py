"""The page on Dask's dashboard, on a cluster in processes."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request

import dask
import pandas as pd
import pytest
from distributed import Client

import altlas_flow as af
from altlas_flow.cluster.scheduler import pages
from tests.laboratory import LIMIT, laboratory, until

pytestmark = pytest.mark.timeout(150)


def shout(rows):
    return [row.upper() for row in rows]


def refuse(rows):
    raise ValueError("<b>no</b>")


def get(flow, path):
    address = flow.client.dashboard_link.removesuffix("/status")
    with urllib.request.urlopen(f"{address}/{path}", timeout=LIMIT) as answer:
        return answer.read().decode()


def overview(flow):
    return json.loads(get(flow, "altlas/json"))


@pytest.fixture(scope="module")
def lab():
    with laboratory({"left": {"resources": {"GPU": 1}}, "right": {}}) as lab:
        lab.flow.register(af.ModelSpec(id="shout <i>", source=shout, serves=["noise"]))
        lab.flow.register(af.ModelSpec(id="refuse", source=refuse))
        yield lab


def test_the_page_is_in_the_menu_of_its_neighbours(lab):
    page = get(lab.flow, "altlas")
    assert 'href="altlas"' in page and 'id="altlas"' in page
    assert 'href="altlas"' in get(lab.flow, "status")
    panes = json.loads(get(lab.flow, "individual-plots.json"))
    ours = {path for name, path in panes.items() if "Altlas" in name}
    assert ours == {
        f"/individual-altlas-{name}" for name in ("nodes", "speed", "places", "selection", "faults", "jobs")
    }
    assert (
        "/individual-progress" in panes.values() and "/statics/individual-cluster-map.html" in panes.values()
    )
    for path in ours:
        assert "Bokeh" in get(lab.flow, path.lstrip("/"))


def test_what_requests_did_is_counted(lab):
    handles = [lab.flow.submit("shout <i>", "abc") for _ in range(30)]
    assert all(handle.result(LIMIT).outputs == "ABC" for handle in handles)
    failed = lab.flow.submit("refuse", "abc").response(LIMIT)

    def counted():
        models = {one["model"]: one for one in overview(lab.flow)["models"]}
        return (
            models.get("shout <i>", {}).get("completed_total") == 30 and models["refuse"]["error_total"] == 1
        )

    until(counted)
    now = overview(lab.flow)
    assert "<" not in get(lab.flow, "altlas/json")
    (fault,) = [one for one in now["faults"] if one["task"] == failed.request_id]
    assert fault["kind"] == failed.error.type and "<b>no</b>" in fault["error"]
    assert fault["node"] in ("left", "right") and any(line.startswith("tries") for line in fault["trace"])
    assert now["errors"] == {fault["kind"]: 1}
    assert {node["node"]: node["status"] for node in now["nodes"]} == {"left": "ONLINE", "right": "ONLINE"}
    places = {(one["node"], one["model"]): one for one in now["places"]}
    assert any(one["loaded"] and one["seconds_per_row"] for one in places.values())
    assert sum(one["requests"] for one in places.values() if one["model"] == "shout <i>") == 30


def test_json_has_what_came_of_choices_also_where_nobody_looks():
    with laboratory({"w": {}}) as lab:
        lab.flow.register(af.ModelSpec(id="shout", source=shout, serves=("loud",)))
        for _ in range(5):
            lab.flow.feedback(lab.flow.submit(task="loud", inputs="a").result(LIMIT), 0.5)
        assert lab.flow.models_report("loud")["decisions"].sum() == 5  # all is told
        (task,) = overview(lab.flow)["tasks"]
        assert task["models"][0]["quality"] == 0.5 and task["models"][0]["latency_p50"] > 0


def test_batches_of_hosts_are_counted(lab):
    lab.flow.submit("shout <i>", ["a", "b", "c"]).result(LIMIT)

    def heard():
        models = {one["model"]: one for one in overview(lab.flow)["models"]}
        return models["shout <i>"]["batches_total"] > 0 and models["shout <i>"]["loads_total"] > 0

    until(heard)  # with the next heartbeat after which the counters are looked at


@pytest.mark.long
def test_what_a_host_counted_stays_when_another_has_its_name():
    with laboratory({"w": {}}) as lab:
        lab.flow.register(af.ModelSpec(id="shout", source=shout))
        for round in range(1, 4):
            assert lab.flow.submit("shout", "a").result(LIMIT).outputs == "A"

            def said(round=round):
                workers = lab.client.sync(lab.client.scheduler.identity, n_workers=-1)["workers"].values()
                told = [worker["metrics"].get("altlas") or {} for worker in workers]
                return all(one.get("tallies", {}).get("shout", [0])[0] > 0 for one in told)

            until(said)  # with a heartbeat; what was not said dies with its host
            lab.kill("w")
            lab.until(lambda info: not info["hosts"])
            lab.await_host("w")
        (model,) = [one for one in overview(lab.flow)["models"] if one["model"] == "shout"]
        assert (model["batches_total"], model["loads_total"]) == (3, 3)


def test_choices_are_counted(lab):
    for _ in range(5):
        lab.flow.submit(task="noise", inputs="a").result(LIMIT)
    until(lambda: any(one["decisions"] >= 5 for one in overview(lab.flow)["tasks"] if one["task"] == "noise"))
    (task,) = overview(lab.flow)["tasks"]
    assert task["models"][0]["share"] == 1.0


def test_a_job_says_how_far_it_is(lab, tmp_path):
    frame = pd.DataFrame({"text": ["a", None, *"bcdefgh"] * 50})
    lab.flow.run(frame, "shout <i>", input="text", output="loud", to=tmp_path / "out", progress=False)
    until(lambda: any(one["state"] == "done" for one in overview(lab.flow)["jobs"]))
    (job,) = [one for one in overview(lab.flow)["jobs"] if one["output"].endswith("out")]
    assert (job["done"], job["total"], job["dead"], job["model"]) == (450, 450, 50, "shout <i>")
    letter = overview(lab.flow)["letters"][0]
    assert letter["row"].startswith("frame:") and letter["error"] == "'text' is null"
    assert (letter["model"], letter["output"]) == ("shout <i>", job["output"]) and letter["kind"]
    with pytest.raises(af.AltlasError):
        lab.flow.run(frame, "refuse", input="text", output="loud", to=tmp_path / "bad", progress=False)
    until(lambda: any(one["state"] == "failed" for one in overview(lab.flow)["jobs"]))
    failed = [one for one in overview(lab.flow)["jobs"] if one["output"].endswith("bad")]
    assert [(one["state"], one["done"]) for one in failed] == [("failed", 0)], "also before its first part"
    assert failed[0]["error"]

    lab.flow.run(frame, "shout <i>", input="text", output="loud", to=tmp_path / "out", progress=False)

    def resumed():
        jobs = [one for one in overview(lab.flow)["jobs"] if one["output"].endswith("out")]
        return [(one["state"], one["skipped"], one["dead"]) for one in jobs] == [
            ("done", 450, 50),
            ("done", 0, 50),
        ]

    until(resumed, instead=lambda: overview(lab.flow)["jobs"])


def samples(address):
    """What is told at an address for Prometheus: name and labels -> value."""
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(f"{address}/metrics", timeout=LIMIT) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_scheduler_and_workers_tell_prometheus(lab):
    assert lab.flow.submit("shout <i>", "a").result(LIMIT).outputs == "A"
    model = ("model", "shout <i>")
    scheduler = lab.client.dashboard_link.removesuffix("/status")

    def done(told):
        return sum(
            value
            for (name, *labels), value in told.items()
            if name == "altlas_requests_total" and model in labels and ("outcome", "completed") in labels
        )

    until(lambda: done(samples(scheduler)) == overview_of("shout <i>", lab)["completed_total"] > 0)
    told = samples(scheduler)
    assert told["altlas_request_duration_seconds_count", model] == done(told)
    assert told["altlas_nodes", ("status", "ONLINE")] == 2 and told["altlas_slots",] == 2
    assert ("dask_scheduler_workers", ("state", "idle")) in told, "beside Dask's own"
    workers = lab.client.sync(lab.client.scheduler.identity, n_workers=-1)["workers"].values()
    each = [samples(f"http://127.0.0.1:{worker['services']['dashboard']}") for worker in workers]
    assert sum(told.get(("altlas_worker_batch_size_rows_count", model), 0) for told in each) > 0
    assert sum(told.get(("altlas_worker_model_loads_total", model), 0) for told in each) > 0


def overview_of(model, lab):
    return next(one for one in overview(lab.flow)["models"] if one["model"] == model)


def test_jobs_of_a_client_that_goes_are_gone(lab):
    with Client(lab.client.scheduler.address, set_as_default=False) as other:
        job = {"id": "x", "model": "m", "output": "o", "state": "running", "done": 1, "skipped": 0, "dead": 0}
        other.loop.add_callback(
            other._send_to_scheduler, {"op": "altlas-job", "job": {**job, "total": None, "seconds": 1.0}}
        )
        until(lambda: any(one["state"] == "running" for one in overview(lab.flow)["jobs"]))
    until(lambda: any(one["state"] == "gone" for one in overview(lab.flow)["jobs"]))


def test_what_clients_send_that_makes_no_sense_is_a_fault_and_no_more(lab):
    before = lab.info()["faults"]
    with Client(lab.client.scheduler.address, set_as_default=False) as other:
        other.loop.add_callback(other._send_to_scheduler, {"op": "altlas-job", "job": {"id": 1}})
        lab.until(lambda info: info["faults"] > before)
    assert lab.flow.submit("shout <i>", "a").result(LIMIT).outputs == "A"
    assert overview(lab.flow)["totals"]["faults_of_plugin"] == before + 1


@pytest.mark.long
def test_a_worker_that_goes_is_offline_on_the_page_until_it_comes_again():
    with laboratory({"stays": {}, "goes": {}}) as lab:
        until(lambda: len(overview(lab.flow)["nodes"]) == 2)
        lab.remove("goes")

        def offline():
            nodes = {one["node"]: one for one in overview(lab.flow)["nodes"]}
            return nodes["goes"]["status"] == "OFFLINE" and nodes["stays"]["status"] == "ONLINE"

        until(offline)
        (gone,) = [one for one in overview(lab.flow)["nodes"] if one["node"] == "goes"]
        assert "it left" in gone["reason"] and gone["slots"] == 0
        lab.add("goes")
        lab.await_host("goes")
        until(lambda: {one["status"] for one in overview(lab.flow)["nodes"]} == {"ONLINE"})


def test_a_worker_that_is_silent_or_killed_is_offline_on_the_page():
    with laboratory({"stays": {}, "stops": {}}, heartbeat_timeout="2s") as lab:
        lab.await_nannies()
        pid = lab.pid_of("stops")

        def status():
            return {one["node"]: one["status"] for one in overview(lab.flow)["nodes"]}

        os.kill(pid, signal.SIGSTOP)
        until(lambda: status() == {"stays": "ONLINE", "stops": "OFFLINE"})
        os.kill(pid, signal.SIGCONT)
        until(lambda: status() == {"stays": "ONLINE", "stops": "ONLINE"})
        os.kill(pid, signal.SIGKILL)
        until(lambda: status() == {"stays": "ONLINE", "stops": "OFFLINE"})
        until(lambda: status() == {"stays": "ONLINE", "stops": "ONLINE"})  # its nanny has started it again


def test_without_metrics_nothing_is_counted_and_there_is_no_page():
    with dask.config.set({"altlas.metrics": False}), laboratory({"one": {}}) as lab:
        assert lab.flow.submit(af.ModelSpec(id="s", source=shout), "a").result(LIMIT).outputs == "A"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(lab.flow, "altlas/json")
        assert 'href="altlas"' not in get(lab.flow, "status")
        assert lab.info()["faults"] == 0


def test_it_says_where_it_listens(monkeypatch):
    said = []
    # Dask's clusters silence all handlers that are there
    monkeypatch.setattr(pages.logger, "info", lambda text, *values: said.append(text % values))
    with laboratory({}) as lab:
        where = lab.client.dashboard_link.removeprefix("http://").removesuffix("/status")
    assert said[0] == f"a page of altlas_flow is at {where}/altlas, reached by this machine only"
