"""The command ``altlas-flow``, also ``dask altlas``: parses, calls, prints."""

from __future__ import annotations

import click

from altlas_flow._version import __version__
from altlas_flow.cli import certs, doctor, jobs, operations, pipelines, selection, serve


@click.group(name="altlas", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="altlas-flow")
def cli() -> None:
    """Run models over data on Dask, and the cluster that they run on."""


for command in (
    jobs.map_command,
    jobs.plan,
    jobs.models,
    pipelines.pipeline,
    serve.scheduler,
    serve.worker,
    operations.nodes,
    operations.register,
    operations.unregister,
    operations.cordon,
    operations.uncordon,
    operations.drain,
    operations.load,
    operations.unload,
    operations.tasks,
    operations.cancel,
    selection.select,
    selection.replay,
    certs.certs,
    doctor.doctor,
):
    cli.add_command(command)


def main() -> None:
    """Entry point of the console script."""
    cli()
