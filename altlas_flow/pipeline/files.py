"""Pipelines out of YAML and JSON files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from altlas_flow.errors import AltlasError, PipelineError, SpecError, UnsafeModel, names
from altlas_flow.models.catalog import beside
from altlas_flow.models.runtimes import runtime_class
from altlas_flow.models.spec import ModelSpec, import_object, refuse_code
from altlas_flow.pipeline.document import CODE, Combine, fault_of
from altlas_flow.pipeline.marked import DEPTH, Marked, Route, read, resolved
from altlas_flow.pipeline.pipeline import Pipeline
from altlas_flow.pipeline.stage import Stage
from altlas_flow.records import RetryPolicy
from altlas_flow.records.jsonable import decode

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Files that one pipeline may be read from.
FILES = 100
#: Options of aggregators that are functions; `how` may be one.
_FUNCTIONS = ("key", "valid")


def load(path: str | Path) -> Pipeline:
    """See `Pipeline.load`."""
    return _Reader().file(Path(path).expanduser())


def from_dict(
    mapping: Mapping[str, Any], *, where: str = "pipeline", folder: str | Path | None = None
) -> Pipeline:
    """See `Pipeline.from_dict`."""
    content = dict(mapping) if isinstance(mapping, Mapping) else mapping
    return _Reader().document(Marked(content, where), Path(folder or "."), "pipeline")


@dataclass
class _Reader:
    """Reads a file, and those that it names.

    Attributes
    ----------
    open : list of Path
        Files that are being read, the outermost first.
    count : int
        Files read so far.
    """

    open: list[Path] = field(default_factory=list)
    count: int = 0

    def file(self, path: Path) -> Pipeline:
        real = resolved(path)
        if real in self.open:
            circle = " -> ".join(one.name for one in [*self.open[self.open.index(real) :], real])
            raise PipelineError(f"{path} is part of itself: {circle}: take one of these out")
        self.count += 1
        if self.count > FILES:
            raise PipelineError(f"{path}: more than {FILES} files in one pipeline: put some of them together")
        self.open.append(real)
        try:
            return self.document(read(path), path.parent, path.stem[:100])
        finally:
            self.open.pop()

    def document(self, marked: Marked, folder: Path, default_id: str) -> Pipeline:
        _refuse_code(marked)
        fault = fault_of(marked.value)
        if fault is not None:
            raise marked.error(fault[1], fault[0])
        return _Document(self, marked, folder).pipeline(marked.value, (), {}, default_id)


@dataclass(frozen=True)
class _Document:
    """Makes what a document says, which is known to have the right form."""

    reader: _Reader
    marked: Marked
    folder: Path

    def pipeline(
        self, said: Mapping[str, Any], route: Route, around: Mapping[str, ModelSpec], default_id: str
    ) -> Pipeline:
        pipeline_id = said.get("id", default_id)
        models = {**around, **self._models(said, route)}
        routes: dict[str, Route] = {}
        stages: list[Stage] = []
        for place, fields in _named(said["stages"]):
            at = (*route, "stages", place)
            name = fields.get("name", place)
            if not isinstance(name, str):
                raise self.marked.error(
                    f"stage {place + 1}: name is missing: give each stage of a list one", at
                )
            if isinstance(place, str) and name != place:
                raise self.marked.error(
                    f"stage {place!r} has the name {name!r}: keep one of them", (*at, "name")
                )
            routes[name] = at
            stages.append(self._stage({**fields, "name": name}, at, models, pipeline_id))
        with self._pointing(lambda text: _culprit(text, route, routes)):
            return Pipeline(stages, id=pipeline_id, output=said.get("output"), outputs=said.get("outputs"))

    def _stage(
        self, fields: dict[str, Any], at: Route, models: Mapping[str, ModelSpec], pipeline_id: str
    ) -> Stage:
        name = fields["name"]
        makers = {
            "model": lambda said: self._model(said, models, f"{pipeline_id}/{name}"),
            "combine": self._aggregator,
            "parameters": lambda said: decode(said, "parameters"),
            "retry": lambda said: RetryPolicy(**said) if isinstance(said, dict) else said,
            "cache": self._folder_of,
        }
        made: dict[str, Any] = {}
        if "pipeline" in fields:
            # what is wrong in it names its own place
            made["pipeline"] = self._inner(fields.pop("pipeline"), (*at, "pipeline"), models, name)
        for key, value in fields.items():
            with self._pointing(lambda _, key=key: (*at, key), f"stage {name!r}: {key}: "):  # type: ignore[misc]
                made[key] = makers[key](value) if key in makers else value
        with self._pointing(lambda text: (*at, _key_in(text))):
            return Stage(**made)

    def _inner(self, said: Any, at: Route, models: Mapping[str, ModelSpec], name: str) -> Pipeline:
        if isinstance(said, str):
            path = self.folder / Path(said).expanduser()
            if not path.is_file():
                raise self.marked.error(f"stage {name!r}: pipeline: {path} is no file: check the path", at)
            return self.reader.file(path)
        return self.pipeline(said, at, models, name)

    def _model(self, said: Any, models: Mapping[str, ModelSpec], default_id: str) -> str | ModelSpec:
        if isinstance(said, str):
            return models.get(said, said)
        spec = self._spec({"id": default_id[:200], **said})
        check_recipe(spec)
        if "id" in said:
            return spec
        # on a cluster that knows the recipe from before it was changed, its id would be taken
        return spec.model_copy(update={"id": f"{default_id[:190]}-{spec.fingerprint[:8]}"})

    def _folder_of(self, said: bool | str) -> bool | str:
        return os.path.join(self.folder, os.path.expanduser(said)) if isinstance(said, str) and said else said

    def _spec(self, fields: dict[str, Any]) -> ModelSpec:
        spec = ModelSpec(**fields)
        refuse_code(spec, self.marked.where)
        return beside(spec, self.folder)

    def _models(self, said: Mapping[str, Any], route: Route) -> dict[str, ModelSpec]:
        found: dict[str, ModelSpec] = {}
        for place, fields in _named(said.get("models", [])):
            at = (*route, "models", place)
            if isinstance(place, str) and fields.get("id", place) != place:
                text = f"model {place!r} has the id {fields['id']!r}: keep one of them"
                raise self.marked.error(text, (*at, "id"))
            with self._pointing(lambda _, at=at: at):  # type: ignore[misc]
                spec = self._spec({"id": place, **fields} if isinstance(place, str) else fields)
            with self._pointing(lambda text, at=at: (*at, _field_in(text))):  # type: ignore[misc]
                check_recipe(spec)
            if spec.id in found:
                raise self.marked.error(f"two models have the id {spec.id!r}: rename one", at)
            found[spec.id] = spec
        return found

    def _aggregator(self, said: Any) -> Any:
        known = tuple(Combine.model_fields)
        if isinstance(said, str):
            if ":" in said:
                return said  # a function, which the stage imports
            said = {said: {}}
        if len(said) != 1:
            raise PipelineError(f"it takes one of {names(known)}, and has {names(said)}")
        [(name, options)] = said.items()
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = (
                f"did you mean {close[0]}?" if close else f"use one of {names(known)}, or package.module:name"
            )
            raise PipelineError(f"{name!r} is no aggregator: {hint}")
        given = {
            key: import_object(value) if key in _FUNCTIONS or (key == "how" and ":" in value) else value
            for key, value in options.items()
        }
        return getattr(import_module("altlas_flow.aggregation"), name)(**given)

    @contextmanager
    def _pointing(self, route: Callable[[str], Route], label: str = "") -> Iterator[None]:
        """Errors within point at what they are about, which `route` knows by their text."""
        try:
            yield
        except UnsafeModel:
            raise
        except AltlasError as error:
            raise self.marked.error(f"{label}{error}", route(str(error))) from error


def _named(said: Any) -> Iterable[tuple[Any, Any]]:
    """Stages or models, by place or by name."""
    return said.items() if isinstance(said, dict) else enumerate(said)


def _key_in(text: str) -> str:
    """The key that an error of a stage is about."""
    found = re.match(r"stage '[^']*': (\w+)[:=]", text)
    return found.group(1) if found else ""


def _culprit(text: str, route: Route, stages: Mapping[str, Route]) -> Route:
    """Where an error of a pipeline comes from."""
    found = re.match(r"stages? '([^']+)'|stages wait for each other: (\S+)", text)
    if found:
        at = stages.get(found.group(1) or found.group(2))
        return (*at, "after") if at is not None else route
    if "outputs=" in text or "outputs:" in text:
        return (*route, "outputs")
    return (*route, "output") if "output=" in text else (*route, "id") if "id=" in text else route


def _field_in(text: str) -> str:
    """The field that a runtime's error about a recipe is about."""
    return "task" if " does not know task " in text else "parameters"


