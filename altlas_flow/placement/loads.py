"""Models whose loading kills workers: a crash in native code, or more memory than there is."""

from __future__ import annotations

from dataclasses import dataclass

#: Workers that may die while they load a model, before it is left alone.
DEATHS = 3
#: Seconds for which it is left alone; then one more worker may try.
PAUSE = 60.0


@dataclass(slots=True)
class _Record:
    deaths: int = 0
    until: float = 0.0


class Loads:
    """Counts workers that died while they loaded a model, with no load of it that succeeded in between."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}

    def died(self, model: str, now: float) -> None:
        """A worker died while it loaded a model, at time `now` (seconds)."""
        record = self._records.setdefault(model, _Record())
        record.deaths += 1
        if record.deaths >= DEATHS:
            record.until = now + PAUSE

    def succeeded(self, model: str) -> None:
        """It was loaded somewhere: it is not what kills."""
        self._records.pop(model, None)

    def deaths(self, model: str, now: float) -> int:
        """Of how many workers it is known to kill, where it is left alone for that at time `now`; else 0."""
        record = self._records.get(model)
        return record.deaths if record is not None and now < record.until else 0
