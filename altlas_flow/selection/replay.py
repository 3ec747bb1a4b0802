"""What another way of choosing would have got, reckoned from what was logged.

Three estimates, since each errs in its own way. IPS weighs each outcome by how much likelier the other
policy would have chosen it: right on average, and noisy. SNIPS divides by the mean weight: less noise, a
little bias. The doubly robust one starts from a regression and corrects it by what was seen: right where
either of the two is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from altlas_flow.errors import ReplayError
from altlas_flow.records.html import rows

Floats = npt.NDArray[np.floating[Any]]

#: A policy: what is known of an input, and the models there were -> the chance of each.
Policy = Callable[[Mapping[str, Any], Sequence[str]], Mapping[str, float]]

#: Resamples of a bootstrap, and the interval that is reported.
RESAMPLES, INTERVAL = 1000, 0.95
#: Below this part of outcomes that count, nothing is said but that.
LEAST_OVERLAP = 0.02
#: A mean weight is 1, but for chance: where chance alone gives it more than this, or it is further off than
#: chance makes it, an interval does not know what it does not know.
FAR_FROM_ONE, UNSURE = 0.25, 0.15
#: Parts of the log: each is foretold by a regression on the others.
FOLDS = 5


@dataclass(frozen=True)
class Logged:
    """A decision and what came of it.

    Attributes
    ----------
    features : mapping
    probabilities : mapping of str to float
        With which each model could be chosen.
    model : str
        The one that was.
    outcome : float
    """

    features: Mapping[str, Any]
    probabilities: Mapping[str, float]
    model: str
    outcome: float


@dataclass(frozen=True)
class Reckoned:
    """One estimate: its value, and the ends of its interval of 95%."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"


