"""GPUs of this machine that no other worker has taken."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

#: There is one where the driver of an NVIDIA GPU is loaded.
DRIVER = Path("/dev/nvidiactl")
#: Seconds that torch gets to say how many GPUs there are.
COUNT_LIMIT = 60.0
_COUNT = "import torch; print(torch.cuda.device_count())"

#: Locks of the GPUs that this process took: they go with it.
_taken: list[int] = []


async def claim_gpus(
    driver: Path = DRIVER, folder: Path | None = None, count: Callable[[], object] | None = None
) -> int:
    """Take one GPU for this worker where torch sees any that no worker of this machine has; 1 or 0.

    Which one is said in ``CUDA_VISIBLE_DEVICES``, so it must be called before torch is imported. A worker
    that declares the resource ``GPU`` itself does not come here.

    Parameters
    ----------
    driver : Path
        Exists where there may be a GPU at all: asking torch takes seconds.
    folder : Path, optional
        Where the locks lie; by default the system's folder for temporary files.
    count : callable, optional
        Gives the number of GPUs; by default torch, in a process of its own.
    """
    if not driver.exists():
        return 0
    try:
        devices = int(str(count() if count is not None else await _ask_torch()))
    except (ValueError, OSError, TimeoutError) as error:
        logger.warning("torch does not say how many GPUs there are (%s): none is used", error)
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(devices)]
    for name in names[:devices]:
        safe = re.sub(r"[^A-Za-z0-9-]", "_", name.strip())
        place = (folder or Path(tempfile.gettempdir())) / f"altlas-gpu-{os.getuid()}-{safe}.lock"
        try:
            file = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            logger.warning("the lock of GPU %s cannot be opened (%s): it is not used", name, error)
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)  # another worker has it
            continue
        _taken.append(file)
        os.environ["CUDA_VISIBLE_DEVICES"] = name.strip()
        return 1
    return 0


async def _ask_torch() -> str:
    # a process of its own: torch keeps what it once saw of CUDA_VISIBLE_DEVICES
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _COUNT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), COUNT_LIMIT)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return out.decode().strip()
