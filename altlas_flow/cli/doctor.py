"""``altlas-flow doctor``: what is here, and what looks wrong."""

from __future__ import annotations

import platform
import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import click

from altlas_flow._version import __version__
from altlas_flow.cli.common import connected, one_line_errors, scheduler_option, tls_option
from altlas_flow.logs import printable
from altlas_flow.nodes.diagnosis import Facts, diagnose

if TYPE_CHECKING:
    from altlas_flow.flow import Flow

#: Packages whose versions matter, in the order in which they are shown.
PACKAGES = (
    "dask",
    "distributed",
    "numpy",
    "pandas",
    "pyarrow",
    "pydantic",
    "torch",
    "transformers",
    "bokeh",
    "scikit-learn",
    "skops",
    "cryptography",
    "zeroconf",
    "prometheus-client",
    "opentelemetry-sdk",
    "nvidia-ml-py",
)
#: Exit code where something looks wrong.
WRONG = 1


@click.command()
@scheduler_option
@tls_option
@one_line_errors
def doctor(scheduler: str | None, tls: str | None) -> None:
    """Say what is here, and what looks wrong: versions, and with --scheduler the cluster."""
    versions = {"python": platform.python_version(), "altlas_flow": __version__}
    versions |= {package: _version(package) for package in PACKAGES}
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    click.echo("versions")
    for package, found in versions.items():
        click.echo(f"  {package:<18} {found or '-'}")
    if scheduler is None:
        facts = Facts(versions, files)
    else:
        with connected(scheduler, tls) as flow:
            facts = _facts_of(flow, versions, files)
            _show(facts, flow)
    findings = diagnose(facts)
    click.echo("what looks wrong" if findings else "nothing looks wrong")
    for finding in findings:
        click.echo(f"  {printable(finding.what)}\n    -> {printable(finding.do)}")
    if scheduler is None:
        click.echo("no cluster was looked at: give --scheduler ADDRESS, or set ALTLAS_SCHEDULER")
    sys.exit(WRONG if findings else 0)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _facts_of(flow: Flow, versions: dict[str, str], files: int) -> Facts:
    from altlas_flow.cluster.connect import call_control
    from altlas_flow.cluster.secure import listens_on_loopback

    client = flow.client
    scheduler = client.scheduler
    assert scheduler is not None
    address = str(scheduler.address)
    said = call_control(client, "identity", n_workers=-1)
    info = call_control(client, "altlas_info")
    return Facts(
        versions,
        files,
        address,
        # one that listens everywhere is reached by its address of this machine, too, and knows another one
        loopback=listens_on_loopback(address) and listens_on_loopback(str(said["address"])),
        encrypted=address.startswith("tls://"),
        dashboard=info["dashboard"],
        dashboard_locked=info["dashboard_locked"],
        dashboard_loopback=listens_on_loopback(info["dashboard"].rpartition(":")[0]),
        nodes=list(flow.nodes()),
        memory={str(worker["name"]): int(worker["memory_limit"] or 0) for worker in said["workers"].values()},
        info=info,
    )


def _show(facts: Facts, flow: Flow) -> None:
    listens = "this machine only" if facts.loopback else "others, too"
    models = flow.models()
    click.echo(f"cluster\n  {'scheduler':<18} {facts.address} (reached by {listens})")
    click.echo(f"  {'security':<18} {'TLS' if facts.encrypted else 'none: plain TCP'}")
    click.echo(f"  {'dashboard':<18} {facts.dashboard or 'none'}")
    if facts.dashboard:
        click.echo(f"  {'page':<18} {'/altlas' if facts.info['page'] else 'none (altlas.metrics is false)'}")
    click.echo(f"  {'models':<18} {printable(', '.join(sorted(models))) or 'none'}")
    click.echo(f"  {'nodes':<18} {len(facts.nodes)}")
    for node in facts.nodes:
        loaded = printable(", ".join(node.available_models)) or "no model loaded"
        status = f"{node.status.value}{' (cordoned)' if node.cordoned else ''}"
        click.echo(
            f"    {printable(node.node_id):<16} {status:<8} {node.in_flight}/{node.slots}  "
            f"at {node.address or '-'}, {loaded}"
        )
