"""`Operations`: the part of a `Flow` that operators use: nodes, tasks, who belongs to the cluster."""

from __future__ import annotations

import json
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from distributed import Client

from altlas_flow.cluster.connect import call_control
from altlas_flow.errors import BadRequest, one_line
from altlas_flow.history.rows import COLUMNS
from altlas_flow.models.spec import ModelSpec
from altlas_flow.records import NodeInfo, NodeStatus, TaskInfo, TaskStatus
from altlas_flow.records.html import moment, size
from altlas_flow.records.table import Table

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

#: Rows of the history that travel together.
PAGE = 10_000
#: Seconds that draining a node may take.
DRAIN_LIMIT = 3600.0
#: Seconds that anybody may give it: a year, since clocks and timers end somewhere.
LONGEST = 365 * 86400.0
#: Seconds that the scheduler gets beyond what an operation may take itself.
SLACK = 30.0
#: Seconds that loading models on a node may take.
LOAD_LIMIT = 1800.0


class Operations(ABC):
    """Shows and changes the cluster; a `Flow` is one."""

    @property
    @abstractmethod
    def client(self) -> Client:
        """Dask's client."""

    def nodes(self) -> Table[NodeInfo]:
        """All nodes: those that are here, and those that are registered and have not joined.

        Returns
        -------
        Table of NodeInfo
            A sequence, ordered by name; ``.frame()`` is a DataFrame, and it prints as a table.
        """
        found = self._ask("altlas_nodes")
        return Table([NodeInfo.model_validate(one) for one in found], NODE_COLUMNS, title="nodes")

    def node(self, node_id: str) -> NodeInfo:
        """One node.

        Raises
        ------
        UnknownNode
        """
        from altlas_flow.errors import UnknownNode

        _text("node_id", node_id, "a node's name")
        found = {info.node_id: info for info in self.nodes()}
        if node_id not in found:
            raise UnknownNode(node_id, found)
        return found[node_id]

    def register_node(self, node: NodeInfo) -> None:
        """Have a node known, and admitted; it may be here already, or join later.

        It is matched by name, then by host, then by address. Where its host or address is given, a worker
        of its name has to come from there.

        Parameters
        ----------
        node : NodeInfo
            With ``available_models``, these are loaded when it comes; a status other than ONLINE holds from
            the beginning.
        """
        if not isinstance(node, NodeInfo):
            raise BadRequest(f"a {type(node).__name__} is no node: give a NodeInfo")
        # as JSON first: it says in one line what cannot be sent
        self._ask("altlas_register_node", node=json.loads(node.model_dump_json(exclude_unset=True)))

    def update_node_status(self, node_id: str, status: NodeStatus | str) -> None:
        """Cordon a node (BUSY), set it offline or aside (OFFLINE, ERROR), or have it work again (ONLINE).

        What runs there runs to its end.

        Raises
        ------
        UnknownNode, BadRequest
        """
        _text("node_id", node_id, "a node's name")
        try:
            word = NodeStatus(status)
        except ValueError as error:
            shown = one_line(repr(status), 60)
            raise BadRequest(f"status={shown} is none: give ONLINE, BUSY, OFFLINE or ERROR") from error
        self._ask("altlas_node_status", node_id=node_id, status=word.value)

    def update_node_models(self, node_id: str, models: Iterable[str]) -> None:
        """Have the models that a node has loaded be these: others are unloaded.

        On a node that has not joined yet, once it comes.

        Raises
        ------
        UnknownNode, UnknownModel, ModelLoadError
        """
        _text("node_id", node_id, "a node's name")
        if isinstance(models, str):
            raise BadRequest("models is a list of ids: put the one into a list")
        if not isinstance(models, Iterable):
            raise BadRequest(f"models={one_line(repr(models), 60)} is no list: give a list of ids of models")
        wanted = list(models)
        for model in wanted:
            _text("models", model, "a list of ids of models")
        self._ask("altlas_node_models", limit=LOAD_LIMIT, node_id=node_id, models=wanted)

    def unregister_node(self, node_id: str, *, timeout: float = DRAIN_LIMIT) -> None:
        """Drain a node where it is here, retire its worker, and forget it.

        Raises
        ------
        UnknownNode, ClusterError
        """
        _text("node_id", node_id, "a node's name")
        self._ask("altlas_unregister_node", limit=_limit(timeout), node_id=node_id, within=timeout)

    def cordon(self, node_id: str) -> None:
        """Give a node no new work."""
        self.update_node_status(node_id, NodeStatus.BUSY)

    def uncordon(self, node_id: str) -> None:
        """Give a node work again, whatever kept it from that."""
        self.update_node_status(node_id, NodeStatus.ONLINE)

    def drain(self, node_id: str, *, timeout: float = DRAIN_LIMIT) -> None:
        """Give a node no new work, wait until what it has is done, and retire its worker.

        Parameters
        ----------
        node_id : str
        timeout : float
            Seconds; where it is not empty by then it stays cordoned.

        Raises
        ------
        UnknownNode, ClusterError
        """
        _text("node_id", node_id, "a node's name")
        self._ask("altlas_drain", limit=_limit(timeout), node_id=node_id, within=timeout)

    @abstractmethod
    def _in_catalog(self, model: str | ModelSpec) -> str:
        """The id of a model that is in the cluster's catalog, or is put there: built in, or given."""

    def load(self, node_id: str, model: str | ModelSpec) -> None:
        """Have a model loaded on a node; one that is built in, or given, gets into the cluster's catalog.

        Raises
        ------
        UnknownNode, UnknownModel, ModelLoadError
        """
        _text("node_id", node_id, "a node's name")
        if not isinstance(model, ModelSpec):
            _text("model", model, "the id of a model, or a ModelSpec")
        self._ask("altlas_load", limit=LOAD_LIMIT, node_id=node_id, model=self._in_catalog(model))

    def unload(self, node_id: str, model: str) -> None:
        """Have a model unloaded from a node, once nobody uses it there.

        Raises
        ------
        UnknownNode, UnknownModel, ClusterError
        """
        _text("node_id", node_id, "a node's name")
        _text("model", model, "the id of a model")
        self._ask("altlas_unload", limit=LOAD_LIMIT, node_id=node_id, model=model)

    def tasks(self, status: TaskStatus | str | None = None, *, limit: int = 1000) -> Table[TaskInfo]:
        """Requests of all clients: those under way, then those that are over; of each the latest first.

        Requests of a client that died are in no list, nor in the history: only it knew them. Those under way
        of a client that does not answer are missing, and that is logged.

        Parameters
        ----------
        status : TaskStatus or str, optional
            ``pending``, ``running``, ``completed``, ``error`` or ``cancelled``: only these.
        limit : int
            How many at most, and never more than 100,000; of those that are over the scheduler keeps 10,000.

        Returns
        -------
        Table of TaskInfo

        Raises
        ------
        BadRequest
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise BadRequest(f"limit={one_line(repr(limit), 60)}: give a whole number of at least 1")
        # what is larger than messages hold asks for all, too
        told = self._ask("altlas_tasks", status=_status(status), count=min(limit, 2**31))
        if told["silent"]:
            logger.warning(
                "clients that did not answer: %d; what they have under way is not shown", told["silent"]
            )
        rows = [TaskInfo.of(row) for page in told["pages"] for row in json.loads(page)]
        return Table(rows, TASK_COLUMNS, title="tasks")

    def task(self, task_id: str) -> TaskInfo:
        """One request, of whichever client, by its request_id.

        Where several have that id: one under way rather than one that is over, this client's own first.

        Raises
        ------
        UnknownTask
            It says so where clients did not answer, that may have it.
        BadRequest
        """
        _text("task_id", task_id, "a request_id")
        return TaskInfo.of(self._ask("altlas_task", task_id=task_id, client=self.client.id))

    def cancel_task(self, task_id: str) -> bool:
        """Give a request up, whoever asked for it; whether that changed anything: it may be over.

        Where several have that id: the one that `task` shows, and all of that id of its client.

        Raises
        ------
        UnknownTask, Forbidden, BadRequest
        """
        _text("task_id", task_id, "a request_id")
        return bool(self._ask("altlas_cancel_task", task_id=task_id, client=self.client.id))

    def history(
        self,
        *,
        limit: int | None = None,
        status: TaskStatus | str | None = None,
        model: str | None = None,
        since: float | None = None,
    ) -> pd.DataFrame:
        """Tasks that are over, from the scheduler's history file, the latest first.

        Parameters
        ----------
        limit : int, optional
            How many at most.
        status, model : str, optional
            Only these.
        since : float, optional
            Seconds since 1970: only those that ended later.

        Returns
        -------
        pandas.DataFrame
            A row a task; times are in UTC.

        Raises
        ------
        BadRequest
            Where the scheduler keeps none (``altlas.history``).
        HistoryError
        """
        import pandas as pd

        rows: list[list[Any]] = []
        before, left = None, math.inf if limit is None else limit
        asked: dict[str, Any] = {
            "status": _status(status),
            "model": model,
            "since": None if since is None else int(since * 1e6),
        }
        while left > 0:
            told = self._ask("altlas_history", count=int(min(left, PAGE)), before=before, **asked)
            rows += told["rows"]
            before, left = told["before"], left - len(told["rows"])
            if before is None:
                break
        frame = pd.DataFrame(rows, columns=list(COLUMNS))
        for name in ("submitted", "started", "ended"):
            frame[name] = pd.to_datetime(frame[name].astype("Int64"), unit="us", utc=True)
        for name in ("node_id", "error"):
            # as they came: pandas would take NaN for None where there are texts, and only there
            values = [row[list(COLUMNS).index(name)] for row in rows]
            frame[name] = pd.Series(values, index=frame.index, dtype=object)
        return frame

    def _ask(self, operation: str, *, limit: float | None = None, **arguments: Any) -> Any:
        options = {} if limit is None else {"limit": limit}
        return call_control(self.client, operation, **options, **arguments)["result"]


def _limit(timeout: float) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 <= timeout <= LONGEST:
        raise BadRequest(
            f"timeout={one_line(repr(timeout), 60)} is no time: give seconds from 0 to {LONGEST:.0f}, a year"
        )
    return timeout + SLACK


def _text(name: str, value: object, what: str) -> None:
    """Raise where a name or an id is no text, or none that can be sent."""
    # half surrogates, as of file names, are no Unicode
    if not isinstance(value, str) or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise BadRequest(f"{name} has {one_line(repr(value), 60)}, which is no text: give {what}")


def _status(status: TaskStatus | str | None) -> str | None:
    """The word that the scheduler takes, whatever its case."""
    if status is None:
        return None
    try:
        return TaskStatus(status).value
    except ValueError:
        known = ", ".join(TaskStatus)
        raise BadRequest(f"status={one_line(repr(status), 60)} is none: give one of {known}") from None


def _latency(info: NodeInfo) -> str:
    busiest = max(info.latency.values(), key=lambda one: one.count, default=None)
    return "" if busiest is None else f"{1000 * busiest.p50:.0f} / {1000 * busiest.p95:.0f} ms"


def _has(info: NodeInfo) -> str:
    """What models may ask for: resources, and labels."""
    said = {**(info.capabilities.get("resources") or {}), **(info.capabilities.get("labels") or {})}
    return " ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in said.items()
    )


#: What a table of nodes shows.
NODE_COLUMNS = {
    "node": lambda info: info.node_id,
    "status": lambda info: f"{info.status}{' (cordoned)' if info.cordoned else ''}",
    "address": lambda info: info.address or info.ip_address,
    "in flight": lambda info: f"{info.in_flight}/{info.slots}" if info.joined else "",
    "served": lambda info: info.served if info.joined else "",
    "failures": lambda info: info.failures if info.joined else "",
    "cpu": lambda info: f"{100 * info.usage.get('cpu', 0):.0f}%" if info.joined else "",
    "memory": lambda info: size(info.usage.get("memory")),
    "p50 / p95": _latency,
    "has": _has,
    "models": lambda info: ", ".join(info.available_models),
    "why": lambda info: info.reason,
}

#: What a table of tasks shows.
TASK_COLUMNS = {
    "task": lambda info: info.task_id,
    "model": lambda info: info.model_id,
    "status": lambda info: info.status,
    "node": lambda info: info.node_id,
    "tries": lambda info: info.tries,
    "submitted (UTC)": lambda info: moment(info.submitted),
    "started": lambda info: moment(info.started),
    "ended": lambda info: moment(info.ended),
    "error": lambda info: info.error,
}
