"""Memory: how much is used, what a model will need, how freed memory gets back to the system."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from altlas_flow.errors import text_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from altlas_flow.models.spec import ModelSpec

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".skops")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, on the CPU or on a GPU."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    # torch's CPU allocator raises a plain RuntimeError
    return isinstance(error, RuntimeError) and "can't allocate memory" in text_of(error)


#: Parameters of glibc's mallopt, and what `keep_freed_memory` sets: blocks up to 32 MiB (the most that
#: glibc takes) come from the heap, and up to 256 MiB at its end are kept.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT, LARGEST_BLOCK = 256 * 2**20, 32 * 2**20


@cache
def _libc(name: str) -> Callable[..., int] | None:
    try:
        function: Callable[..., int] = getattr(ctypes.CDLL("libc.so.6"), name)
    except (OSError, AttributeError):  # not glibc: its allocator does as it likes
        return None
    return function


def keep_freed_memory() -> None:
    """Let the allocator keep what a batch frees for the next one.

    Dask's nannies have workers give every freed 64 KiB back to the system. A model frees and takes
    hundreds of MiB a second, and the page faults cost it a quarter of its speed.
    """
    mallopt = _libc("mallopt")
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)
        mallopt(M_TRIM_THRESHOLD, KEPT)


def release_memory() -> None:
    """Give what is no longer used back to the system and to the GPU."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    trim = _libc("malloc_trim")
    if trim is not None:
        trim(0)


def used_memory() -> int:
    """Bytes of this process in memory now."""
    try:
        # asked for each batch: Linux tells it in a microsecond where psutil takes twenty
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read(128).split()[1]) * resource.getpagesize()
    except OSError:
        return int(psutil.Process().memory_info().rss)


def reset_peak() -> None:
    """Let `peak_memory` count from now, where the system can (Linux)."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:  # elsewhere the peak is that of the process's whole life: less is learnt from it
        return


def peak_memory() -> int:
    """Most bytes that this process had in memory since `reset_peak`, or ever."""
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass  # no such file outside Linux: what follows works everywhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def estimate(spec: ModelSpec) -> int:
    """Bytes that the loaded model will take: what the spec says, or the size of its weight files."""
    if spec.memory is not None:
        return spec.memory
    if spec.runtime == "function":
        return 0
    from altlas_flow.models.runtimes.sources import bundled

    path = bundled(spec.source) or Path(spec.source)
    if path.is_file():
        return path.stat().st_size
    if not path.is_dir():
        return 0
    sizes: dict[str, int] = {}
    for file in path.iterdir():
        if file.suffix in WEIGHT_SUFFIXES:
            sizes[file.suffix] = sizes.get(file.suffix, 0) + file.stat().st_size
    return max(sizes.values(), default=0)
