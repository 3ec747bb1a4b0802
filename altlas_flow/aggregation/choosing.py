"""What people say of how to combine: a strategy, its name, an aggregator, a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from altlas_flow.aggregation.averaging import average
from altlas_flow.aggregation.base import Aggregator
from altlas_flow.aggregation.collecting import every, first
from altlas_flow.aggregation.ensembles import Ensemble, ensemble
from altlas_flow.aggregation.stacking import Stacking
from altlas_flow.aggregation.voting import vote
from altlas_flow.errors import BadRequest, names, one_line
from altlas_flow.records import ResultAggregationStrategy

_STRATEGIES: dict[ResultAggregationStrategy, Callable[[], Aggregator]] = {
    ResultAggregationStrategy.FIRST_RESPONSE: first,
    ResultAggregationStrategy.ALL_RESPONSES: every,
    ResultAggregationStrategy.MAJORITY_VOTE: vote,
    ResultAggregationStrategy.WEIGHTED_AVERAGE: average,
    ResultAggregationStrategy.ENSEMBLE: ensemble,
}


def aggregator_of(combine: Any, default: str = ResultAggregationStrategy.ALL_RESPONSES) -> Aggregator:
    """The aggregator that is meant.

    Parameters
    ----------
    combine : Aggregator, ResultAggregationStrategy, str, Stacking, callable or None
        A function is one of the outputs by model.
    default : str
        The strategy that None stands for.

    Raises
    ------
    BadRequest
    """
    if combine is None:
        combine = default
    if isinstance(combine, Aggregator):
        return combine
    if isinstance(combine, str):
        try:
            return _STRATEGIES[ResultAggregationStrategy(combine)]()
        except ValueError:
            pass
    elif any(combine is made for made in _STRATEGIES.values()):
        return combine()  # type: ignore[no-any-return]  # af.vote for af.vote()
    elif isinstance(combine, Stacking) or (callable(combine) and not isinstance(combine, type)):
        return Ensemble(combine)
    raise BadRequest(
        f"combine={one_line(repr(combine), 60)} is none: give an aggregator such as af.vote(), a function of "
        f"the outputs by model, or one of {names(ResultAggregationStrategy)}"
    )
