"""What an orchestrator awaits beside requests: what operators do, and what must be known before."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from altlas_flow.errors import AltlasError
from altlas_flow.flow import Flow
from altlas_flow.records import InferenceRequest, NodeInfo, NodeStatus, TaskInfo, TaskStatus
from altlas_flow.records.table import Table

#: Before a task, where errors are kept by model.
TASK = "task "


class AwaitedOperations(ABC):
    """`Operations` of a flow, awaited from any event loop; errors are the same."""

    @abstractmethod
    async def _started(self) -> Flow:
        """The flow, started where it was not."""

    async def list_nodes(self) -> Table[NodeInfo]:
        """All nodes; see `Flow.nodes`."""
        return await asyncio.to_thread((await self._started()).nodes)

    async def register_node(self, node: NodeInfo) -> None:
        """Have a node known, and admitted; see `Flow.register_node`."""
        await asyncio.to_thread((await self._started()).register_node, node)

    async def update_node_status(self, node_id: str, status: NodeStatus | str) -> None:
        """Cordon a node, set it offline, or have it work again; see `Flow.update_node_status`."""
        await asyncio.to_thread((await self._started()).update_node_status, node_id, status)

    async def update_node_models(self, node_id: str, models: Iterable[str]) -> None:
        """Have the loaded models of a node be these; see `Flow.update_node_models`."""
        await asyncio.to_thread((await self._started()).update_node_models, node_id, models)

    async def unregister_node(self, node_id: str) -> None:
        """Drain a node where it is here, and forget it; see `Flow.unregister_node`."""
        await asyncio.to_thread((await self._started()).unregister_node, node_id)

    async def list_tasks(self, status_filter: TaskStatus | str | None = None) -> Table[TaskInfo]:
        """Requests of all clients; see `Flow.tasks`."""
        return await asyncio.to_thread((await self._started()).tasks, status_filter)

    async def get_task(self, task_id: str) -> TaskInfo:
        """One request; see `Flow.task`."""
        return await asyncio.to_thread((await self._started()).task, task_id)

    async def cancel_task(self, task_id: str) -> bool:
        """Give a request up, whoever asked for it; see `Flow.cancel_task`."""
        return await asyncio.to_thread((await self._started()).cancel_task, task_id)


async def prepare(flow: Flow, requests: Sequence[InferenceRequest]) -> dict[str, AltlasError]:
    """Look up the models that need a trip to the scheduler, in a thread; what is wrong with some."""
    missing: dict[str, AltlasError] = {}
    for model in {getattr(request, "model_id", None) for request in requests}:
        if model is not None and not flow.is_prepared(model):
            try:
                await asyncio.to_thread(flow.prepare, model)
            except AltlasError as error:
                missing[model] = error
    tasks = {
        request.task_type
        for request in requests
        if isinstance(request, InferenceRequest) and request.model_id is None and request.task_type
    }
    for task in tasks:
        try:
            await asyncio.to_thread(flow.prepare_task, task)
        except AltlasError as error:
            missing[TASK + task] = error
    return missing


def asked_of(request: InferenceRequest) -> str:
    """What a request asks for, as `prepare` names it."""
    model = getattr(request, "model_id", None)
    return str(model or TASK + str(getattr(request, "task_type", None) or ""))
