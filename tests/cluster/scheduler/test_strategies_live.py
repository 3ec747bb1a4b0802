"""Strategies on a cluster: which node a request goes to, and what its trace says of that."""

from __future__ import annotations

import importlib.metadata
import time
import uuid

import dask
import pytest
from distributed import Client

import altlas_flow as af
from altlas_flow.errors import BadRequest, NoEligibleNode, SpecError, UnknownNode
from altlas_flow.models.spec import ModelSpec
from tests.laboratory import LIMIT, laboratory, until

pytestmark = pytest.mark.timeout(90)

STRATEGIES = ["ROUND_ROBIN", "LEAST_LOADED", "CAPABILITY_BASED", "LATENCY_OPTIMIZED", "MODEL_SPECIFIC"]


@pytest.fixture(scope="module")
def lab():
    """Workers ``cpu``, by its environment in zone a, and ``gpu``, by its configuration in zone b."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DASK_ALTLAS__LABELS__ZONE", "a")
        with laboratory({"cpu": {"env": {"STAGE_NAME": "cpu"}}}) as made:
            patch.delenv("DASK_ALTLAS__LABELS__ZONE")
            labels = {"altlas": {"labels": {"zone": "b"}}}
            made.add("gpu", resources={"GPU": 1}, config=labels, env={"STAGE_NAME": "gpu"})
            made.await_hosts(2)
            yield made


def echo(**fields):
    name = f"echo-{uuid.uuid4()}"
    return af.ModelSpec(id=name, source=lambda rows, like=name: rows, **fields)


def node_of(lab, spec, strategy, row=0):
    return lab.flow.submit(spec, row, strategy=strategy).result(LIMIT).node_id


# ---------------------------------------------------------------- the five


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_strategy_by_name_as_a_member_in_a_request_and_as_the_setting_is_in_the_trace(lab, name):
    spec = lab.flow.register(echo())
    member = af.DistributionStrategy[name]
    asked = af.InferenceRequest(model_id=spec.id, inputs=1, strategy=name)
    traces = [lab.flow.submit(spec, 1, strategy=given).result(LIMIT).trace for given in (name, member)]
    traces.append(lab.flow.submit(asked).result(LIMIT).trace)
    with (
        dask.config.set({"altlas.default-distribution-strategy": name}),
        Client(lab.client.scheduler.address) as client,
        af.connect(client) as flow,
    ):
        traces.append(flow.submit(spec.id, 1).result(LIMIT).trace)
    for trace in traces:
        assert trace.strategy == name
        assert isinstance(trace.score, float | int)
        assert [trace.node, *(node for node, _ in trace.runners_up)] in (["cpu", "gpu"], ["gpu", "cpu"])
        assert trace.score <= trace.runners_up[0][1]
        assert trace.refused == {} and trace.notes == []


def test_round_robin_alternates_exactly(lab):
    spec = echo()
    nodes = [node_of(lab, spec, "ROUND_ROBIN") for _ in range(10)]
    assert set(nodes[::2]) != set(nodes[1::2])
    assert len(set(nodes[::2])) == len(set(nodes[1::2])) == 1


def test_model_specific_stays_on_the_node_that_has_the_model(lab):
    spec = echo()
    first = node_of(lab, spec, "MODEL_SPECIFIC")

    def knows(dask_scheduler):
        roster = dask_scheduler.plugins["altlas-control"].placer.roster
        return [node.name for node in roster if spec.fingerprint[:16] in node.loaded]

    until(lambda: lab.client.run_on_scheduler(knows) == [first])
    handles = [lab.flow.submit(spec, i, strategy="MODEL_SPECIFIC") for i in range(12)]
    assert {handle.result(LIMIT).node_id for handle in handles} == {first}


def test_capability_based_keeps_other_work_off_the_gpu_worker(lab):
    spec, big = echo(), echo(resources={"GPU": 1})
    assert {node_of(lab, spec, "CAPABILITY_BASED") for _ in range(10)} == {"cpu"}
    assert {node_of(lab, big, "CAPABILITY_BASED") for _ in range(3)} == {"gpu"}


def test_latency_optimized_avoids_a_slow_worker_once_it_has_been_seen(lab):
    def slow(rows):
        import os
        import time

        time.sleep(0.3 if os.environ["STAGE_NAME"] == "cpu" else 0.0)
        return rows

    spec = af.ModelSpec(id=f"slow-{uuid.uuid4()}", source=slow)
    nodes = [node_of(lab, spec, "LATENCY_OPTIMIZED") for _ in range(12)]
    assert "cpu" in nodes[:6], "it has to be tried to be known"
    assert set(nodes[6:]) == {"gpu"}


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize(("zone", "node", "other"), [("a", "cpu", "b"), ("b", "gpu", "a")])
def test_labels_of_workers_place_what_asks_for_them_and_the_trace_counts_the_refused(lab, zone, node, other):
    spec = echo(labels={"zone": zone})
    traces = [lab.flow.submit(spec, i).result(LIMIT).trace for i in range(4)]
    assert {trace.node for trace in traces} == {node}
    assert all(
        trace.refused == {f"its label zone={other} is not zone={zone}": 1} and not trace.runners_up
        for trace in traces
    )


def test_labels_that_nobody_has_are_refused_at_once_with_each_nodes_reason(lab):
    began = time.monotonic()
    with pytest.raises(NoEligibleNode) as caught:
        lab.flow.submit(echo(labels={"zone": "c"}), 1).result(LIMIT)
    assert caught.value.reasons == {
        "cpu": "its label zone=a is not zone=c",
        "gpu": "its label zone=b is not zone=c",
    }
    with pytest.raises(NoEligibleNode) as caught:
        lab.flow.submit(echo(labels={"rack": "1"}), 1).result(LIMIT)
    assert caught.value.reasons == dict.fromkeys(("cpu", "gpu"), "it has no label rack=1")
    assert time.monotonic() - began < 5, "long before anybody could join"
    lab.until(lambda info: info["parked"] == 0 and info["envelopes"] == 0)


# ---------------------------------------------------------------- the user's own


def last_name_first(request, nodes):
    """Nodes in the order of their names, backwards."""
    return sorted(nodes, key=lambda node: node.name, reverse=True)


def test_a_callable_of_the_users_own_decides_and_is_named_in_the_trace(lab):
    spec = echo()
    traces = [lab.flow.submit(spec, i, strategy=last_name_first).result(LIMIT).trace for i in range(4)]
    assert {trace.node for trace in traces} == {"gpu"}
    assert {trace.strategy for trace in traces} == {"last_name_first"}
    assert traces[0].runners_up == [("cpu", 1.0)]
    scored = lab.flow.submit(
        spec, 1, strategy=lambda request, nodes: [(node, len(node.resources)) for node in nodes]
    )
    trace = scored.result(LIMIT).trace
    assert (trace.node, trace.score, trace.runners_up) == ("cpu", 0.0, [("gpu", 1.0)])


def test_a_strategy_is_found_by_the_name_of_its_entry_point(lab, monkeypatch):
    class Point:
        name = "backwards"

        def load(self):
            return last_name_first

    known = importlib.metadata.entry_points

    def found(**selection):
        return [Point()] if selection.get("group") == "altlas_flow.strategies" else known(**selection)

    monkeypatch.setattr(importlib.metadata, "entry_points", found)
    trace = lab.flow.submit(echo(), 1, strategy="backwards").result(LIMIT).trace
    assert (trace.strategy, trace.node) == ("backwards", "gpu")


def raises(request, nodes):
    raise KeyError("its own fault")


def answers_nonsense(request, nodes):
    return ["nowhere"]


def leaves(request, nodes):
    raise SystemExit("enough")


def is_interrupted(request, nodes):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("strategy", "text"),
    [
        (raises, "its own fault' (test_strategies_live.py:"),
        (answers_nonsense, "nowhere"),
        (leaves, "in leaves)"),
        (is_interrupted, "in is_interrupted)"),
    ],
)
def test_a_strategy_that_fails_costs_no_answer_and_is_counted_and_noted(lab, strategy, text):
    before = lab.info()["faults"]
    response = lab.flow.submit(echo(), "there", strategy=strategy).result(LIMIT)
    assert response.outputs == "there" and response.tries == 1
    assert response.trace.strategy == "LEAST_LOADED"
    (note,) = response.trace.notes
    assert strategy.__name__ in note and text in note and "LEAST_LOADED was used" in note
    info = lab.info()
    assert info["faults"] == before + 1
    assert strategy.__name__ in info["last_fault"]


def test_an_unknown_strategy_is_a_typed_error_that_names_it(lab):
    with pytest.raises(SpecError, match="sideways"):
        lab.flow.submit(echo(), 1, strategy="sideways").result(LIMIT)
    with pytest.raises(BadRequest, match="strategy=5"):
        lab.flow.submit(echo(), 1, strategy=5)
    assert lab.flow.submit(echo(), 1).result(LIMIT).outputs == 1


# ---------------------------------------------------------------- cordoned, absent


def cordon(lab, name, cordoned=True):
    (lab.flow.cordon if cordoned else lab.flow.uncordon)(name)
    return True


def test_a_cordoned_node_gets_nothing_until_it_is_uncordoned(lab):
    spec = echo()
    assert cordon(lab, "cpu")
    try:
        traces = [lab.flow.submit(spec, i, strategy="ROUND_ROBIN").result(LIMIT).trace for i in range(6)]
        assert {trace.node for trace in traces} == {"gpu"}
        assert traces[0].refused == {"it is cordoned": 1}
        assert cordon(lab, "gpu")
        waits = lab.flow.submit(spec, "late")
        lab.until(lambda info: info["parked"] == 1)
    finally:
        assert cordon(lab, "cpu", False)
    assert waits.result(LIMIT).node_id == "cpu"
    assert cordon(lab, "gpu", False)
    assert {node_of(lab, spec, "ROUND_ROBIN") for _ in range(4)} == {"cpu", "gpu"}
    with pytest.raises(UnknownNode):
        cordon(lab, "nobody")


@pytest.mark.long
def test_what_needs_a_node_that_was_never_there_waits_as_long_as_the_setting_says():
    with laboratory({"cpu": {}}, join_timeout="60s") as lab:
        handle = lab.flow.submit(echo(resources={"GPU": 1}), "patient")
        lab.until(lambda info: info["parked"] == 1)
        lab.add("gpu", resources={"GPU": 1})
        assert handle.result(LIMIT).node_id == "gpu"
        assert lab.info()["parked"] == 0


def test_what_waited_in_vain_for_a_node_to_join_is_told_each_nodes_reason():
    with laboratory({"cpu": {}}, join_timeout="1s") as lab:
        began = time.monotonic()
        with pytest.raises(NoEligibleNode) as caught:
            lab.flow.submit(echo(resources={"GPU": 1}), 1).result(LIMIT)
        assert time.monotonic() - began >= 1
        assert caught.value.reasons == {"cpu": "it declares GPU=0 and GPU=1 is needed"}


# ---------------------------------------------------------------- faults of ours


def slowly(seconds):
    def wait(rows):
        import time

        time.sleep(seconds)
        return rows

    return ModelSpec(id=f"slowly-{uuid.uuid4()}", source=wait, batch=1)


@pytest.mark.long
@pytest.mark.parametrize(
    ("part", "method", "seconds"),
    [
        ("placer", "place_if_ready", 0.01),
        ("placer", "follow", 0.01),
        ("placer", "began", 0.01),
        ("placer", "done", 0.01),
        ("lessor", "sent", 0.01),
        ("lessor", "ended", 0.01),
        ("lessor", "report", 3.0),
    ],
)
def test_a_fault_of_the_plugin_is_counted_and_never_changes_an_answer(part, method, seconds):
    def damage(dask_scheduler):
        def broken(*args, **kwargs):
            raise RuntimeError("broken on purpose")

        setattr(getattr(dask_scheduler.plugins["altlas-control"], part), method, broken)

    # a request that takes longer than that, though none of its client's reports is understood
    timeout = "2s" if method == "report" else "20s"
    with laboratory({"one": {}, "two": {}}, heartbeat_timeout=timeout) as lab:
        lab.client.run_on_scheduler(damage)
        handles = lab.flow.submit_many(slowly(seconds), range(max(2, int(0.4 / seconds))))
        assert [response.outputs for response in handles.result(LIMIT)] == list(range(len(handles)))
        info = lab.info()
        assert info["faults"] >= 1
        assert "broken on purpose" in info["last_fault"]
