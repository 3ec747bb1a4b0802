"""The guard: who speaks on a connection, and what the role in its certificate allows."""

from __future__ import annotations

import pickle
from collections.abc import Awaitable, Callable
from typing import Any

from distributed.comm.addressing import get_address_host
from distributed.comm.core import Comm

from altlas_flow.errors import AltlasError, Forbidden
from altlas_flow.security.roles import Role, name_in, role_of

#: Operations of Dask's own scheduler that change the cluster, or run code on it, for whoever asks.
#: A client needs none of them to ask for predictions.
FOR_OPERATORS = (
    "broadcast",
    "close",
    "get_logs",
    "register_nanny_plugin",
    "register_scheduler_plugin",
    "register_worker_plugin",
    "restart",
    "restart_workers",
    "retire_workers",
    "run_function",
    "set_metadata",
    "terminate",
    "unregister_nanny_plugin",
    "unregister_scheduler_plugin",
    "unregister_worker_plugin",
)

Handler = Callable[..., Awaitable[Any]]


def peer_of(comm: Comm) -> str:
    """The address from which a connection comes."""
    try:
        return str(get_address_host(comm.peer_address)).removeprefix("[").removesuffix("]")
    except (ValueError, OSError):
        return str(comm.peer_address)


def role_on(comm: Comm) -> Role | None:
    """The role in the certificate of the other side; None where it has shown none."""
    return role_of(comm.extra_info.get("peercert"))


def who_is(comm: Comm) -> dict[str, str]:
    """What the audit log says of the other side: its address, and the name in its certificate."""
    name = name_in(comm.extra_info.get("peercert"))
    return {"address": peer_of(comm), **({"certificate": name} if name else {})}


class Guard:
    """Lets operators in where certificates have roles; everybody where there are none.

    Parameters
    ----------
    strict : bool
        Whether roles are looked at: where the cluster has an authority of its own.
    refused : callable
        Told the operation and who asked for it.
    """

    def __init__(self, strict: bool, refused: Callable[..., None]) -> None:
        self.strict, self._refused = strict, refused

    def join(self, comm: Comm) -> str | None:
        """Why the other side may not join as a worker; None where it may."""
        if not self.strict:
            return None
        role = role_on(comm)
        if role is Role.NODE:
            return None
        shown = f"its certificate is for a {role}" if role else "it has no certificate of this cluster"
        return f"{shown}, and a worker needs one for a node (altlas-flow certs node)"

    def operators(self, name: str, handler: Handler) -> Handler:
        """An operation of ours for operators only; errors are sent back as `call_control` expects them."""

        async def guarded(comm: Comm, **arguments: Any) -> Any:
            try:
                self.check(comm, name)
                return {"error": None, "result": await handler(comm, **arguments)}
            except AltlasError as error:
                return {"error": pickle.dumps(error)}

        return guarded

    def everybody(self, handler: Handler) -> Handler:
        """An operation of ours for all; errors are sent back as `call_control` expects them."""

        async def told(comm: Comm, **arguments: Any) -> Any:
            try:
                return {"error": None, "result": await handler(comm, **arguments)}
            except AltlasError as error:
                return {"error": pickle.dumps(error)}

        return told

    def check(self, comm: Comm, name: str) -> None:
        """See that an operator asks.

        Raises
        ------
        Forbidden
        """
        role = role_on(comm)
        if self.strict and role is not Role.OPERATOR:
            self._refused(name, comm)
            bears = f"a {role}'s" if role else "none of this cluster"
            raise Forbidden(
                f"{name} is for operators, and the certificate that asks is {bears}: use one of "
                "altlas-flow certs client --operator"
            )

    def wrap(self, handlers: dict[str, Any]) -> None:
        """Keep Dask's own operations that change the cluster for operators, too."""
        if not self.strict:
            return
        for name in FOR_OPERATORS:
            if name in handlers:
                handlers[name] = self._raising(name, handlers[name])

    def _raising(self, name: str, handler: Callable[..., Any]) -> Callable[..., Any]:
        import inspect

        from distributed.core import _expects_comm

        with_comm = _expects_comm(handler)

        async def guarded(comm: Comm, **arguments: Any) -> Any:
            # Dask sends what is raised here back to whoever asked
            self.check(comm, name)
            found = handler(comm, **arguments) if with_comm else handler(**arguments)
            return await found if inspect.isawaitable(found) else found

        return guarded
