"""What is shown of nodes: records of those that are here, and of those that are only registered."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from altlas_flow.errors.cluster import CORDONED
from altlas_flow.nodes.lifecycle import Life
from altlas_flow.nodes.registry import Entry, name_problem
from altlas_flow.placement.decide import ASIDE
from altlas_flow.placement.node import Node
from altlas_flow.records import ModelLatency, NodeInfo, NodeStatus

if TYPE_CHECKING:
    from distributed.scheduler import WorkerState


@dataclass(slots=True)
class Orders:
    """What operators said of a node: it holds until they say other, also where the worker comes anew."""

    cordoned: bool = False
    offline: bool = False
    aside: bool = False

    @property
    def bar(self) -> str:
        """Why no new work goes there; empty where it does."""
        if self.offline:
            return "an operator has set it offline"
        if self.aside:
            return "an operator has set it aside"
        return CORDONED if self.cordoned else ""


def record_of(
    node: Node,
    ws: WorkerState | None,
    orders: Orders,
    *,
    silent: bool,
    aside: bool,
    ids: Callable[[str], list[str]],
) -> NodeInfo:
    """A node that is here.

    Parameters
    ----------
    node : Node
        As placement has it.
    ws : WorkerState, optional
        As Dask has it.
    orders : Orders
    silent, aside : bool
        Whether its heartbeats stay away; whether it is set aside for failures.
    ids : callable
        Gives the ids of models of the beginning of their fingerprint.
    """
    now, said = time.time(), dict(node.said)
    life = life_of(node, orders, there=ws is not None, silent=silent, aside=aside)
    metrics = dict(ws.metrics) if ws is not None else {}
    return NodeInfo(
        node_id=shown_name(node.name),
        hostname=said.get("hostname"),
        ip_address=ws.host if ws is not None else None,
        status=life.status,
        capabilities={
            "cores": ws.nthreads if ws is not None else 0,
            "memory": node.memory,
            "gpus": said.get("gpus") or [],
            "resources": dict(node.resources),
            "labels": dict(node.labels),
            "versions": said.get("versions") or {},
        },
        available_models=sorted(model for digits in node.loaded for model in ids(digits)),
        address=node.address,
        joined=ws is not None,
        cordoned=orders.cordoned,
        reason=node.absence or orders.bar or (ASIDE if aside else ""),
        slots=node.slots,
        in_flight=node.tasks,
        served=node.served,
        failures=node.failures,
        usage=_usage(metrics),
        latency={
            model: ModelLatency(
                count=times.count, mean=times.mean, p50=times.quantile(0.5), p95=times.quantile(0.95)
            )
            for digits, times in node.times.items()
            for model in ids(digits)
        },
        heartbeat=max(0.0, now - ws.last_seen) if ws is not None else None,
    )


def life_of(node: Node, orders: Orders, *, there: bool, silent: bool, aside: bool) -> Life:
    """The facts that say what a node is."""
    return Life(
        there=there,
        offline=orders.offline,
        silent=silent,
        aside=aside or orders.aside,
        cordoned=orders.cordoned or not (node.available or silent),
        full=node.tasks >= max(1, node.slots),
    )


@lru_cache(10_000)
def shown_name(name: str) -> str:
    """A node's name; quoted where operators could not say it: it joined before it could be refused."""
    return name if name_problem(name) is None else repr(name)


def record_of_strange(node: Node) -> NodeInfo:
    """A node that is here, and of which the rest cannot be shown."""
    return NodeInfo(
        node_id=shown_name(node.name),
        status=NodeStatus.ERROR,
        address=node.address,
        joined=True,
        reason="what it says of itself cannot be shown",
    )


def record_of_absent(entry: Entry, orders: Orders) -> NodeInfo:
    """A node that is registered, and has not joined."""
    return NodeInfo(
        node_id=entry.node_id,
        hostname=entry.host,
        ip_address=str(entry.network).removesuffix("/32").removesuffix("/128") if entry.network else None,
        status=NodeStatus.OFFLINE,
        capabilities=dict(entry.capabilities),
        available_models=list(entry.models or ()),
        cordoned=orders.cordoned,
        reason="it has not joined",
    )


def _usage(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Of what a worker says with each heartbeat: what it uses."""
    found = {"cpu": float(metrics.get("cpu") or 0.0) / 100, "memory": float(metrics.get("memory") or 0.0)}
    for number, gpu in enumerate((metrics.get("altlas") or {}).get("gpu_usage") or ()):
        found[f"gpu{number}"], found[f"gpu{number}_memory"] = float(gpu["use"]), float(gpu["memory"])
    return found
