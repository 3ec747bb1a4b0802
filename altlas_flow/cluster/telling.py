"""Telling the scheduler plugin how far a job is: for those who look at the page."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from typing import Any

from distributed import Client

from altlas_flow.cluster.keys import JOB

logger = logging.getLogger(__name__)


def teller(client: Client, model: str, output: str) -> Callable[[dict[str, Any]], None]:
    """What tells of one job of a client; it never waits, and fails nothing.

    Parameters
    ----------
    client : distributed.Client
    model, output : str
        What runs, and where its rows go.

    Returns
    -------
    callable
        Takes ``state``, ``done``, ``skipped``, ``dead``, ``total``, ``seconds`` and ``letters``.
    """
    job = {"id": uuid.uuid4().hex, "model": model, "output": output}

    def send(message: dict[str, Any]) -> None:
        if client.status == "running":
            client._send_to_scheduler(message)

    def tell(progress: dict[str, Any]) -> None:
        try:
            loop: Any = client.loop
            loop.add_callback(send, {"op": JOB, "job": {**job, **progress}})
        except RuntimeError as error:  # its loop has ended: the job says so itself
            logger.debug("the scheduler is not told of a job: %s", error)

    return tell
