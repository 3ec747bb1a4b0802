"""A pipeline in this process, without a cluster: for samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from altlas_flow.errors import BadRequest
from altlas_flow.models.host import ModelHost
from altlas_flow.models.spec import ModelSpec
from altlas_flow.pipeline.pipeline import Pipeline
from altlas_flow.pipeline.rows import StageRows
from altlas_flow.pipeline.stage import INPUT
from altlas_flow.pipeline.step import compile_pipeline
from altlas_flow.pipeline.tasks import StageWork
from altlas_flow.pipeline.watched import How


def run_here(pipeline: Pipeline, inputs: Sequence[Any]) -> dict[str, StageRows]:
    """Do all stages for some rows in this process; models are loaded, and let go of at the end.

    Parameters
    ----------
    pipeline : Pipeline
        Its models are `ModelSpec`, none of which asks for a GPU.
    inputs : sequence

    Returns
    -------
    dict of str to StageRows
        By step; rows that failed are in their ``faults``.

    Raises
    ------
    BadRequest
        Where a model is known to a cluster only.
    PipelineError, ModelLoadError, UnsafeModel
    """
    compiled = compile_pipeline(pipeline, _here)
    found = {INPUT: StageRows(list(inputs))}
    host = ModelHost()
    try:
        for name, step in compiled.steps.items():
            work = StageWork(step, [found[need] for need in step.needs], host, host.node)
            found[name] = work.run(How(lenient=True, priority=0, wanted=lambda: True))
    finally:
        host.close()
    return found


def _here(model: str | ModelSpec) -> ModelSpec:
    if isinstance(model, str):
        raise BadRequest(f"model {model!r} is registered with a cluster: give flow=, or a ModelSpec")
    if model.needs_gpu:
        raise BadRequest(f"model {model.id!r} asks for a GPU: give flow=, a cluster that has one")
    return model.resolved()
