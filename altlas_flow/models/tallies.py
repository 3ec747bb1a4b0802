"""`Tallies`: what a host counts of each model: batches, loads, evictions."""

from __future__ import annotations

from threading import Lock

#: What is counted, in this order.
KINDS = ("batches", "batched", "loads", "load_failures", "evictions")
#: Models that are counted by themselves; the others together.
MODELS = 500
OTHERS = "(others)"


class Tallies:
    """Counters by the id of a model; they only grow. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._totals: dict[str, list[int]] = {}

    def add(self, model: str, **counts: int) -> None:
        """Count, by the names in `KINDS`."""
        with self._lock:
            key = model if model in self._totals or len(self._totals) < MODELS else OTHERS
            totals = self._totals.setdefault(key, [0] * len(KINDS))
            for name, count in counts.items():
                totals[KINDS.index(name)] += count

    def totals(self) -> dict[str, list[int]]:
        """Of each model as many figures as `KINDS` has names."""
        with self._lock:
            return {model: list(totals) for model, totals in self._totals.items()}
