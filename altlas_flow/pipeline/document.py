"""What a pipeline file may hold: one table of keys, from which its checks and its JSON schema are made."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    create_model,
)

from altlas_flow.errors import names, one_line
from altlas_flow.models.spec import ModelSpec
from altlas_flow.pipeline.marked import Route

Number = StrictInt | StrictFloat
#: What a file does not carry.
CODE = ("code", "code_digest")

_IMPORTED = "package.module:name"
#: What belongs where a stage is to stand.
STAGE = "a mapping of the keys of a stage"


def _key(takes: str) -> Any:
    """A key that may be left out, and what it takes."""
    return Field(default=None, description=takes)


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


_OTHERS = {"allow": "a list of pickle, remote-code"}

#: A recipe in a file: what `ModelSpec` takes; where a stage holds the recipe, one is made of its content.
ModelKeys: type[BaseModel] = create_model(
    "Model",
    __base__=_Keys,
    __doc__="A recipe of a model.",
    **{
        name: (
            {"id": StrictStr, "memory": StrictInt | StrictStr}.get(name, info.annotation),
            Field(
                default=... if name == "source" else None,
                description=info.description or _OTHERS.get(name, "a text"),
            ),
        )
        for name, info in ModelSpec.model_fields.items()
        if name not in CODE
    },
)  # type: ignore[call-overload]

_WEIGHTS = "weights by stage, or a list of them in their order"
_QUORUM = "how many have to answer: a count, or as a float a share of them"


class First(_Keys):
    """The first answer that will do."""

    valid: StrictStr = _key(f'a function as "{_IMPORTED}"')


class Every(_Keys):
    """All answers."""

    quorum: Number = _key(_QUORUM)


class Average(_Keys):
    """The mean."""

    weights: dict[str, Number] | list[Number] = _key(_WEIGHTS)
    quorum: Number = _key(_QUORUM)


class Vote(Average):
    """The label that most are for."""

    key: StrictStr = _key(f'a function as "{_IMPORTED}"')


class Ensemble(Vote):
    """All outputs together."""

    how: StrictStr = _key(f'"mean_probabilities", "rank_fusion", or a function as "{_IMPORTED}"')
    k: Number = _key("a number of at least 0")


class Combine(_Keys):
    """One aggregator, with what it is made of."""

    first: First = _key("what af.first takes, as a mapping")
    every: Every = _key("what af.every takes, as a mapping")
    vote: Vote = _key("what af.vote takes, as a mapping")
    average: Average = _key("what af.average takes, as a mapping")
    ensemble: Ensemble = _key("what af.ensemble takes, as a mapping")


class Retry(_Keys):
    """How often, and after which errors."""

    tries: StrictInt = _key("a whole number of at least 1")
    on: StrictStr | list[StrictStr] = _key("names of error types, such as TimeoutError")


class StageKeys(_Keys):
    """A stage: one of model, function, combine and pipeline, and how it is done."""

    name: StrictStr = _key("letters, digits, '-' and '_'")
    model: StrictStr | ModelKeys = _key("the id of a model, or a recipe as a mapping")  # type: ignore[valid-type]
    task: StrictStr = _key("a task, such as text-generation: one of the models that serve it is chosen")
    choose: dict[str, Any] = _key("what flow.select takes beside the inputs, as a mapping")
    function: StrictStr = _key(f'a function as "{_IMPORTED}"')
    combine: StrictStr | Combine = _key(
        f'{", ".join(Combine.model_fields)}, one of them with what it takes, or a function as "{_IMPORTED}"'
    )
    pipeline: StrictStr | PipelineKeys = _key("a pipeline as a mapping, or the path of its file")
    after: StrictStr | list[StrictStr] = _key("a stage's name, or a list of them")
    inputs: StrictStr = _key(f'a function as "{_IMPORTED}"')
    when: StrictStr = _key(f'a function as "{_IMPORTED}"')
    parameters: dict[str, Any] = _key("a mapping of names to values")
    resources: dict[str, Number] = _key('amounts by name, such as {"GPU": 1}')
    strategy: StrictStr = _key("the name of a strategy")
    retry: StrictInt | Retry = _key("a number of tries, or a mapping of tries and on")
    timeout: Number | StrictStr = _key('seconds, or "300ms"')
    validator: StrictStr = _key(f'a function or a pydantic model as "{_IMPORTED}"')
    optional: StrictBool = _key("true or false")
    cache: StrictBool | StrictStr = _key("true, false or a folder")
    batch: Literal["auto"] | StrictInt = _key('a number of rows, or "auto"')
    batched: StrictBool = _key("true or false")
    each: StrictBool = _key("true or false")


class PipelineKeys(_Keys):
    """A pipeline: its stages, and what of them is its output."""

    id: StrictStr = _key("a name of 1 to 100 characters")
    stages: list[StageKeys] | dict[str, StageKeys] = Field(
        description="a list of stages with names, or a mapping from names to stages"
    )
    output: StrictStr | list[StrictStr] = _key("a stage's name, or a list of them")
    outputs: dict[str, StrictStr] = _key('columns and their Arrow types, such as {"label": "string"}')
    models: list[ModelKeys] | dict[str, ModelKeys] = _key(  # type: ignore[valid-type]
        "a list of recipes with ids, or a mapping from ids to recipes"
    )


StageKeys.model_rebuild()
PipelineKeys.model_rebuild()


@cache
def _schema() -> str:
    import json

    found = _tidied(PipelineKeys.model_json_schema())
    found = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Pipeline", **found}
    return json.dumps(found)


def schema() -> dict[str, Any]:
    """The JSON schema of pipeline files (draft 2020-12), for editors and checks elsewhere.

    Returns
    -------
    dict
    """
    import json

    found: dict[str, Any] = json.loads(_schema())
    return found


def _tidied(value: Any) -> Any:
    """Without what says nothing: keys that may be left out have no value, not null."""
    if isinstance(value, list):
        return [_tidied(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: {name: _tidied(one) for name, one in item.items()}  # names of keys, not words of the schema
        if key in ("properties", "$defs")
        else _tidied(item)
        for key, item in value.items()
        if not ((key == "default" and item is None) or key == "title")
    }


def fault_of(document: Any) -> tuple[Route, str] | None:
    """Where a document is not as it has to be, and what is wrong there; None where nothing is."""
    try:
        PipelineKeys.model_validate(document)
    except ValidationError as error:
        return min(
            (_explained(document, fault) for fault in error.errors()), key=lambda found: -len(found[0])
        )
    return None


def _explained(document: Any, fault: Mapping[str, Any]) -> tuple[Route, str]:
    """Pydantic's location has the names of alternatives between the keys: they are left out."""
    at: Any = document
    route: list[Any] = []
    for part in fault["loc"]:
        if (isinstance(at, dict) and part in at) or (
            isinstance(at, list) and isinstance(part, int) and part < len(at)
        ):
            at = at[part]
            route.append(part)
    keys = keys_at(tuple(route[:-1]))
    shown = place_of(document, tuple(route))
    if fault["type"] == "missing":
        missing = str(fault["loc"][-1])
        return tuple(
            route
        ), f"{f'{shown}: ' if shown else ''}{missing} is missing: give {_takes(route, missing)}"
    if fault["type"] == "extra_forbidden" and keys is not None:
        known = tuple(keys.model_fields)
        close = get_close_matches(str(route[-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"use one of {names(known, 30)}"
        return tuple(route), f"{shown} is no key: {hint}"
    if fault["type"] == "invalid_key" or fault["loc"][-1:] == ("[key]",):
        around = place_of(document, tuple(route[:-1]))
        return tuple(route), f"{f'{around}: ' if around else ''}the key {route[-1]!r} is no text: quote it"
    if not route:
        what = "it is empty" if at is None else f"{one_line(repr(at), 60)} is no pipeline"
        return (), f"{what}: give a mapping with id and stages"
    what = "empty" if at is None else one_line(repr(at), 60)
    takes = _takes(route[:-1], route[-1])
    if at is None and takes == STAGE:
        takes = "model, task, function, combine or pipeline"
    return tuple(route), f"{shown} is {what}: give {takes}"


def _takes(parent: list[Any], key: Any) -> str:
    """What belongs at a key, or around it."""
    route = [*parent, key]
    if len(route) > 1 and route[-2] in ("stages", "models") and keys_at(tuple(route[:-2])) is PipelineKeys:
        return STAGE if route[-2] == "stages" else "a mapping of the keys of a model"
    while route:
        keys = keys_at(tuple(route[:-1]))
        info = keys.model_fields.get(str(route[-1])) if keys is not None else None
        if info is not None and info.description:
            return info.description
        route.pop()
    return "a mapping with id and stages"


def keys_at(route: Route) -> type[BaseModel] | None:
    """What keys the mapping at a route takes; None where any are taken."""
    now: type[BaseModel] | None = PipelineKeys
    inside: type[BaseModel] | None = None  # of the items of a collection
    for part in route:
        if inside is not None:
            now, inside = inside, None
            continue
        if now is None:
            return None
        collection: dict[Any, type[BaseModel]] = (
            {"stages": StageKeys, "models": ModelKeys} if now is PipelineKeys else {}
        )
        if part in collection:
            inside = collection[part]
            continue
        table: dict[str, type[BaseModel]] = {}
        if now is StageKeys:
            table = {"model": ModelKeys, "retry": Retry, "combine": Combine, "pipeline": PipelineKeys}
        elif now is Combine:
            table = {"first": First, "every": Every, "vote": Vote, "average": Average, "ensemble": Ensemble}
        now = table.get(part)
    return None if inside is not None else now


def place_of(document: Any, route: Route) -> str:
    """A route in words: ``stage 'ask': retry.tries``; places in lists are counted from 1."""
    stages: list[str] = []
    rest: list[Any] = []
    at = document
    for place, part in enumerate(route):
        around, at = at, at[part]
        if place and route[place - 1] == "stages" and not rest[:-1]:
            rest.clear()
            counted = isinstance(part, int) and isinstance(around, list)
            said = at.get("name") if counted and isinstance(at, dict) else None
            stages.append(str(said if isinstance(said, str) else part + 1 if counted else part))
        elif part != "pipeline" or place + 1 == len(route) or route[place + 1] != "stages":
            rest.append(part)
    inner = ".".join(str(part + 1) if isinstance(part, int) else str(part) for part in rest)
    if not stages:
        return inner
    label = f"stage {'.'.join(stages)!r}"
    return f"{label}: {inner}" if inner else label
