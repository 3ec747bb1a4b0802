"""Several models at once, where it is worth it: as long as one more brings more than it costs."""

from __future__ import annotations

import math

from altlas_flow.records.decision import Decision
from altlas_flow.selection.features import Known
from altlas_flow.selection.snapshot import Snapshot

#: Expected quality that one more model of the usual cost has to bring.
WORTH = 0.02
#: Models at once, at most.
MOST = 3
#: What is asked at least of the cost of a model, in what is usual: nothing is free.
CHEAPEST = 0.05


def together(
    snapshot: Snapshot,
    features: Known,
    decision: Decision,
    *,
    within: float = math.inf,
    worth: float = WORTH,
    most: int = MOST,
) -> tuple[str, ...]:
    """Models to ask at once: the one that was chosen, and those that are worth having beside it.

    The first in this order that answers in time counts, so that another one is of use where those before it
    fail or are late. It is added where the quality that it is expected to add, for a unit of what models
    usually cost, is at least `worth`; what is not known yet fails more often, and so has company.

    Parameters
    ----------
    snapshot : Snapshot
        That the decision was made on.
    features : Known
    decision : Decision
    within : float
        Seconds after which an answer is of no use.
    worth : float
        Expected quality, 0 to 1.
    most : int
        Models at most.

    Returns
    -------
    tuple of str
    """
    expected, place = snapshot.expect(features), {name: at for at, name in enumerate(snapshot.arms)}
    late = expected.late(within) if math.isfinite(within) else [0.0] * len(snapshot.arms)
    quality = expected.values.get("quality")
    costs = expected.values.get("cost")
    usual = snapshot.scales.get("cost", 0.0)

    def chance(model: str) -> float:
        """That it answers in time."""
        at = place[model]
        return float((1.0 - snapshot.failures[at]) * (1.0 - late[at]))

    def good(model: str) -> float:
        """Quality of its answer; what failed counted as 0 there."""
        at = place[model]
        if quality is None:
            return 1.0
        return float(min(1.0, max(0.0, quality[at]) / max(1.0 - float(snapshot.failures[at]), 1e-3)))

    def price(model: str) -> float:
        return max(CHEAPEST, float(costs[place[model]]) / usual) if costs is not None and usual > 0 else 1.0

    left = [one.model for one in decision.estimates if not one.excluded and one.model != decision.model]
    chosen = [decision.model]
    while left and len(chosen) < most:
        none = math.prod(1.0 - chance(model) for model in chosen)  # that nobody before has answered
        gains = {model: none * chance(model) * good(model) / price(model) for model in left}
        best = max(left, key=lambda model: gains[model])
        if gains[best] < worth:
            break
        chosen.append(best)
        left.remove(best)
    return tuple(chosen)
