"""What the GPUs of a worker are, and how much of them is in use: by nvidia-ml-py, where it is installed."""

from __future__ import annotations

import logging
import os
from typing import Any

logger = logging.getLogger(__name__)


class Gauges:
    """Reads the GPUs that this process may use.

    Parameters
    ----------
    wanted : bool
        Whether the worker has any; else nothing is looked for.
    """

    def __init__(self, wanted: bool) -> None:
        self._handles: list[Any] = []
        self._library: Any = None
        if not wanted:
            return
        try:
            import pynvml

            pynvml.nvmlInit()
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            names = visible.split(",") if visible else [str(n) for n in range(pynvml.nvmlDeviceGetCount())]
            for name in names:
                by_number = name.strip().isdigit()
                find = pynvml.nvmlDeviceGetHandleByIndex if by_number else pynvml.nvmlDeviceGetHandleByUUID
                self._handles.append(find(int(name) if by_number else name.strip()))
            self._library = pynvml
        except Exception as error:
            # no library, no driver, or one that does not know what it is asked
            logger.info("GPUs are not watched: %s", error)

    def describe(self) -> list[dict[str, Any]]:
        """Name and memory (bytes) of each."""
        found = []
        for handle in self._handles:
            name = self._library.nvmlDeviceGetName(handle)
            memory = int(self._library.nvmlDeviceGetMemoryInfo(handle).total)
            found.append({"name": name.decode() if isinstance(name, bytes) else str(name), "memory": memory})
        return found

    def read(self) -> list[dict[str, float]]:
        """Use (0 to 1) and memory in use (bytes) of each; empty where it cannot be read."""
        found = []
        try:
            for handle in self._handles:
                use = float(self._library.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
                memory = float(self._library.nvmlDeviceGetMemoryInfo(handle).used)
                found.append({"use": use, "memory": memory})
        except Exception as error:
            logger.warning("the use of GPUs cannot be read: %s", error)
            self._handles = []
        return found
