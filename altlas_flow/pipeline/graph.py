"""A pipeline as one graph of Dask tasks: its edges are futures, and outputs pass from worker to worker."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dask._task_spec import Task, TaskRef
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from distributed import Client, Future

from altlas_flow.cluster.keys import ANNOTATION, passage_key, predict_key
from altlas_flow.cluster.ledger import IN_SPAN
from altlas_flow.cluster.packed import Packed
from altlas_flow.pipeline.stage import INPUT
from altlas_flow.pipeline.step import Compiled, Step
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
    kept : frozenset of str
        Steps whose outputs are fetched.
    traces : Packed, optional
        Where requests are traced: see `run_stage`.
    """

    rows: int
    priority: int = 0
    lenient: bool = False
    solo: bool = False
    strategies: Mapping[str, str] | None = None
    exclude: Mapping[str, frozenset[str]] | None = None
    kept: frozenset[str] = frozenset()
    traces: Packed | None = None


@dataclass(frozen=True)
class Own:
    """What a caller has done before the first step of a piece, or after the last ones.

    It becomes a task that runs anywhere; or a part of the one step's beside it, where that may run anywhere
    as well: then Dask has one task less to think of.

    Attributes
    ----------
    function : callable
        After the last steps: it gets the `StageRows` of `steps` behind `args`.
    args : tuple
        Futures among them stand for their results.
    steps : tuple of str
        After the last steps: whose outcomes it takes.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    steps: tuple[str, ...] = ()

    def task(self, key: str | None, *more: Any) -> Task:
        """The task, or a piece of one."""
        given = [TaskRef(one.key) if isinstance(one, Future) else one for one in self.args]
        return Task(key, self.function, *given, *more)

    def key(self) -> str:
        """Known to the scheduler plugin for ours."""
        return f"altlas-{self.function.__name__}-{uuid.uuid4().hex}"


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
    drawn = _Drawn(compiled, wanted, way)
    for name in wanted:
        drawn.step(name, known)
    futures = client.get(drawn.graph(), list(drawn.keys.values()), sync=False, priority=way.priority)
    return dict(zip(drawn.keys, futures, strict=True))


def send_through(client: Client, compiled: Compiled, first: Own, last: Own, way: Way) -> Future[Any]:
    """Send a piece through all steps as one graph; what is between them goes as soon as it was used.

    Parameters
    ----------
    client : distributed.Client
    compiled : Compiled
    first : Own
        Makes the `StageRows` that the pipeline is given.
    last : Own
        Takes outcomes of steps, and gives the result.
    way : Way

    Returns
    -------
    Future
        Of the result.
    """
    drawn = _Drawn(compiled, compiled.steps, way)
    takers = [step for step in compiled.steps.values() if INPUT in step.needs]
    if len(takers) == 1 and _anywhere(takers[0]):
        given: Any = first.task(None)
    else:
        given = drawn.own(first)
    end = last.steps[0] if len(last.steps) == 1 else None
    alone = end is not None and compiled.last == (end,) and _anywhere(compiled.steps[end])
    for name in compiled.steps:
        drawn.step(name, {INPUT: given}, then=last if alone and name == end else None)
    result = drawn.keys[end] if alone and end else drawn.own(last).key
    (future,) = client.get(drawn.graph(), [result], sync=False, priority=way.priority)
    return future  # type: ignore[no-any-return]


class _Drawn:
    """The tasks of a piece, as they are drawn."""

    def __init__(self, compiled: Compiled, steps: Iterable[str], way: Way) -> None:
        self.compiled, self.way = compiled, way
        name_of = predict_key if way.lenient else passage_key
        self.keys = {name: name_of(compiled.steps[name].spec.fingerprint) for name in steps}
        self._layers: dict[str, Any] = {}
        self._before: dict[str, set[str]] = {}

    def graph(self) -> HighLevelGraph:
        return HighLevelGraph(self._layers, self._before)

    def step(self, name: str, known: Mapping[str, Any], then: Own | None = None) -> None:
        """Add a step; `then` is done in its task."""
        keys, way = self.keys, self.way
        needs = self.compiled.steps[name].needs
        given = [TaskRef(keys[need]) if need in keys else known[need] for need in needs]
        packed = self.compiled.packed[name]
        key = keys[name] if then is None else None
        shared = self.compiled.shared | way.kept
        # what passes may be tried again, from what is there already; rows of jobs are not
        copied = tuple(at for at, need in enumerate(needs) if not way.lenient or need in shared)
        more: dict[str, Any] = {} if way.traces is None else {"traces": way.traces}
        task = Task(key, run_stage, packed, way.lenient, way.priority, copied, *given, **more)
        if then is not None:
            task = then.task(keys[name], task)
        self._add(keys[name], task, said_of(name, way))

    def own(self, own: Own) -> TaskRef:
        """Add a task of the caller's."""
        key = own.key()
        self._add(key, own.task(key, *(TaskRef(self.keys[name]) for name in own.steps)), None)
        return TaskRef(key)

    def _add(self, key: str, task: Task, annotations: dict[str, Any] | None) -> None:
        self._layers[key] = MaterializedLayer({key: task}, annotations=annotations)
        self._before[key] = {str(one) for one in task.dependencies if one in self._layers}


def _anywhere(step: Step) -> bool:
    """Whether all workers can do a step, so that rows may be put together and written there too."""
    return not (step.spec.resources or step.spec.labels)


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
