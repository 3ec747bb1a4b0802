"""`Step`: a stage as it travels to workers; and a whole pipeline made ready for that."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from altlas_flow.cluster.packed import Packed
from altlas_flow.errors import AltlasError, PipelineError, SpecError, describe, one_line
from altlas_flow.models.digest import digest_callable
from altlas_flow.models.runtimes import runtime_class
from altlas_flow.models.spec import ModelSpec
from altlas_flow.pipeline.flat import Placed, flatten
from altlas_flow.pipeline.pipeline import Pipeline
from altlas_flow.pipeline.routing import Aside, OfRow
from altlas_flow.pipeline.stage import Stage
from altlas_flow.records import RetryPolicy

_ONCE = RetryPolicy(tries=1)


@dataclass(frozen=True, eq=False)
class Step:
    """What a worker has to know of a stage.

    Attributes
    ----------
    name : str
    spec : ModelSpec
        Of a function or an aggregation, too.
    labels, needs : tuple of str
        What it depends on, by the names that its author gave, and where these are.
    boxed : bool
        Whether its rows are packed one by one, so that None is a value like any other.
    parameters, inputs, when, retry, timeout, validator, optional, cache, batch, each
        See `Stage`.
    strategy : callable, str or None
    aside : Aside or None
        What is done in the place of predicting.
    chosen : tuple of (str, str) or None
        Of a model that is asked for the rows that it was chosen for: the task, and the step that chose.
    """

    name: str
    spec: ModelSpec
    labels: tuple[str, ...]
    needs: tuple[str, ...]
    boxed: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs: Callable[[Any], Any] | None = None
    when: Callable[[Any], Any] | None = None
    retry: RetryPolicy = _ONCE
    timeout: float | None = None
    validator: Any = None
    optional: bool = False
    cache: bool | str = False
    batch: Literal["auto"] | int | None = None
    each: bool = False
    strategy: Any = None
    aside: Aside | None = None
    chosen: tuple[str, str] | None = None

    def label(self) -> list[Any]:
        """What decides its outputs, as JSON can hold it."""
        functions = [None if one is None else digest_callable(one) for one in (self.inputs, self.when)]
        return [
            self.name,
            self.asked,
            digest_callable(dict(sorted(self.parameters.items()))),
            list(self.labels),
            list(self.needs),
            functions,
            self.optional,
        ]

    @functools.cached_property
    def asked(self) -> str:
        """What is asked of each input, its parameters left out: answers of equal ones may be used again."""
        parts = [self.spec.fingerprint, self.each, validator_digest(self.validator)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Compiled:
    """A pipeline with its models found, each step after those that it needs.

    Attributes
    ----------
    pipeline : Pipeline
    steps : dict of str to Step
    packed : dict of str to Packed
        The same as they travel.
    ends : tuple of str
        Steps with the pipeline's outputs, in their order.
    last : tuple of str
        Steps that no other one needs.
    """

    pipeline: Pipeline
    steps: Mapping[str, Step]
    packed: Mapping[str, Packed]
    ends: tuple[str, ...]
    last: tuple[str, ...]

    @functools.cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits of what decides the outputs."""
        text = json.dumps([[step.label() for step in self.steps.values()], self.ends])
        return hashlib.sha256(text.encode()).hexdigest()

    @functools.cached_property
    def optional(self) -> frozenset[str]:
        """Steps without which others do."""
        return frozenset(name for name, step in self.steps.items() if step.optional)

    @functools.cached_property
    def shared(self) -> frozenset[str]:
        """Steps, and the input, whose outputs more than one step gets, or a step and whoever asked."""
        uses = Counter([need for step in self.steps.values() for need in step.needs] + list(self.ends))
        return frozenset(name for name, count in uses.items() if count > 1)

    def specs(self) -> list[ModelSpec]:
        """The models of all steps, each once."""
        return list({step.spec.fingerprint: step.spec for step in self.steps.values()}.values())


def compile_pipeline(pipeline: Pipeline, find: Callable[[str | ModelSpec], ModelSpec]) -> Compiled:
    """Find the models of a pipeline's stages, and make all ready to travel.

    Parameters
    ----------
    pipeline : Pipeline
    find : callable
        Gives the spec of a model by its id.

    Raises
    ------
    PipelineError
        Its text names the stage.
    """
    placed, ends = flatten(pipeline)
    steps: dict[str, Step] = {}
    packed: dict[str, Packed] = {}
    for one in placed:
        try:
            step = _step(one, pipeline.id, find)
            packed[one.name] = Packed.of(step)
        except PipelineError:
            raise
        except AltlasError as error:
            raise PipelineError(f"stage {one.name!r}: {error}") from error
        except Exception as error:
            # whatever a closure holds may refuse to be pickled, with any error
            raise PipelineError(
                f"stage {one.name!r} cannot be sent to a worker: {describe(error)}"
            ) from error
        steps[one.name] = step
    used = {need for step in steps.values() for need in step.needs}
    return Compiled(pipeline, steps, packed, ends, tuple(name for name in steps if name not in used))


