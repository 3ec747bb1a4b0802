"""One transport for each Dask client, however many flows use it; nobody waits for one that is dead."""

from __future__ import annotations

import atexit
import logging
import threading
from typing import Any
from weakref import WeakKeyDictionary

from distributed import Client

from altlas_flow.cluster.client.transport import Transport
from altlas_flow.settings import Settings

logger = logging.getLogger(__name__)

#: Seconds between two looks whether clients were closed by their owners.
LOOK = 1.0

_registry = threading.Lock()
_transports: WeakKeyDictionary[Client, Transport] = WeakKeyDictionary()


@atexit.register
def _close_all() -> None:
    """Before Dask closes clients and clusters that nobody has closed: what has been answered is let go of."""
    for transport in list(_transports.values()):
        transport.close()


def transport_for(client: Client, settings: Settings) -> Transport:
    """The transport of a client: one, however many flows use it; each calls `release` in the end."""
    with _registry:
        transport = _transports.get(client)
        if transport is None or transport.closed:
            transport = _transports[client] = Transport(client, settings)
        elif transport.settings != settings:
            logger.warning("this Client has a flow already: its requests go by the settings of that one")
        transport.users += 1
        _watch()
        return transport


def release(transport: Transport) -> None:
    """A flow uses it no more; the last one closes it."""
    with _registry:
        transport.users -= 1
        last = transport.users <= 0
        transport._closed |= last  # nobody gets it any more
        if last and _transports.get(transport.client) is transport:
            del _transports[transport.client]  # it holds its client, which would never be freed
    if last:
        transport.close()


_watcher: threading.Thread | None = None


def _watch() -> None:
    """Have a thread that looks after all transports; with `_registry` held."""
    global _watcher
    if _watcher is None or not _watcher.is_alive():
        _watcher = threading.Thread(target=_look, name="altlas-watch", daemon=True)
        _watcher.start()


def _look() -> None:
    """End what waits for clients that are closed; until there are no transports any more.

    Their own event loops do it, mostly. One that was stopped in the middle of it cannot.
    """
    pause = threading.Event()
    while True:
        pause.wait(LOOK)
        with _registry:
            transports: Any = list(_transports.values())
            if not transports:
                global _watcher
                _watcher = None
                return
        transport: Any
        for transport in transports:
            try:
                transport.abandon()
            except Exception:
                # the next look tries again; nobody else would end these waits
                logger.exception("the requests of a closed client could not be ended")
        transports = transport = None  # or the last ones would live until the next look
