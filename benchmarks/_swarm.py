"""Many nodes in one program: workers of Dask with all that a node says, and GPUs that are not there.

    python -m benchmarks._swarm SCHEDULER_FILE NODES

Each is a worker like any other, which has a comm of its own and sends its own heartbeats; only its process
is shared, and to its heartbeats two GPUs are added, so that pages have something to show.
"""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import _contest

READY = "joined"
#: Seconds until all have joined.
LIMIT = 240.0
#: Nodes without GPUs, of ten.
PLAIN = 5
#: Bytes of a GPU.
GPU_MEMORY = 80e9


@contextmanager
def swarm(scheduler_file: Path, nodes: int) -> Iterator[int]:
    """A program that is so many nodes, for as long as the block runs; its process id."""
    program = subprocess.Popen(
        [sys.executable, "-m", "benchmarks._swarm", str(scheduler_file), str(nodes)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=_contest.ROOT,
    )
    try:
        assert program.stdout is not None
        if program.stdout.readline().strip() != READY:
            raise _contest.ContestantFailed(f"{nodes} nodes did not join")
        yield program.pid
    finally:
        program.kill()
        program.communicate()


def _simulate(worker: Any, number: int) -> None:
    """Let a worker say with its heartbeats that it has GPUs."""
    ours = worker.metrics["altlas"]

    def said(of: Any) -> dict[str, Any]:
        phase = time.time() / 20 + number
        gpus = [
            {
                "use": 0.5 + 0.5 * math.sin(phase + gpu),
                "memory": GPU_MEMORY * (0.5 + 0.4 * math.sin(phase / 7 + gpu)),
            }
            for gpu in range(2)
        ]
        return {**ours(of), "gpu_usage": gpus}

    worker.metrics["altlas"] = said


async def _join(scheduler_file: str, nodes: int, folder: str) -> None:
    from distributed import Worker

    workers = []
    for number in range(nodes):
        worker = Worker(
            scheduler_file=scheduler_file,
            host="127.0.0.1",
            nthreads=1,
            name=f"node-{number:03d}",
            memory_limit="8 GiB",
            local_directory=folder,
            dashboard=False,
        )
        workers.append(await worker)
    for number, worker in enumerate(workers):
        ends = time.monotonic() + LIMIT
        while "altlas" not in worker.metrics:  # the plugin comes with the first client
            if time.monotonic() > ends:
                raise TimeoutError("no client came")
            await asyncio.sleep(0.05)
        if number % 10 >= PLAIN:
            _simulate(worker, number)
    print(READY, flush=True)
    await asyncio.gather(*(worker.finished() for worker in workers))


def main(scheduler_file: str, nodes: int) -> None:
    """Be so many nodes until somebody ends that."""
    import dask

    # what nobody waits for: their process has one interpreter, which the answers of all of them share
    quiet = {"distributed.worker.profile.enabled": False, "distributed.worker.memory.pause": False}
    with tempfile.TemporaryDirectory() as folder, dask.config.set(quiet):
        asyncio.run(asyncio.wait_for(_join(scheduler_file, nodes, folder), timeout=3600))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
