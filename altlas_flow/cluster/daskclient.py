"""Dask's client, where it joins a scheduler: that has an end, and is tried again where others disturb it."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

from distributed import Client
from distributed.comm.addressing import parse_address, parse_host_port
from distributed.deploy.cluster import Cluster

from altlas_flow.errors import describe, one_line

logger = logging.getLogger(__name__)

#: How often connecting is tried where others disturb it.
CONNECT_TRIES = 5
#: Seconds beyond its limit that connecting gets to say itself why it failed.
MORE = 0.5
#: Seconds for a look at where nobody answered.
LOOK = 1.0


class _Client(Client):
    """Dask's, whose connecting has an end: it would wait for ever for a peer that takes it and is silent."""

    async def _ensure_connected(self, timeout: float | None = None) -> None:
        limit = self._timeout if timeout is None else timeout
        try:
            # where nothing listens Dask has its own end
            await asyncio.wait_for(super()._ensure_connected(timeout=timeout), limit + MORE)
        except TimeoutError as error:
            raise TimeoutError(str(error) or f"it says nothing for {limit:g} s") from error


class _Cancelled(logging.Filter):
    """Drops what Dask says of a task of its own that it cancels."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a message is shown."""
        return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def leave(client: Client) -> None:
    """Close a client. One whose scheduler has gone is connecting again, and ending that is no error."""
    theirs, filter = logging.getLogger("distributed.client"), _Cancelled()
    theirs.addFilter(filter)
    try:
        client.close()
    finally:
        theirs.removeFilter(filter)


def why_not(target: str | Cluster, error: Exception) -> str:
    """What kept a client from connecting: Dask, which tries until its time is over, says but that."""
    if isinstance(target, str) and isinstance(error, (OSError, TimeoutError)):
        try:
            socket.create_connection(parse_host_port(parse_address(target)[1]), LOOK).close()
        except ConnectionRefusedError:
            return "nothing listens there: the connection was refused"
        except (OSError, ValueError):
            pass  # what Dask says is all that is known
    return one_line(error, 200)


_Client.__name__ = _Client.__qualname__ = Client.__name__  # which is a part of its id, and shown


def join(target: str | Cluster, **options: Any) -> Client:
    """A client of Dask's, which has a race: it fails where others cancel tasks while it connects.

    Its scheduler tells all clients of each cancelled task, and a client that gets such a message together
    with its first one asserts that there is but one.
    """
    tries = CONNECT_TRIES
    while True:
        tries -= 1
        client = _Client.__new__(_Client)  # to have it, to close it, where making it fails
        try:
            _Client.__init__(client, target, **options)
            return client
        except AssertionError as error:
            client.close(timeout=1)
            if not tries:
                raise
            logger.info("connecting once more (%s)", describe(error))
        except BaseException:
            # One that closed itself leaves its thread: who tries again and again would run out of them.
            # Another one may still be at it in that thread, and closes with its last reference.
            if getattr(client, "status", "") == "closed":
                client._loop_runner.stop()
            raise
