"""How a stage's batches are predicted on a worker, and which rows of a piece run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from altlas_flow.cluster.worker.plugin import HostPlugin
from altlas_flow.models.watch import Watch
from altlas_flow.tracing import Carrier


@dataclass(frozen=True)
class How:
    """How a stage's batches are predicted; see `run_stage`."""

    lenient: bool
    priority: int
    wanted: Callable[[], bool]
    watched: Watched | None = None
    traces: Sequence[Carrier | None] | None = None  # contexts of the rows of the piece


class Watched:
    """Has the host say which rows of a piece run, before they can kill its worker.

    Parameters
    ----------
    key : str
        Of the task.
    plugin : HostPlugin
    solo : bool
        Run alone on the host.
    """

    def __init__(self, key: str, plugin: HostPlugin, solo: bool) -> None:
        self.key, self.plugin, self.solo = key, plugin, solo
        self._at: Sequence[int] = ()

    @contextmanager
    def over(self, at: Sequence[int]) -> Iterator[Watch]:
        """While inputs are predicted that belong to the rows `at` of the piece."""
        self._at = at
        watch = Watch(len(at), self.key, solo=self.solo)
        self.plugin.begin(self.key, watch, self)
        try:
            yield watch
        finally:
            self.plugin.forget(self.key)

    def requests(self, rows: Sequence[int] | np.ndarray) -> list[int]:
        """Rows of the piece that some inputs belong to."""
        return sorted({int(self._at[int(row)]) for row in rows})

    def rows_of(self, requests: Sequence[int]) -> list[int]:
        """Inputs that belong to some rows of the piece."""
        wanted = set(requests)
        return [place for place, row in enumerate(self._at) if row in wanted]
