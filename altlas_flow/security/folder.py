"""The folder of a machine's certificates: which of them is for what."""

from __future__ import annotations

import os
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

from altlas_flow.errors import CertificateError, describe, names
from altlas_flow.security.certificates import CA, needs_cryptography
from altlas_flow.security.roles import ORGANIZATION, Role, a, role_of

#: What of ``altlas-flow certs`` makes a certificate of each role.
_COMMANDS = {
    Role.NODE: "node",
    Role.CLIENT: "client",
    Role.OPERATOR: "client --operator",
    Role.SCHEDULER: "init",
}


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
                f"{place} has several certificates for {a(role)} ({files}): leave one of them"
            )
        if fits:
            return fits[0]
    wanted = " or ".join(a(role) for role in roles)
    commands = " or ".join(f"altlas-flow certs {_COMMANDS[role]}" for role in roles)
    raise CertificateError(f"{place} has no certificate for {wanted}: make one with {commands}")


def role_in(certificate: str) -> Role | None:
    """The role in a certificate, its key wherever it is; None where it is none of ours.

    Parameters
    ----------
    certificate : str
        Its file, or its text (PEM), as in the configuration of Dask.

    Raises
    ------
    CertificateError
        Where it cannot be read.
    """
    text = certificate if "\n" in certificate else None
    place = "the scheduler's certificate" if text else certificate
    try:
        # what ssl itself shows of a peer's; there where `cryptography` is not
        decode = ssl._ssl._test_decode_cert  # type: ignore[attr-defined]
        if text is None:
            return role_of(decode(certificate))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "certificate.pem")
            file.write_text(text, encoding="ascii")
            return role_of(decode(str(file)))
    except (AttributeError, OSError, ValueError) as error:
        raise CertificateError(
            f"{place} cannot be read ({describe(error)}): give a certificate as PEM"
        ) from error


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
