"""Choosing as a client does it, and what comes of its requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING, Any

from altlas_flow.cluster.client.handle import CANCELLED, Handle
from altlas_flow.cluster.connect import call_control
from altlas_flow.records import Decision

if TYPE_CHECKING:
    from altlas_flow.cluster.client.transport import Transport


class ClientLine:
    """How a client that chooses reaches the scheduler; see `altlas_flow.cluster.choosing.Line`.

    Parameters
    ----------
    transport : Transport
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The client's."""
        return self._transport.loop

    @property
    def thread(self) -> int | None:
        """Of that."""
        return self._transport.thread

    @property
    def closed(self) -> bool:
        """Whether the transport is."""
        return self._transport.closed

    def clock(self) -> float:
        """Seconds."""
        return self._transport.clock()

    def tell(self, message: dict[str, Any]) -> None:
        """Send by the client's stream."""
        self._transport.tell(message)

    def ask(self, operation: str, **arguments: Any) -> Any:
        """Ask, and wait.

        Raises
        ------
        AltlasError
        """
        return call_control(self._transport.client, operation, **arguments)

    def asking(self, operation: str, **arguments: Any) -> Awaitable[Any]:
        """Ask, on the client's event loop."""
        asked: Awaitable[Any] = getattr(self._transport.client.scheduler, operation)(**arguments)
        return asked


def follow(transport: Transport, handle: Handle, decision: Decision) -> None:
    """Tell what comes of a request whose model was chosen."""
    ended = partial(_ended, transport, handle, decision)
    transport.choosing().count(decision.task, 1)
    if not transport.when_over(handle, ended):
        ended()


def _ended(transport: Transport, handle: Handle, decision: Decision) -> None:
    transport.choosing().count(decision.task, -1)
    if handle._final == CANCELLED:
        return  # that says nothing of the model
    transport.choosing().ended(
        decision.id,
        decision.task,
        decision.model,
        latency=handle._ended - handle._submitted,
        error=handle._error,
    )
