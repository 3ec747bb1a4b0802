"""Dask's client, where it joins a scheduler: that has an end, and is tried again where others disturb it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from distributed import Client
from distributed.deploy.cluster import Cluster

from altlas_flow.errors import describe

logger = logging.getLogger(__name__)

#: How often connecting is tried where others disturb it.
CONNECT_TRIES = 5


class _Client(Client):
    """Dask's, whose connecting has an end: it would wait for ever for a peer that takes it and is silent."""

    async def _ensure_connected(self, timeout: float | None = None) -> None:
        limit = self._timeout if timeout is None else timeout
        try:
            await asyncio.wait_for(super()._ensure_connected(timeout=timeout), limit)
        except TimeoutError as error:
            raise TimeoutError(str(error) or f"it says nothing for {limit:g} s") from error


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
