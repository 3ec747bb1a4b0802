"""Admission: who may join, decided before Dask takes a worker in and gives it plugins or work."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from distributed.comm.addressing import get_address_host, normalize_address
from distributed.comm.core import Comm
from distributed.core import rpc

from altlas_flow.cluster.scheduler.guard import Guard, peer_of, who_is
from altlas_flow.errors import describe
from altlas_flow.nodes.audit import Audit
from altlas_flow.nodes.registry import Entry, Registry, Visitor, name_problem
from altlas_flow.nodes.unusual import Unusual

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, WorkerState

logger = logging.getLogger(__name__)

#: Seconds that looking up the name of a machine may take.
LOOKUP_LIMIT = 2.0
#: Seconds that a nanny gets to take a plugin; it answers once its worker has joined.
PLUGIN_LIMIT = 60.0
#: How the answer to a worker begins that may not join.
REFUSED = "this cluster does not admit it"
#: The same, where another has its name, or its address.
TAKEN = "its place is taken"


class Admission:
    """Stands before Dask's own operations by which workers and nannies join.

    What a plugin raises in `add_worker` is only logged, and the worker has its plugins by then: so the
    operations themselves are wrapped.
    """

    def __init__(
        self, scheduler: Scheduler, registry: Registry, guard: Guard, audit: Audit, unusual: Unusual
    ) -> None:
        self.scheduler, self.registry, self.guard = scheduler, registry, guard
        self.audit, self.unusual = audit, unusual
        self.is_node: dict[str, str] = {}  # address of a worker -> id of the entry that it is
        self.refusals = 0
        self._joining: dict[str, tuple[Visitor, dict[str, str], Any]] = {}  # by address: about to be taken in
        self._nannies: set[str] = set()  # addresses of nannies whose plugins wait for their workers
        self._sending: set[asyncio.Task[None]] = set()
        handlers = scheduler.handlers
        self._register, self._register_nanny = handlers["register-worker"], handlers["register_nanny"]
        handlers["register-worker"], handlers["register_nanny"] = self.register, self.register_nanny

    async def register(self, comm: Comm, **said: Any) -> Any:
        """A worker asks to join."""
        visitor = Visitor(str(said["name"]), peer_of(comm))
        why = self.guard.join(comm) or name_problem(said["name"]) or await self.judge(visitor)
        begin, address = REFUSED, ""
        if why is None:
            begin, address = TAKEN, self._coerced(said)
            why = self._place_taken(visitor.name, address)
        if why is not None:
            self._refuse(comm, visitor, why)
            message = f"{begin}: {why}"
            await comm.write({"status": "error", "message": message, "time": time.time()})
            return None
        self._joining[address] = visitor, who_is(comm), said.get("nanny")
        try:
            # stays in there for as long as the worker does
            return await self._register(comm, **said)
        finally:
            self._joining.pop(address, None)

    def joined(self, address: str) -> None:
        """Dask has taken a worker in: what asks and is not taken in changes nothing here."""
        if (asked := self._joining.pop(address, None)) is None:
            return
        visitor, who, nanny = asked
        entry = self.registry.match(visitor, self.taken())
        if entry is not None:
            self._is_now(address, visitor, entry)
        self.audit.note("joined", **who, node=visitor.name, worker=address)
        if nanny in self._nannies:
            self._nannies.discard(nanny)
            # not awaited: a nanny answers nobody until its worker has joined
            sending = asyncio.get_running_loop().create_task(self._send_plugins(str(nanny)))
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)

    def _is_now(self, address: str, visitor: Visitor, entry: Entry) -> None:
        if not entry.is_range and visitor.name == entry.node_id:
            # one that was taken for it by its address is another
            self.is_node = {other: node for other, node in self.is_node.items() if node != entry.node_id}
        self.is_node[address] = entry.node_id

    def _coerced(self, said: Mapping[str, Any]) -> str:
        """The address of a worker as Dask will have it."""
        given = self.scheduler.coerce_address(said["address"], said.get("resolve_address", True))
        return str(normalize_address(given))

    def _place_taken(self, name: str, address: str) -> str | None:
        """Why Dask, or an operator who says a name, could not tell a worker from one that is here.

        Dask would say some of that, too, but only once it has begun; and for it 0 and "0" are two names.
        """
        if (there := self.scheduler.workers.get(address)) is not None:
            return f"a worker {str(there.name)!r} is here at {address} already"
        for other, where in self.scheduler.aliases.items():
            if str(other) == name:
                return f"a worker {name!r} is here at {where}: choose another name"
        return None

    def meet(self, entry: Entry) -> list[str]:
        """A node was registered: addresses of the workers, here already, that are it."""
        self.taken()
        self.is_node = {address: node for address, node in self.is_node.items() if node != entry.node_id}
        visitors = {ws.address: self._visitor(ws) for ws in self.scheduler.workers.values()}
        found = [
            address
            for address, visitor in visitors.items()
            if visitor.name == entry.node_id and entry.contradiction(visitor) is None
        ]
        for fits in (Entry.is_host, Entry.has_address):
            found += [
                address
                for address, visitor in visitors.items()
                if address not in self.is_node and address not in found and fits(entry, visitor)
            ]
        if not entry.is_range:
            del found[1:]
        self.is_node.update(dict.fromkeys(found, entry.node_id))
        return found

    def _visitor(self, ws: WorkerState) -> Visitor:
        """A worker that is here, as it was when it asked to join."""
        comm = getattr(self.scheduler.stream_comms.get(ws.address), "comm", None)
        return Visitor(str(ws.name), peer_of(comm) if comm is not None else str(ws.host))

    async def register_nanny(self, comm: Comm, address: str) -> Any:
        """A nanny asks for its plugins, before its worker has a name: it gets them when that is known."""
        visitor = Visitor("", peer_of(comm))
        why = self.guard.join(comm)
        if why is not None:
            self._refuse(comm, visitor, why)
            await comm.write({"status": "error", "message": f"{REFUSED}: {why}"})
            return None
        await self.look_up(self.registry)
        if self.registry.may_be_nanny(visitor):
            return await self._register_nanny(comm, address=address)
        self._nannies.add(address)
        try:
            await comm.write({"status": "OK", "nanny-plugins": {}})
            await comm.read()
        finally:
            self._nannies.discard(address)
        return None

    async def judge(self, visitor: Visitor) -> str | None:
        """Why a worker may not join; None where it may."""
        if self.registry.closed:
            await self.look_up(self.registry)
        return self.registry.refusal(visitor, self.taken())

    def taken(self) -> set[str]:
        """Ids of the entries that workers are."""
        here = self.scheduler.workers
        self.is_node = {address: node for address, node in self.is_node.items() if address in here}
        return set(self.is_node.values())

    async def look_up(self, entries: Iterable[Entry]) -> None:
        """Look up what the names of machines stand for now."""
        loop = asyncio.get_running_loop()

        async def one(entry: Entry) -> None:
            try:
                found = await asyncio.wait_for(loop.getaddrinfo(entry.host, None), LOOKUP_LIMIT)
            except (OSError, TimeoutError, UnicodeError):
                return  # as it was
            entry.addresses = frozenset(str(address[4][0]) for address in found)

        await asyncio.gather(*(one(entry) for entry in entries if entry.host is not None))

    async def evict_strangers(self) -> None:
        """Let go of workers that joined before there was a rule, and that it does not admit."""
        for ws in list(self.scheduler.workers.values()):
            visitor = self._visitor(ws)
            why = await self.judge(visitor)
            if why is not None:
                self.refusals += 1
                self.audit.note("refused", address=ws.host, node=visitor.name, why=why)
                logger.warning("worker %s (%s) is let go: %s", ws.name, ws.address, why)
                await self.scheduler.remove_worker(ws.address, stimulus_id=f"altlas-refused-{ws.address}")

    def _refuse(self, comm: Comm, visitor: Visitor, why: str) -> None:
        self.refusals += 1
        logger.warning("worker %r of %s is refused: %s", visitor.name, visitor.peer, why)
        self.audit.note("refused", **who_is(comm), node=visitor.name, why=why)
        if (said := self.unusual.refused(visitor.peer, time.monotonic())) is not None:
            self.audit.warn(said, address=visitor.peer)

    async def _send_plugins(self, nanny: str) -> None:
        """Give a nanny what it did not get when it asked."""
        try:
            async with rpc(nanny, connection_args=self.scheduler.connection_args) as remote:
                for name, plugin in self.scheduler.nanny_plugins.items():
                    await asyncio.wait_for(remote.plugin_add(plugin=plugin, name=name), PLUGIN_LIMIT)
        except (OSError, TimeoutError) as error:
            logger.warning("nanny %s did not take its plugins: %s", nanny, describe(error))


def is_closed(scheduler: Scheduler, admission: str | None, *, roles: bool, ours: bool) -> bool:
    """Whether only registered nodes may join; where nobody has said, by who else reaches the scheduler.

    A scheduler that is not `ours`, on which a client has put the plugin, goes on as its owner has it.
    """
    if admission is not None:
        return admission == "registered"
    if roles or not ours:
        return False
    listening = [str(listener.listen_address) for listener in scheduler.listeners]
    return not all(address.startswith("inproc://") or is_loopback(address) for address in listening)


def is_loopback(address: str) -> bool:
    """Whether nobody but this machine reaches an address of Dask's."""
    import ipaddress

    try:
        host = str(get_address_host(address)).removeprefix("[").removesuffix("]")
    except ValueError:
        return False  # no address: whatever is made of it
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    return all(ipaddress.ip_address(one).is_loopback for one in found)
