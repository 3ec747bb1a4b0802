"""The registry: nodes that an operator has named, whether they have joined or not, and who may join."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from altlas_flow.errors import BadRequest
from altlas_flow.records import NodeInfo

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Visitor:
    """A worker that asks to join.

    Attributes
    ----------
    name : str
        As it calls itself; empty where it does not say, as a nanny.
    peer : str
        Address from which it speaks, as the connection says: all else is its own word.
    """

    name: str
    peer: str


@dataclass(slots=True)
class Entry:
    """A node that was registered.

    Attributes
    ----------
    node_id : str
    host : str, optional
        Name of its machine.
    network : ip network, optional
        Its address, or a range of addresses.
    models : list of str, optional
        Ids of the models that it is to have loaded; None where nobody has said.
    capabilities : mapping
        As whoever registered it said.
    cordoned, offline, aside : bool
        What operators said, for when it joins.
    addresses : frozenset of str
        What the name of its machine stands for, when it was last looked up.
    """

    node_id: str
    host: str | None = None
    network: Network | None = None
    models: list[str] | None = None
    capabilities: Mapping[str, object] = field(default_factory=dict)
    cordoned: bool = False
    offline: bool = False
    aside: bool = False
    addresses: frozenset[str] = frozenset()

    @property
    def is_range(self) -> bool:
        """Whether it stands for many nodes: a range of addresses."""
        return self.network is not None and self.network.num_addresses > 1

    def is_host(self, visitor: Visitor) -> bool:
        """Whether the visitor comes from its machine."""
        return self.host is not None and (visitor.peer == self.host or visitor.peer in self.addresses)

    def has_address(self, visitor: Visitor) -> bool:
        """Whether the visitor speaks from its address."""
        return self.network is not None and _within(visitor.peer, self.network)

    def contradiction(self, visitor: Visitor) -> str | None:
        """Why a visitor of its name is not meant; None where nothing speaks against it."""
        if self.network is not None:
            where, fits = f"address {_shown(self.network)}", self.has_address(visitor)
        elif self.host is not None:
            where, fits = f"host {self.host}", self.is_host(visitor)
        else:
            return None
        return None if fits else f"{self.node_id} is registered for {where}, and it came from {visitor.peer}"


class Registry:
    """Nodes by their ids.

    Parameters
    ----------
    closed : bool
        Whether only those registered may join.
    """

    def __init__(self, closed: bool = False) -> None:
        self.closed = closed
        self._entries: dict[str, Entry] = {}

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, node_id: str) -> Entry | None:
        """The node of that id, where it is registered."""
        return self._entries.get(node_id)

    def put(self, entry: Entry) -> None:
        """Register a node; one of that id before goes."""
        self._entries[entry.node_id] = entry

    def drop(self, node_id: str) -> Entry | None:
        """Forget a node; what was known of it."""
        return self._entries.pop(node_id, None)

    def match(self, visitor: Visitor, taken: Collection[str] = ()) -> Entry | None:
        """The entry that a worker is: by its name, else by its host, else by its address.

        Parameters
        ----------
        visitor : Visitor
        taken : collection of str
            Ids of entries that other workers are already: only a range of addresses may be several.
        """
        named = self._entries.get(visitor.name)
        if named is not None and named.contradiction(visitor) is None:
            return named
        free = [one for one in self if one is not named and (one.is_range or one.node_id not in taken)]
        for fits in (Entry.is_host, Entry.has_address):
            for entry in free:
                if fits(entry, visitor):
                    return entry
        return None

    def refusal(self, visitor: Visitor, taken: Collection[str] = ()) -> str | None:
        """Why a worker may not join; None where it may.

        A name is a worker's own word. So where an entry says a host or an address as well, these have to
        be right, too.
        """
        if not self.closed:
            return None
        named = self._entries.get(visitor.name)
        if named is not None and (wrong := named.contradiction(visitor)) is not None:
            return wrong
        if self.match(visitor, taken) is not None:
            return None
        if not visitor.name:
            return f"no node of {visitor.peer} is registered"
        return (
            f"neither a node of the name {visitor.name!r} nor one of {visitor.peer} is registered "
            "(altlas-flow register does that)"
        )

    def may_be_nanny(self, visitor: Visitor) -> bool:
        """Whether what says no name may belong to a registered node for certain: by host or address."""
        return not self.closed or any(one.is_host(visitor) or one.has_address(visitor) for one in self)


def network_of(address: str) -> Network:
    """An address, or a range such as ``10.0.0.0/24``.

    Raises
    ------
    BadRequest
    """
    try:
        return ipaddress.ip_network(address.strip(), strict=False)
    except ValueError:
        raise BadRequest(
            f"{address!r} is neither an address nor a range of them: give one such as 192.168.1.100 "
            "or 10.0.0.0/24"
        ) from None


def is_network(text: str) -> bool:
    """Whether a text is an address, or a range of them."""
    try:
        network_of(text)
    except BadRequest:
        return False
    return True


def name_problem(name: object) -> str | None:
    """Why a worker's name is none for a node; None where it is one."""
    try:
        NodeInfo(node_id=str(name))
    except BadRequest:
        return (
            f"its name {str(name)[:80]!r} cannot be used: one is needed without blanks around it and without "
            "control characters"
        )
    return None


def entry_of(text: str) -> Entry:
    """What a setting names: an address, a range of addresses, ``host:NAME``, or a node's name."""
    kind, _, rest = text.partition(":")
    if kind == "host" and rest:
        return Entry(text, host=rest)
    try:
        return Entry(text, network=ipaddress.ip_network(text.strip(), strict=False))
    except ValueError:
        return Entry(text)


def _within(peer: str, network: Network) -> bool:
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address) in network


def _shown(network: Network) -> str:
    return str(network) if network.num_addresses > 1 else str(network.network_address)
