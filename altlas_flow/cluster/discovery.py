"""Discovery over DNS-SD: schedulers announce themselves in their network, workers and clients find them.

The service is ``_altlas-flow._tcp``; each cluster is an instance, named by the setting
``altlas.cluster-name``. Needs the extra ``discovery``.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from altlas_flow._version import __version__
from altlas_flow.errors import ConnectError, names

if TYPE_CHECKING:
    from zeroconf.asyncio import AsyncZeroconf

SERVICE = "_altlas-flow._tcp.local."
#: Seconds that clusters get to answer.
LISTEN = 2.0
#: How a client says that it wants to find a cluster, maybe one of a name.
WORD = "discover"


@dataclass(frozen=True)
class Found:
    """A cluster that announced itself.

    Attributes
    ----------
    name : str
    address : str
        Of its scheduler, as Dask takes it.
    version : str
        Of altlas_flow there.
    """

    name: str
    address: str
    version: str


def wanted_name(address: object) -> str | None:
    """The name in ``discover:NAME``; empty for ``discover``; None where an address says something else."""
    text = str(address)
    word, _, name = text.partition(":")
    return name if word == WORD and "//" not in text else None


async def look(*, seconds: float = LISTEN, name: str = "", interfaces: Any = None) -> list[Found]:
    """The clusters that answer.

    Parameters
    ----------
    seconds : float
        How long to listen; with a name, no longer than until that one has answered.
    name : str
        Only this one.
    interfaces : list of str, optional
        Addresses of this machine; by default all, loopback included.

    Raises
    ------
    ConnectError
        Where the extra is not installed.
    """
    from zeroconf import ServiceStateChange
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo

    zeroconf = _open(interfaces)
    found: dict[str, Found] = {}
    resolving: set[asyncio.Task[None]] = set()
    enough = asyncio.Event()

    async def resolve(instance: str) -> None:
        info = AsyncServiceInfo(SERVICE, instance)
        if await info.async_request(zeroconf.zeroconf, seconds * 1000) and info.port:
            said = {key.decode(): (value or b"").decode() for key, value in info.properties.items()}
            cluster = instance.removesuffix(f".{SERVICE}")
            if name in ("", cluster) and (host := _best(info.parsed_addresses())):
                address = f"{said.get('protocol', 'tcp')}://{host}:{info.port}"
                found[cluster] = Found(cluster, address, said.get("version", ""))
                if name:
                    enough.set()

    def heard(zeroconf: Any, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is not ServiceStateChange.Removed:
            task = asyncio.get_running_loop().create_task(resolve(name))
            resolving.add(task)
            task.add_done_callback(resolving.discard)

    browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE, handlers=[heard])
    try:
        await asyncio.wait_for(enough.wait(), seconds)
    except TimeoutError:
        pass
    finally:
        await browser.async_cancel()
        for task in list(resolving):
            task.cancel()
        await zeroconf.async_close()
    return sorted(found.values(), key=lambda one: one.name)


async def find(name: str = "", *, seconds: float = LISTEN, interfaces: Any = None) -> str:
    """The address of the one cluster there is, or of the one of that name.

    Raises
    ------
    ConnectError
        Where there is none, or several and none was named.
    """
    found = await look(seconds=seconds, name=name, interfaces=interfaces)
    if len(found) == 1:
        return found[0].address
    if found:
        known = names(one.name for one in found)
        raise ConnectError(f'several clusters answer ({known}): name one, as in "discover:{found[0].name}"')
    which = f"no cluster {name!r}" if name else "no cluster"
    raise ConnectError(f"{which} answers in this network: see that its scheduler runs with --announce")


class Announcement:
    """A scheduler's word to its network, until it is taken back.

    Parameters
    ----------
    name : str
        Of the cluster.
    address : str
        Of the scheduler.
    """

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        protocol, _, place = address.partition("://")
        host, _, port = place.rpartition(":")
        self._protocol, self._host, self._port = protocol, host.strip("[]"), int(port)
        self._zeroconf: AsyncZeroconf | None = None

    async def begin(self) -> None:
        """Announce it.

        Raises
        ------
        ConnectError
            Where the name is taken in this network, or the extra is not installed.
        """
        from zeroconf import NonUniqueNameException, ServiceInfo
        from zeroconf.asyncio import AsyncServiceInfo

        taken = ConnectError(
            f"a cluster {self.name!r} is in this network already: give this one another --name"
        )
        address = ipaddress.ip_address(self._host)
        # only where it listens: on loopback, others are not told
        self._zeroconf = _open([str(address)])
        info = ServiceInfo(
            SERVICE,
            f"{self.name}.{SERVICE}",
            addresses=[address.packed],
            port=self._port,
            properties={"version": __version__, "protocol": self._protocol},
            server=f"{self.name}-{socket.gethostname().partition('.')[0]}.local.",
        )
        # asked first: the library's own look at names ends a second after it has begun, answered or not
        other = AsyncServiceInfo(SERVICE, info.name)
        if await other.async_request(self._zeroconf.zeroconf, LISTEN * 1000):
            await self.end()
            raise taken
        try:
            await (await self._zeroconf.async_register_service(info))
        except NonUniqueNameException as error:
            await self.end()
            raise taken from error

    async def end(self) -> None:
        """Take it back."""
        zeroconf, self._zeroconf = self._zeroconf, None
        if zeroconf is not None:
            await zeroconf.async_unregister_all_services()
            await zeroconf.async_close()


async def keep_looking(
    name: str, interval: float, found: Callable[[str], Awaitable[None]], *, interfaces: Any = None
) -> None:
    """Find a cluster, do `found` with its address until that returns, and look again, for ever."""
    while True:
        try:
            address = await find(name, interfaces=interfaces)
        except ConnectError:
            await asyncio.sleep(interval)  # nothing announces that somebody will announce something
            continue
        await found(address)


def _open(interfaces: Any) -> AsyncZeroconf:
    try:
        from zeroconf import InterfaceChoice, IPVersion
        from zeroconf.asyncio import AsyncZeroconf
    except ImportError as error:
        raise ConnectError("discovery needs the extra: pip install 'altlas-flow[discovery]'") from error
    if interfaces is None:
        interfaces = InterfaceChoice.All
    return AsyncZeroconf(interfaces=interfaces, ip_version=IPVersion.V4Only)


def _best(addresses: list[str]) -> str:
    """An address to use: not loopback, where there is another."""
    ordered = sorted(addresses, key=lambda text: ipaddress.ip_address(text).is_loopback)
    return ordered[0] if ordered else ""
