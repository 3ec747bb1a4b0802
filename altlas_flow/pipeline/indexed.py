"""Pipelines written as requests that depend on each other by index."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from altlas_flow.errors import BadRequest, InputError, PipelineError, one_line
from altlas_flow.pipeline.handle import PipelineHandle
from altlas_flow.pipeline.pipeline import Pipeline
from altlas_flow.pipeline.result import PipelineResult
from altlas_flow.pipeline.stage import INPUT, Stage
from altlas_flow.records import InferenceRequest, InferenceResponse

#: ``{0.outputs}``, ``{0.outputs[label]}``, ``{0.outputs[2]}``
_REFERENCE = re.compile(r"\{(\d+)\.outputs((?:\[[^\[\]{}]+\])*)\}")
#: What looks like a reference, and is none.
_NEARLY = re.compile(r"\{\d+\.[^{}]*\}")
_PART = re.compile(r"\[([^\[\]{}]+)\]")


def of_requests(requests: Sequence[InferenceRequest], dependencies: Sequence[Iterable[int]]) -> Pipeline:
    """A pipeline with a stage for each request, named by its index.

    Raises
    ------
    BadRequest
        Where a dependency is no index, a request names no model, or nothing fills its inputs.
    PipelineError
        Where they depend on each other in a circle.
    """
    if isinstance(requests, (InferenceRequest, str, Mapping)) or not isinstance(requests, Sequence):
        raise BadRequest("a pipeline needs a list of InferenceRequest, and for each a list of indices")
    if not requests:
        raise BadRequest("the pipeline has no requests: give at least one")
    if not isinstance(dependencies, Sequence) or len(dependencies) != len(requests):
        raise BadRequest(
            f"{len(requests)} requests need as many lists of dependencies: give [] for one without any"
        )
    stages: list[Stage] = []
    each: set[int] = set()
    for at, request in enumerate(requests):
        if not isinstance(request, InferenceRequest):
            raise BadRequest(f"requests[{at}] is a {type(request).__name__}: give an InferenceRequest")
        after = _indices(dependencies[at], at, len(requests))
        stages.append(_stage(at, request, after))
    pipeline = Pipeline(stages, id="requests", output=str(len(stages) - 1))
    for stage in pipeline:  # in order: what lists of inputs give are lists
        at = int(stage.name)
        given = requests[at].inputs
        upstream = [int(one) for one in stage.after if one != INPUT]
        follows = is_empty(given) and len(upstream) == 1 and upstream[0] in each
        if follows or (isinstance(given, list) and given):
            each.add(at)
    return Pipeline(
        [
            _stage(at, request, _indices(dependencies[at], at, len(requests)), each=at in each)
            for at, request in enumerate(requests)
        ],
        id="requests",
        output=str(len(stages) - 1),
    )


def _indices(given: Iterable[int], at: int, count: int) -> list[int]:
    if isinstance(given, (str, Mapping)) or not isinstance(given, Iterable):
        raise BadRequest(f"dependencies[{at}] is no list of indices: give [] for none")
    found = list(given)
    for one in found:
        if isinstance(one, bool) or not isinstance(one, int) or not 0 <= one < count:
            raise BadRequest(f"dependencies[{at}] names {one!r}: indices go from 0 to {count - 1}")
        if found.count(one) > 1:
            raise BadRequest(f"dependencies[{at}] names {one} twice: once is enough")
    if at in found:
        raise PipelineError(f"request {at} depends on itself: take that away")
    return found


def _stage(at: int, request: InferenceRequest, after: Sequence[int], *, each: bool = False) -> Stage:
    if request.model_id is None:
        raise BadRequest(f"requests[{at}] names no model: give model_id")
    if not request.idempotent:
        raise BadRequest(
            f"requests[{at}] must not run twice, and what a pipeline lost with a worker is made anew: send "
            "it by itself"
        )
    given = request.inputs
    if is_empty(given):
        if not after:
            raise BadRequest(f"requests[{at}] has no inputs, and depends on nothing that would fill them")
        inputs: Any = by_index if len(after) > 1 else None
    else:
        if (wrong := nearly(given)) is not None:
            raise BadRequest(
                f"requests[{at}]: {wrong} refers to nothing: write {{0.outputs}}, {{0.outputs[key]}} or "
                "{0.outputs[2]}"
            )
        for one in sorted(references(given)):
            if one not in after:
                raise BadRequest(
                    f"requests[{at}] refers to the outputs of {one}, which it does not depend on: add {one} "
                    f"to dependencies[{at}]"
                )
        inputs = Filled(given, tuple(after))
    return Stage(
        str(at),
        request.model_id,
        after=tuple(map(str, after)) or (INPUT,),
        inputs=inputs,
        parameters=request.parameters,
        strategy=request.strategy,
        retry=request.retry,
        timeout=request.deadline,
        validator=request.validator,
        each=each,
    )


def is_empty(inputs: Any) -> bool:
    """Whether inputs are to be filled from what a request depends on."""
    return inputs is None or (isinstance(inputs, (str, list, tuple, dict)) and len(inputs) == 0)


def references(value: Any) -> set[int]:
    """Indices of the requests that inputs refer to."""
    if isinstance(value, str):
        return {int(match[1]) for match in _REFERENCE.finditer(value)}
    if isinstance(value, Mapping):
        return set().union(*map(references, value.values()))
    if isinstance(value, (list, tuple)):
        return set().union(*map(references, value))
    return set()


def nearly(value: Any) -> str | None:
    """What in inputs looks like a reference, and is none."""
    if isinstance(value, str):
        return next((one for one in _NEARLY.findall(value) if not _REFERENCE.fullmatch(one)), None)
    items = (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    )
    return next((wrong for item in items if (wrong := nearly(item)) is not None), None)


def by_index(outputs: Mapping[str, Any]) -> dict[int, Any]:
    """Outputs of several requests, by index."""
    return {int(name): value for name, value in outputs.items()}


@dataclass(frozen=True, eq=False)
class Filled:
    """Inputs that stand in a request, with what they refer to put in.

    Parameters
    ----------
    inputs : Any
    after : tuple of int
        What the request depends on.
    """

    inputs: Any
    after: tuple[int, ...]

    def __call__(self, outputs: Any) -> Any:
        """The inputs; `outputs`: of the one request before, or by name of several."""
        if len(self.after) == 1:
            outputs = {str(self.after[0]): outputs}
        return self._fill(self.inputs, outputs)

    def _fill(self, value: Any, outputs: Any) -> Any:
        if isinstance(value, str):
            whole = _REFERENCE.fullmatch(value)
            if whole is not None:
                return _referred(whole, outputs)
            return _REFERENCE.sub(lambda match: str(_referred(match, outputs)), value)
        if isinstance(value, Mapping):
            return {key: self._fill(item, outputs) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self._fill(item, outputs) for item in value)
        return value


def _referred(match: re.Match[str], outputs: Mapping[str, Any]) -> Any:
    found = outputs[match[1]]
    try:
        for part in _PART.findall(match[2]):
            found = found[int(part) if isinstance(found, (list, tuple, np.ndarray)) else part]
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{match[0]} is not there: the outputs of {match[1]} are {one_line(repr(outputs[match[1]]), 80)}"
        ) from error
    return found


class IndexedHandle:
    """Requests of a pipeline under way: blocking (`result`) and awaitable.

    Parameters
    ----------
    handle : PipelineHandle
    requests : list of InferenceRequest

    Attributes
    ----------
    handle : PipelineHandle
    """

    def __init__(self, handle: PipelineHandle, requests: Sequence[InferenceRequest]) -> None:
        self.handle, self._requests = handle, requests

    def result(self, timeout: float | None = None, *, raise_on_error: bool = True) -> list[InferenceResponse]:
        """A response for each request, in their order.

        Parameters
        ----------
        timeout : float, optional
            Seconds.
        raise_on_error : bool
            Raise the first failure; else it is in its response, and in those of the requests after it.

        Raises
        ------
        TimeoutError
        StageFailed
            Its ``responses`` are those of all requests.
        """
        return self._outcome(self.handle.response(timeout), raise_on_error)

    def response(self, timeout: float | None = None) -> list[InferenceResponse]:
        """As `result`, but what failed is not raised: it is in the responses."""
        return self.result(timeout, raise_on_error=False)

    @property
    def status(self) -> str:
        """``pending``, ``running``, ``completed``, ``error`` or ``cancelled``."""
        return self.handle.status

    def done(self) -> bool:
        """Whether it is over."""
        return self.handle.done()

    def cancel(self) -> bool:
        """Give it up; whether that changed anything."""
        return self.handle.cancel()

    def __await__(self) -> Generator[Any, None, list[InferenceResponse]]:
        return self.wait().__await__()

    async def wait(self, *, raise_on_error: bool = True) -> list[InferenceResponse]:
        """As `result`, awaited."""
        return self._outcome(await self.handle.settled(), raise_on_error)

    def _outcome(self, result: PipelineResult, raise_on_error: bool) -> list[InferenceResponse]:
        found = []
        for at, request in enumerate(self._requests):
            response = result[str(at)]
            metadata = {**request.metadata, **response.metadata}
            found.append(response.model_copy(update={"request_id": request.request_id, "metadata": metadata}))
        error = result.error
        if error is not None and raise_on_error:
            error.result, error.responses = result, found
            raise error
        return found

    def __repr__(self) -> str:
        return f"<IndexedHandle of {len(self._requests)} requests: {self.handle.status}>"
