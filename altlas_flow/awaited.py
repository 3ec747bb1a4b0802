"""What operators do, awaited: the part of an orchestrator that is about nodes and tasks."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable

from altlas_flow.flow import Flow
from altlas_flow.records import NodeInfo, NodeStatus, TaskInfo, TaskStatus
from altlas_flow.records.table import Table


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
