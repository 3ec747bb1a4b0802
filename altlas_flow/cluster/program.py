"""The program of an embedded worker: a nanny with its worker, for as long as standard input is open."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from typing import Any

from distributed import Nanny, Worker

from altlas_flow import errors
from altlas_flow.logs import ProgramHandler
from altlas_flow.settings import Settings

#: Seconds that the worker gets to close before its nanny kills it.
CLOSE_TIMEOUT = 5.0


class ProgramWorker(Worker):
    """A worker that has its process to itself, and ends it as soon as it is closed.

    An interpreter that has torch in it takes seconds to tear itself down.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        handler = ProgramHandler()
        if Settings.current().log_format != "json":  # who reads events wants them all
            handler.addFilter(is_news)
        logging.getLogger("altlas_flow").addHandler(handler)
        for name in ("distributed.worker", "distributed.worker.state_machine"):
            logging.getLogger(name).addFilter(is_news)
        super().__init__(*args, **kwargs)

    async def close(self, *args: Any, **kwargs: Any) -> str | None:  # type: ignore[override]
        """Close as Dask does, then leave."""
        closed = await super().close(*args, **kwargs)
        if closed is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        return closed


def is_news(record: logging.LogRecord) -> bool:
    """Whether a worker shall say this: not a typed error, which its client gets, nor what closing cut."""
    text, values = str(record.msg), record.args if isinstance(record.args, tuple) else ()
    if text.startswith("Compute Failed"):
        return not any(hasattr(errors, str(value).partition("(")[0]) for value in values)
    # An embedded scheduler goes only with its owner, who knows, and asks this worker to close.
    if text.startswith(("Async instruction for", "Failed to communicate with scheduler")):
        return False
    return not any(isinstance(value, errors.AltlasError) for value in values)


async def serve(options: dict[str, Any]) -> None:
    """Run a nanny until it ends, is asked to close, or its owner is gone.

    Parameters
    ----------
    options : dict
        ``scheduler``, an address, and keyword arguments of `distributed.Nanny`.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    nanny = Nanny(options.pop("scheduler"), worker_class=ProgramWorker, **options)
    owner = asyncio.create_task(reader.readline())

    async def live() -> None:
        await nanny
        await nanny.finished()

    life = asyncio.create_task(live())
    await asyncio.wait({owner, life}, return_when=asyncio.FIRST_COMPLETED)
    if not owner.done():
        await life  # it ended by itself: raises what ended it
    elif not owner.result():
        os._exit(1)  # the owner died: nothing that is under way is wanted any more
    else:
        await nanny.close(timeout=CLOSE_TIMEOUT)
        life.cancel()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])))
