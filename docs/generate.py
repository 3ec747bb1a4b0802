"""Writes the pages of the reference that are made from the code: ``python docs/generate.py``.

They are plain Markdown, so that a code host shows them, too. A test holds that they are what this writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from altlas_flow import settings
from altlas_flow.cli import cli
from altlas_flow.dashboard.metrics import SCHEDULER, WORKER, Metric

FOLDER = Path(__file__).resolve().parent / "reference"
MADE = "<!-- made by docs/generate.py: change the code, and run that -->\n"


def pages() -> dict[str, str]:
    """Name of each page -> its text."""
    return {
        "command-line.md": command_line(),
        "metrics.md": metrics(),
        "settings.md": settings_page(),
    }


def command_line() -> str:
    """All commands, with all their options."""
    parts = [
        f"{MADE}# Command line\n",
        "`altlas-flow COMMAND`, also `dask altlas COMMAND`; `-h` shows what follows. An error is one line\n"
        "that says what to do, and exit code 2; 1 where the cluster went away meanwhile. `--debug` shows\n"
        "where it comes from.\n",
    ]
    for path, command in commands(cli, "altlas-flow"):
        parts.append("\n".join(_command(path, command)))
    return "\n".join(parts)


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """All commands of a group and of the groups in it, as they are typed."""
    for name, command in sorted(group.commands.items()):
        here = f"{path} {name}"
        yield here, command
        if isinstance(command, click.Group):
            yield from commands(command, here)


def _command(path: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=path)
    usage = " ".join(" ".join(command.collect_usage_pieces(context)).split())
    yield f"## {path}\n"
    yield f"{_prose(command.help or '')}\n"
    yield f"```text\n{path} {usage}\n```\n"
    records = [
        record
        for parameter in command.get_params(context)
        if (record := parameter.get_help_record(context)) is not None
        # what is said of an argument is in the text
        and record[1]
        and "--help" not in parameter.opts
    ]
    if records:
        yield "| option | |\n| --- | --- |"
        for option, said in records:
            yield f"| `{_cell(option)}` | {_cell(_prose(said))} |"
        yield ""


def metrics() -> str:
    """What Prometheus is told."""
    parts = [
        f"{MADE}# Metrics\n",
        "`/metrics` of the scheduler's dashboard and of each worker's status page tells these beside Dask's\n"
        "own, where `prometheus-client` is installed:\n"
        "[Watching a cluster](../dashboard.md#prometheus-and-grafana).\n",
    ]
    for title, told in (("Of a scheduler", SCHEDULER), ("Of a worker", WORKER)):
        parts.append(f"## {title}\n\n| metric | kind | labels | |\n| --- | --- | --- | --- |")
        parts.extend(_metric(metric) for metric in told)
        parts.append("")
    return "\n".join(parts)


def _metric(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |"


def settings_page() -> str:
    """Settings with their defaults, as the file of defaults has them."""
    source = Path(settings.__file__).with_name("altlas.yaml").read_text(encoding="utf-8")
    parts = [
        f"{MADE}# Settings\n",
        "They live in Dask's configuration under `altlas`: in a file such as `~/.config/dask/altlas.yaml`,\n"
        'with `dask.config.set({"altlas.parts-in-flight": 3})`, or as an environment variable,\n'
        "`DASK_ALTLAS__PARTS_IN_FLIGHT=3`. They are read once, where something starts that uses them, and\n"
        "checked then. [Operate a cluster](../operations.md#settings) says which program reads which.\n",
    ]
    for title, rows in _groups(source):
        parts.append(f"## {title}\n\n| setting | default | |\n| --- | --- | --- |")
        parts.extend(
            f"| `altlas.{key}` | `{_cell(default)}` | {_cell(said)} |" for key, default, said in rows
        )
        parts.append("")
    return "\n".join(parts)


def _groups(source: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Titles in the file of defaults, each with its settings: key, default, what it says of it."""
    title, rows = "", list[tuple[str, str, str]]()
    for line in source.splitlines():
        if (heading := re.fullmatch(r"  # (.+)", line)) is not None:
            if rows:
                yield title, rows
            title, rows = heading[1], []
        elif (setting := re.fullmatch(r"  ([a-z-]+): +(.*?)(?: +# (.+))?", line)) is not None:
            rows.append((setting[1], setting[2], setting[3] or ""))
        elif (more := re.fullmatch(r" {10,}# (.+)", line)) is not None:
            key, default, said = rows.pop()
            rows.append((key, default, f"{said} {more[1]}"))
    yield title, rows


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _prose(text: str) -> str:
    """Words of a help text; what looks like markup of pages is none."""
    return re.sub(r"([<>*])", r"\\\1", " ".join(text.replace("\b", "").split()))


def main() -> None:
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
