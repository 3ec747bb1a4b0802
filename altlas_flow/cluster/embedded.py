"""The embedded cluster: a scheduler in this process, workers as programs of their own.

A worker is started as ``python -m altlas_flow.cluster.embedded``, neither forked nor by importing
the user's script again, so that it works at module level without a ``__main__`` guard. It lives as
long as the pipe to its standard input is open: however its owner ends, the worker ends too.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dask.config
from dask.system import CPU_COUNT
from distributed.deploy.spec import ProcessInterface, SpecCluster
from distributed.system import MEMORY_LIMIT

if TYPE_CHECKING:
    from altlas_flow.settings import Settings

#: Seconds that a worker gets to close before it is killed.
CLOSE_TIMEOUT = 10.0
#: Of the machine's memory, what workers may plan with.
MEMORY_SHARE = 0.8


def layout(cores: int, memory: int, per_worker: int, models: Sequence[int] = ()) -> tuple[int, int]:
    """How many workers, and threads for each: as many workers as cores and model copies allow.

    One single-threaded worker for each core measures fastest on CPUs; where memory does not hold so
    many copies of the models, there are fewer workers with more threads.

    Parameters
    ----------
    cores : int
    memory : int
        Bytes of the machine.
    per_worker : int
        Bytes that a worker takes beside its models.
    models : sequence of int
        Bytes of each model.

    Returns
    -------
    (int, int)
        Workers, threads of each; their product never exceeds the cores.
    """
    share = per_worker + sum(models)
    workers = max(1, min(cores, int(memory * MEMORY_SHARE) // max(share, 1)))
    return workers, max(1, cores // workers)


class EmbeddedWorker(ProcessInterface):
    """A worker with its nanny, as a program of its own.

    Parameters
    ----------
    scheduler : str
        Address.
    name : str or int
    options : dict
        Keyword arguments of `distributed.Nanny`, as JSON can hold them.
    """

    def __init__(self, scheduler: str, name: str | int | None = None, options: dict[str, Any] | None = None):
        self.scheduler, self.name, self.options = scheduler, name, options or {}
        self.process: asyncio.subprocess.Process | None = None
        super().__init__()

    async def start(self) -> None:
        """Start the program; it joins the scheduler by itself."""
        environment = {
            **os.environ,
            # what the client can import, workers can import
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "DASK_INTERNAL_INHERIT_CONFIG": dask.config.serialize(dask.config.global_config),
        }
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "altlas_flow.cluster.embedded",
            json.dumps({"scheduler": self.scheduler, "name": self.name, **self.options}),
            stdin=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the client, who then closes its workers
        )
        await super().start()

    async def close(self) -> None:
        """Ask it to close; kill it where it does not in time."""
        process, self.process = self.process, None
        if process is not None and process.returncode is None:
            assert process.stdin is not None
            try:
                process.stdin.write(b"close\n")
                await process.stdin.drain()
                await asyncio.wait_for(process.wait(), CLOSE_TIMEOUT)
            except (TimeoutError, ConnectionError):
                process.kill()  # its worker sees the nanny go, and exits
                await process.wait()
        await super().close()


def start_cluster(settings: Settings, *, workers: int, threads: int, memory_limit: int | str) -> SpecCluster:
    """Start a scheduler here and workers as programs; returns before the workers have joined.

    Parameters
    ----------
    settings : Settings
    workers, threads : int
        Workers, and threads of each.
    memory_limit : int or str
        Bytes of each worker, as Dask takes it.
    """
    from distributed import Scheduler

    options = {"host": "127.0.0.1", "nthreads": threads, "memory_limit": memory_limit, "silence_logs": logging.WARNING}
    worker = {"cls": EmbeddedWorker, "options": {"options": options}}
    return SpecCluster(
        scheduler={
            "cls": Scheduler,
            "options": {
                "host": "127.0.0.1",
                "port": 0,
                "dashboard": True,
                "dashboard_address": settings.dashboard,
            },
        },
        workers=dict.fromkeys(range(workers), worker),
        worker=worker,
        name="altlas-flow",
        silence_logs=logging.WARNING,
        shutdown_on_close=True,
    )


def machine() -> tuple[int, int]:
    """Cores and bytes of memory that this process may use."""
    return CPU_COUNT, MEMORY_LIMIT


async def _serve(options: dict[str, Any]) -> None:
    """Run a nanny until it ends, is asked to close, or its owner is gone."""
    from distributed import Nanny

    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    nanny = Nanny(options.pop("scheduler"), **options)
    owner = asyncio.create_task(reader.readline())

    async def live() -> None:
        await nanny
        await nanny.finished()

    life = asyncio.create_task(live())
    await asyncio.wait({owner, life}, return_when=asyncio.FIRST_COMPLETED)
    if owner.done() and not owner.result():
        os._exit(1)  # the owner died: nothing that is under way is wanted any more
    if not life.done():
        await nanny.close(timeout=CLOSE_TIMEOUT / 2)


if __name__ == "__main__":
    asyncio.run(_serve(json.loads(sys.argv[1])))
