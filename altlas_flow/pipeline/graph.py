"""A pipeline as one graph of Dask tasks: its edges are futures, and outputs pass from worker to worker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dask._task_spec import Task, TaskRef
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from distributed import Client, Future

from altlas_flow.cluster.keys import ANNOTATION, passage_key, predict_key
from altlas_flow.cluster.ledger import IN_SPAN
from altlas_flow.pipeline.step import Compiled
from altlas_flow.pipeline.tasks import run_stage


@dataclass(frozen=True)
class Way:
    """How the tasks of a piece are sent.

    Attributes
    ----------
    rows : int
        Of the piece, about.
    priority : int
        Of its tasks in Dask, and of its batches on hosts.
    lenient : bool
        Faults of nodes are those of rows, as in jobs. Otherwise requests pass: those that were running when a
        worker died are known, and the sender decides about them.
    solo : bool
        Run alone on its host: it may be what kills workers.
    strategies : mapping of str to str
        Names of strategies, by step; others are placed by the default.
    exclude : mapping of str to set of str
        Nodes that a step has failed on.
    """

    rows: int
    priority: int = 0
    lenient: bool = False
    solo: bool = False
    strategies: Mapping[str, str] | None = None
    exclude: Mapping[str, frozenset[str]] | None = None


def send(
    client: Client,
    compiled: Compiled,
    known: Mapping[str, Any],
    way: Way,
    *,
    steps: Iterable[str] | None = None,
) -> dict[str, Future[Any]]:
    """Send steps as one graph.

    Parameters
    ----------
    client : distributed.Client
    compiled : Compiled
    known : mapping of str to Future, Packed or StageRows
        What steps need and none of those sent makes: ``input``, and steps that were done before.
    way : Way
    steps : iterable of str, optional
        By default all.

    Returns
    -------
    dict of str to Future
        Of each step; they have to be released, or what they stand for stays on the cluster.
    """
    wanted = list(compiled.steps if steps is None else steps)
    name_of = predict_key if way.lenient else passage_key
    keys = {name: name_of(compiled.steps[name].spec.fingerprint) for name in wanted}
    layers: dict[str, Any] = {}
    before: dict[str, set[str]] = {}
    for name in wanted:
        step = compiled.steps[name]
        inner = [need for need in step.needs if need in keys]
        given = [TaskRef(keys[need]) if need in keys else known[need] for need in step.needs]
        task = Task(keys[name], run_stage, compiled.packed[name], way.lenient, way.priority, *given)
        layers[keys[name]] = MaterializedLayer({keys[name]: task}, annotations=said_of(name, way))
        before[keys[name]] = {keys[need] for need in inner}
    graph = HighLevelGraph(layers, before)
    futures = client.get(graph, list(keys.values()), sync=False, priority=way.priority)
    return dict(zip(keys, futures, strict=True))


def said_of(name: str, way: Way) -> dict[str, Any]:
    """What the scheduler plugin is told of a step."""
    said: dict[str, Any] = {"rows": way.rows}
    if way.solo:
        said["solo"] = True
    if not way.lenient:
        said["count"] = way.rows
    if way.strategies and name in way.strategies:
        said["strategy"] = way.strategies[name]
    if way.exclude and name in way.exclude:
        said["exclude"] = sorted(way.exclude[name])
    return {ANNOTATION: said, "span": IN_SPAN}
