"""Commands about pipeline files: ``pipeline check``, ``show``, ``schema``, ``run``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from altlas_flow.cli import jobs
from altlas_flow.cli.common import one_line_errors, quiet_client

if TYPE_CHECKING:
    from altlas_flow.models.spec import ModelSpec
    from altlas_flow.pipeline.flat import Placed
    from altlas_flow.pipeline.pipeline import Pipeline

_FILE = click.argument("file", type=click.Path(dir_okay=False))


@click.group()
def pipeline() -> None:
    """Check, show and run pipelines that are written in YAML or JSON files."""


@pipeline.command()
@_FILE
@jobs.catalog_option
@one_line_errors
def check(file: str, catalog: str | None) -> None:
    """Check FILE, functions and parameters of models included, and list its stages. Needs no cluster.

    Models that stages name have to stand in FILE, in the catalog, or be built in.
    """
    from altlas_flow.errors import PipelineError
    from altlas_flow.models.spec import ModelSpec
    from altlas_flow.pipeline.flat import flatten
    from altlas_flow.pipeline.step import compile_pipeline

    found = _load(file)
    known = {**_builtin(), **_given(catalog)}
    absent: dict[str, None] = {}

    def find(model: str | ModelSpec) -> ModelSpec:
        if isinstance(model, ModelSpec):
            return model
        if model in known:
            return known[model]
        absent[model] = None  # told at the end: what is wrong in the file itself comes first
        return ModelSpec(id=model, runtime="function", source="of:cluster")

    try:
        compiled = compile_pipeline(found, find)
    except PipelineError as error:
        raise PipelineError(f"{file}: {error}") from error
    placed, ends = flatten(found)
    if absent:
        raise PipelineError(f"{file}: {_unknown(absent, [*_own(file), *known], placed)}")
    click.echo(
        f"pipeline {found.id}: {len(placed)} stage{'s' * (len(placed) != 1)}, output {', '.join(ends)}"
    )
    click.echo(_stages(placed))
    specs = [step.spec for one, step in zip(placed, compiled.steps.values(), strict=True) if one.stage.model]
    for spec in {spec.fingerprint: spec for spec in specs}.values():
        click.echo(f"model {spec}")


@pipeline.command()
@_FILE
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "mermaid", "svg"]),
    default="text",
    show_default=True,
    help="A table of the stages, a Mermaid flowchart, or a picture as SVG.",
)
@one_line_errors
def show(file: str, form: str) -> None:
    """Print the graph of FILE. Needs no cluster."""
    from altlas_flow.pipeline.flat import flatten

    found = _load(file)
    if form == "text":
        click.echo(_stages(flatten(found)[0]))
    else:
        click.echo((found.mermaid() if form == "mermaid" else found.svg()).rstrip("\n"))


@pipeline.command()
@one_line_errors
def schema() -> None:
    """Print the JSON schema of pipeline files, for editors."""
    from altlas_flow.pipeline.pipeline import Pipeline

    click.echo(json.dumps(Pipeline.schema(), indent=2))


@pipeline.command()
@_FILE
@partial(jobs.job_options, of_model=False)
@click.option(
    "--max-in-flight",
    type=click.IntRange(1),
    help="Parts under way at once, with what lies between their stages.  [default: a few for each slot]",
)
@partial(one_line_errors, stopped=jobs.STOPPED)
def run(
    file: str, source: str, column: str, to: str, on_error: str, max_in_flight: int | None, **options: Any
) -> None:
    """Run FILE over files into a folder of Parquet parts. Run again, it does what is missing."""

    found = _load(file)
    asked: dict[str, Any] = {
        "model": found,
        "input": column,
        "output": options["output_column"],
        "to": to,
        "on_error": on_error,
        "max_in_flight": max_in_flight,
    }
    with quiet_client(), jobs.flow_with(_ids(found), options) as flow:
        summary = flow.run(source, **asked)
    jobs.show(summary)


def _load(file: str) -> Pipeline:
    """The pipeline of a file; functions that it names are also looked for in the working directory.

    Embedded workers look there, too: they are started with ``python -m``.
    """
    from altlas_flow.pipeline.pipeline import Pipeline

    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return Pipeline.load(file)


def _ids(found: Pipeline) -> list[str]:
    """Models that its stages name."""
    from altlas_flow.pipeline.flat import flatten

    models = [one.stage.model for one in flatten(found)[0]]
    return list(dict.fromkeys(model for model in models if isinstance(model, str)))


def _builtin() -> dict[str, ModelSpec]:
    from altlas_flow.models.catalog import builtin_models

    return builtin_models()


def _own(file: str) -> list[str]:
    """Ids of the recipes in a pipeline file that has been read before, used or not."""
    from altlas_flow.pipeline.marked import read

    said = read(Path(file)).value.get("models") or {}
    return list(said) if isinstance(said, dict) else [one["id"] for one in said if "id" in one]


def _unknown(absent: Iterable[str], known: Sequence[str], placed: Sequence[Placed]) -> str:
    """What to say of models that stages name, and nothing here knows."""
    from altlas_flow.errors import names

    said = []
    for model in absent:
        stage = next(one.name for one in placed if one.stage.model == model)
        near = get_close_matches(model, known, 1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        said.append(f"stage {stage!r}: model {model!r} is not known here{meant}")
    advice = f"give --catalog, or register it under models: in the file (known: {names(known)})"
    return f"{'; '.join(said[:5])}: {advice}"


def _given(catalog: str | None) -> dict[str, ModelSpec]:
    from altlas_flow.models.catalog import load_catalog

    return {spec.id: spec for spec in load_catalog(catalog)} if catalog else {}


def _stages(placed: list[Placed]) -> str:
    """A line for each stage, each after those that it depends on."""
    from altlas_flow.pipeline.show import kind_of, what
    from altlas_flow.records.table import Table

    table: Table[Any] = Table(
        placed,
        {
            "stage": lambda one: one.name,
            "kind": kind_of,
            "what": lambda one: what(one.stage),
            "after": lambda one: ", ".join(dict.fromkeys(need for _, need in one.needs)),
            "how": lambda one: ", ".join(_how(one)),
        },
        shown=sys.maxsize,
    )
    return str(table)


def _how(placed: Placed) -> list[str]:
    """What a stage says beside its work."""
    from altlas_flow.records import RetryPolicy

    stage = placed.stage
    said = [word for word in ("optional", "batched", "each") if getattr(stage, word)]
    said += [f"{name}=" for name in ("when", "inputs") if getattr(stage, name) is not None]
    said += [f"tries {stage.retry.tries}"] if isinstance(stage.retry, RetryPolicy) else []
    said += [f"timeout {stage.timeout:g} s"] if isinstance(stage.timeout, float) else []
    said += ["cached"] if stage.cache is not False else []
    return said
