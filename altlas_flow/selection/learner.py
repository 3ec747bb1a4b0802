"""Learns what models do from decisions and their outcomes; one thread writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from altlas_flow.selection import blend, guard
from altlas_flow.selection.blend import Blend
from altlas_flow.selection.chances import chances
from altlas_flow.selection.drift import change
from altlas_flow.selection.features import Columns, Known, filled, usual_of
from altlas_flow.selection.goal import Goal
from altlas_flow.selection.guard import Verdict
from altlas_flow.selection.seen import OBJECTIVES, ROWS, Seen
from altlas_flow.selection.snapshot import UNKNOWN, Expected, Snapshot

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]

#: Objectives that are expected; what failed is in them.
LEARNED = ("quality", "latency", "cost")
#: All is fitted anew when there is so much more of it.
GROWTH = 1.3
#: Decisions after which an outcome counts half.
HALF = 4000.0
#: Latencies of a model that are looked at for how late it may be.
TAIL = 400
#: How much a declared value counts, in outcomes.
DECLARED = 5.0
#: Of what is usual: what is expected is not wrong where it lies nearer to what comes.
WRONG = 0.1
#: Rows that the guard needs, and those that say which single model is the best now.
JUDGED, RECENT = 40, 200
#: Decisions after which the guard looks at one of so many: what a thousand of them do not show is small.
OFTEN, SELDOM = 1000, 4


@dataclass(frozen=True)
class Arm:
    """A model, and what is declared of it.

    Attributes
    ----------
    id : str
    quality, latency, cost : float, optional
        0 to 1, seconds, units of cost of a request.
    """

    id: str
    quality: float | None = None
    latency: float | None = None
    cost: float | None = None


class Learner:
    """What has been seen of one task, and what follows from it.

    Parameters
    ----------
    goal : Goal
        By which the guard compares.
    seed : int
        What is fitted depends on it, on the decisions and on their outcomes, and on nothing else: not on the
        order in which outcomes came.
    most : int
        Decisions that are remembered.
    """

    def __init__(self, goal: Goal, *, seed: int = 0, most: int = ROWS) -> None:
        self.goal, self.seed = goal, seed
        self.arms: list[str] = []
        self.declared = np.zeros((0, len(LEARNED)))
        self.columns, self.seen = Columns(), Seen(most)
        # of each model and objective, the first decision that counts
        self.since = np.zeros((0, len(LEARNED)), dtype=np.int64)
        self.noted: dict[str, str] = {}
        self._fresh: dict[str, list[str]] = {name: [] for name in LEARNED}
        self._unfitted = dict.fromkeys(LEARNED, 0)  # outcomes that came since all was fitted
        self._moved: set[tuple[str, int]] = set()  # objectives and models that something has come of
        self.verdict: Verdict | None = None
        nothing = np.zeros(0)
        self.snapshot = Snapshot(
            0, (), Columns(), np.zeros(0, dtype=np.float32), {}, {}, (), nothing, nothing
        )

    def admit(self, arms: Sequence[Arm]) -> None:
        """Models that may be chosen from now on; those that are known keep what was learned."""
        for arm in arms:
            declared = [np.nan if value is None else value for value in (arm.quality, arm.latency, arm.cost)]
            if arm.id in self.arms:
                self.declared[self.arms.index(arm.id)] = declared
            else:
                self.arms.append(arm.id)
                self.declared = np.concatenate([self.declared, [declared]])
                self.since = np.concatenate([self.since, np.zeros((1, len(LEARNED)), dtype=np.int64)])
        self._publish(fit=False)

    def decided(self, decision: str, model: str, chance: float, features: Known) -> bool:
        """Take in a decision; False where it is known, or its model is not."""
        if model not in self.arms or decision in self.seen.ids:
            return False
        self.columns.learn(features)
        return self.seen.add(
            decision, self.arms.index(model), chance, self.columns.row(features), features.vector
        )

    def told(self, decision: str, values: Mapping[str, float]) -> bool:
        """What came of a decision; in any order, and as often as it is said.

        Parameters
        ----------
        decision : str
        values : mapping
            Some of ``quality``, ``latency``, ``cost`` and ``failed``. What failed has the quality 0.
        """
        values = dict(values)
        if values.get("failed"):
            values.setdefault("quality", 0.0)
        if not self.seen.tell(decision, values):
            return False
        for name in values:
            if name in self._fresh:
                self._fresh[name].append(decision)
                self._unfitted[name] += 1
        return True

    def learn(self, *, fit: bool | None = None) -> Snapshot:
        """Take what has come into a new snapshot.

        Parameters
        ----------
        fit : bool, optional
            Fit everything, or only the means; by default everything, where there is a third more of it.
        """
        self._compare()
        self._judge()
        changed = self._look_for_changes()
        if fit is None:
            fit = changed or any(self._is_due(name) for name in LEARNED)
        self._publish(fit=fit)
        return self.snapshot

    def _is_due(self, name: str) -> bool:
        """Whether so much has come of an objective that all is fitted anew; also where rows are full."""
        fresh, there = self._unfitted[name], len(self.seen.known(name))
        return fresh > 0 and there >= blend.LEAST and fresh >= (GROWTH - 1.0) * (there - fresh)

    def _compare(self) -> None:
        """What the snapshot foretold of what has come since, before that is learned."""
        now, seen = self.snapshot, self.seen
        fresh: dict[int, list[str]] = {}
        for name in LEARNED:
            for decision in dict.fromkeys(self._fresh[name]):
                place = seen.ids.get(decision)
                if place is not None and seen.arms[place] < len(now.arms) and name in now.blends:
                    fresh.setdefault(place, []).append(name)
        self._fresh = {name: [] for name in LEARNED}
        for place, names in fresh.items():
            arm, expected = seen.arms[place], now.expect_row(*self._input(place))
            for name in names:
                at = OBJECTIVES.index(name)
                seen.residuals[place, at] = seen.values[place, at] - expected.values[name][arm]
                self._moved.add((name, int(arm)))
            often = seen.order[place] < OFTEN or seen.order[place] % SELDOM == 0
            if often and np.isnan(seen.got[place]):
                self._note_wish(place, expected)

    def _judge(self) -> None:
        """Whether choosing by input has been shown to be better than the best single model."""
        n, seen = len(self.arms), self.seen
        places = seen.judged(n)
        if len(places) < max(JUDGED, 2 * n):
            self.verdict = None
            return
        # what was foretold long ago says little of what the learner does now
        places = places[-max(JUDGED, len(places) // 2) :]
        before = self.verdict is None or self.verdict.trusted
        self.verdict = guard.judge(
            seen.expected[places, :n],
            seen.wished[places, :n],
            seen.arms[places],
            seen.chances[places],
            seen.got[places],
            before,
            seen.expected[places[-RECENT:], :n].mean(axis=0),
        )

    def _note_wish(self, place: int, expected: Expected) -> None:
        """What the learner would have done with a decision, and what was got, before that is learned."""
        weights = expected.weights(self.goal)
        got = {name: float(self.seen.values[place, OBJECTIVES.index(name)]) for name in weights}
        if not weights or any(np.isnan(value) for value in got.values()):
            return
        value, deviation = expected.utility(self.goal)
        utility = sum(weight * got[name] for name, weight in weights.items())
        self.seen.judge(place, value, chances(value, deviation), utility)

    def _input(self, place: int) -> tuple[Floats, Floats | None]:
        now = self.snapshot
        row = filled(self.seen.rows[place, : len(now.columns)], now.usual)
        if not self.seen.vectors.shape[1] or np.isnan(self.seen.vectors[place, 0]):
            return row, None
        return row, self.seen.vectors[place]

    def _look_for_changes(self) -> bool:
        """Forget what models did before they changed."""
        changed, seen = False, self.seen
        moved, self._moved = self._moved, set()
        for name in ("latency", "quality"):
            if not any(one == name for one, _ in moved):
                continue
            bounded = name == "quality"
            least = WRONG * (1.0 if bounded else self.snapshot.scales.get(name, 0.0))
            at, column = OBJECTIVES.index(name), LEARNED.index(name)
            places = np.flatnonzero(~np.isnan(seen.residuals[: len(seen), at]))
            places = places[np.argsort(seen.order[places], kind="stable")]
            for arm, model in enumerate(self.arms):
                if (name, arm) not in moved:
                    continue
                mine = places[(seen.arms[places] == arm) & (seen.order[places] >= self.since[arm, column])]
                first = change(seen.residuals[mine, at], least=least, bounded=bounded)
                if first is not None:
                    self.since[arm, column] = seen.order[mine[first]]
                    self.noted[model] = (
                        f"{model!r} has changed in {name}: what was learned of that before is forgotten"
                    )
                    changed = True
        return changed

    def weights(self, places: Ints, name: str) -> Floats:
        """How much rows count for an objective: less with age, nothing before their model changed in it."""
        first = self.since[self.seen.arms[places], LEARNED.index(name)]
        return np.asarray(np.where(self.seen.order[places] >= first, self._recent(places), 0.0))

    def _recent(self, places: Ints) -> Floats:
        return np.asarray(0.5 ** ((self.seen.total - 1 - self.seen.order[places]) / HALF))

    def _publish(self, *, fit: bool) -> None:
        old, n = self.snapshot, len(self.arms)
        version = old.version + 1
        rng = np.random.default_rng([self.seed, version])
        size, wide = len(self.seen), len(self.columns)
        whole = fit or len(old.arms) != n
        usual = usual_of(self.seen.rows[:size, :wide]) if whole else old.usual
        columns = Columns(self.columns.names, self.columns.wide) if whole else old.columns
        blends: dict[str, Blend] = {}
        scales: dict[str, float] = dict(old.scales)
        ratios: tuple[Floats, ...] = tuple(np.zeros(0) for _ in range(n))
        tries = np.zeros(n)
        for name in LEARNED:
            places = self.seen.known(name)
            prior = self.declared[:, LEARNED.index(name)]
            if not len(places) and np.isnan(prior).all():
                continue
            arms, values = self.seen.arms[places], self.seen.value(name, places)
            weights = self.weights(places, name)
            tries = np.maximum(tries, np.bincount(arms[weights > 0], minlength=n))
            previous = None if whole else old.blends.get(name)
            looked_at = places if previous is None else places[:0]  # to copy the rows takes time
            blends[name] = blend.fit(
                filled(self.seen.rows[looked_at, : len(columns)], usual),
                self.seen.vectors[looked_at] if self.seen.vectors.shape[1] else None,
                arms,
                values,
                self.seen.chances[places],
                weights,
                (prior, np.full(n, DECLARED)),
                rng,
                old=previous,
            )
            if whole:
                self._unfitted[name] = 0
            if name != "quality":
                scales[name] = max(float(np.abs(blends[name].means.means).mean()), 1e-12)
            if name == "latency":
                ratios = tuple(self._ratios(arm, places, values, weights, blends[name]) for arm in range(n))
        self.snapshot = Snapshot(
            version,
            tuple(self.arms),
            columns,
            usual,
            blends,
            scales,
            ratios,
            tries,
            self._failures(n),
            self.verdict,
            tuple(self.noted.values()),
            self.goal.aims,
        )

    def _failures(self, n: int) -> Floats:
        """Chance of each model to fail."""
        values = self.seen.values[: len(self.seen)]
        places = np.flatnonzero(~np.isnan(values).all(axis=1))
        arms, weights = self.seen.arms[places], self._recent(places)
        failed = np.nan_to_num(values[places, OBJECTIVES.index("failed")])
        mass = np.bincount(arms, weights=weights, minlength=n)[:n]
        return (np.bincount(arms, weights=weights * failed, minlength=n)[:n] + UNKNOWN) / (mass + 1.0)

    def _ratios(self, arm: int, places: Ints, values: Floats, weights: Floats, found: Blend) -> Floats:
        """Latencies of a model as multiples of what was expected, sorted."""
        mine = np.flatnonzero((self.seen.arms[places] == arm) & (weights > 0))[-TAIL:]
        usual = max(float(found.means.means[arm]), 1e-12)
        foretold = values[mine] - self.seen.residuals[places[mine], OBJECTIVES.index("latency")]
        foretold = np.where(np.isnan(foretold), usual, np.maximum(foretold, 1e-3 * usual))
        return np.sort(values[mine] / foretold)
