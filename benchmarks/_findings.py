"""What a section of a benchmark gives: its figures, and what else there is to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks._report import Measurement


@dataclass
class Findings:
    """What its table is called, its figures, notes, and lines about what failed."""

    benchmark: str
    title: str
    measured: list[Measurement] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(
        self, contestant: str, metric: str, unit: str, values: Sequence[float], compared: bool = False
    ) -> None:
        """Note the values of one metric, one a run."""
        self.measured.append(Measurement(self.benchmark, contestant, metric, unit, tuple(values), compared))
