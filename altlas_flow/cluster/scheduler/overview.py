"""`Overview`: what the page, its JSON and the metrics show of a cluster. It only reads what others keep."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from altlas_flow._version import __version__
from altlas_flow.cluster.keys import DIGITS
from altlas_flow.cluster.scheduler.noderecords import Orders, life_of, shown_name
from altlas_flow.dashboard.choices import Choices
from altlas_flow.dashboard.counts import SUMS, Counts, label
from altlas_flow.dashboard.jobs import Jobs
from altlas_flow.dashboard.timeline import FIELDS, Timeline
from altlas_flow.placement.decide import ASIDE
from altlas_flow.placement.node import Node
from altlas_flow.records import NodeStatus

if TYPE_CHECKING:
    from distributed.scheduler import WorkerState

    from altlas_flow.cluster.scheduler.control import ControlPlugin

#: Seconds for which a node that left is shown, and how many at most.
GONE, MOST_GONE = 600.0, 200
#: Seconds between two looks at what hosts say with their heartbeats.
HEAR = 0.3
#: Of the sums of a model, those that are shown, and where they are.
_TOTALS = [
    (SUMS.index(name), f"{name}_total")
    for name in ("completed", "error", "cancelled", "retries", "rows", "batches", "loads", "evictions")
]
#: Of a node that is not here.
_EMPTY: dict[str, Any] = {
    "cordoned": False,
    "in_flight": 0,
    "slots": 0,
    "waiting_rows": 0,
    "cpu": 0.0,
    "memory": 0,
    "memory_limit": 0,
    "gpus": [],
    "models": [],
    "served": 0,
    "failures": 0,
    "heartbeat": None,
}


class Overview:
    """Counts what happens, and says how a cluster is.

    Parameters
    ----------
    control : ControlPlugin
    """

    def __init__(self, control: ControlPlugin) -> None:
        self.control = control
        self.counts, self.jobs = Counts(), Jobs()
        self.timeline, self.choices = Timeline(self.counts), Choices(self.counts)
        self._gone: dict[str, tuple[float, Node]] = {}  # by name
        self._workers: dict[str, WorkerState] = {}  # to hear what those that leave have said last
        self._heard = -HEAR
        self._named: dict[str, list[str]] = {}  # ids of models, by the digits of their fingerprint

    # -- what happens ------------------------------------------------------------------------------

    def came(self, ws: WorkerState) -> None:
        """The host of a worker is there."""
        self._workers[ws.address] = ws

    def left(self, address: str) -> None:
        """A worker is gone; called before its node is forgotten."""
        try:
            if (ws := self._workers.pop(address, None)) is not None:
                self._hear_of(ws)
        finally:  # whatever it has said
            self.counts.gone(address)
            self._leave(address)

    def _leave(self, address: str) -> None:
        node = self.control.placer.roster.get(address)
        if node is not None and node.name not in self.control.nodes.drained:
            self._gone[node.name] = time.monotonic(), node
            while len(self._gone) > MOST_GONE:
                del self._gone[next(iter(self._gone))]

    def take(self, *, fine: bool) -> None:
        """Note what was counted since the last time.

        Parameters
        ----------
        fine : bool
            Whether somebody looks: else steps of half a second are not kept.
        """
        now = time.monotonic()
        self._hear(now)
        self.timeline.take(now, fine=fine)
        self.choices.take(now)

    def _hear(self, now: float) -> None:
        """Take in what hosts have counted by their last heartbeats."""
        if now - self._heard < HEAR:
            return
        self._heard = now
        for ws in self._workers.values():
            self._hear_of(ws)

    def _hear_of(self, ws: WorkerState) -> None:
        said = (ws.metrics.get("altlas") or {}).get("tallies") or {}
        for model, totals in said.items():
            self.counts.heard(ws.address, model, totals)

    # -- what is shown -----------------------------------------------------------------------------

    def now(self) -> dict[str, Any]:
        """All that the page shows, as JSON has it: see ``docs/dashboard.md``."""
        now = time.monotonic()
        self._hear(now)
        self._name()
        nodes = self.nodes(now)
        return {
            "version": __version__,
            "at": time.time(),
            "nodes": nodes,
            "models": self.models(now),
            "places": self.places(),
            "tasks": self.choices.latest(),
            "errors": dict(self.counts.errors.most_common()),
            "faults": self.counts.latest(),
            "letters": list(reversed(self.jobs.letters)),
            "jobs": self.jobs.latest(now),
            "totals": self.totals(nodes),
        }

    def _name(self) -> None:
        """Look the names of models up, once for all that is shown."""
        self._named = {digits: [label(model)] for digits, model in self.control.placer.ids.items()}
        known: dict[str, list[str]] = {}
        for model, spec in self.control.catalog.items():
            known.setdefault(spec.fingerprint[:DIGITS], []).append(label(model))
        self._named.update(known)

    def totals(self, nodes: list[dict[str, Any]]) -> dict[str, Any]:
        """Sums over all nodes and models."""
        statuses = dict.fromkeys((status.value for status in NodeStatus), 0)
        for node in nodes:
            statuses[node["status"]] += 1
        ends = dict.fromkeys(("completed", "error", "cancelled"), 0)
        for (_, _, status), count in self.counts.requests.items():
            ends[status] += count
        control = self.control
        return {
            "nodes": statuses,
            "requests": ends,
            "in_flight": sum(node["in_flight"] for node in nodes),
            "slots": sum(node["slots"] for node in nodes if node["status"] != NodeStatus.OFFLINE.value),
            "held": sum(sum(held.values()) for held in control.lessor.held.values()),
            "parked": len(control.placer.parked),
            "faults_of_plugin": control.faults,
        }

    def nodes(self, now: float) -> list[dict[str, Any]]:
        """A line of each node: those that are here, that left a while ago, and that are registered only."""
        control = self.control
        placer, scheduler = control.placer, control.scheduler
        found = [self._line(node, scheduler.workers.get(node.address), now) for node in placer.roster]
        here = {line["node"] for line in found}
        for name, (at, node) in list(self._gone.items()):
            if now - at > GONE or name in placer.names or name in control.nodes.drained:
                del self._gone[name]
            else:
                here.add(shown_name(name))
                found.append(self._line(node, None, now, f"it left {now - at:.0f} s ago"))
        here |= control.admission.taken()
        found += [
            {
                **_EMPTY,
                "node": entry.node_id,
                "status": NodeStatus.OFFLINE.value,
                "reason": "it has not joined",
            }
            for entry in control.nodes.registry
            if entry.node_id not in here
        ]
        return sorted(found, key=lambda line: str(line["node"]))

    def _line(self, node: Node, ws: WorkerState | None, now: float, why: str = "") -> dict[str, Any]:
        control = self.control
        orders = control.nodes.orders.get(node.name) or Orders()
        silent = node.address in control.watchman.silent
        aside = control.placer.health.aside(node.address, control.loop.time())
        metrics: Mapping[str, Any] = ws.metrics if ws is not None else {}
        said = metrics.get("altlas") or {}
        life = life_of(node, orders, there=ws is not None, silent=silent, aside=aside)
        models = sorted(one for digits in node.loaded for one in self._named.get(digits, [digits]))
        return {
            "node": shown_name(node.name),
            "status": life.status.value,
            "cordoned": orders.cordoned,
            "reason": why or node.absence or orders.bar or (ASIDE if aside else ""),
            "in_flight": node.tasks if ws is not None else 0,
            "slots": node.slots if ws is not None else 0,
            "waiting_rows": int(said.get("waiting_rows") or 0),
            "cpu": float(metrics.get("cpu") or 0.0) / 100,
            "memory": int(metrics.get("memory") or 0),
            "memory_limit": int(ws.memory_limit or 0) if ws is not None else 0,
            "gpus": [dict(gpu) for gpu in said.get("gpu_usage") or ()],
            "models": models if ws is not None else [],
            "served": node.served,
            "failures": node.failures,
            "heartbeat": max(0.0, time.time() - ws.last_seen) if ws is not None else None,
        }

    def models(self, now: float) -> list[dict[str, Any]]:
        """A line of each model: rates and times of the last seconds, and what was counted since the start."""
        counts, latest = self.counts, self.timeline.latest(now)
        waiting: dict[str, int] = {}
        placer = self.control.placer
        for assignment in placer.assignments.values():
            name = label(placer.ids.get(assignment.model, assignment.model))
            waiting[name] = waiting.get(name, 0) + (0 if assignment.begun else assignment.rows)
        for held in self.control.lessor.held.values():
            for model, count in held.items():
                waiting[label(model)] = waiting.get(label(model), 0) + count
        known = dict.fromkeys(label(model) for model in self.control.catalog)
        return [
            {
                "model": model,
                "waiting": waiting.get(model, 0),
                **latest.get(model, dict.fromkeys(FIELDS)),
                **{
                    name: int(counts.sums[counts.models[model], at]) if model in counts.models else 0
                    for at, name in _TOTALS
                },
            }
            for model in {**dict.fromkeys(counts.models), **known}
        ]

    def places(self) -> list[dict[str, Any]]:
        """Which node has which model, and how long its rows took there: those that are of interest only."""
        found = []
        for node in self.control.placer.roster:
            name = shown_name(node.name)
            for digits in {**node.loaded, **node.latency}:
                latency, times = node.latency.get(digits), node.times.get(digits)
                for model in self._named.get(digits, [digits]):
                    found.append(
                        {
                            "node": name,
                            "model": model,
                            "loaded": digits in node.loaded,
                            "bytes": node.loaded.get(digits, 0),
                            "seconds_per_row": latency.mean
                            if latency is not None and latency.count
                            else None,
                            "requests": times.count if times is not None else 0,
                        }
                    )
        return found
