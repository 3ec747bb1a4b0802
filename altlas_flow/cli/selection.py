"""Commands about choosing models: what would be chosen now, and what another policy would have got."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from altlas_flow.cli.common import connected, on_a_cluster, one_line_errors
from altlas_flow.errors import ReplayError, SelectionError, describe
from altlas_flow.records import AdvancedModelSelectionStrategy

#: Before the model in ``--policy``.
ALWAYS = "always:"


@click.command()
@click.option("--task", required=True, help="What the models shall do.")
@click.option("--context", help='What is known of the input, as JSON: {"language": "en"}.')
@click.option("--input", "text", help="A text: its length counts.")
@click.option(
    "--strategy",
    type=click.Choice([*AdvancedModelSelectionStrategy], case_sensitive=False),
    default="HYBRID",
    show_default=True,
    help="How it is chosen.",
)
@click.option("--explain", is_flag=True, help="Say what is expected of each model, and why.")
@on_a_cluster
@one_line_errors
def select(
    task: str,
    context: str | None,
    text: str | None,
    strategy: str,
    explain: bool,
    scheduler: str,
    tls: str | None,
) -> None:
    """Say which model would be chosen for a task now; nothing is logged."""
    given = _mapping(context)
    with connected(scheduler, tls) as flow:
        decision = flow.select(
            task, text, context=given, strategy=strategy, explore=0.0 if not explain else 0.01, record=False
        )
        click.echo(str(decision) if explain else decision.model)


@click.command()
@click.argument("log", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--policy", required=True, help="uniform, or always:MODEL.")
@click.option("--task", help="Where the log has several.")
@click.option(
    "--objective",
    type=click.Choice(["quality", "latency", "cost"]),
    default="quality",
    show_default=True,
    help="What is reckoned.",
)
@one_line_errors
def replay(log: Path, policy: str, task: str | None, objective: str) -> None:
    """Reckon from LOG, a history file, what another policy would have got."""
    import sqlite3

    from altlas_flow.learning.book import read_log, tasks_of
    from altlas_flow.learning.lessons import logged_of
    from altlas_flow.selection.replay import Policy, always, evenly
    from altlas_flow.selection.replay import replay as reckon

    try:
        lessons = read_log(log)
    except sqlite3.Error as error:
        raise ReplayError(
            f"{log} has no log of decisions ({describe(error)}): give a history file"
        ) from error
    there = tasks_of(lessons)
    if task is None and len(there) == 1:
        task = there[0]
    if task not in there:
        known = ", ".join(there) or "none"
        raise ReplayError(f"{log} has decisions of the tasks {known}: name one of them with --task")
    logged = logged_of([one for one in lessons if one[0] != "chose" or one[1] == task], objective)
    chosen: Policy
    if policy == "uniform":
        chosen = evenly
    elif policy.startswith(ALWAYS):
        chosen = always(policy.removeprefix(ALWAYS))
    else:
        raise ReplayError(f"--policy {policy!r} is not known: give uniform, or always:MODEL")
    click.echo(str(reckon(logged, chosen)))


def _mapping(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise SelectionError(f"--context {text!r} is no JSON ({error}): give names and values") from error
    if not isinstance(found, dict):
        raise SelectionError(f"--context {text!r} is no mapping: give names and values")
    return found
