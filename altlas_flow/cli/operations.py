"""Commands of operators: nodes and tasks of a running cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from altlas_flow.cli.common import connected, is_terminal, model_of, on_a_cluster, one_line_errors

#: Seconds between two looks.
INTERVAL = 2.0


def watched(command: Callable[..., None]) -> Callable[..., None]:
    """``--watch``."""
    return click.option("--watch", is_flag=True, help="Show it again every 2 s, until Ctrl-C.")(command)


def drain_limit(command: Callable[..., None]) -> Callable[..., None]:
    """``--timeout``."""
    return click.option(
        "--timeout",
        type=click.FloatRange(0),
        default=3600.0,
        show_default=True,
        help="Seconds to wait until the node is empty; then it stays cordoned, and runs on.",
    )(command)


@click.command()
@watched
@on_a_cluster
@one_line_errors
def nodes(scheduler: str, tls: str | None, watch: bool) -> None:
    """List the nodes: status, what is in flight, what they have, what is loaded."""
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
@drain_limit
@on_a_cluster
@partial(one_line_errors, stopped="not waited for: the node stays cordoned, and is retired once it is empty")
def drain(node: str, timeout: float, scheduler: str, tls: str | None) -> None:
    """Give NODE no new work, wait until it is empty, and retire its worker."""
    with connected(scheduler, tls) as flow:
        flow.drain(node, timeout=timeout)
        click.echo(f"{node} is drained, and its worker retired")


@click.command()
@click.argument("node")
@click.option("--host", help="Name of its machine: it has to come from there.")
@click.option("--address", help="Its address, or a range such as 10.0.0.0/24: it has to come from there.")
@click.option("--model", "models", multiple=True, help="To be loaded when it comes; several times.")
@on_a_cluster
@one_line_errors
def register(
    node: str, host: str | None, address: str | None, models: tuple[str, ...], scheduler: str, tls: str | None
) -> None:
    """Have NODE known before it joins, and admitted: its name, or one for whatever comes from there."""
    from altlas_flow.records import NodeInfo

    info = NodeInfo(node_id=node, hostname=host, ip_address=address, available_models=list(models))
    with connected(scheduler, tls) as flow:
        flow.register_node(info)
        click.echo(f"{node} is registered")


@click.command()
@click.argument("node")
@drain_limit
@on_a_cluster
@one_line_errors
def unregister(node: str, timeout: float, scheduler: str, tls: str | None) -> None:
    """Forget NODE; where it is here, drain it first."""
    with connected(scheduler, tls) as flow:
        flow.unregister_node(node, timeout=timeout)
        click.echo(f"{node} is registered no more")


@click.command()
@click.argument("node")
@click.argument("model")
@on_a_cluster
@one_line_errors
def load(node: str, model: str, scheduler: str, tls: str | None) -> None:
    """Load MODEL on NODE: an id of the cluster's catalog or built in, or a spec as JSON."""
    with connected(scheduler, tls) as flow:
        given = model_of(model, "MODEL")
        flow.load(node, given)
        click.echo(f"{given if isinstance(given, str) else given.id} is loaded on {node}")


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
    if not watch:
        click.echo(str(look()))
        return
    try:
        while True:
            text = str(look())
            if is_terminal():
                click.clear()
            click.echo(f"{time.strftime('%H:%M:%S')}, every {INTERVAL:.0f} s until Ctrl-C\n{text}")
            time.sleep(INTERVAL)
    except KeyboardInterrupt:
        return  # how watching ends
