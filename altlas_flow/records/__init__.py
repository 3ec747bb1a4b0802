"""Records that travel between client, scheduler and workers."""

from __future__ import annotations

from altlas_flow.records.decision import AdvancedModelSelectionStrategy, Decision, Estimate
from altlas_flow.records.file import File
from altlas_flow.records.node import ModelLatency, NodeInfo, NodeStatus
from altlas_flow.records.request import (
    DistributionStrategy,
    InferenceRequest,
    ResultAggregationStrategy,
    RetryPolicy,
)
from altlas_flow.records.response import ErrorRecord, InferenceResponse
from altlas_flow.records.task import TaskInfo, TaskStatus
from altlas_flow.records.trace import Trace, Try

__all__ = [
    "AdvancedModelSelectionStrategy",
    "Decision",
    "DistributionStrategy",
    "ErrorRecord",
    "Estimate",
    "File",
    "InferenceRequest",
    "InferenceResponse",
    "ModelLatency",
    "NodeInfo",
    "NodeStatus",
    "ResultAggregationStrategy",
    "RetryPolicy",
    "TaskInfo",
    "TaskStatus",
    "Trace",
    "Try",
]