def _step(placed: Placed, pipeline: str, find: Callable[[str | ModelSpec], ModelSpec]) -> Step:
    stage = placed.stage
    if stage.model is not None:
        spec = find(stage.model)
        runtime_class(spec.runtime)(spec).check_parameters({**spec.parameters, **stage.parameters})
    else:
        spec = _function_spec(placed, pipeline)
    return Step(
        placed.name,
        spec,
        tuple(label for label, _ in placed.needs),
        tuple(need for _, need in placed.needs),
        boxed=stage.model is None,
        parameters=dict(stage.parameters),
        inputs=stage.inputs,  # type: ignore[arg-type]
        when=stage.when,  # type: ignore[arg-type]
        retry=stage.retry if isinstance(stage.retry, RetryPolicy) else _ONCE,
        timeout=stage.timeout,  # type: ignore[arg-type]
        validator=stage.validator or spec.checks(),
        optional=stage.optional,
        cache=stage.cache,  # type: ignore[arg-type]
        batch=stage.batch,
        each=stage.each,
        strategy=stage.strategy,
        aside=stage.function if isinstance(stage.function, Aside) else None,
        chosen=(stage.inputs.task, stage.inputs.of) if isinstance(stage.inputs, OfRow) else None,
    )


def _function_spec(placed: Placed, pipeline: str) -> ModelSpec:
    """A function as a model: it takes a slot of a host like any other, and its rows come in batches."""
    stage: Stage = placed.stage
    if stage.combine is not None:
        function: Any = getattr(stage.combine, "combine", stage.combine)
        if len(placed.needs) == 1 and stage.inputs is None:
            # the output of one stage comes as it is, and what combines takes outputs by stage
            function = functools.partial(of_one, placed.needs[0][0], function)
    else:
        function = stage.function
        _check_keywords(stage, function)
    called: Any = functools.partial(per_batch if stage.batched else per_row, function)
    called.__qualname__ = getattr(stage.combine or function, "__qualname__", type(function).__name__)
    try:
        return ModelSpec(
            id=f"{pipeline}/{placed.name}"[:200],
            runtime="function",
            source=called,
            resources=dict(stage.resources),
        )
    except SpecError as error:
        raise PipelineError(f"stage {placed.name!r}: {error}") from error


def of_one(label: str, combine: Callable[[dict[str, Any]], Any], output: Any, /) -> Any:
    """Combine the outputs of one stage."""
    return combine({label: output})


def _check_keywords(stage: Stage, function: Any) -> None:
    """Refuse parameters that the function does not take."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # some built-in callables do not tell
    try:
        signature.bind(None, **stage.parameters)
    except TypeError as error:
        raise PipelineError(
            f"stage {stage.name!r}: its function cannot be called with one input and parameters "
            f"{one_line(repr(dict(stage.parameters)), 80)}: {error}"
        ) from error


def validator_digest(validator: Any) -> str:
    """What tells a validator from others; empty where there is none."""
    return "" if validator is None else digest_callable(validator)


@dataclass(frozen=True)
class Failed:
    """Stands for the answer of a function to a row that it failed on."""

    error: BaseException


def per_row(function: Callable[..., Any], rows: Sequence[tuple[Any]], /, **parameters: Any) -> list[Any]:
    """Call a function with each row by itself: one that fails does not have the others called again."""
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - of an object that can be called
    ):
        return asyncio.run(_gathered(function, rows, parameters))
    found: list[Any] = []
    for (row,) in rows:
        try:
            found.append(function(row, **parameters))
        except Exception as error:
            # a function of the user's own may fail with any error; it is that row's
            found.append(Failed(error))
    return found


async def _gathered(function: Any, rows: Sequence[tuple[Any]], parameters: Mapping[str, Any]) -> list[Any]:
    answers = await asyncio.gather(*(function(row, **parameters) for (row,) in rows), return_exceptions=True)
    return [Failed(one) if isinstance(one, BaseException) else one for one in answers]


def per_batch(function: Callable[..., Any], rows: Sequence[tuple[Any]], /, **parameters: Any) -> Any:
    """Call a function with the rows of a batch."""
    answer: Any = function([row for (row,) in rows], **parameters)
    if inspect.isawaitable(answer):
        answer = asyncio.run(_awaited(answer))
    listed = isinstance(answer, (list, tuple)) or hasattr(answer, "to_list")
    if not (listed or getattr(answer, "ndim", None)):
        raise TypeError(
            f"returned a {type(answer).__name__}: return a list, a tuple, a NumPy array or a Series with one "
            "entry for each input, or leave batched= out, and take one input"
        )
    return answer


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer
