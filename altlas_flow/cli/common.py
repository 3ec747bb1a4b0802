"""What all commands share: errors of one line, tables, the cluster that is meant."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from altlas_flow.errors import AltlasError

if TYPE_CHECKING:
    from altlas_flow.flow import Flow

#: Exit code for bad input, as click itself has it for bad arguments.
BAD_INPUT = 2


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Errors of ours as one line and exit code 2; ``--debug`` shows where they come from."""

    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @wraps(command)
    def run(*args: Any, debug: bool, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except AltlasError as error:
            if debug:
                raise
            click.echo(f"error: {error}", err=True)
            sys.exit(BAD_INPUT)
        except KeyboardInterrupt:
            click.echo("stopped: what was committed stays; run the same again to go on", err=True)
            sys.exit(130)

    return run


def on_a_cluster(command: Callable[..., None]) -> Callable[..., None]:
    """The cluster that a command is about: ``--scheduler``, ``--tls``."""
    command = click.option(
        "--scheduler",
        required=True,
        envvar="ALTLAS_SCHEDULER",
        help='Address, scheduler file, or "discover[:NAME]" of a running cluster (or set ALTLAS_SCHEDULER).',
    )(command)
    return tls_option(command)


def tls_option(command: Callable[..., None]) -> Callable[..., None]:
    """``--tls``."""
    return click.option(
        "--tls", type=click.Path(file_okay=False), help="Folder of certificates (altlas-flow certs)."
    )(command)


def connected(scheduler: str, tls: str | None) -> Flow:
    """A flow on the cluster that is meant."""
    import dask

    from altlas_flow.flow import connect

    if tls is None:
        return connect(scheduler)
    with dask.config.set({"altlas.tls": tls}):
        return connect(scheduler)


def on_screen(text: str) -> str:
    """A table for a terminal, or for a pipe."""
    return text if text.strip() else "nothing"


def is_terminal() -> bool:
    """Whether somebody watches."""
    return sys.stdout.isatty()
