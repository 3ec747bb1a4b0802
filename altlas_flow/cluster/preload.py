"""What makes Dask's own scheduler one of ours, from its first moment on.

As ``dask scheduler --preload altlas_flow.cluster.preload``; ``altlas-flow scheduler`` does the same. Workers
need nothing of the kind: they get their plugin from the scheduler when they join.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import cloudpickle
from distributed import Scheduler

from altlas_flow.cluster.scheduler.control import NAME, ControlPlugin
from altlas_flow.cluster.worker.gate import NannyGate
from altlas_flow.cluster.worker.plugin import NAME as HOST_NAME
from altlas_flow.cluster.worker.plugin import HostPlugin
from altlas_flow.errors import CertificateError
from altlas_flow.security.folder import role_in
from altlas_flow.settings import Settings

logger = logging.getLogger(__name__)

#: Seconds that the history file gets to be opened; a damaged one, or a large one, takes longer.
OPEN_LIMIT = 20.0


async def dask_setup(server: object) -> None:
    """Called by Dask once the server runs."""
    if isinstance(server, Scheduler):
        try:
            await install(server)
        except CertificateError as error:
            # Dask only logs what else is raised here, and would go on with nobody looking at roles
            raise SystemExit(f"error: {error}") from error


async def install(scheduler: Any) -> None:
    """Put our plugins in place on a `distributed.Scheduler`, with its own settings.

    Raises
    ------
    CertificateError
        Where its certificate cannot be read: then nobody would look at roles.
    HistoryError
        Where ``altlas.history`` cannot be used: who asked for a history is not to miss it later.
    """
    settings = Settings.current()
    roles = has_roles(scheduler)
    plugin = ControlPlugin.of(settings, roles=roles, ours=True)
    await scheduler.register_scheduler_plugin(plugin, name=NAME, idempotent=True)
    writer = scheduler.plugins[NAME].tasks.writer
    if writer is not None:
        try:
            await asyncio.wait_for(asyncio.wrap_future(writer.ask("read", limit=1)), OPEN_LIMIT)
        except TimeoutError:
            logger.warning("%s is still being looked at: tasks wait for it", settings.history)
    if roles:
        gate = cloudpickle.dumps(NannyGate())
        await scheduler.register_nanny_plugin(None, gate, NannyGate.name, idempotent=True)
    host = cloudpickle.dumps(HostPlugin(settings, roles=roles))
    if HOST_NAME not in scheduler.worker_plugins:
        await scheduler.register_worker_plugin(None, host, HOST_NAME, idempotent=True)


def has_roles(scheduler: Any) -> bool:
    """Whether the scheduler's certificate is one of ours: then all others have to say their roles.

    Raises
    ------
    CertificateError
    """
    security = scheduler.security
    if not security.require_encryption or not security.tls_scheduler_cert:
        return False
    return role_in(security.tls_scheduler_cert) is not None
