"""How the answers of several models become one: pure, no Dask, no clock.

An `Aggregator` is a recipe. `begin` gives a `Tally`, which is fed with answers as they arrive and says when
it is settled; `combine` takes all answers at once.
"""

from __future__ import annotations

from altlas_flow.aggregation.averaging import Average, average
from altlas_flow.aggregation.base import Aggregator, Tally, Verdict
from altlas_flow.aggregation.choosing import aggregator_of
from altlas_flow.aggregation.collecting import Every, First, every, first
from altlas_flow.aggregation.ensembles import Ensemble, ensemble
from altlas_flow.aggregation.stacking import Stacking
from altlas_flow.aggregation.voting import Vote, vote

__all__ = [
    "Aggregator",
    "Average",
    "Ensemble",
    "Every",
    "First",
    "Stacking",
    "Tally",
    "Verdict",
    "Vote",
    "aggregator_of",
    "average",
    "ensemble",
    "every",
    "first",
    "vote",
]
