"""One decision: which model answers. A pure function of a snapshot, an input, a goal and a draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from altlas_flow.errors import NoModelFits
from altlas_flow.records.decision import AdvancedModelSelectionStrategy, Decision, Estimate
from altlas_flow.selection.chances import chances, floored
from altlas_flow.selection.features import Known
from altlas_flow.selection.goal import Goal
from altlas_flow.selection.snapshot import Expected, Snapshot

Floats = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]

#: Tries that a new model gets, each with at least this chance for all new ones together.
TRIES, FORCED = 3, 0.1
#: What the learner gets while it is not shown to beat the best single model.
UNPROVEN = 0.1
#: Standard errors by which a model is sure to miss a constraint, where less than so many outcomes, or what is
#: declared, say what is expected of it.
SURE, WELL_KNOWN = 2.0, 5.0
#: Of what may be late: what is spent on models that are left out for being late, or they stayed so for ever.
RISKED = 0.2


@dataclass(frozen=True)
class Terms:
    """What holds for one decision beside the goal.

    Attributes
    ----------
    strategy : AdvancedModelSelectionStrategy
    explore : float
        The least part of all decisions that goes to models by chance; 0 also ends draws: the best is taken.
    price, room : float
        Of cost, as the budget says; what the request may cost at most.
    late : float
        The chance to be late that is allowed now.
    excluded : mapping of str to str
        Models that cannot answer: why.
    specialists : sequence of str
        Models whose speciality fits; empty: it does not matter.
    pareto : bool
        Leave out what another model is better than in all that is known.
    subtype : str
        What kind of its task the input is; empty where nobody says.
    """

    strategy: AdvancedModelSelectionStrategy
    explore: float = 0.01
    price: float = 0.0
    room: float = math.inf
    late: float = 0.05
    excluded: Mapping[str, str] | None = None
    specialists: Sequence[str] = ()
    pareto: bool = False
    subtype: str = ""


def shares(
    snapshot: Snapshot, expected: Expected, goal: Goal, terms: Terms, able: Flags, tardy: Flags
) -> Floats:
    """Chance of each model to be chosen, shape (n_arms,).

    Parameters
    ----------
    able : bool array, shape (n_arms,)
        Not all False.
    tardy : bool array, shape (n_arms,)
        Models that are left out for nothing but that they may be late.
    """
    found: Floats = np.zeros(len(able))
    value, deviation = expected.utility(goal, terms.price)
    if terms.explore > 0.0:
        found[able] = chances(value[able], deviation[able])
    else:
        found[int(np.argmax(np.where(able, value, -np.inf)))] = 1.0
    verdict = snapshot.verdict
    if (
        verdict is not None
        and not verdict.trusted
        and able[verdict.best]
        and goal.aims == snapshot.aims  # it says nothing of other aims
        and not _budgeted(goal)
    ):
        found *= UNPROVEN if terms.explore > 0.0 else 0.0
        found[verdict.best] += 1.0 - found.sum()
    if terms.explore <= 0.0:
        return found
    new = able & (snapshot.tries < TRIES)
    if new.any() and not new[able].all():
        found = (1.0 - FORCED) * found + FORCED * new / new.sum()
    found = floored(found, terms.explore, able)
    if tardy.any():
        risked = min(terms.explore, RISKED * goal.late)
        found = (1.0 - risked) * found + risked * tardy / tardy.sum()
    return found


def _budgeted(goal: Goal) -> bool:
    # under a budget the best single model may be the one that cannot be afforded
    return math.isfinite(goal.cost_limit)


def decide(
    snapshot: Snapshot,
    features: Known,
    goal: Goal,
    terms: Terms,
    *,
    id: str,
    task: str,
    made: float,
    draw: float,
    top: int,
) -> Decision:
    """Choose.

    Parameters
    ----------
    snapshot : Snapshot
    features : Known
    goal : Goal
    terms : Terms
    id, task : str
    made : float
        Seconds since the epoch.
    draw : float
        From 0 to 1, by chance: with it and the snapshot a decision can be made again.
    top : int
        Models that are named at most.

    Raises
    ------
    NoModelFits
        Where none is able, or every one is excluded by a constraint; it says which by what.
    """
    plain = terms.strategy is AdvancedModelSelectionStrategy.ADAPTIVE
    expected = snapshot.plain() if plain else snapshot.expect(features)
    why, late_ones = excluded(snapshot, expected, goal, terms)
    able = np.array([name not in why for name in snapshot.arms], dtype=bool)
    if not able.any():
        raise NoModelFits(task, why)
    tardy = np.array([name in late_ones for name in snapshot.arms], dtype=bool)
    found = shares(snapshot, expected, goal, terms, able, tardy)
    arm = min(int(np.searchsorted(np.cumsum(found), draw * found.sum(), side="right")), len(found) - 1)
    while found[arm] == 0.0:  # a draw at the very end
        arm -= 1
    value, _ = expected.utility(goal, terms.price)
    others = [int(other) for other in np.argsort(-value, kind="stable") if able[other] and other != arm]
    ranked = [arm, *others][:top]
    late = expected.late(goal.latency_limit)
    reasons = _reasons(snapshot, terms, features, plain)
    if expected.values.get("latency") is not None and math.isfinite(goal.latency_limit):
        able_late = float(late[arm])
        if able_late > 0.5 and not tardy[arm]:
            reasons.append(f"no model keeps {goal.latency_limit:g} s: the one that is nearest to it is taken")
    if tardy[arm]:
        reasons.append(f"{snapshot.arms[arm]!r} is tried by chance: {why.pop(snapshot.arms[arm])}")
    estimates = _estimates(snapshot, expected, late, found, why, goal)
    return Decision(
        id=id,
        task=task,
        strategy=terms.strategy,
        models=tuple(snapshot.arms[index] for index in ranked),
        probabilities={snapshot.arms[index]: float(found[index]) for index in np.flatnonzero(found)},
        features={**features},
        version=snapshot.version,
        estimates=estimates,
        reasons=tuple(reasons),
        made=made,
    )


def excluded(
    snapshot: Snapshot, expected: Expected, goal: Goal, terms: Terms
) -> tuple[dict[str, str], set[str]]:
    """Models that may not answer: why; and those of them that may only be late.

    Where a promise excludes all, the least late one stays.
    """
    why, tardy = dict(terms.excluded or {}), set()
    left = [index for index, name in enumerate(snapshot.arms) if name not in why]
    if terms.specialists:
        fitting = [index for index in left if snapshot.arms[index] in terms.specialists]
        for index in set(left) - set(fitting) if fitting else ():
            why[snapshot.arms[index]] = "it has no speciality that fits"
        left = fitting or left
    elif terms.strategy is AdvancedModelSelectionStrategy.SPECIALIZED and terms.subtype:
        for index, other in outdone(expected, left).items():
            why[snapshot.arms[index]] = f"{snapshot.arms[other]!r} has been better at {terms.subtype!r}"
        left = [index for index in left if snapshot.arms[index] not in why]
    if goal.quality_limit > 0.0 and "quality" in expected.values:
        qualities = expected.values["quality"]
        for index in missing(snapshot, expected, "quality", goal.quality_limit - qualities, left):
            why[snapshot.arms[index]] = (
                f"its quality is {qualities[index]:.2f}, and {goal.quality_limit:.2f} is asked for"
            )
        left = [index for index in left if snapshot.arms[index] not in why]
    if math.isfinite(goal.cost_limit) and "cost" in expected.values:
        costs = expected.values["cost"]
        most = goal.cost_limit * (1.0 + 1e-9)
        dear = [index for index in left if costs[index] > terms.room]
        dear = missing(snapshot, expected, "cost", costs - most, dear, spare=len(dear) == len(left))
        for index in dear:
            why[snapshot.arms[index]] = (
                f"it costs {costs[index]:.3g} a request, and {goal.cost_limit:.3g} is allowed on average"
            )
        left = [index for index in left if index not in dear]
    if math.isfinite(goal.latency_limit) and left:
        late = expected.late(goal.latency_limit)
        takes = expected.values.get("latency", late)
        best = min(left, key=lambda index: (round(float(late[index]), 2), takes[index]))
        for index in left:
            if late[index] > terms.late and index != best:
                why[snapshot.arms[index]] = (
                    f"it misses {goal.latency_limit:g} s with probability {late[index]:.2f}"
                )
                tardy.add(snapshot.arms[index])
        left = [index for index in left if snapshot.arms[index] not in why]
    if terms.pareto:
        for index, other in dominated(expected, left).items():
            why[snapshot.arms[index]] = f"{snapshot.arms[other]!r} is better in all that is known"
    return why, tardy


def missing(
    snapshot: Snapshot,
    expected: Expected,
    objective: str,
    by: Floats,
    left: Sequence[int],
    *,
    spare: bool = True,
) -> list[int]:
    """Those of some models that miss a limit.

    Parameters
    ----------
    by : array, shape (n_arms,)
        By how much each is expected to miss it.
    left : sequence of int
    spare : bool
        Where all of them do, let those stay that may not, by the error of what was seen: who is not asked
        is never known any better. What is only declared is taken as it is.
    """
    doubt = doubts(snapshot, expected, objective)
    found = [index for index in left if by[index] > doubt[index]]
    if spare and len(found) == len(left):
        error = np.where(snapshot.tries > 0, SURE * expected.deviations[objective], 0.0)
        found = [index for index in left if by[index] > max(doubt[index], error[index])]
    return found


def doubts(snapshot: Snapshot, expected: Expected, objective: str) -> Floats:
    """By how much each model may be better than is expected, where that is drawn from what others did.

    What is declared, or was seen some times, is taken as it is. The others have the benefit of the doubt, or
    bad outcomes of some models would keep all others from ever being known: of what has not been seen at all,
    anything may be.
    """
    blend, error = snapshot.blends.get(objective), SURE * expected.deviations[objective]
    if blend is None:
        known, noise = snapshot.tries, 0.0
    else:
        known, noise = blend.means.known, blend.means.noise
    known = known * (1.0 + 1e-6)
    few = np.maximum(error, SURE * noise / np.sqrt(np.maximum(known, 1.0)))
    return np.where(known >= WELL_KNOWN, 0.0, np.where(known < 1.0, math.inf, few))


def outdone(expected: Expected, left: Sequence[int]) -> dict[int, int]:
    """Models whose quality for this input is below that of another, by both their errors; and of which one.

    What a model has been good at is its speciality, where none is declared.
    """
    if "quality" not in expected.values or not left:
        return {}
    values, errors = expected.values["quality"], expected.deviations["quality"]
    best = max(left, key=lambda index: values[index] - errors[index])
    floor = values[best] - errors[best]
    return {index: best for index in left if index != best and values[index] + errors[index] < floor}


def dominated(expected: Expected, left: Sequence[int]) -> dict[int, int]:
    """Models that another one is better than in every objective, by a standard error; and which one is."""
    found = {}
    signs = {"quality": 1.0, "latency": -1.0, "cost": -1.0}
    for index in left:
        for other in left:
            if other == index or not expected.values or other in found:
                continue
            gaps = [
                (signs[name] * (values[other] - values[index]))
                - math.hypot(expected.deviations[name][index], expected.deviations[name][other])
                for name, values in expected.values.items()
            ]
            if min(gaps) > 0.0:
                found[index] = other
                break
    return found


def _estimates(
    snapshot: Snapshot, expected: Expected, late: Floats, found: Floats, why: Mapping[str, str], goal: Goal
) -> tuple[Estimate, ...]:
    nothing = [None] * len(snapshot.arms)

    def pairs(objective: str) -> Sequence[tuple[float, float] | None]:
        if objective not in expected.values:
            return nothing
        return list(
            zip(expected.values[objective].tolist(), expected.deviations[objective].tolist(), strict=True)
        )

    lates = late.tolist() if math.isfinite(goal.latency_limit) else nothing
    columns = pairs("quality"), pairs("latency"), pairs("cost"), lates, found.tolist()
    return tuple(
        Estimate(name, quality, latency, cost, is_late, chance, why.get(name, ""))
        for name, quality, latency, cost, is_late, chance in zip(snapshot.arms, *columns, strict=True)
    )


def _reasons(snapshot: Snapshot, terms: Terms, features: Known, plain: bool) -> list[str]:
    reasons = []
    verdict = snapshot.verdict
    if verdict is not None:
        best = snapshot.arms[verdict.best]
        figures = f"{verdict.gain:+.3g} ± {verdict.error:.2g} beyond {best!r}"
        reasons.append(
            f"choosing by input is worth {figures}"
            if verdict.trusted
            else f"mostly {best!r}: choosing by input is not shown to be better ({figures})"
        )
    if not plain and (unknown := snapshot.columns.unknown(features)):
        reasons.append(f"not known of this input, what is usual is taken: {', '.join(unknown[:8])}")
    if terms.price > 0.0:
        reasons.append(f"the budget asks {terms.price:.3g} for a unit of cost")
    return [*reasons, *snapshot.noted]
