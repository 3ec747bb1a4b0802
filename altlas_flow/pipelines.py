"""`Pipelines`: the part of a `Flow` that asks pipelines."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from altlas_flow.cluster.client.transport import PRIORITIES, Transport
from altlas_flow.errors import BadRequest, UnknownModel
from altlas_flow.models.files import read_inputs, takes_paths
from altlas_flow.models.spec import ModelSpec
from altlas_flow.pipeline.flat import WITHIN
from altlas_flow.pipeline.handle import PipelineHandle
from altlas_flow.pipeline.indexed import IndexedHandle, is_empty, of_requests, references
from altlas_flow.pipeline.pipeline import Pipeline
from altlas_flow.pipeline.routing import routed
from altlas_flow.pipeline.sender import sender_for
from altlas_flow.pipeline.stage import INPUT
from altlas_flow.pipeline.step import Compiled, compile_pipeline
from altlas_flow.records import InferenceRequest

#: Pipelines that are kept ready to be sent.
READY = 32


class Pipelines(ABC):
    """Sends requests to pipelines; a `Flow` is one."""

    _transport: Transport

    @abstractmethod
    def _find(self, model: str | ModelSpec) -> ModelSpec:
        """The spec that is meant."""

    @abstractmethod
    def _check_open(self) -> None:
        """Raise `ConnectError` where the flow is closed."""

    def _begin_pipelines(self) -> None:
        self._compiled: OrderedDict[tuple[int, tuple[str, ...]], tuple[Pipeline, Compiled]] = OrderedDict()
        self._compiling = threading.Lock()

    def compile(self, pipeline: Pipeline) -> Compiled:
        """Find the models of a pipeline, so that `submit` makes no trip for them.

        Raises
        ------
        PipelineError, UnknownModel
        """
        whole = routed(pipeline, self._serving)
        specs = {model: self._of_stage(stage, model).fingerprint for model, stage in _models(whole).items()}
        # the pipeline is kept with what was made of it: another one could get the id of one that is gone
        key = (id(pipeline), tuple(specs.values()))
        with self._compiling:
            found = self._compiled.get(key)
            if found is not None:
                self._compiled.move_to_end(key)
            else:
                found = self._compiled[key] = pipeline, compile_pipeline(whole, self._find)
                while len(self._compiled) > READY:
                    self._compiled.popitem(last=False)
            return found[1]

    def _serving(self, task: str) -> list[ModelSpec]:
        """The models that serve a task now."""
        return [self._find(model) for model in self._transport.choosing().models(task)]

    def _of_stage(self, stage: str, model: str | ModelSpec) -> ModelSpec:
        try:
            return self._find(model)
        except UnknownModel as error:
            raise UnknownModel(error.model, error.known, stage) from None

    def submit_pipeline(
        self,
        requests: Sequence[InferenceRequest],
        dependencies: Sequence[Sequence[int]],
        *,
        deadline: float | None = None,
    ) -> IndexedHandle:
        """Ask for predictions that depend on each other, as one graph.

        Parameters
        ----------
        requests : sequence of InferenceRequest
            Empty inputs are filled from what they depend on: from one request its outputs, from several a
            dict of them by index. Others may refer to it: ``"Summarise: {0.outputs}"``.
        dependencies : sequence of sequences of int
            For each request the indices of those that it depends on.
        deadline : float, optional
            Seconds from now, for all.

        Returns
        -------
        IndexedHandle
            Blocking (``.result()``) and awaitable; a response for each request, in their order.

        Raises
        ------
        BadRequest, PipelineError, UnknownModel
        """
        self._check_open()
        of_requests(requests, dependencies)  # what is wrong with them is said before a file is read
        pipeline = of_requests([self._with_files(request) for request in requests], dependencies)
        # the requests have their inputs: one row of nothing passes through
        handle = self._ask_pipeline(pipeline, (), deadline=deadline, keep=True, once=True)
        return IndexedHandle(handle, list(requests))

    def _with_files(self, request: InferenceRequest) -> InferenceRequest:
        if is_empty(request.inputs) or references(request.inputs):
            return request
        spec = self._find(request.model_id or "")
        inputs = read_inputs(spec, request.inputs, self._transport.settings)
        return request if inputs is request.inputs else request.model_copy(update={"inputs": inputs})

    def _read(self, compiled: Compiled, inputs: Any) -> Any:
        """What a pipeline is given, with files that it names; a text is a path where a stage takes one."""
        steps = list(compiled.steps.values())
        first = [step.spec for step in steps if step.needs == (INPUT,) and step.inputs is None]
        spec = next((spec for spec in first if takes_paths(spec)), steps[0].spec)
        return read_inputs(spec, inputs, self._transport.settings)

    def _ask_pipeline(
        self,
        pipeline: Pipeline,
        inputs: Any,
        *,
        priority: int = 0,
        deadline: float | None = None,
        keep: bool | str | Iterable[str] = False,
        once: bool = False,
        **more: Any,
    ) -> PipelineHandle:
        if more:
            raise BadRequest(
                f"pipeline {pipeline.id!r}: {', '.join(more)} is no option of a request to a pipeline (those "
                "are priority, deadline, keep): parameters are for its stages"
            )
        if isinstance(priority, bool) or not isinstance(priority, int) or abs(priority) > PRIORITIES:
            raise BadRequest(
                f"priority={priority!r} is no whole number from -{PRIORITIES} to {PRIORITIES}: give one, "
                "higher goes first"
            )
        if inputs is None and pipeline.needs_input:
            raise BadRequest(
                f"pipeline {pipeline.id!r} takes an input, which is missing: flow.submit(pipeline, inputs)"
            )
        compiled = (
            compile_pipeline(routed(pipeline, self._serving), self._find) if once else self.compile(pipeline)
        )
        if pipeline.needs_input:
            inputs = self._read(compiled, inputs)
        return sender_for(self._transport).submit(
            compiled, inputs, priority=priority, keep=_kept(compiled, keep), deadline=deadline, once=once
        )


def _models(pipeline: Pipeline, within: str = "") -> dict[str | ModelSpec, str]:
    """Its models, and for each the first stage that asks it, by its place in the whole."""
    found: dict[str | ModelSpec, str] = {}
    for stage in pipeline:
        place = within + stage.name
        if stage.pipeline is not None:
            found = {**_models(stage.pipeline, place + WITHIN), **found}
        elif stage.model is not None:
            found.setdefault(stage.model, place)
    return found


def _kept(compiled: Compiled, keep: bool | str | Iterable[str]) -> tuple[str, ...]:
    """Stages whose outputs are wanted as well."""
    if isinstance(keep, bool):
        return tuple(compiled.steps) if keep else ()
    wanted = (keep,) if isinstance(keep, str) else tuple(keep)
    for name in wanted:
        if name not in compiled.steps:
            raise BadRequest(
                f"keep={name!r} is no stage of pipeline {compiled.pipeline.id!r}: choose one of "
                f"{', '.join(compiled.steps)}"
            )
    return wanted
