"""Is it well? The nodes."""

from __future__ import annotations

from html import escape
from typing import Any

from altlas_flow.dashboard.panels.base import (
    Cell,
    HtmlPanel,
    Shown,
    bar,
    dotted,
    empty,
    heading,
    short,
    size,
    table,
)

#: Characters of the one model of a node that is named; the others are counted.
NAME = 18


class Nodes(HtmlPanel):
    """Status, work, memory, GPUs and models of each node."""

    name, title, every = "nodes", "Is it well?", 2

    def html(self, shown: Shown) -> str:
        """A line of each node; those that are not well first."""
        nodes = shown.now["nodes"]
        totals = shown.now["totals"]
        if not nodes:
            return heading(self.title) + empty(
                "No node has joined. Start one: altlas-flow worker ADDRESS, or have af.connect() start some."
            )
        said = ", ".join(f"{count} {status}" for status, count in totals["nodes"].items() if count)
        waits = totals["held"] + totals["parked"]
        slots = f"{totals['slots']} slot{'' if totals['slots'] == 1 else 's'}"
        more = f"{totals['in_flight']} in flight on {slots}" + (f", {waits} waiting" if waits else "")
        gpus = any(node["gpus"] for node in nodes)
        columns = ["Node", "Status", "#In flight", "Memory", *(["GPU"] if gpus else []), "Models"]
        order = {"ERROR": 0, "OFFLINE": 1, "BUSY": 2, "ONLINE": 3}
        rows = [
            [
                node["node"],
                dotted(node["status"], _status(node), node["reason"]),
                f"{node['in_flight']}/{node['slots']}",
                _memory(node),
                *([_gpus(node)] if gpus else []),
                _models(node["models"]),
            ]
            for node in sorted(nodes, key=lambda node: order.get(node["status"], 0))
        ]
        faults = totals["faults_of_plugin"]
        warning = empty(f"The scheduler's plugin had {faults} faults: see its log.") if faults else ""
        return heading(self.title, f"{said} · {more}") + warning + table(columns, rows, label="nodes")


def _status(node: dict[str, Any]) -> str:
    return "cordoned" if node["cordoned"] and node["status"] == "BUSY" else str(node["status"])


def _memory(node: dict[str, Any]) -> Cell | None:
    if not node["memory"]:
        return None
    limit = node["memory_limit"]
    text = f"{size(node['memory'])} of {size(limit)}" if limit else size(node["memory"])
    shown = bar(node["memory"], limit, size(node["memory"]), warn=True)
    return Cell(shown.html, text)


def _gpus(node: dict[str, Any]) -> Cell | None:
    if not node["gpus"]:
        return None
    alone = len(node["gpus"]) == 1  # of several only bars: their figures are where the pointer is
    parts = [
        bar(gpu["use"], 1.0, f"{gpu['use']:.0%}" if alone else "", small=True).html for gpu in node["gpus"]
    ]
    said = ", ".join(f"{gpu['use']:.0%}, {size(gpu['memory'])}" for gpu in node["gpus"])
    return Cell("".join(parts), said)


def _models(models: list[str]) -> Cell | None:
    if not models:
        return None
    more = f" +{len(models) - 1}" if len(models) > 1 else ""
    return Cell(escape(short(models[0], NAME) + more), ", ".join(models))
