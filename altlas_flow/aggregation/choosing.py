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
#: What makes them: `af.vote` is taken for `af.vote()`.
MAKERS = tuple(_STRATEGIES.values())
#: By the names that files give them: ``vote``.
_BY_NAME: dict[str, Callable[[], Aggregator]] = {made.__name__: made for made in MAKERS}


def aggregator_of(combine: Any, default: str = ResultAggregationStrategy.ALL_RESPONSES) -> Aggregator:
    """The aggregator that is meant.

    Parameters
    ----------
    combine : Aggregator, ResultAggregationStrategy, str, Stacking, callable or None
        A function is one of the outputs by model. A text is the name of a strategy, or what makes its
        aggregator: ``"MAJORITY_VOTE"``, ``"vote"``.
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
        if (named := _BY_NAME.get(combine)) is not None:
            return named()
        try:
            return _STRATEGIES[ResultAggregationStrategy(combine)]()
        except ValueError:
            pass
    elif any(combine is made for made in MAKERS):
        return combine()  # type: ignore[no-any-return]  # af.vote for af.vote()
    elif isinstance(combine, Stacking) or (callable(combine) and not isinstance(combine, type)):
        return Ensemble(combine)
    raise BadRequest(
        f"combine={one_line(repr(combine), 60)} is none: give an aggregator such as af.vote(), a function of "
        f"the outputs by model, or one of {names([*_BY_NAME, *ResultAggregationStrategy], 20)}"
    )
