"""Placement: the pure choice, and what the scheduler plugin makes of it on a cluster."""

from __future__ import annotations

import random
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

import altlas_flow as af
from altlas_flow.errors import NoEligibleNode
from altlas_flow.placement import Node, least_loaded, refusal
from tests.laboratory import LIMIT, laboratory

pytestmark = pytest.mark.timeout(90)

# ---------------------------------------------------------------- the pure choice

resources = st.dictionaries(st.sampled_from(["GPU", "TPU", "big"]), st.integers(1, 4).map(float), max_size=3)
nodes = st.lists(
    st.builds(
        Node,
        address=st.uuids().map(str),
        slots=st.integers(0, 4),
        resources=resources,
        in_flight=st.integers(0, 9),
        local_bytes=st.integers(0, 3),
        available=st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


@given(needs=resources, node=nodes.map(lambda some: some[0]))
def test_a_node_is_refused_exactly_where_it_is_away_or_lacks_something_and_the_reason_names_it(needs, node):
    lacks = {name for name, amount in needs.items() if node.resources.get(name, 0) < amount}
    reason = refusal(needs, node)
    assert (reason is None) == (node.available and not lacks)
    if node.available and lacks:
        assert any(name in reason for name in lacks)


@given(nodes, st.integers())
def test_the_chosen_node_has_least_in_flight_for_its_slots_then_most_of_the_inputs(some, seed):
    chosen = least_loaded(some, random.Random(seed))
    load = {node.address: node.in_flight / max(node.slots, 1) for node in some}
    assert load[chosen.address] == min(load.values())
    equals = [node for node in some if load[node.address] == load[chosen.address]]
    assert chosen.local_bytes == max(node.local_bytes for node in equals)


@given(st.integers())
def test_between_equals_the_choice_is_at_random_and_the_same_for_a_seed(seed):
    some = [Node(str(index)) for index in range(4)]

    def sequence():
        rng = random.Random(seed)
        return [least_loaded(some, rng).address for _ in range(100)]

    assert sequence() == sequence()
    assert len(set(sequence())) == 4


# ---------------------------------------------------------------- on a cluster


@pytest.fixture(scope="module")
def lab():
    """Workers ``gpu`` and ``cpu``; tests that kill or add workers put back what they found."""
    with laboratory({"gpu": {"resources": {"GPU": 1}}, "cpu": {}}, no_workers_timeout="60s") as made:
        yield made


class Gate:
    """What models of other processes wait for: a file."""

    def __init__(self, folder):
        self.folder = folder

    def open(self):
        (self.folder / "open").touch()

    def await_somebody(self):
        end = time.monotonic() + LIMIT
        while not (self.folder / "began").exists():
            assert time.monotonic() < end
            time.sleep(0.01)

    def model(self, **fields):
        """A model that waits for the gate, and says before that it is there."""
        folder, limit = self.folder, LIMIT

        def wait(rows):
            import time

            (folder / "began").touch()
            end = time.monotonic() + limit
            while not (folder / "open").exists():
                assert time.monotonic() < end
                time.sleep(0.01)
            return rows

        return af.ModelSpec(id=f"waiting-{uuid.uuid4()}", source=wait, **fields)


@pytest.fixture
def gate(tmp_path):
    """Opened at the end, so that no test leaves a model behind that waits."""
    made = Gate(tmp_path)
    yield made
    made.open()


def echo(**fields):
    return af.ModelSpec(id=f"echo-{uuid.uuid4()}", source=lambda rows: rows, **fields)


def test_predictions_spread_over_the_workers_and_nothing_stays_in_flight(lab):
    spec = echo()
    handles = [lab.flow.submit(spec, [i]) for i in range(60)]
    nodes = [handle.result(LIMIT).node_id for handle in handles]
    assert all(nodes.count(name) >= 15 for name in ("gpu", "cpu"))
    lab.until(lambda info: info["in_flight"] == {})
    assert lab.info()["faults"] == 0


def test_what_needs_a_gpu_runs_only_where_one_is_declared(lab):
    spec = echo(resources={"GPU": 1})
    handles = [lab.flow.submit(spec, [i]) for i in range(12)]
    assert {handle.result(LIMIT).node_id for handle in handles} == {"gpu"}


def test_what_nobody_can_serve_fails_at_once_and_says_for_each_node_why(lab):
    with pytest.raises(NoEligibleNode) as caught:
        lab.flow.submit(echo(resources={"GPU": 2}), [1]).result(LIMIT)
    text = str(caught.value)
    assert "gpu: it declares GPU=1 and GPU=2 is needed" in text
    assert "cpu: it declares GPU=0 and GPU=2 is needed" in text
    assert "\n" not in text
    assert lab.info()["parked"] == 0


def test_a_task_waits_for_a_node_that_was_there_a_moment_ago(lab):
    spec = echo(resources={"GPU": 1})
    lab.remove("gpu")
    lab.until(lambda info: len(info["hosts"]) == 1)
    handle = lab.flow.submit(spec, ["late"])
    lab.until(lambda info: info["parked"] == 1)
    lab.add("gpu", resources={"GPU": 1})
    assert handle.result(LIMIT).outputs == ["late"]
    assert handle.result().node_id == "gpu"
    lab.until(lambda info: info["parked"] == 0)
    lab.await_hosts(2)


def test_what_a_killed_worker_was_predicting_is_answered_elsewhere(lab, gate):
    spec = gate.model()
    handles = [lab.flow.submit(spec, [i]) for i in range(4)]
    gate.await_somebody()
    lab.kill("cpu")
    lab.until(lambda info: "cpu" not in {host["name"] for host in info["hosts"].values()})
    gate.open()
    assert [handle.result(LIMIT).outputs for handle in handles] == [[0], [1], [2], [3]]
    lab.await_hosts(2)
    lab.until(lambda info: info["in_flight"] == {} and info["parked"] == 0)


def test_what_waits_on_a_retired_worker_is_answered_elsewhere(lab, gate):
    spec = gate.model()
    handles = [lab.flow.submit(spec, [i]) for i in range(6)]
    gate.await_somebody()
    lab.remove("cpu")
    gate.open()
    assert [handle.result(LIMIT).outputs for handle in handles] == [[i] for i in range(6)]
    lab.add("cpu")
    lab.await_hosts(2)


def test_a_fault_of_the_plugin_is_counted_and_answers_come_all_the_same(lab):
    def damage(dask_scheduler, name):
        plugin = dask_scheduler.plugins[name]
        working = type(plugin)._place_if_ready

        def broken(ts):
            del plugin.__dict__["_place_if_ready"]
            assert plugin._place_if_ready.__func__ is working
            raise RuntimeError("broken")

        plugin._place_if_ready = broken

    before = lab.info()["faults"]
    lab.client.run_on_scheduler(damage, name="altlas-control")
    assert lab.flow.submit(echo(), ["there"]).result(LIMIT).outputs == ["there"]
    assert lab.info()["faults"] == before + 1


def test_a_task_waits_while_no_node_is_there_and_runs_when_one_joins_or_gives_up():
    with laboratory({}, no_workers_timeout="2s") as lab:
        handle = lab.flow.submit(echo(), ["first"])
        lab.until(lambda info: info["parked"] == 1)
        with pytest.raises(NoEligibleNode, match="no node has joined"):
            handle.result(LIMIT)
        handle = lab.flow.submit(echo(), ["second"])
        lab.until(lambda info: info["parked"] == 1)
        # a worker takes longer to start than this cluster waits: let the task wait for it
        lab.client.run_on_scheduler(patient)
        handle.future.cancel()
        handle = lab.flow.submit(echo(), ["third"])
        lab.add("late")
        assert handle.result(LIMIT).outputs == ["third"]


def patient(dask_scheduler):
    dask_scheduler.plugins["altlas-control"].patience = 60


def test_a_paused_worker_gets_nothing_and_works_off_what_waited_when_it_goes_on():
    async def pause(dask_worker, status):
        from distributed.core import Status

        dask_worker.status = Status[status]

    with laboratory({"only": {}}) as lab:
        spec = echo()
        assert lab.flow.submit(spec, [0]).result(LIMIT).outputs == [0]
        lab.client.run(pause, status="paused")
        handle = lab.flow.submit(spec, [1])
        lab.until(lambda info: info["parked"] == 1)
        lab.client.run(pause, status="running")
        assert handle.result(LIMIT).outputs == [1]
