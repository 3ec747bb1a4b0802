"""TLS as Dask has it, from a folder of certificates; and who may listen where."""

from __future__ import annotations

import os
import socket
import ssl

import dask
from distributed import Client
from distributed.security import Security

from altlas_flow.cluster.scheduler.admission import is_loopback
from altlas_flow.cluster.scheduler.guard import role_on
from altlas_flow.errors import CertificateError, ConnectError, Exposed, describe
from altlas_flow.security.folder import credentials
from altlas_flow.security.roles import Role, a


def security_of(folder: str | os.PathLike[str] | None, *roles: Role) -> Security | None:
    """What Dask takes for one side of a cluster with mutual TLS; None without a folder.

    Parameters
    ----------
    folder : path, optional
    *roles : Role
        That the certificate may have, the best first.

    Raises
    ------
    CertificateError
    """
    if folder is None:
        return None
    found = credentials(folder, *roles)
    side = {Role.SCHEDULER: "scheduler", Role.NODE: "worker"}.get(found.role, "client")
    return Security(
        require_encryption=True,
        tls_ca_file=str(found.authority),
        tls_min_version=ssl.TLSVersion.TLSv1_2,
        **{f"tls_{side}_cert": str(found.certificate), f"tls_{side}_key": str(found.key)},
    )


def check_free(place: str) -> None:
    """See that nobody listens at ``HOST:PORT``: Dask would take another port.

    Raises
    ------
    ConnectError
    """
    host, _, port = place.rpartition(":")
    host = host.strip("[]")
    try:
        found = socket.getaddrinfo(host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, number, _, address = found[0]
        with socket.socket(family, kind, number) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ConnectError(
            f"the dashboard cannot listen on {place} ({describe(error)}): give another --dashboard, or none"
        ) from error


def check_protocol(address: object, security: Security | None, *, side: str = "client") -> None:
    """See that certificates are given where an address speaks TLS, and only there.

    Raises
    ------
    ConnectError
    """
    text = str(address)
    given = security or Security()  # Dask's own configuration may have certificates, too
    arguments = given.get_connection_args(side)
    if text.startswith("tls://") and arguments.get("ssl_context") is None:
        raise ConnectError(
            f"{text} speaks TLS: give the folder of your certificates, as --tls DIR or the setting altlas.tls"
        )
    if text.startswith("tcp://") and arguments.get("require_encryption"):
        raise ConnectError(
            f"{text} is an address without TLS, and certificates were given: write "
            f"tls://{text.removeprefix('tcp://')}, or leave them out"
        )


def check_scheduler(client: Client) -> None:
    """See that what answers as the scheduler bears a scheduler's certificate.

    Raises
    ------
    CertificateError
    """
    stream = client.scheduler_comm
    role = role_on(stream.comm) if stream is not None and stream.comm is not None else None
    if role is not Role.SCHEDULER:
        bears = f"{a(role)}'s" if role else "none of this authority"
        raise CertificateError(
            f"what answers as the scheduler bears {bears} certificate: somebody else may have taken its place"
        )


def listens_on_loopback(host: str) -> bool:
    """Whether what listens there is reached by this machine only; nothing at all stands for all addresses."""
    if "://" in host:
        return is_loopback(host)
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return bool(host) and is_loopback(f"tcp://{host}:0")


def check_dashboard(address: str) -> None:
    """See that an embedded cluster shows its dashboard, which asks nobody who they are, to this machine only.

    Raises
    ------
    Exposed
    """
    if not listens_on_loopback(address.rpartition(":")[0]):
        raise Exposed(
            f"altlas.dashboard is {address}, and an embedded cluster shows its dashboard to this "
            "machine only: use 127.0.0.1, or start altlas-flow scheduler --tls DIR --dashboard HOST:PORT"
        )


def dashboard_tls(folder: str | os.PathLike[str]) -> dict[str, str]:
    """The settings of Dask with which a scheduler's dashboard speaks TLS; none where it has its own already.

    Raises
    ------
    CertificateError
    """
    key = "distributed.scheduler.dashboard.tls"
    if dask.config.get(f"{key}.cert", default=None):
        return {}  # such as one that browsers know
    found = credentials(folder, Role.SCHEDULER)
    return {f"{key}.cert": str(found.certificate), f"{key}.key": str(found.key)}


def check_exposure(host: str, *, tls: bool, announced: bool, insecure: bool) -> None:
    """See that nothing is open to others without TLS, unless that is meant.

    Raises
    ------
    Exposed
    """
    if tls or insecure:
        return
    if announced:
        raise Exposed(
            "announcing a cluster on the network without TLS invites everybody to run code on it: give "
            "--tls DIR (altlas-flow certs init DIR makes one), or say --insecure"
        )
    if not listens_on_loopback(host):
        raise Exposed(
            f"listening on {host or 'all addresses'} without TLS lets everybody who reaches it run code: "
            "give --tls DIR (altlas-flow certs init DIR makes one), listen on 127.0.0.1, or say --insecure"
        )
