"""The guard: who speaks on a connection, and what the role in its certificate allows."""

from __future__ import annotations

import inspect
import logging
import pickle
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any

from distributed.comm.addressing import get_address_host
from distributed.comm.core import Comm

from altlas_flow.cluster.scheduler.rules import (
    FOR_ALL,
    FOR_NODES,
    JOINING,
    OUR_TOPICS,
    SHARED,
    STREAMS,
    in_words,
)
from altlas_flow.errors import AltlasError, Forbidden
from altlas_flow.security.roles import Role, a, bears, name_in, role_of

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

logger = logging.getLogger(__name__)

Handler = Callable[..., Awaitable[Any]]

#: A task may be a client, on a worker's connection.
ALL = frozenset({Role.CLIENT, Role.NODE, Role.OPERATOR})
NODES = frozenset({Role.NODE, Role.OPERATOR})
OPERATORS = frozenset({Role.OPERATOR})


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


def with_comm(handler: Callable[..., Any], before: Callable[..., Awaitable[Any]]) -> Handler:
    """What Dask takes for the same operation, with ``before(comm, arguments, call)`` in its place.

    Dask looks at the names of parameters, to see whether to pass the connection, and serializers.
    """
    signature = inspect.signature(handler)
    parameters = list(signature.parameters.values())
    takes_comm = bool(parameters) and parameters[0].name == "comm"

    async def guarded(comm: Comm, **arguments: Any) -> Any:
        call = partial(handler, comm, **arguments) if takes_comm else partial(handler, **arguments)
        return await before(comm, arguments, call)

    if not takes_comm:
        first = inspect.Parameter("comm", inspect.Parameter.POSITIONAL_ONLY)
        parameters = [first, *parameters]
    guarded.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    guarded.__name__ = getattr(handler, "__name__", "operation")
    return guarded


class Guard:
    """Lets in whom the rules name where certificates have roles; everybody where there are none.

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
        shown = f"its certificate is for {a(role)}" if role else "it has no certificate of this cluster"
        return f"{shown}, and a worker needs one for a node (altlas-flow certs node)"

    def operators(self, name: str, handler: Handler) -> Handler:
        """An operation of ours for operators only; errors are sent back as `call_control` expects them."""
        return self._ours(handler, lambda comm, arguments: self.check(comm, name))

    def everybody(self, handler: Handler) -> Handler:
        """An operation of ours for all; errors are sent back as `call_control` expects them."""
        return self._ours(handler, lambda comm, arguments: self.check(comm, "our operations", ALL))

    def code(self, name: str, argument: str, advice: str, handler: Handler) -> Handler:
        """The same, but for operators only where `argument` is given: it is code that the scheduler runs."""

        def look(comm: Comm, arguments: dict[str, Any]) -> None:
            if arguments.get(argument) is None:
                self.check(comm, name, ALL)
            else:
                self.check(comm, name, advice=advice)

        return self._ours(handler, look, answer=lambda result: result)  # it says itself whether it failed

    def _ours(
        self,
        handler: Handler,
        look: Callable[[Comm, dict[str, Any]], None],
        answer: Callable[[Any], Any] = lambda result: {"error": None, "result": result},
    ) -> Handler:
        takes_comm = next(iter(inspect.signature(handler).parameters), "") == "comm"

        async def told(comm: Comm, **arguments: Any) -> Any:
            try:
                look(comm, arguments)
                return answer(await (handler(comm, **arguments) if takes_comm else handler(**arguments)))
            except AltlasError as error:
                return {"error": pickle.dumps(error)}

        told.looks = True  # type: ignore[attr-defined]
        return told

    def check(
        self, comm: Comm, name: str, roles: Collection[Role | None] = OPERATORS, *, advice: str | None = None
    ) -> None:
        """See that whoever asks has one of the roles.

        Parameters
        ----------
        comm : distributed.comm.Comm
        name : str
            Of the operation.
        roles : collection of Role
        advice : str, optional
            What the message says to do.

        Raises
        ------
        Forbidden
        """
        if not self.strict:
            return
        role = role_on(comm)
        if role in roles:
            return
        whose, command = ("operators", "client --operator")
        if Role.CLIENT in roles:
            whose, command = "those who have a role here", "client"
        elif Role.NODE in roles:
            whose, command = "nodes", "node"
        advice = advice or f"use one of altlas-flow certs {command}"
        self.refuse(comm, name, f"is for {whose}, and the certificate that asks is {bears(role)}: {advice}")

    def refuse(self, comm: Comm, name: str, why: str) -> None:
        """Say no, and have it written down.

        Raises
        ------
        Forbidden
        """
        self._refused(name, comm)
        raise Forbidden(f"{in_words(name)} {why}")

    def wrap(self, scheduler: Scheduler) -> None:
        """Have every operation there is, Dask's own and ours, look at the certificate first."""
        if not self.strict:
            return
        for name, handler in scheduler.handlers.items():
            if name not in JOINING and not hasattr(handler, "looks"):
                scheduler.handlers[name] = with_comm(handler, partial(self._asked, scheduler, name))

    async def _asked(
        self,
        scheduler: Scheduler,
        name: str,
        comm: Comm,
        arguments: dict[str, Any],
        call: Callable[[], Any],
    ) -> Any:
        from distributed.core import error_message

        try:
            self.check(comm, name, ALL if name in FOR_ALL else NODES if name in FOR_NODES else OPERATORS)
            if role_on(comm) is not Role.OPERATOR:
                self._own(scheduler, name, comm, arguments)
        except Forbidden as error:
            if name in STREAMS:
                comm.abort()  # it would wait for an answer that does not come
            # as Dask does with what is raised, but for the traceback in the log, which anybody could fill
            return error_message(error, status="uncaught-error")
        found = call()
        return await found if inspect.isawaitable(found) else found

    def _own(self, scheduler: Scheduler, name: str, comm: Comm, arguments: dict[str, Any]) -> None:
        """See that nobody speaks for somebody else: another client, another node, the cluster itself."""
        bearer = name_in(comm.extra_info.get("peercert"))
        said = arguments.get("client")
        if str(said).startswith(SHARED):
            self.refuse(comm, name, f"as {said} is for the scheduler itself, which keeps shared data so")
        if said is not None and bearer_of(scheduler.client_comms.get(said)) not in (None, bearer):
            self.refuse(comm, name, f"for the client {said} is for the certificate that this one bears")
        if name in FOR_NODES:
            workers = arguments.get("workers") or ()
            for worker in (arguments.get("address"), arguments.get("worker"), *workers):
                if worker and bearer_of(scheduler.stream_comms.get(worker)) not in (None, bearer):
                    self.refuse(comm, name, f"for the worker {worker} is for the certificate it joined with")
            if name == "retire_workers" and not workers:
                self.refuse(comm, name, "other than itself is for operators")  # none given: all, or a choice
        elif name == "log_event" and role_on(comm) is not Role.NODE:
            topics = arguments.get("topic") or ()
            for topic in [topics] if isinstance(topics, str) else topics:
                if str(topic).startswith(OUR_TOPICS) or topic in scheduler.workers:
                    self.refuse(comm, name, f"({topic!r}) is for nodes: use another topic")


def bearer_of(stream: Any) -> str | None:
    """The name in the certificate on a stream of the scheduler's; None where there is no such stream."""
    comm = getattr(stream, "comm", None)
    return None if comm is None else name_in(comm.extra_info.get("peercert"))
