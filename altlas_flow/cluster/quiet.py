"""What programs of ours log: what goes wrong, and not Dask's comings and goings."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import dask.config
from distributed import Worker

from altlas_flow.logs import install
from altlas_flow.settings import Settings

#: What nanny and worker log, with a traceback, of what their program says itself, in one line.
_SAID = (
    "Failed to initialize worker",
    "Failed to start",
    "Unable to connect to scheduler",
    "Worker failed to connect",
    "Worker process died unexpectedly",
)


@contextlib.contextmanager
def quiet_programs() -> Iterator[None]:
    """Log warnings to standard error, as JSON also events, unless Dask's configuration says other."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s - %(name)s - %(levelname)s - %(message)s")
    install(Settings.current().log_format, whole=True)
    loggers = dask.config.get("logging", default=None) or {}
    if loggers.get("distributed", "info") == "info":  # Dask's default
        logging.getLogger("distributed").setLevel(logging.WARNING)
        with dask.config.set({"logging": {**loggers, "distributed": "warning"}}):
            yield
    else:
        yield


def is_news(record: logging.LogRecord) -> bool:
    """Whether nanny and worker shall log this."""
    return not str(record.msg).startswith(_SAID)


def hush() -> None:
    """Leave out of the log what the program says itself."""
    for name in ("distributed.nanny", "distributed.worker"):
        logging.getLogger(name).addFilter(is_news)


class QuietWorker(Worker):
    """Dask's worker, in a process of its own that a quiet program has started."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        hush()
        install(Settings.current().log_format, whole=True)
        if dask.config.get("logging.distributed", default="info") == "warning":
            # this process read its configuration before it was told that of the program
            logging.getLogger("distributed").setLevel(logging.WARNING)
        super().__init__(*args, **kwargs)
