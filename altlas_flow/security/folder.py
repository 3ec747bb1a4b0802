"""The folder of a machine's certificates: which of them is for what."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from altlas_flow.errors import CertificateError, describe, names
from altlas_flow.security.certificates import CA, needs_cryptography
from altlas_flow.security.roles import ORGANIZATION, Role


@dataclass(frozen=True)
class Credentials:
    """Files for one side of a connection.

    Attributes
    ----------
    authority, certificate, key : Path
    role : Role
    name : str
        Of the bearer.
    """

    authority: Path
    certificate: Path
    key: Path
    role: Role
    name: str


def credentials(folder: str | os.PathLike[str], *roles: Role) -> Credentials:
    """The one certificate of a folder that has the first of these roles of which there is any.

    Raises
    ------
    CertificateError
        Where there is none, or several.
    """
    place = Path(folder).absolute()
    if not (place / CA).is_file():
        raise CertificateError(
            f"{place} has no {CA}: give the folder that altlas-flow certs made, or a copy of it"
        )
    found = read_folder(place)
    for role in roles:
        fits = [one for one in found if one.role is role]
        if len(fits) > 1:
            files = names(one.certificate.name for one in fits)
            raise CertificateError(
                f"{place} has several certificates for a {role} ({files}): leave one of them"
            )
        if fits:
            return fits[0]
    command = {"node": "node", "client": "client", "operator": "client --operator", "scheduler": "init"}[
        roles[0]
    ]
    raise CertificateError(
        f"{place} has no certificate for a {roles[0]}: altlas-flow certs {command} makes one"
    )


def read_folder(place: Path) -> list[Credentials]:
    """All certificates of ours in a folder that have their keys beside them.

    Raises
    ------
    CertificateError
        Where `cryptography` is not installed.
    """
    needs_cryptography()
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    found = []
    for path in sorted(place.glob("*.pem")):
        key = path.with_name(f"{path.stem}-key.pem")
        if path.name == CA or path.stem.endswith("-key") or not key.is_file():
            continue
        try:
            subject = x509.load_pem_x509_certificate(path.read_bytes()).subject
        except (OSError, ValueError) as error:
            raise CertificateError(f"{path} is no certificate ({describe(error)}): remove it") from error
        values = {attribute.oid: str(attribute.value) for attribute in subject}
        unit = values.get(NameOID.ORGANIZATIONAL_UNIT_NAME, "")
        if values.get(NameOID.ORGANIZATION_NAME) == ORGANIZATION and unit in set(Role):
            name = values.get(NameOID.COMMON_NAME, "")
            found.append(Credentials(place / CA, path, key, Role(unit), name))
    return found