def check_recipe(spec: ModelSpec) -> None:
    """Refuse a task that the recipe's runtime does not know, or parameters that are none of the task.

    Raises
    ------
    SpecError, ParameterError
    """
    if spec.task is None:
        return  # whether it needs one is told where it is asked
    try:
        runtime = runtime_class(spec.runtime)
    except SpecError:
        return  # a file can be read and shown without it
    runtime(spec).check_parameters(spec.parameters)


def _refuse_code(marked: Marked) -> None:
    """Refuse code before anything else is said of it."""
    todo: list[tuple[Any, int]] = [(marked.value, 0)]
    while todo:
        value, depth = todo.pop()
        if not isinstance(value, dict) or depth > DEPTH:
            continue
        models = [stage.get("model") for _, stage in _entries(value.get("stages"))]
        models += [model for _, model in _entries(value.get("models"))]
        for model in models:
            if isinstance(model, dict) and any(model.get(key) is not None for key in CODE):
                raise UnsafeModel(
                    f"{marked.where}: model {model.get('id', '')!r} carries pickled code, which is not read "
                    "from files: name the callable as source: package.module:callable"
                )
        todo += [(stage.get("pipeline"), depth + 1) for _, stage in _entries(value.get("stages"))]


def _entries(said: Any) -> list[tuple[Any, dict[Any, Any]]]:
    if not isinstance(said, (dict, list)):
        return []
    return [(place, one) for place, one in _named(said) if isinstance(one, dict)]
