"""Roles: what a certificate of the cluster's own authority allows whoever bears it.

TLS itself says only that a certificate is of the right authority. So each bears its role, as the
organizational unit of its subject, and each side looks at the other's.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

#: Organization in the subject of every certificate that we make.
ORGANIZATION = "altlas_flow"


class Role(StrEnum):
    """What a certificate is for.

    ``scheduler``: to be one. ``node``: to join as a worker. ``client``: to ask for predictions.
    ``operator``: a client who may also admit, cordon, drain, load, and cancel what others asked for.
    """

    SCHEDULER = "scheduler"
    NODE = "node"
    CLIENT = "client"
    OPERATOR = "operator"


def role_of(certificate: Mapping[str, Any] | None) -> Role | None:
    """The role in a peer's certificate, as Python's ssl gives it; None where there is none of ours."""
    fields = dict(pair for part in (certificate or {}).get("subject", ()) for pair in part)
    if fields.get("organizationName") != ORGANIZATION:
        return None
    try:
        return Role(fields.get("organizationalUnitName", ""))
    except ValueError:
        return None


def name_in(certificate: Mapping[str, Any] | None) -> str:
    """The common name in a peer's certificate."""
    fields = dict(pair for part in (certificate or {}).get("subject", ()) for pair in part)
    return str(fields.get("commonName", ""))


def a(role: Role) -> str:
    """The role with its article, for messages."""
    return f"{'an' if role[0] in 'aeiou' else 'a'} {role}"


def bears(role: Role | None) -> str:
    """Whose a certificate is, for messages."""
    return f"{a(role)}'s" if role else "none of this cluster"
