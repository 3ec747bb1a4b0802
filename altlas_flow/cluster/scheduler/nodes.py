"""Nodes as operators see them: who is here, in what state, what is loaded; and what operators say of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from distributed.comm.core import Comm

from altlas_flow.cluster.keys import DIGITS
from altlas_flow.cluster.scheduler.admission import Admission
from altlas_flow.cluster.scheduler.draining import Draining
from altlas_flow.cluster.scheduler.guard import who_is
from altlas_flow.cluster.scheduler.loading import Loading
from altlas_flow.cluster.scheduler.noderecords import Orders, record_of, record_of_absent, record_of_strange
from altlas_flow.cluster.scheduler.placer import Placer
from altlas_flow.cluster.scheduler.watchman import Watchman
from altlas_flow.errors import (
    AltlasError,
    BadRequest,
    ClusterError,
    UnknownNode,
    describe,
    names,
)
from altlas_flow.models.spec import ModelSpec
from altlas_flow.nodes.audit import Audit
from altlas_flow.nodes.registry import Entry, Registry, is_network, network_of
from altlas_flow.placement.node import Node
from altlas_flow.records import NodeInfo, NodeStatus

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, WorkerState

logger = logging.getLogger(__name__)


class Nodes:
    """Records of nodes, and the operations of operators.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    placer : Placer
    watchman : Watchman
    admission : Admission
    catalog : mapping of str to ModelSpec
    changed : callable
        Called without arguments when nodes take work that did not, or other way round.
    load_limit : float
        Seconds that loading a model on a node may take.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        placer: Placer,
        watchman: Watchman,
        admission: Admission,
        catalog: Mapping[str, ModelSpec],
        changed: Any,
        load_limit: float,
    ) -> None:
        self.scheduler, self.placer, self.watchman = scheduler, placer, watchman
        self.admission, self.catalog, self._changed = admission, catalog, changed
        self.registry: Registry = admission.registry
        self.audit: Audit = admission.audit
        self.loading = Loading(scheduler, placer, catalog, load_limit)
        self.orders: dict[str, Orders] = {}  # by name of the worker
        self.draining = Draining(scheduler, placer, watchman)
        self.drained = self.draining.drained
        self._tasks: set[asyncio.Task[None]] = set()

    # -- what Dask and hosts tell ----------------------------------------------------------------

    def came(self, ws: WorkerState) -> None:
        """A host is there: what operators said of it holds, and it loads what it is to have."""
        self.draining.came(ws)
        self._is(ws.address, str(ws.name), self._entry_of(ws.address, str(ws.name)))

    def _is(self, address: str, name: str, entry: Entry | None) -> None:
        """What was said of a node holds for the worker that is it."""
        if entry is not None and name not in self.orders and entry.node_id in self.orders:
            # said of it by the id that it was registered by
            self.orders[name] = replace(self.orders[entry.node_id])
        self._bar(name)
        if entry is not None and entry.models:
            wanted = [model for model in entry.models if model in self.catalog]
            if len(wanted) < len(entry.models):
                unknown = sorted({*entry.models} - {*wanted})
                logger.warning("node %s is to have models that nobody has registered: %s", name, unknown)
            task = asyncio.get_running_loop().create_task(self.loading.load_quietly(address, wanted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def left(self, address: str) -> None:
        """A worker is gone."""
        self.draining.left(address)
        node = self.placer.roster.get(address)
        self.audit.note("left", node=node.name if node is not None else "", worker=address)

    def operations(self) -> dict[str, Any]:
        """What operators may ask for: name of the operation -> handler."""
        return {
            "altlas_register_node": self.register,
            "altlas_node_status": self.set_status,
            "altlas_node_models": self.set_models,
            "altlas_unregister_node": self.unregister,
            "altlas_drain": self.drain,
            "altlas_load": self.load,
            "altlas_unload": self.unload,
        }

    # -- what is asked ---------------------------------------------------------------------------

    async def retired(self, comm: Comm, nanny: str) -> bool:
        """Whether the worker of a nanny was let go of on purpose: its program asks why it is gone."""
        return nanny in self.draining.retired

    async def known(self, comm: Comm) -> list[dict[str, Any]]:
        """All nodes: those that are here, and those that are registered and are not."""
        found = [self._info(node) for node in self.placer.roster]
        here = {info.node_id for info in found} | self.admission.taken()
        found += [
            record_of_absent(entry, self.orders.get(entry.node_id) or Orders())
            for entry in self.registry
            if entry.node_id not in here
        ]
        return [info.model_dump(mode="json") for info in sorted(found, key=lambda info: info.node_id)]

    async def register(self, comm: Comm, node: dict[str, Any]) -> None:
        """Have a node known, and admitted: it may be here already."""
        info = NodeInfo(**node)
        if info.ip_address is None and info.hostname is None and is_network(info.node_id):
            raise BadRequest(
                f"{info.node_id!r} is an address, not a name: register NAME --address {info.node_id} "
                "(ip_address= of a NodeInfo)"
            )
        entry = Entry(
            info.node_id,
            host=info.hostname,
            network=network_of(info.ip_address) if info.ip_address else None,
            models=list(info.available_models) or None,
            capabilities=dict(info.capabilities),
        )
        await self.admission.look_up([entry])
        self.registry.put(entry)
        if info.status is not NodeStatus.ONLINE:
            self._order(info.node_id, info.status)
        for address in self.admission.meet(entry):
            if (here := self.placer.roster.get(address)) is not None:
                self._is(address, here.name, entry)
        self.audit.note("registered", **who_is(comm), node=info.node_id, status=info.status)

    async def set_status(self, comm: Comm, node_id: str, status: str) -> None:
        """``BUSY`` cordons, ``OFFLINE`` and ``ERROR`` bar, until ``ONLINE``."""
        word = NodeStatus(status)
        nodes = self._meant(node_id)
        if not nodes or word is NodeStatus.ONLINE or self.registry.get(node_id) is not None:
            # for whoever comes as that, too
            self._order(node_id, word)
        for node in nodes:
            self._order(node.name, word)
        event = {NodeStatus.BUSY: "cordoned", NodeStatus.ONLINE: "uncordoned"}.get(word, f"set {word}")
        self.audit.note(event, **who_is(comm), node=node_id)

    async def set_models(self, comm: Comm, node_id: str, models: Iterable[str]) -> dict[str, Any]:
        """Have a node's loaded models be these: now where it is here, and whenever it comes."""
        wanted = list(dict.fromkeys(models))
        node = self._known(node_id)
        if node is None:
            entry = self.registry.get(node_id)
            assert entry is not None
            entry.models = wanted
            self.audit.note("models", **who_is(comm), node=node_id, wanted=wanted)
            return {"loaded": [], "unloaded": []}
        for model in wanted:
            self.loading.spec(model)
        if (entry := self.registry.get(node_id)) is not None:
            entry.models = wanted
        # by recipe: several ids may stand for one
        keep = {self.loading.spec(model).fingerprint[:DIGITS] for model in wanted}
        gone: list[str] = []
        for digits in node.loaded.keys() - keep:
            names = self.loading.ids(digits)
            await self.loading.unload(node, names[0], digits)
            gone += names
        fresh = [
            model for model in wanted if self.loading.spec(model).fingerprint[:DIGITS] not in node.loaded
        ]
        for model in fresh:
            await self.loading.load(node.address, self.loading.spec(model))
        self.audit.note("models", **who_is(comm), node=node_id, loaded=fresh, unloaded=sorted(gone))
        return {"loaded": fresh, "unloaded": sorted(gone)}

    async def load(self, comm: Comm, node_id: str, model: str) -> None:
        """Have a model loaded on a node."""
        node = self._here(node_id)
        await self.loading.load(node.address, self.loading.spec(model))
        self.audit.note("loaded", **who_is(comm), node=node_id, model=model)

    async def unload(self, comm: Comm, node_id: str, model: str) -> None:
        """Have a model that is not in use unloaded from a node."""
        node = self._here(node_id)
        digits = self.loading.spec(model).fingerprint[:DIGITS]
        if digits in node.loaded:
            await self.loading.unload(node, model, digits)
        self.audit.note("unloaded", **who_is(comm), node=node_id, model=model)

    async def drain(self, comm: Comm, node_id: str, within: float) -> None:
        """Give a node no new work, wait until what it has is done, and retire its worker."""
        await self._drain(comm, [self._here(node_id)], node_id, within)

    async def unregister(self, comm: Comm, node_id: str, within: float) -> None:
        """Drain a node where it is here, and forget it."""
        await self._drain(comm, self._meant(node_id), None, within)
        self.registry.drop(node_id)
        self.orders.pop(node_id, None)
        self.audit.note("unregistered", **who_is(comm), node=node_id)

    # -- how -------------------------------------------------------------------------------------

    async def _drain(self, comm: Comm, nodes: list[Node], node_id: str | None, within: float) -> None:
        """Drain nodes, all at once: what one of them has must not go to the next."""
        for node in nodes:
            self._order(node.name, NodeStatus.BUSY)
            self.audit.note("draining", **who_is(comm), node=node_id or node.name)

        async def one(node: Node) -> None:
            await self.draining.drain(node, within)
            self.orders.pop(node.name, None)
            self._bar(node.name)
            self.audit.note("drained", **who_is(comm), node=node_id or node.name)

        ends = await asyncio.gather(*(one(node) for node in nodes), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    def _order(self, name: str, status: NodeStatus) -> None:
        if status is NodeStatus.ONLINE:
            self.orders.pop(name, None)
            self.draining.call_off(name)
            for node in self._named(name):
                self.placer.health.forget(node.address)
        else:
            orders = self.orders.setdefault(name, Orders())
            orders.cordoned |= status is NodeStatus.BUSY
            orders.offline |= status is NodeStatus.OFFLINE
            orders.aside |= status is NodeStatus.ERROR
        self._bar(name)

    def _bar(self, name: str) -> None:
        """Tell placement what operators said of a node."""
        orders = self.orders.get(name)
        for node in self._named(name):
            node.barred = orders.bar if orders is not None else ""
            self.placer.roster.changed(node.address)
        self._changed()

    def _named(self, name: str) -> list[Node]:
        address = self.placer.names.get(name)
        node = self.placer.roster.get(address) if address is not None else None
        return [node] if node is not None else []

    def _meant(self, node_id: str) -> list[Node]:
        """The nodes that are here and meant: by name, or by the id of what was registered, maybe a range.

        Raises
        ------
        UnknownNode
        """
        if named := self._named(node_id):
            return named
        entries = self.admission.is_node.items()
        here = (self.placer.roster.get(address) for address, entry in entries if entry == node_id)
        found = [node for node in here if node is not None]
        if not found and self.registry.get(node_id) is None:
            raise UnknownNode(node_id, sorted({*self.placer.names, *(one.node_id for one in self.registry)}))
        return found

    def _known(self, node_id: str) -> Node | None:
        """The node where it is here; None where it is only registered.

        Raises
        ------
        UnknownNode, BadRequest
        """
        found = self._meant(node_id)
        if len(found) > 1:
            raise BadRequest(
                f"{node_id} stands for {len(found)} nodes ({names(n.name for n in found)}): name one"
            )
        return found[0] if found else None

    def _here(self, node_id: str) -> Node:
        node = self._known(node_id)
        if node is None:
            raise ClusterError(f"node {node_id} has not joined: start its worker first")
        return node

    def _entry_of(self, address: str, name: str) -> Entry | None:
        return self.registry.get(self.admission.is_node.get(address, name))

    def _info(self, node: Node) -> NodeInfo:
        try:
            info = record_of(
                node,
                self.scheduler.workers.get(node.address),
                self.orders.get(node.name) or Orders(),
                silent=node.address in self.watchman.silent,
                aside=self.placer.health.aside(node.address, self.placer.loop.time()),
                ids=self.loading.ids,
            )
            info.model_dump(mode="json")
        except (AltlasError, ValueError, TypeError, LookupError) as error:
            # what one worker says of itself must not keep people from seeing the others
            logger.warning("worker %s cannot be shown: %s", node.address, describe(error))
            return record_of_strange(node)
        return info
