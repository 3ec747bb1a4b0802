"""What all commands share: errors of one line, tables, the cluster that is meant."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from altlas_flow.errors import AltlasError, ClusterLost, SpecError, describe

if TYPE_CHECKING:
    from altlas_flow.flow import Flow
    from altlas_flow.models.spec import ModelSpec

#: Exit code for bad input, as click itself has it for bad arguments.
BAD_INPUT = 2
#: Exit code where the cluster went away meanwhile.
LOST = 1
#: Exit code after Ctrl-C, as shells have it.
INTERRUPTED = 130
#: Seconds that a cluster gets to answer somebody who waits at a terminal, where no setting says other.
CONNECT_LIMIT = "10s"


def one_line_errors(command: Callable[..., None], *, stopped: str = "stopped") -> Callable[..., None]:
    """Errors of ours as one line and exit code 2; ``--debug`` shows where they come from.

    `stopped` is said after Ctrl-C.
    """

    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @wraps(command)
    def run(*args: Any, debug: bool, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except AltlasError as error:
            if debug:
                raise
            click.echo(f"error: {error}", err=True)
            sys.exit(LOST if isinstance(error, ClusterLost) else BAD_INPUT)
        except KeyboardInterrupt:
            click.echo(stopped, err=True)
            sys.exit(INTERRUPTED)

    return run


def on_a_cluster(command: Callable[..., None]) -> Callable[..., None]:
    """The cluster that a command is about: ``--scheduler``, ``--tls``."""
    return scheduler_option(tls_option(command), required=True)


def scheduler_option(
    command: Callable[..., None], *, required: bool = False, otherwise: str = ""
) -> Callable[..., None]:
    """``--scheduler``; `otherwise`: what is used without it."""
    return click.option(
        "--scheduler",
        required=required,
        envvar="ALTLAS_SCHEDULER",
        show_envvar=True,
        help=f'Address, scheduler file, or "discover[:NAME]" of a running cluster.{otherwise}',
    )(command)


def log_option(command: Callable[..., None]) -> Callable[..., None]:
    """``--log-format``, of a program."""
    return click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        help="Of what it logs; json: one object a line.  [default: the setting altlas.log-format]",
    )(command)


def tls_option(command: Callable[..., None]) -> Callable[..., None]:
    """``--tls``."""
    return click.option(
        "--tls", type=click.Path(file_okay=False), help="Folder of certificates (altlas-flow certs)."
    )(command)


@contextlib.contextmanager
def connected(scheduler: str, tls: str | None) -> Iterator[Flow]:
    """A flow on the cluster that is meant.

    Raises
    ------
    ClusterLost
        Where the cluster goes meanwhile.
    """
    from altlas_flow.flow import open_flow

    with unlogged(), settings_of(tls), open_flow(scheduler) as flow:
        try:
            yield flow
        except ClusterLost as error:
            raise ClusterLost(
                f"the scheduler at {scheduler} has gone, or does not answer: see whether it runs"
            ) from error


@contextlib.contextmanager
def settings_of(tls: str | None, *, limit: str | None = CONNECT_LIMIT) -> Iterator[None]:
    """The settings by which a command connects, within `limit` where it is not set otherwise."""
    import dask

    from altlas_flow.settings import default

    given: dict[str, object] = {} if tls is None else {"altlas.tls": tls}
    if limit and dask.config.get("altlas.start-timeout", None) in (None, default("start-timeout")):
        given["altlas.start-timeout"] = limit
    with dask.config.set(given):
        yield


@contextlib.contextmanager
def unlogged() -> Iterator[None]:
    """Nothing is logged: the command itself says what went wrong, and Dask would add a traceback."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def quiet_client() -> Iterator[None]:
    """Dask's client logs nothing: where its scheduler goes the command says so, and Dask adds a traceback."""
    logger = logging.getLogger("distributed.client")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def is_terminal() -> bool:
    """Whether somebody watches."""
    return sys.stdout.isatty()


def model_of(text: str, given_as: str = "--model") -> str | ModelSpec:
    """A model's id as it is, or the spec that a JSON text holds."""
    if not text.lstrip().startswith("{"):
        return text
    from altlas_flow.models.spec import ModelSpec, refuse_code

    try:
        spec = ModelSpec(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise SpecError(f"{given_as}: {describe(error)}: give an id, or a spec as one JSON object") from error
    refuse_code(spec, given_as)
    return spec
