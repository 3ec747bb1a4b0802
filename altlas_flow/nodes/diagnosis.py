"""What looks wrong with a cluster, from facts about it, and what to do: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from altlas_flow.records.node import NodeInfo, NodeStatus

#: Of a worker's memory: from there on Dask pauses it.
PAUSED = 0.8
#: Open files that a scheduler of some hundred workers needs.
FILES = 1024


@dataclass(frozen=True)
class Finding:
    """Something that looks wrong.

    Attributes
    ----------
    what, do : str
        One line each.
    """

    what: str
    do: str


@dataclass(frozen=True)
class Facts:
    """What is known of this program, and of a cluster.

    Attributes
    ----------
    versions : mapping of str to str
        Of this program's packages; "" where one is missing.
    files : int
        Files that this process may have open.
    address : str
        Of the scheduler; empty without one.
    loopback, encrypted : bool
        How the scheduler listens.
    dashboard : str
        Where its dashboard listens; empty where it has none.
    dashboard_loopback, dashboard_locked : bool
        How the dashboard listens.
    nodes : sequence of NodeInfo
    memory : mapping of str to int
        Of each node's worker its limit, in bytes; 0: none.
    info : mapping
        What the scheduler plugin says of itself.
    """

    versions: Mapping[str, str]
    files: int = FILES
    address: str = ""
    loopback: bool = True
    encrypted: bool = False
    dashboard: str = ""
    dashboard_loopback: bool = True
    dashboard_locked: bool = False
    nodes: Sequence[NodeInfo] = ()
    memory: Mapping[str, int] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)


def diagnose(facts: Facts) -> list[Finding]:
    """What looks wrong, the worst first."""
    return (
        [*_of_cluster(facts), *_of_nodes(facts), *_of_program(facts)]
        if facts.address
        else [*_of_program(facts)]
    )


def _of_cluster(facts: Facts) -> Iterable[Finding]:
    info = facts.info
    if not facts.loopback and not facts.encrypted:
        yield Finding(
            f"{facts.address} is open to others without TLS: whoever reaches it can run code",
            "start it with altlas-flow scheduler --tls DIR (altlas-flow certs init DIR makes one)",
        )
    if facts.dashboard and not facts.dashboard_loopback and not facts.dashboard_locked:
        yield Finding(
            f"the dashboard at {facts.dashboard} shows inputs and errors to whoever reaches it",
            "give altlas-flow scheduler --dashboard 127.0.0.1:8787, or --tls DIR",
        )
    if info.get("faults"):
        yield Finding(
            f"the scheduler's plugin had {info['faults']} faults, the last: {info.get('last_fault')}",
            "look at the scheduler's log; a strategy of your own may have raised it, else report it",
        )
    for address, version in (info.get("strangers") or {}).items():
        yield Finding(
            f"the worker at {address} runs altlas_flow {version}, and gets no work",
            f"install altlas_flow {facts.versions.get('altlas_flow', '')} there, and start it again",
        )
    if info.get("parked"):
        yield Finding(
            f"{info['parked']} pieces of work wait for a node that can do them",
            "see which resources, labels and memory their models ask for, and what altlas-flow nodes shows",
        )


def _of_nodes(facts: Facts) -> Iterable[Finding]:
    if not any(node.joined for node in facts.nodes):
        yield Finding("no node has joined", f"start one: altlas-flow worker {facts.address}")
    for node in facts.nodes:
        reason = f" ({node.reason})" if node.reason else ""
        if node.status is NodeStatus.OFFLINE and node.joined:
            yield Finding(
                f"node {node.node_id} is OFFLINE{reason}",
                f"see its log; altlas-flow uncordon {node.node_id} where an operator set it so",
            )
        if node.status is NodeStatus.ERROR:
            yield Finding(
                f"node {node.node_id} is set aside{reason}",
                f"see its log, and then: altlas-flow uncordon {node.node_id}",
            )
        limit = facts.memory.get(node.node_id) or 0
        used = node.usage.get("memory", 0.0)
        if limit and used > PAUSED * limit:
            yield Finding(
                f"node {node.node_id} uses {used / limit:.0%} of its memory: Dask pauses it",
                "give it a larger --memory-limit, or fewer and smaller models",
            )
        theirs = (node.capabilities or {}).get("versions") or {}
        for package, version in theirs.items():
            own = facts.versions.get(package)
            if own and version and version != own:
                yield Finding(
                    f"node {node.node_id} has {package} {version}, and this program {own}",
                    "install the same there as here: functions and answers may not travel between them",
                )


def _of_program(facts: Facts) -> Iterable[Finding]:
    for package, version in facts.versions.items():
        if not version and package in ("torch", "transformers", "distributed", "bokeh"):
            yield Finding(f"{package} is missing", f"pip install {package}")
    if facts.files < FILES:
        yield Finding(
            f"this program may open {facts.files} files",
            f"ulimit -n {4 * FILES}: each worker takes some of them",
        )
