"""What looks wrong with a cluster, and what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from altlas_flow.nodes.diagnosis import Facts, diagnose
from altlas_flow.records import NodeInfo, NodeStatus

pytestmark = pytest.mark.timeout(60)

VERSIONS = dict.fromkeys(("torch", "transformers", "distributed", "bokeh", "altlas_flow"), "1.0")
NODE = NodeInfo(node_id="w", joined=True, status=NodeStatus.ONLINE, usage={"memory": 1.0})
WELL = Facts(VERSIONS, 4096, "tcp://127.0.0.1:8786", nodes=[NODE], memory={"w": 10})


def said(facts):
    return [f"{finding.what} -> {finding.do}" for finding in diagnose(facts)]


def test_nothing_is_wrong_where_all_is_well():
    assert said(WELL) == []
    assert said(Facts(VERSIONS)) == [], "without a cluster nothing is missing of it"


@pytest.mark.parametrize(
    ("change", "what", "do"),
    [
        ({"nodes": []}, "no node has joined", "altlas-flow worker tcp://127.0.0.1:8786"),
        ({"loopback": False}, "open to others without TLS", "--tls DIR"),
        ({"dashboard": "x:1", "dashboard_loopback": False}, "shows inputs", "--dashboard 127.0.0.1"),
        (
            {
                "dashboard": "x:1",
                "dashboard_loopback": False,
                "address": "tls://127.0.0.1:1",
                "encrypted": True,
            },
            "shows inputs",
            "--tls DIR",
        ),
        ({"info": {"faults": 3, "last_fault": "oh"}}, "3 faults, the last: oh", "log"),
        ({"info": {"strangers": {"tcp://w": "0.0"}}}, "runs altlas_flow 0.0", "install altlas_flow 1.0"),
        ({"info": {"parked": 2}}, "2 pieces of work wait", "altlas-flow nodes"),
        ({"memory": {"w": 1}}, "uses 100% of its memory", "--memory-limit"),
        ({"files": 256}, "may open 256 files", "ulimit -n"),
        ({"versions": {**VERSIONS, "torch": ""}}, "torch is missing", "pip install torch"),
    ],
)
def test_what_is_wrong_is_named_with_what_to_do(change, what, do):
    (line,) = said(replace(WELL, **change))
    assert what in line.partition(" -> ")[0]
    assert do in line.partition(" -> ")[2]
    assert "\n" not in line


@pytest.mark.parametrize(
    ("node", "what"),
    [
        ({"status": "OFFLINE", "reason": "it is silent"}, "w is OFFLINE (it is silent)"),
        ({"status": "ERROR"}, "w is set aside"),
        (
            {"capabilities": {"versions": {"distributed": "0.9"}}},
            "w has distributed 0.9, and this program 1.0",
        ),
    ],
)
def test_what_is_wrong_with_a_node(node, what):
    (line,) = said(
        replace(
            WELL, nodes=[NODE.model_copy(update=NodeInfo(node_id="w", **node).model_dump(exclude_unset=True))]
        )
    )
    assert what in line


def test_who_is_only_registered_is_awaited():
    absent = NodeInfo(node_id="later", joined=False, status=NodeStatus.OFFLINE)
    assert said(replace(WELL, nodes=[NODE, absent])) == []


def test_a_dashboard_that_asks_for_a_token_is_well():
    assert said(replace(WELL, dashboard="x:1", dashboard_loopback=False, dashboard_locked=True)) == []
