"""Commands that run a cluster's programs: ``scheduler``, ``worker``."""

from __future__ import annotations

import asyncio
from functools import partial

import click

from altlas_flow.cli.common import is_terminal, log_option, one_line_errors, tls_option


def _place(ctx: click.Context, param: click.Parameter, value: str) -> str | None:
    """HOST:PORT; None for "none"."""
    host, _, port = value.rpartition(":")
    if value == "none":
        return None
    if not host or not port.isdecimal() or int(port) > 65535:
        raise click.BadParameter(f"{value!r} is no place to listen: give HOST:PORT, or none", ctx, param)
    return value


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where it listens.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8786, show_default=True, help="0: any free one."
)
@click.option(
    "--dashboard",
    default="127.0.0.1:8787",
    show_default=True,
    callback=_place,
    help='HOST:PORT, or "none". Beyond this machine: with --tls.',
)
@click.option("--scheduler-file", type=click.Path(dir_okay=False), help="Written when it runs.")
@click.option("--name", help="Of the cluster.  [default: the setting altlas.cluster-name]")
@click.option("--announce", is_flag=True, help="Tell the network, so that workers and clients discover it.")
@click.option(
    "--admission",
    type=click.Choice(["open", "registered"]),
    help="Who may join as a worker.  [default: registered, where others reach it without TLS]",
)
@click.option("--history", type=click.Path(dir_okay=False), help="SQLite file for all tasks that are over.")
@click.option("--audit", type=click.Path(dir_okay=False), help="File for who joined, was refused, did what.")
@click.option("--insecure", is_flag=True, help="Listen beyond this machine, or announce, without TLS.")
@log_option
@tls_option
@one_line_errors
def scheduler(
    host: str,
    port: int,
    dashboard: str | None,
    scheduler_file: str | None,
    name: str | None,
    announce: bool,
    admission: str | None,
    history: str | None,
    audit: str | None,
    insecure: bool,
    log_format: str | None,
    tls: str | None,
) -> None:
    """Run a scheduler, until Ctrl-C."""
    import dask

    from altlas_flow.cluster.quiet import quiet_programs
    from altlas_flow.cluster.serve import serve_scheduler

    given = {"cluster-name": name, "admission": admission, "history": history, "audit": audit}
    given["log-format"] = log_format
    settings = {f"altlas.{key}": value for key, value in given.items() if value is not None}
    with dask.config.set(settings), quiet_programs():
        asyncio.run(
            serve_scheduler(
                host=host,
                port=port,
                dashboard=dashboard,
                scheduler_file=scheduler_file,
                tls=tls,
                announce=announce,
                insecure=insecure,
                ready=lambda address: click.echo(f"scheduler at {address}"),
                linked=_show_link,
            )
        )


def _show_link(link: str, token: str, alone: bool) -> None:
    """Print the link of the dashboard; with its token, where whoever reads it cannot know that otherwise."""
    from urllib.parse import quote

    from altlas_flow.settings import Settings

    reached = "by this machine only" if alone else "by others, too"

    # what a service prints is kept for others to read: there a token is set rather than made at each start
    if token and (Settings.current().dashboard_token is None or is_terminal()):
        link = f"{link}?token={quote(token, safe='')}"
    click.echo(f"dashboard at {link}")
    page = "Altlas in its menu" if Settings.current().metrics else "altlas.metrics is false"
    click.echo(f"it is reached {reached}; what models do: {page}")


@click.command()
@click.argument("address", required=False)
@click.option(
    "--scheduler-file", type=click.Path(exists=True, dir_okay=False), help="In place of an address."
)
@click.option("--discover", is_flag=True, help="In place of an address: find the cluster in the network.")
@click.option("--cluster", default="", help="With --discover: the name of the cluster.")
@click.option("--name", help="By which operators know it.  [default: its address]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where it listens.")
@click.option("--nthreads", type=click.IntRange(1), help="How much runs at once.  [default: the cores]")
@click.option("--memory-limit", default="auto", show_default=True, help='Of the whole worker, as "8 GiB".')
@click.option("--memory-budget", help='What loaded models may take of it, as "4 GiB".  [default: half]')
@click.option("--resources", help="What it has for models that ask, as GPU=1,DISK=2.")
@click.option("--label", "labels", multiple=True, help="What models may ask for, as zone=a; several times.")
@click.option("--insecure", is_flag=True, help="Listen beyond this machine without TLS.")
@log_option
@tls_option
@one_line_errors
def worker(
    address: str | None,
    scheduler_file: str | None,
    discover: bool,
    cluster: str,
    name: str | None,
    host: str,
    nthreads: int | None,
    memory_limit: str,
    memory_budget: str | None,
    resources: str | None,
    labels: tuple[str, ...],
    insecure: bool,
    log_format: str | None,
    tls: str | None,
) -> None:
    """Run a worker of the cluster at ADDRESS, until Ctrl-C, or until it is retired."""
    from altlas_flow.cluster.connect import address_of
    from altlas_flow.cluster.quiet import quiet_programs
    from altlas_flow.cluster.secure import check_exposure
    from altlas_flow.cluster.serve import serve_worker, worker_config
    from altlas_flow.errors import ConnectError
    from altlas_flow.settings import Settings

    given = [one for one in (address, scheduler_file, "discover" if discover else None) if one]
    if len(given) != 1:
        raise ConnectError("give one of: the address of a scheduler, --scheduler-file, --discover")
    place = f"discover:{cluster}" if discover else address_of(given[0])
    check_exposure(host, tls=tls is not None, announced=False, insecure=insecure)
    amounts = {key: _amount(value) for key, value in _pairs([resources or ""], "--resources").items()}
    with worker_config(_pairs(labels, "--label"), memory_budget, log_format), quiet_programs():
        asyncio.run(
            serve_worker(
                place,
                tls=tls,
                ready=lambda where: click.echo(f"worker at {where}"),
                say=_say if Settings.current().log_format == "json" else partial(click.echo, err=True),
                name=name,
                host=host,
                nthreads=nthreads,
                memory_limit=memory_limit,
                resources=amounts,
            )
        )


def _say(text: str) -> None:
    """A line for people, where all lines are for programs."""
    import logging

    from altlas_flow.logs import event

    event(logging.getLogger("altlas_flow.cli.serve"), logging.INFO, "worker", "%s", text)


def _pairs(texts: tuple[str, ...] | list[str], option: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in (part for text in texts for part in text.replace(",", " ").split()):
        key, _, value = part.partition("=")
        if not key or not value:
            raise click.BadParameter(f"{part!r} is no NAME=VALUE", param_hint=option)
        found[key] = value
    return found


def _amount(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no number", param_hint="--resources") from None
