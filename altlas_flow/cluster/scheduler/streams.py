"""Streams: what clients and workers say on connections that stay, looked at before Dask acts on it.

Dask merges a message over what it knows of the stream, so that a message could say who speaks. With
roles, a stream is that of the client or worker that opened it, whatever its messages say.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from distributed.comm.core import Comm

from altlas_flow.cluster.scheduler.assignment import Assignment
from altlas_flow.cluster.scheduler.guard import Guard, role_on
from altlas_flow.cluster.scheduler.rules import FOR_NOBODY, OF_CLIENTS, OF_WORKERS
from altlas_flow.cluster.worker.plugin import CANCEL, LISTEN, TOPIC
from altlas_flow.errors import Forbidden
from altlas_flow.security.roles import Role

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler


class Streams:
    """Keeps clients and workers to what is theirs to say.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    guard : Guard
    assignments : mapping
        Of keys to what runs under them, with what their senders said.
    """

    def __init__(self, scheduler: Scheduler, guard: Guard, assignments: Mapping[Any, Assignment]) -> None:
        self.scheduler, self.guard, self.assignments = scheduler, guard, assignments

    def wrap(self) -> None:
        """Stand before Dask's own way to hear a stream; only where roles are looked at."""
        if self.guard.strict:
            hear = self.scheduler.handle_stream
            self.scheduler.handle_stream = partial(self._hear, hear)  # type: ignore[method-assign]

    async def _hear(
        self, hear: Callable[..., Awaitable[None]], comm: Comm, extra: dict[str, Any] | None = None
    ) -> None:
        await hear(comm=_Sieve(comm, partial(self.may, comm, extra or {})), extra=extra)

    def may(self, comm: Comm, extra: Mapping[str, Any], message: Any) -> bool:
        """Whether a message may be acted on; what may not is written down, and left out."""
        if not isinstance(message, dict):
            return bool(message == "OK")
        name = str(message.get("op"))
        if name == "close-stream":
            return True
        try:
            self._look(comm, extra, name, message)
        except Forbidden:
            return False
        return True

    def _look(self, comm: Comm, extra: Mapping[str, Any], name: str, message: dict[str, Any]) -> None:
        kind = "client" if "client" in extra else "worker"
        if kind not in extra or name not in (OF_CLIENTS if kind == "client" else OF_WORKERS):
            self.guard.refuse(comm, name, f"is nothing that a {kind} says")
        own = extra[kind]
        if (said := message.get(kind, own)) != own and (name, said) != FOR_NOBODY:
            self.guard.refuse(comm, name, f"for another {kind} is for that one")
        if kind == "worker":
            event: Any = message.get("msg")
            if name == "log-event" and message.get("topic") == TOPIC and dict(event).get("address") != own:
                self.guard.refuse(comm, name, "that speaks of another worker is for that one")
        elif role_on(comm) is not Role.OPERATOR:
            if name in (CANCEL, LISTEN) and not self._is_of(message.get("key"), own):
                self.guard.refuse(comm, name, "is for operators")
            if name == "cancel-keys" and message.get("force") and self._others(message["keys"], own):
                self.guard.refuse(comm, name, "is for operators")

    def _is_of(self, key: Any, client: str) -> bool:
        """Whether an envelope is a client's own; one that is gone is nobody's."""
        assignment = self.assignments.get(key)
        return assignment is None or assignment.said.get("client") == client

    def _others(self, keys: Iterable[Any], client: str) -> bool:
        """Whether cancelling tasks by force takes any from another client, by what depends on them, too."""
        rest, seen = list(keys), set()
        while rest:
            task = self.scheduler.tasks.get(rest.pop())
            if task is None or task.key in seen:
                continue
            seen.add(task.key)
            if any(one.client_key != client for one in task.who_wants or ()):
                return True
            rest += [one.key for one in task.dependents]
        return False


class _Sieve:
    """A connection of which only what may be acted on is read."""

    def __init__(self, comm: Comm, may: Callable[[Any], bool]) -> None:
        self._comm, self._may = comm, may

    async def read(self, *args: Any, **kwargs: Any) -> list[Any]:
        messages = await self._comm.read(*args, **kwargs)
        if not isinstance(messages, (tuple, list)):
            messages = [messages]
        return [message for message in messages if self._may(message)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)
