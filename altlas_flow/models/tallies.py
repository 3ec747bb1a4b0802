"""`Tallies`: what a host counts of each model: batches, loads, evictions."""

from __future__ import annotations

from bisect import bisect_left
from threading import Lock

#: What is counted, in this order.
KINDS = ("batches", "batched", "loads", "load_failures", "evictions")
#: Models that are counted by themselves; the others together.
MODELS = 500
#: Upper ends of the buckets of rows in a batch; larger ones come last.
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
OTHERS = "(others)"


class Tallies:
    """Counters by the id of a model; they only grow. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._totals: dict[str, list[int]] = {}
        self._sizes: dict[str, list[int]] = {}

    def add(self, model: str, **counts: int) -> None:
        """Count, by the names in `KINDS`."""
        with self._lock:
            totals = self._totals.setdefault(self._key(model), [0] * len(KINDS))
            for name, count in counts.items():
                totals[KINDS.index(name)] += count

    def batch(self, model: str, rows: int) -> None:
        """Count a batch of so many rows."""
        with self._lock:
            key = self._key(model)
            totals = self._totals.setdefault(key, [0] * len(KINDS))
            totals[0] += 1
            totals[1] += rows
            self._sizes.setdefault(key, [0] * (len(SIZES) + 1))[bisect_left(SIZES, rows)] += 1

    def _key(self, model: str) -> str:
        return model if model in self._totals or len(self._totals) < MODELS else OTHERS

    def totals(self) -> dict[str, list[int]]:
        """Of each model as many figures as `KINDS` has names."""
        with self._lock:
            return {model: list(totals) for model, totals in self._totals.items()}

    def sizes(self) -> dict[str, list[int]]:
        """Of each model how many batches were in each bucket of `SIZES`, and beyond."""
        with self._lock:
            return {model: list(counted) for model, counted in self._sizes.items()}
