"""Dask tasks of jobs, named so that the scheduler plugin knows them for ours."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import dask
from distributed import Client, Future

from altlas_flow.cluster.keys import ANNOTATION, predict_key


def submit_task(client: Client, function: Callable[..., Any], *args: Any) -> Future[Any]:
    """A task that reads, writes or measures: it runs anywhere, and moves where its worker falls silent."""
    key = f"altlas-{function.__name__}-{uuid.uuid4().hex}"
    return client.submit(function, *args, key=key, pure=False)


def submit_rows(
    client: Client, function: Callable[..., Any], *args: Any, fingerprint: str, rows: int
) -> Future[Any]:
    """A task that predicts so many rows, with the model of that fingerprint."""
    with dask.annotate(**{ANNOTATION: {"rows": rows}}):  # type: ignore[attr-defined]
        return client.submit(function, *args, key=predict_key(fingerprint), pure=False)
