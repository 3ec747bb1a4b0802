"""Ensembles: all outputs together, by a function, a fitted estimator, or one of the ways built in."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from altlas_flow.aggregation.averaging import averaged
from altlas_flow.aggregation.base import Aggregator, Tally, Verdict, call
from altlas_flow.aggregation.stacking import Stacking
from altlas_flow.aggregation.values import by_row, kind_of, scalar
from altlas_flow.aggregation.weighing import Quality, Weights
from altlas_flow.errors import BadRequest, Uncombinable, names, one_line

MEAN, FUSION = "mean_probabilities", "rank_fusion"

How = str | Stacking | Callable[[dict[str, Any]], Any]


def ensemble(
    how: How = MEAN,
    *,
    weights: Weights | None = None,
    quorum: float | None = None,
    quality: Quality | None = None,
    key: Callable[[Any], Any] | None = None,
    k: float = 60,
) -> Ensemble:
    """All outputs together make the answer.

    Parameters
    ----------
    how : str, Stacking or callable
        ``"mean_probabilities"``: the mean of class probabilities, as maps of labels or as vectors.

        ``"rank_fusion"``: of ranked lists, best first, one list, by reciprocal rank fusion: each item's score
        is the sum over the lists of ``weight / (k + rank)``, with ranks from 1 (Cormack, Clarke and Büttcher,
        "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods", SIGIR 2009).
        Between equals goes first what is higher up in the list of the model that is named first.

        A `Stacking` that was fitted, or a function of the outputs by model, in the order in which the models
        are named: a dict of those that answered. For a list of inputs it is called for each row.
    weights, quality
        See `average`; of the ways that are built in.
    quorum : int or float, optional
        How many models have to answer; by default one, and for a `Stacking` all of them.
    key : callable, optional
        Of an item of a ranked list, by which the same is found in others; by default its ``id`` or ``label``
        where it is a mapping, else itself.
    k : float
        The constant of the fusion: the greater, the less the first ranks count.

    Returns
    -------
    Ensemble
        Its agreement: of the mean of maps, see `average`; of ranked lists, the share of weight of the models
        whose first item is that of the verdict. Of a function, a `Stacking` or vectors: None.

    Raises
    ------
    BadRequest
    """
    return Ensemble(how, key=key, k=k, weights=weights, quorum=quorum, quality=quality)


class Ensemble(Aggregator):
    """See `ensemble`."""

    name = "ensemble"

    def __init__(
        self, how: How = MEAN, *, key: Callable[[Any], Any] | None = None, k: float = 60, **options: Any
    ) -> None:
        if isinstance(how, str):
            how = how.strip().lower().replace("-", "_")
        if not (callable(how) or isinstance(how, Stacking) or how in (MEAN, FUSION)):
            raise BadRequest(
                f"how={one_line(repr(how), 60)} is no way to combine: give {MEAN!r}, {FUSION!r}, "
                "a fitted Stacking, or a function of the outputs by model"
            )
        super().__init__(**options)
        if not isinstance(how, str) and (self.weights is not None or self.quality is not None):
            raise BadRequest("weights are for what is built in: a function or a Stacking weighs by itself")
        if isinstance(k, bool) or not isinstance(k, (int, float)) or not 0 <= k < math.inf:
            raise BadRequest(f"k={one_line(repr(k), 60)} is no constant: give a number of at least 0")
        if key is not None and not callable(key):
            raise BadRequest(f"key={one_line(repr(key), 60)} is no function: give one of an item")
        self.how, self.key, self.k = how, key, float(k)

    def label(self) -> dict[str, Any]:
        if not isinstance(self.how, str):
            return {**super().label(), "how": "stacking" if isinstance(self.how, Stacking) else "function"}
        return {**super().label(), "how": self.how, **({"k": self.k} if self.how == FUSION else {})}

    def code(self) -> tuple[Any, ...]:
        how = () if isinstance(self.how, str) else (self.how,)
        return (*super().code(), *how, *(() if self.key is None else (self.key,)))

    def begin(self, models: Sequence[str], rows: int | None = None) -> Tally:
        """As of every aggregator; a `Stacking` has to be fitted, for these models."""
        tally = super().begin(models, rows)
        if isinstance(self.how, Stacking):
            self.how.check(tally.models)
            tally.needed = len(tally.models)  # it was fitted on the answers of all
        return tally

    def _verdict(self, given: Mapping[str, Any], tally: Tally) -> Verdict:
        if isinstance(self.how, Stacking):
            predicted = self.how.predict(given if tally.rows is not None else _one_row(given))
            return Verdict(predicted if tally.rows is not None else predicted[0])
        if callable(self.how):
            if tally.rows is None:
                return Verdict(call("ensemble(how)", self.how, dict(given)))
            return Verdict([call("ensemble(how)", self.how, row) for row in by_row(given, tally.rows)])
        if self.how == MEAN:
            verdict = averaged(given, tally.weights, tally.rows)
            _check_shares(given, [verdict.outputs] if tally.rows is None else verdict.outputs)
            return verdict
        if tally.rows is None:
            return Verdict(*self._fused(given, tally.weights))
        pairs = [self._fused(row, tally.weights) for row in by_row(given, tally.rows)]
        known = [agreement for _, agreement in pairs if agreement is not None]
        return Verdict([found for found, _ in pairs], math.fsum(known) / len(known) if known else None)

    def _fused(
        self, given: Mapping[str, Any], weights: Mapping[str, float]
    ) -> tuple[list[Any], float | None]:
        parts: dict[Hashable, list[float]] = {}
        items: dict[Hashable, Any] = {}
        firsts: dict[str, Hashable] = {}
        for model, ranked in given.items():
            if not isinstance(ranked, (list, tuple, np.ndarray)):
                raise Uncombinable((model,), f"{kind_of(ranked)}, and no ranked list")
            found = dict.fromkeys(self._item_key(model, item) for item in ranked)  # the best rank counts
            for item in ranked:
                items.setdefault(self._item_key(model, item), scalar(item))
            for rank, item_key in enumerate(found, 1):
                parts.setdefault(item_key, []).append(weights[model] / (self.k + rank))
                firsts.setdefault(model, item_key)
        scores = {item: math.fsum(shares) for item, shares in parts.items()}
        order = sorted(scores, key=lambda item: -scores[item])  # stable: between equals, who was named first
        if not order:
            return [], None
        total = math.fsum(weights[model] for model in firsts)
        agrees = math.fsum(weights[model] for model, item in firsts.items() if item == order[0])
        return [items[item] for item in order], agrees / total

    def _item_key(self, model: str, item: Any) -> Hashable:
        if self.key is not None:
            item = call("ensemble(key=)", self.key, item)
        elif isinstance(item, Mapping):
            item = item.get("id", item.get("label"))
        found: Any = scalar(item)
        try:
            hash(found)
        except TypeError:
            raise Uncombinable((model,), f"{kind_of(found)} as an item of its list, and no key=") from None
        return found  # type: ignore[no-any-return]


def _one_row(given: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {model: [value] for model, value in given.items()}


def _check_shares(given: Mapping[str, Any], means: Any) -> None:
    """See that what was averaged were probabilities."""
    for mean in means:
        shares = np.asarray(list(mean.values()) if isinstance(mean, dict) else mean)
        if shares.size and (shares.min() < -1e-6 or shares.max() > 1 + 1e-6):
            raise Uncombinable(
                tuple(given),
                f"no probabilities: numbers outside 0 to 1 ({names(shares.ravel().tolist(), 3)})",
            )