@dataclass(frozen=True, repr=False)
class Replay:
    """What a policy would have got.

    Attributes
    ----------
    logged : Reckoned
        What was got.
    ips, snips, robust : Reckoned
        What the policy would have got, for each decision.
    decisions : int
    overlap : float
        The part of the log that counts for the policy: its effective size over its size.
    unsupported : float
        How much of what the policy would choose could never be chosen.
    weight : float
        The mean weight of an outcome, near 1 where all of the policy's choices are in the log as often as
        their chances say; far from it, what would have told is missing, and no interval knows of that.
    weight_error : float
        The standard error that chance alone gives it, by the chances that were logged.
    """

    logged: Reckoned
    ips: Reckoned
    snips: Reckoned
    robust: Reckoned
    decisions: int
    overlap: float
    unsupported: float
    weight: float = 1.0
    weight_error: float = 0.0

    @property
    def trustworthy(self) -> bool:
        """Whether enough of the log says something of the policy."""
        return self._doubt == ""

    @property
    def _doubt(self) -> str:
        if self.unsupported >= 0.01:
            return f"{self.unsupported:.0%} of what the policy would choose was never possible"
        if self.overlap < LEAST_OVERLAP:
            return "the policy chooses what was hardly ever chosen: log more exploration"
        if self.weight_error > UNSURE:
            return "a few rare choices decide, and may be missing: log more exploration"
        if abs(self.weight - 1.0) > max(FAR_FROM_ONE, 3 * self.weight_error):
            return (
                f"weights come to {self.weight:.2f} and not to 1: the chances logged are not those of the log"
            )
        return ""

    def __str__(self) -> str:
        lines = [
            f"{self.decisions} decisions; logged {self.logged}",
            f"  IPS    {self.ips}",
            f"  SNIPS  {self.snips}",
            f"  DR     {self.robust}",
            f"  overlap {self.overlap:.1%} of the log",
        ]
        if not self.trustworthy:
            lines.append(f"  not to be trusted: {self._doubt}")
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Each estimate with its interval."""
        estimates = {"logged": self.logged, "IPS": self.ips, "SNIPS": self.snips, "DR": self.robust}
        lines = [
            (name, f"{one.value:.4g}", f"{one.low:.4g}", f"{one.high:.4g}") for name, one in estimates.items()
        ]
        doubt = "" if self.trustworthy else f"; not to be trusted: {self._doubt}"
        title = f"{self.decisions:,} decisions, of which {self.overlap:.1%} count for the policy{doubt}"
        return rows(title, ("estimate", "value", "from", "to"), lines)


def replay(log: Sequence[Logged], policy: Policy, *, seed: int = 0) -> Replay:
    """Reckon what a policy would have got.

    Parameters
    ----------
    log : sequence of Logged
    policy : callable
        ``policy(features, models)``: the chance of each model; those that are not named have none.
    seed : int
        Of the bootstrap.

    Raises
    ------
    ReplayError
        Where the log is empty, or the policy gives no chances.
    """
    if not callable(policy):
        raise ReplayError(
            f"policy={policy!r} is none: give a function of features and models, or always(model) or evenly "
            "of altlas_flow.selection.replay"
        )
    if not log:
        raise ReplayError("the log holds no decision with an outcome: record some, or name another objective")
    names = sorted({name for entry in log for name in (*entry.probabilities, entry.model)})
    at = {name: index for index, name in enumerate(names)}
    n = len(log)
    wished, chances = np.zeros((n, len(names))), np.zeros((n, len(names)))
    for row, entry in enumerate(log):
        for name, chance in entry.probabilities.items():
            chances[row, at[name]] = chance
        wished[row] = _chances(policy(entry.features, list(entry.probabilities)), at)
    possible = chances > 0
    arms = np.array([at[entry.model] for entry in log])
    logged = np.array([entry.probabilities[entry.model] for entry in log])
    got = np.array([entry.outcome for entry in log], dtype=float)
    if not (logged > 0).all():
        raise ReplayError("the log holds a choice that had no chance: it was not written by a selector")
    expected = _foretold(arms, got, logged, len(names), np.random.default_rng([seed, 0]))
    weights = wished[np.arange(n), arms] / logged
    regressed = (wished * expected).sum(axis=1)
    corrected = regressed + weights * (got - expected[np.arange(n), arms])
    picks = np.random.default_rng([seed, 1]).integers(n, size=(RESAMPLES, n)) if n <= 20_000 else None
    rng = np.random.default_rng([seed, 2])

    def over(value: Callable[[Any], float]) -> Reckoned:
        drawn = [value(picks[i] if picks is not None else rng.integers(n, size=n)) for i in range(RESAMPLES)]
        low, high = np.nanquantile(drawn, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
        return Reckoned(value(slice(None)), float(low), float(high))

    def normalised(rows: Any) -> float:
        total = float(weights[rows].sum())
        return float(weights[rows] @ got[rows]) / total if total > 0 else float("nan")

    total = float(weights.sum())
    # of a weight: the sum of wished² / logged over all that was possible, less its mean squared
    spread = np.divide(wished**2, chances, out=np.zeros_like(wished), where=possible).sum(axis=1)
    spread -= (wished * possible).sum(axis=1) ** 2
    return Replay(
        logged=over(lambda rows: float(got[rows].mean())),
        ips=over(lambda rows: float((weights[rows] * got[rows]).mean())),
        snips=over(normalised),
        robust=over(lambda rows: float(corrected[rows].mean())),
        decisions=n,
        overlap=total**2 / float(weights @ weights) / n if total > 0 else 0.0,
        unsupported=float((wished * ~possible).sum(axis=1).mean()),
        weight=total / n,
        weight_error=float(np.sqrt(np.maximum(spread, 0.0).sum())) / n,
    )


def always(model: str) -> Policy:
    """The policy that always chooses one model."""
    return lambda features, models: {model: 1.0}


def evenly(features: Mapping[str, Any], models: Sequence[str]) -> dict[str, float]:
    """The policy that chooses among all models by chance."""
    return dict.fromkeys(models, 1.0 / len(models))


def _chances(said: Any, at: Mapping[str, int]) -> Floats:
    found = np.zeros(len(at))
    if not isinstance(said, Mapping):
        raise ReplayError(f"the policy gave {said!r}: give the chance of each model")
    for name, chance in said.items():
        if name in at:
            found[at[name]] = chance
        elif chance > 0:
            raise ReplayError(
                f"the policy chooses {name!r}, which the log does not know: it knows {', '.join(at)}"
            )
    if not np.isfinite(found).all() or (found < 0).any() or abs(found.sum() - 1.0) > 1e-6:
        raise ReplayError(f"the policy's chances are {dict(said)!r}: they have to be at least 0 and sum to 1")
    return found


def _foretold(arms: Any, got: Floats, logged: Floats, n_arms: int, rng: np.random.Generator) -> Floats:
    """The mean outcome of each model, of the other parts of the log: no row foretells itself."""
    n = len(got)
    part = rng.permutation(n) % min(FOLDS, n)
    expected = np.zeros((n, n_arms))
    for fold in range(min(FOLDS, n)):
        rest, here = part != fold, part == fold
        if not rest.any():
            continue
        weights = 1.0 / logged[rest]
        mass = np.bincount(arms[rest], weights=weights, minlength=n_arms)
        sums = np.bincount(arms[rest], weights=weights * got[rest], minlength=n_arms)
        overall = float(got[rest].mean())
        expected[here] = np.where(mass > 0, sums / np.where(mass > 0, mass, 1.0), overall)
    return expected
