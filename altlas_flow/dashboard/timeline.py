"""`Timeline`: rates and latencies of each model over a day, at falling resolution, in constant memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from altlas_flow.dashboard.counts import SUMS, Counts, quantiles

#: Seconds of a step, and steps that are kept: five minutes, an hour, a day.
LEVELS = ((0.5, 600), (10.0, 360), (300.0, 288))
#: Of a step, or of ten seconds, what it may be shorter: clocks are not that regular.
SOONER = 0.05
#: What is kept of each step and model: per second (the first four), seconds (the next four), rows a batch.
FIELDS = ("requests", "rows", "errors", "retries", "p50", "p95", "p99", "queue", "batch")
#: Shares of the quantiles among them.
SHARES = (0.5, 0.95, 0.99)

Floats = npt.NDArray[np.float64]
_COMPLETED, _ERROR, _CANCELLED = (SUMS.index(name) for name in ("completed", "error", "cancelled"))
_RETRIES, _QUEUE, _ROWS = (SUMS.index(name) for name in ("retries", "queue_s", "rows"))
_BATCHES, _BATCHED = (SUMS.index(name) for name in ("batches", "batched"))


@dataclass(frozen=True)
class _Mark:
    """The counters at one moment."""

    at: float
    sums: Floats
    latencies: npt.NDArray[np.int64]

    @classmethod
    def of(cls, counts: Counts, at: float) -> _Mark:
        models = len(counts.models)
        return cls(at, counts.sums[:models].copy(), counts.latencies[:models].copy())


def _changes(counts: Counts, mark: _Mark, models: int, seconds: float) -> Floats:
    """What was counted since a mark: a row a model, a column each of `FIELDS`."""
    sums, latencies = counts.sums[:models].copy(), counts.latencies[:models].copy()
    sums[: len(mark.sums)] -= mark.sums
    latencies[: len(mark.latencies)] -= mark.latencies
    over = sums[:, _COMPLETED] + sums[:, _ERROR] + sums[:, _CANCELLED]
    found = np.empty((models, len(FIELDS)))
    found[:, 0] = over / seconds
    found[:, 1] = sums[:, _ROWS] / seconds
    found[:, 2] = sums[:, _ERROR] / seconds
    found[:, 3] = sums[:, _RETRIES] / seconds
    found[:, 4:7] = quantiles(latencies, SHARES)
    found[:, 7] = np.divide(sums[:, _QUEUE], over, out=np.full(models, np.nan), where=over > 0)
    batches = sums[:, _BATCHES]
    found[:, 8] = np.divide(sums[:, _BATCHED], batches, out=np.full(models, np.nan), where=batches > 0)
    return found


@dataclass
class _Level:
    """Steps of one length; the oldest is written over."""

    step: float
    kept: int
    times: Floats = field(init=False)
    values: npt.NDArray[np.float32] = field(init=False)
    count: int = 0  # steps so far
    mark: _Mark | None = None  # as the step under way began

    def __post_init__(self) -> None:
        self.times = np.full(self.kept, np.nan)
        self.values = np.zeros((self.kept, 0, len(FIELDS)), dtype=np.float32)  # where nobody looks: nothing

    def order(self) -> npt.NDArray[np.int64]:
        """Places of the steps that there are, the oldest first."""
        there = min(self.count, self.kept)
        return (np.arange(self.count - there, self.count) % self.kept).astype(np.int64)

    def run(self) -> npt.NDArray[np.int64]:
        """Places of the latest steps that follow one another without a gap, the oldest first."""
        order = self.order()
        gaps = np.flatnonzero(np.diff(self.times[order]) > 5 * self.step)
        return order[gaps[-1] + 1 :] if len(gaps) else order

    def column(self, order: npt.NDArray[np.int64], row: int, field: int) -> Floats:
        """One field of one model, of some steps; NaN where the model came later."""
        if row >= self.values.shape[1]:
            return np.full(len(order), np.nan)
        found: Floats = self.values[order, row, field].astype(np.float64)
        return found

    def take(self, counts: Counts, now: float) -> _Mark | None:
        """End the step under way, where its time is over, and begin the next one; its mark."""
        mark = self.mark
        if mark is None or now - mark.at > 10 * self.step:
            self.mark = _Mark.of(counts, now)  # what was counted meanwhile belongs to no step of this length
            return None
        seconds = now - mark.at
        if seconds < self.step - SOONER * min(self.step, LEVELS[1][0]):
            return None
        models = len(counts.models)
        wide = self.values.shape[1]
        if models > wide:  # twice as wide, or each new model would have all of it copied
            more = np.full((self.kept, max(8, wide, models - wide), len(FIELDS)), np.nan, dtype=np.float32)
            self.values = np.concatenate([self.values, more], axis=1)
        at = self.count % self.kept
        self.values[at] = np.nan
        self.values[at, :models] = _changes(counts, mark, models, seconds)
        self.times[at] = now
        self.count += 1
        self.mark = _Mark.of(counts, now)
        return mark


class Timeline:
    """What `Counts` counted, over time.

    Parameters
    ----------
    counts : Counts
    """

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self._levels = [_Level(step, kept) for step, kept in LEVELS]
        self._mark: _Mark | None = None  # ten to twenty seconds ago

    @property
    def bytes(self) -> int:
        """Of all that is kept."""
        return sum(level.times.nbytes + level.values.nbytes for level in self._levels)

    def take(self, now: float, *, fine: bool = True) -> None:
        """Note what was counted since the last time; called every half second, or every ten.

        Parameters
        ----------
        now : float
            Monotonic seconds.
        fine : bool
            Whether steps of half a second are kept: nobody needs them where nobody looks.
        """
        for level in self._levels if fine else self._levels[1:]:
            before = level.mark
            ended = level.take(self.counts, now)
            if level is self._levels[1] and level.mark is not before:
                self._mark = ended or level.mark

    def series(self, field_name: str, seconds: float) -> tuple[Floats, dict[str, Floats]]:
        """One field of all models, of the finest level that reaches so far back.

        Parameters
        ----------
        field_name : str
            Of `FIELDS`.
        seconds : float

        Returns
        -------
        times : numpy.ndarray
            Of the same clock, the oldest first.
        values : dict of str to numpy.ndarray
            By model; NaN where there is nothing.
        """
        fitting = [level for level in self._levels if level.step * level.kept >= seconds] or self._levels[-1:]
        at, models = FIELDS.index(field_name), self.counts.models
        latest = max((level.times[level.order()[-1]] for level in fitting if level.count), default=np.nan)
        begins, pieces = np.inf, list[tuple[_Level, npt.NDArray[np.int64], Floats]]()
        for level in fitting:  # where the finest has nothing, as nobody looked then, the next one has
            order = level.run() if level is not fitting[-1] else level.order()
            times = level.times[order]
            taken = (times >= latest - seconds) & (times < begins)
            if taken.any():
                begins = times[taken][0]
                pieces.insert(0, (level, order[taken], times[taken]))
        wide = max((level.values.shape[1] for level, *_ in pieces), default=0)
        return np.concatenate([times for *_, times in pieces] or [np.empty(0)]), {
            model: np.concatenate([level.column(order, row, at) for level, order, _ in pieces])
            for model, row in models.items()
            if row < wide
        }

    def latest(self, now: float) -> dict[str, dict[str, float | None]]:
        """Of each model, all of `FIELDS` over the last ten to twenty seconds; None where there is nothing."""
        counts = self.counts
        models = len(counts.models)
        if self._mark is None or not models:
            return {model: dict.fromkeys(FIELDS) for model in counts.models}
        values = _changes(counts, self._mark, models, max(now - self._mark.at, 1e-3))
        return {
            model: {
                name: None if np.isnan(value) else float(value)
                for name, value in zip(FIELDS, values[row], strict=True)
            }
            for model, row in counts.models.items()
        }
