"""What operators do, awaited: the part of an orchestrator that is about nodes."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable

from altlas_flow.flow import Flow
from altlas_flow.records import NodeInfo, NodeStatus
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
