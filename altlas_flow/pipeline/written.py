"""A pipeline as plain values, from which `from_dict` makes it again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from enum import Enum
from importlib import import_module
from typing import Any

from altlas_flow.errors import AltlasError, PipelineError, one_line
from altlas_flow.models.frozen import plain
from altlas_flow.models.spec import BY_VALUE, ModelSpec, import_object
from altlas_flow.pipeline.document import CODE, Combine
from altlas_flow.pipeline.pipeline import Pipeline
from altlas_flow.pipeline.stage import INPUT, Stage
from altlas_flow.records import RetryPolicy
from altlas_flow.records.jsonable import encode


def to_dict(pipeline: Pipeline) -> dict[str, Any]:
    """See `Pipeline.to_dict`."""
    said: dict[str, Any] = {"id": pipeline.id, "stages": [_stage(stage) for stage in pipeline]}
    if pipeline.output != pipeline.last:
        said["output"] = pipeline.output[0] if pipeline.single else list(pipeline.output)
    if pipeline.outputs is not None:
        said["outputs"] = dict(pipeline.outputs)
    return said


def _stage(stage: Stage) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for one in fields(stage):
        value = getattr(stage, one.name)
        if value is None or value is False or value == {} or (one.name == "after" and value == (INPUT,)):
            continue
        write = _WRITERS.get(one.name)
        try:
            said[one.name] = value if write is None else write(value)
        except (AltlasError, ValueError) as error:
            raise PipelineError(f"stage {stage.name!r}: {one.name} cannot be written: {error}") from error
    return said


def _after(value: tuple[str, ...]) -> str | list[str]:
    return value[0] if len(value) == 1 else list(value)


def _model(value: str | ModelSpec) -> Any:
    if isinstance(value, str):
        return value
    if value.code is not None:
        raise ValueError(f"its source {value.source} is sent by value: name it as 'package.module:name'")
    if (value.validator or "").startswith(BY_VALUE):
        raise ValueError("its validator is sent by value: name it as 'package.module:name'")
    return value.model_dump(mode="json", exclude_defaults=True, exclude=set(CODE))


def _function(value: Any) -> str:
    """The path by which a function can be imported.

    Raises
    ------
    ValueError
        Where there is none.
    """
    # methods of built-in types know their type, and that its module
    module = getattr(value, "__module__", None) or getattr(
        getattr(value, "__objclass__", None), "__module__", None
    )
    path = f"{module}:{getattr(value, '__qualname__', '')}"
    try:
        # what __main__ is differs from program to program
        found = None if module in (None, "__main__") else import_object(path)
    except AltlasError:
        found = None
    if found is None or found is not value:
        shown = getattr(value, "__qualname__", None) or one_line(repr(value), 60)
        raise ValueError(f"{shown} cannot be imported by a name: define it at the top of a module")
    return path


def _aggregator(value: Any) -> Any:
    name = getattr(value, "name", None)
    if name not in Combine.model_fields or not callable(getattr(value, "combine", None)):
        return _function(value)
    maker: Callable[..., Any] = getattr(import_module("altlas_flow.aggregation"), str(name))
    said: dict[str, Any] = {}
    for option, parameter in inspect.signature(maker).parameters.items():
        given = getattr(value, option, None)
        if given is None or given == parameter.default:
            continue
        known = Combine.model_fields[str(name)].annotation
        if known is None or option not in known.model_fields:
            raise ValueError(f"{option}= of af.{name}() has no place in a file")
        said[option] = _function(given) if callable(given) else plain(_listed(given), option)
    return {name: said} if said else name


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value


def _choose(value: Mapping[str, Any]) -> dict[str, Any]:
    said = {key: one.value if isinstance(one, Enum) else one for key, one in value.items()}
    if callable(said.get("context")):
        said["context"] = _function(said["context"])
    return dict(plain(said, "choose"))


def _strategy(value: Any) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, str):
        return value
    raise ValueError("a strategy of your own has no name: give the name of one")


def _retry(value: RetryPolicy) -> Any:
    if value.on == ("Exception",) and value.tries is not None:
        return value.tries
    said = {"tries": value.tries, "on": list(value.on)}
    return {key: one for key, one in said.items() if one}


_WRITERS: dict[str, Callable[[Any], Any]] = {
    "model": _model,
    "choose": _choose,
    "function": _function,
    "combine": _aggregator,
    "pipeline": to_dict,
    "after": _after,
    "inputs": _function,
    "when": _function,
    "parameters": lambda value: encode(value, "parameters"),
    "resources": dict,
    "strategy": _strategy,
    "retry": _retry,
    "validator": _function,
}
