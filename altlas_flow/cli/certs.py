"""Commands about certificates: ``certs init``, ``certs node``, ``certs client``."""

from __future__ import annotations

import click

from altlas_flow.cli.common import one_line_errors


@click.group()
def certs() -> None:
    """Make a private authority, and certificates with roles in them."""


@certs.command()
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--host", "hosts", multiple=True, help="By which browsers reach the dashboard; several times.")
@one_line_errors
def init(folder: str, hosts: tuple[str, ...]) -> None:
    """Make an authority in FOLDER, with a certificate for the scheduler."""
    from altlas_flow.security.certificates import CA_KEY, make_authority

    place = make_authority(folder, hosts=hosts)
    click.echo(f"{place}: an authority, and a certificate for the scheduler")
    click.echo(f"keep {CA_KEY} to yourself: whoever has it can make certificates")


@certs.command()
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--name", default="node", show_default=True, help="Names the files.")
@one_line_errors
def node(folder: str, name: str) -> None:
    """Make a certificate for workers, by the authority in FOLDER."""
    from altlas_flow.security.certificates import make_certificate
    from altlas_flow.security.roles import Role

    _say(*make_certificate(folder, Role.NODE, name))


@certs.command()
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--name", help="Names the files.  [default: client or operator]")
@click.option("--operator", is_flag=True, help="May also admit, cordon, drain, load, and cancel for others.")
@one_line_errors
def client(folder: str, name: str | None, operator: bool) -> None:
    """Make a certificate for clients, by the authority in FOLDER."""
    from altlas_flow.security.certificates import make_certificate
    from altlas_flow.security.roles import Role

    role = Role.OPERATOR if operator else Role.CLIENT
    _say(*make_certificate(folder, role, name or role.value))


def _say(certificate: object, key: object) -> None:
    click.echo(f"{certificate} and {key}: take them, and ca.pem, to where they are used")
