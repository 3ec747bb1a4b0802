"""The gate: who may ask workers and nannies for what, where the cluster's certificates have roles.

A client's certificate opens their ports, since clients fetch results from workers. What changes a
worker, or ends it, is for the scheduler and for operators.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

from distributed import Nanny, Worker
from distributed.comm.core import Comm
from distributed.core import error_message
from distributed.diagnostics.plugin import NannyPlugin

from altlas_flow.cluster.scheduler.guard import ALL, role_on, who_is, with_comm
from altlas_flow.cluster.scheduler.rules import (
    BETWEEN_WORKERS,
    FROM_WORKERS,
    ON_NANNIES,
    ON_WORKERS,
    in_words,
)
from altlas_flow.errors import Forbidden
from altlas_flow.security.roles import Role, bears

logger = logging.getLogger(__name__)

#: Topic of the event by which a worker, or a nanny, says whom it refused.
REFUSALS = "altlas-refusals"

TRUSTED = frozenset({Role.SCHEDULER, Role.OPERATOR})


class NannyGate(NannyPlugin):
    """Gives a nanny its gate; a nanny answers nobody before it has its plugins."""

    name = "altlas-gate"

    def setup(self, nanny: Nanny) -> None:
        """Called by Dask on each nanny."""
        close(nanny, for_all=ON_NANNIES, for_nodes=FROM_WORKERS)


def close_worker(worker: Worker) -> None:
    """Put the gate before a worker's operations."""
    close(worker, for_all=ON_WORKERS, for_nodes=BETWEEN_WORKERS)


def close(server: Worker | Nanny, *, for_all: Iterable[str], for_nodes: Iterable[str]) -> None:
    """Have operations look at the certificate first.

    Parameters
    ----------
    server : distributed.Worker or distributed.Nanny
    for_all, for_nodes : iterable of str
        Operations for whoever has a role, and those that nodes may ask for; all else is for the scheduler
        and for operators.
    """
    for name, handler in server.handlers.items():
        roles = TRUSTED | (ALL if name in for_all else {Role.NODE} if name in for_nodes else set())
        server.handlers[name] = with_comm(handler, partial(_asked, server, name, roles))


async def _asked(
    server: Worker | Nanny,
    name: str,
    roles: Collection[Role | None],
    comm: Comm,
    arguments: dict[str, Any],
    call: Callable[[], Any],
) -> Any:
    role = role_on(comm)
    if role not in roles:
        who = who_is(comm)
        logger.warning("refused: %s asked for %s", " ".join(who.values()), name)
        server.log_event(REFUSALS, {"operation": name, **who})
        try:
            raise Forbidden(
                f"{in_words(name)} is for operators, and the certificate that asks is {bears(role)}: use one "
                "of altlas-flow certs client --operator"
            )
        except Forbidden as error:
            return error_message(error, status="uncaught-error")
    found = call()
    return await found if inspect.isawaitable(found) else found
