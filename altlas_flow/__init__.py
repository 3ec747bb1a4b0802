"""altlas_flow: run models over requests and DataFrames on Dask.

>>> import altlas_flow as af
>>> flow = af.connect()                                                         # doctest: +SKIP
>>> flow.run("reviews/*.parquet", "minilm", input="text", to="embedded/")       # doctest: +SKIP

Names are loaded when they are used: importing this package loads neither torch nor pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from altlas_flow._version import __version__

if TYPE_CHECKING:
    from altlas_flow import errors, settings
    from altlas_flow.aggregation import Aggregator, Stacking, average, ensemble, every, first, vote
    from altlas_flow.cluster.client.handle import Handle, Handles
    from altlas_flow.dataframe.report import Plan, RunSummary
    from altlas_flow.errors import AltlasError
    from altlas_flow.flow import Flow, connect
    from altlas_flow.models.catalog import load_catalog
    from altlas_flow.models.loaded import LoadedModel
    from altlas_flow.models.spec import ModelSpec
    from altlas_flow.orchestrator import (
        DistributedModelOrchestrator,
        EnhancedModelOrchestrator,
        get_distributed_model_orchestrator,
        get_distributed_orchestrator,
        get_enhanced_orchestrator,
    )
    from altlas_flow.parallel.fanout import FanOut
    from altlas_flow.parallel.responses import Responses
    from altlas_flow.pipeline.cascade import Cascade, cascade
    from altlas_flow.pipeline.pipeline import Pipeline
    from altlas_flow.pipeline.stage import Stage
    from altlas_flow.records import (
        AdvancedModelSelectionStrategy,
        Decision,
        DistributionStrategy,
        File,
        InferenceRequest,
        InferenceResponse,
        NodeInfo,
        NodeStatus,
        ResultAggregationStrategy,
        RetryPolicy,
        TaskInfo,
        TaskStatus,
        Trace,
    )
    from altlas_flow.selection.learner import Arm
    from altlas_flow.selection.selector import Selector

_WHERE = {
    "AdvancedModelSelectionStrategy": "altlas_flow.records",
    "Aggregator": "altlas_flow.aggregation",
    "AltlasError": "altlas_flow.errors",
    "Arm": "altlas_flow.selection.learner",
    "Cascade": "altlas_flow.pipeline.cascade",
    "Decision": "altlas_flow.records",
    "DistributedModelOrchestrator": "altlas_flow.orchestrator",
    "DistributionStrategy": "altlas_flow.records",
    "EnhancedModelOrchestrator": "altlas_flow.orchestrator",
    "FanOut": "altlas_flow.parallel.fanout",
    "File": "altlas_flow.records",
    "Flow": "altlas_flow.flow",
    "Handle": "altlas_flow.cluster.client.handle",
    "Handles": "altlas_flow.cluster.client.handle",
    "InferenceRequest": "altlas_flow.records",
    "InferenceResponse": "altlas_flow.records",
    "LoadedModel": "altlas_flow.models.loaded",
    "ModelSpec": "altlas_flow.models.spec",
    "NodeInfo": "altlas_flow.records",
    "NodeStatus": "altlas_flow.records",
    "Pipeline": "altlas_flow.pipeline.pipeline",
    "Plan": "altlas_flow.dataframe.report",
    "Responses": "altlas_flow.parallel.responses",
    "ResultAggregationStrategy": "altlas_flow.records",
    "RetryPolicy": "altlas_flow.records",
    "RunSummary": "altlas_flow.dataframe.report",
    "Selector": "altlas_flow.selection.selector",
    "Stacking": "altlas_flow.aggregation",
    "Stage": "altlas_flow.pipeline.stage",
    "TaskInfo": "altlas_flow.records",
    "TaskStatus": "altlas_flow.records",
    "Trace": "altlas_flow.records",
    "average": "altlas_flow.aggregation",
    "cascade": "altlas_flow.pipeline.cascade",
    "connect": "altlas_flow.flow",
    "ensemble": "altlas_flow.aggregation",
    "errors": "altlas_flow.errors",
    "every": "altlas_flow.aggregation",
    "first": "altlas_flow.aggregation",
    "get_distributed_model_orchestrator": "altlas_flow.orchestrator",
    "get_distributed_orchestrator": "altlas_flow.orchestrator",
    "get_enhanced_orchestrator": "altlas_flow.orchestrator",
    "load_catalog": "altlas_flow.models.catalog",
    "settings": "altlas_flow.settings",
    "vote": "altlas_flow.aggregation",
}

__all__ = [
    "AdvancedModelSelectionStrategy",
    "Aggregator",
    "AltlasError",
    "Arm",
    "Cascade",
    "Decision",
    "DistributedModelOrchestrator",
    "DistributionStrategy",
    "EnhancedModelOrchestrator",
    "FanOut",
    "File",
    "Flow",
    "Handle",
    "Handles",
    "InferenceRequest",
    "InferenceResponse",
    "LoadedModel",
    "ModelSpec",
    "NodeInfo",
    "NodeStatus",
    "Pipeline",
    "Plan",
    "Responses",
    "ResultAggregationStrategy",
    "RetryPolicy",
    "RunSummary",
    "Selector",
    "Stacking",
    "Stage",
    "TaskInfo",
    "TaskStatus",
    "Trace",
    "__version__",
    "average",
    "cascade",
    "connect",
    "ensemble",
    "errors",
    "every",
    "first",
    "get_distributed_model_orchestrator",
    "get_distributed_orchestrator",
    "get_enhanced_orchestrator",
    "load_catalog",
    "settings",
    "vote",
]


def __getattr__(name: str) -> Any:
    try:
        module = import_module(_WHERE[name])
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = module if module.__name__ == f"{__name__}.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
