"""Learns what models do from decisions and their outcomes; one thread writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from altlas_flow.errors import SelectionError
from altlas_flow.selection import blend, guard
from altlas_flow.selection.blend import Blend
from altlas_flow.selection.chances import chances
from altlas_flow.selection.drift import LEAST, change
from altlas_flow.selection.features import Columns, Known, filled, usual_of
from altlas_flow.selection.goal import Goal
from altlas_flow.selection.guard import Verdict
from altlas_flow.selection.seen import OBJECTIVES, ROWS, Seen
from altlas_flow.selection.snapshot import UNKNOWN, Expected, Snapshot

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]

#: What is expected of each model: quality of what was answered, and how often nothing is.
LEARNED = ("quality", "latency", "cost", "failed")
#: Mean and noise that are usual of what lies between 0 and 1: they count as an outcome or two.
USUAL = {"quality": (0.5, 0.25), "failed": (0.1, 0.25)}
#: Those that lie between 0 and 1.
BOUNDED = ("quality", "failed")
#: All is fitted anew when there is so much more of it: of few models and columns soon, of many, where fitting
#: takes long, later.
SOON, LATER, MANY = 1.1, 1.4, 256
#: Decisions after which an outcome counts half.
HALF = 4000.0
#: Latencies of a model that are looked at for how late it may be, at most and at least.
TAIL, FEW = 400, 10
#: How much a declared value counts, in outcomes.
DECLARED = 5.0
#: What is expected is not wrong where it lies nearer to what comes: of a quality, and of a latency as a part
#: of what is usual for its model. Learning follows smaller changes by itself.
WRONG, SLOWER = 0.1, 0.5
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

    Raises
    ------
    SelectionError
        Where a figure is none, or out of range.
    """

    id: str
    quality: float | None = None
    latency: float | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        for name, most in (("quality", 1.0), ("latency", 1e9), ("cost", 1e12)):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, Real) or not 0.0 <= float(value) <= most:
                raise SelectionError(f"model {self.id!r}: {name}={value!r}: give a number from 0 to {most:g}")


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
        # and that from which on it may have changed; -1: none
        self.suspected = np.zeros((0, len(LEARNED)), dtype=np.int64)
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
            said = (arm.quality, arm.latency, arm.cost, None)
            declared = [np.nan if value is None else value for value in said]
            if arm.id in self.arms:
                self.declared[self.arms.index(arm.id)] = declared
            else:
                self.arms.append(arm.id)
                self.declared = np.concatenate([self.declared, [declared]])
                nothing = np.zeros((1, len(LEARNED)), dtype=np.int64)
                self.since = np.concatenate([self.since, nothing])
                self.suspected = np.concatenate([self.suspected, nothing - 1])
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
            Some of ``quality``, ``latency``, ``cost`` and ``failed``. What something is said of, and is not
            said to have failed, has answered; what failed once has failed.
        """
        values = dict(values)
        if values:
            values.setdefault("failed", 0.0)
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
            Fit everything, or only the means; by default everything, where there is so much more of it.
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
        if name == "failed" and name not in self.snapshot.blends:
            return False  # there was none
        fresh, there = self._unfitted[name], len(self._places(name))
        growth = LATER if len(self.arms) * len(self.columns) > MANY else SOON
        return fresh > 0 and there >= blend.LEAST and fresh >= (growth - 1.0) * (there - fresh)

    def _compare(self) -> None:
        """What the snapshot foretold of what has come since, before that is learned."""
        now, seen = self.snapshot, self.seen
        compared: set[int] = set()
        failed = seen.values[:, OBJECTIVES.index("failed")]
        for name in LEARNED:
            blended = now.blends.get(name)
            fresh = {seen.ids[id] for id in self._fresh[name] if id in seen.ids}
            places = np.array(sorted(fresh), dtype=np.int64)
            places = places[seen.arms[places] < len(now.arms)]
            if name == "quality":
                places = places[failed[places] != 1.0]
            if not len(places) or (blended is None and name != "failed"):
                continue
            arms, at = seen.arms[places], OBJECTIVES.index(name)
            # where none has failed yet, none is expected to
            found = (
                np.zeros(len(places)) if blended is None else blended.expect_own(*self._inputs(places), arms)
            )
            if name != "quality":
                found = np.maximum(found, 0.0)
            seen.residuals[places, at] = seen.values[places, at] - found
            self._moved |= {(name, int(arm)) for arm in arms}
            if name != "failed":
                compared.update(places.tolist())
        self._fresh = {name: [] for name in LEARNED}
        for place in sorted(compared):
            often = seen.order[place] < OFTEN or seen.order[place] % SELDOM == 0
            if often and np.isnan(seen.got[place]):
                (row,), vectors = self._inputs(np.array([place]))
                vector = None if vectors is None or np.isnan(vectors[0, 0]) else vectors[0]
                self._note_wish(place, now.expect_row(row, vector))

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
        """What the learner would have done with a decision, and what was got, before that is learned.

        Only of answers: how often there is none is what is expected. What failed is known at once, and the
        quality of answers only where somebody says it: counted alike, failures would weigh too much. Where
        nobody says it of any, each answer counts as 1, as it does in what is expected.
        """
        weights, arm = expected.weights(self.goal), int(self.seen.arms[place])
        got = {name: float(self.seen.values[place, OBJECTIVES.index(name)]) for name in weights}
        failed = self.seen.values[place, OBJECTIVES.index("failed")] == 1.0
        if "quality" in got and "quality" not in self.snapshot.blends:
            got["quality"] = 1.0
        if not weights or failed or any(np.isnan(value) for value in got.values()):
            return
        value, deviation = expected.utility(self.goal)
        utility = sum(weight * expected.counted(name, got[name], arm) for name, weight in weights.items())
        self.seen.judge(place, value, chances(value, deviation), utility)

    def _inputs(self, places: Ints) -> tuple[Floats, Floats | None]:
        """Rows without gaps, and vectors, NaN where there is none."""
        now = self.snapshot
        rows = filled(self.seen.rows[places, : len(now.columns)], now.usual)
        return rows, self.seen.vectors[places] if self.seen.vectors.shape[1] else None

    def _look_for_changes(self) -> bool:
        """Forget what models did before they changed; whether all is to be fitted anew.

        What comes may lie beside what was expected since nothing like these inputs had been seen. So all is
        fitted to it first: who forgets then forgets what explains it. Where that did not help, the model
        has changed.
        """
        changed, seen = False, self.seen
        moved, self._moved = self._moved, set()
        for name in ("latency", *BOUNDED):
            if not any(one == name for one, _ in moved):
                continue
            bounded, found = name in BOUNDED, self.snapshot.blends.get(name)
            at, column = OBJECTIVES.index(name), LEARNED.index(name)
            places = np.flatnonzero(~np.isnan(seen.residuals[: len(seen), at]))
            places = places[np.argsort(seen.order[places], kind="stable")]
            for arm, model in enumerate(self.arms):
                if (name, arm) not in moved:
                    continue
                mine = places[(seen.arms[places] == arm) & (seen.order[places] >= self.since[arm, column])]
                least = WRONG
                if not bounded and found is not None and arm < len(found.means.means):
                    least = SLOWER * float(found.means.means[arm])
                first = change(seen.residuals[mine, at], least=least, bounded=bounded)
                if first is None:
                    continue
                changed, orders = True, seen.order[mine]
                began = self.suspected[arm, column]
                if began >= 0 and ((began <= orders) & (orders < orders[first])).sum() < LEAST:
                    self.since[arm, column], self.suspected[arm, column] = began, -1
                    self.noted[model] = (
                        f"{model!r} has changed in {name}: what was learned of that before is forgotten"
                    )
                else:
                    self.suspected[arm, column] = orders[first]
                    seen.residuals[mine[first:], at] = np.nan  # they say nothing of what is fitted to them
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
            places = self._places(name)
            if name == "failed" and not self.seen.value(name, places).any():
                continue
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
                heavy=name not in BOUNDED,
                usual=USUAL.get(name),
                old=previous,
            )
            if whole:
                self._unfitted[name] = 0
            if name not in BOUNDED:
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

    def _places(self, name: str) -> Ints:
        """Rows that say something of an objective, in their order; of quality only those with an answer."""
        places = self.seen.known(name)
        return places[self.seen.value("failed", places) != 1.0] if name == "quality" else places

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
        mine = np.flatnonzero((self.seen.arms[places] == arm) & (weights > 0))
        usual = max(float(found.means.means[arm]), 1e-12)
        wrong = self.seen.residuals[places, OBJECTIVES.index("latency")]
        known = mine[~np.isnan(wrong[mine])]
        mine = (known if len(known) >= FEW else mine)[-TAIL:]
        foretold = values[mine] - wrong[mine]
        foretold = np.where(np.isnan(foretold), usual, np.maximum(foretold, 1e-3 * usual))
        return np.sort(values[mine] / foretold)
