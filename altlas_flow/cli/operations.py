"""Commands of operators: nodes and tasks of a running cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click

from altlas_flow.cli.common import connected, is_terminal, on_a_cluster, one_line_errors

#: Seconds between two looks.
INTERVAL = 2.0


def watched(command: Callable[..., None]) -> Callable[..., None]:
    """``--watch``."""
    return click.option("--watch", is_flag=True, help="Show it again every 2 s, until Ctrl-C.")(command)


@click.command()
@watched
@on_a_cluster
@one_line_errors
def nodes(scheduler: str, tls: str | None, watch: bool) -> None:
    """List the nodes: status, what is in flight, what is loaded."""
    with connected(scheduler, tls) as flow:
        _show(lambda: flow.nodes() or "no nodes", watch)


@click.command()
@click.argument("node")
@on_a_cluster
@one_line_errors
def cordon(node: str, scheduler: str, tls: str | None) -> None:
    """Give NODE no new work; what runs there runs to its end."""
    with connected(scheduler, tls) as flow:
        flow.cordon(node)
        click.echo(f"{node} is cordoned")


@click.command()
@click.argument("node")
@on_a_cluster
@one_line_errors
def uncordon(node: str, scheduler: str, tls: str | None) -> None:
    """Give NODE work again, whatever kept it from that."""
    with connected(scheduler, tls) as flow:
        flow.uncordon(node)
        click.echo(f"{node} takes work")


@click.command()
@click.argument("node")
@click.option("--timeout", type=click.FloatRange(0), default=3600.0, show_default=True, help="Seconds.")
@on_a_cluster
@one_line_errors
def drain(node: str, timeout: float, scheduler: str, tls: str | None) -> None:
    """Give NODE no new work, wait until it is empty, and retire its worker."""
    with connected(scheduler, tls) as flow:
        flow.drain(node, timeout=timeout)
        click.echo(f"{node} is drained, and its worker retired")


@click.command()
@click.argument("node")
@click.argument("model")
@on_a_cluster
@one_line_errors
def load(node: str, model: str, scheduler: str, tls: str | None) -> None:
    """Load MODEL, of the cluster's catalog, on NODE."""
    with connected(scheduler, tls) as flow:
        flow.load(node, model)
        click.echo(f"{model} is loaded on {node}")


@click.command()
@click.argument("node")
@click.argument("model")
@on_a_cluster
@one_line_errors
def unload(node: str, model: str, scheduler: str, tls: str | None) -> None:
    """Unload MODEL from NODE, once nobody uses it there."""
    with connected(scheduler, tls) as flow:
        flow.unload(node, model)
        click.echo(f"{model} is not loaded on {node}")


@click.command()
@click.option(
    "--status",
    type=click.Choice(["pending", "running", "completed", "error", "cancelled"]),
    help="Only these.",
)
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="How many at most.")
@watched
@on_a_cluster
@one_line_errors
def tasks(status: str | None, limit: int, scheduler: str, tls: str | None, watch: bool) -> None:
    """List the requests of all clients: under way, then over, the latest first."""
    with connected(scheduler, tls) as flow:
        _show(lambda: flow.tasks(status, limit=limit) or "no tasks", watch)


@click.command()
@click.argument("task")
@on_a_cluster
@one_line_errors
def cancel(task: str, scheduler: str, tls: str | None) -> None:
    """Give TASK up, by the id of its request."""
    with connected(scheduler, tls) as flow:
        changed = flow.cancel_task(task)
        click.echo(f"{task} is cancelled" if changed else f"{task} was over already")


def _show(look: Callable[[], Any], watch: bool) -> None:
    while True:
        text = str(look())
        if watch and is_terminal():
            click.clear()
        click.echo(text)
        if not watch:
            return
        time.sleep(INTERVAL)
