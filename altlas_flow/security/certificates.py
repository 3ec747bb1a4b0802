"""A private authority, and certificates with roles, in a folder: made with `cryptography`.

The folder holds ``ca.pem`` and ``ca-key.pem`` (keep the key where nobody else gets it: whoever has it can
make certificates), and for each certificate ``NAME.pem`` and ``NAME-key.pem``. Keys are readable for
their owner only. What a machine needs is ``ca.pem`` and its own two files.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from altlas_flow.errors import CertificateError, describe, one_line
from altlas_flow.security.roles import ORGANIZATION, Role

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

#: Files of the authority.
CA, CA_KEY = "ca.pem", "ca-key.pem"
#: Days for which the authority, and the certificates that it makes, are good.
CA_DAYS, DAYS = 3650, 825
#: Clocks differ a little between machines.
SKEW = timedelta(minutes=5)


def needs_cryptography() -> None:
    """See that the library is there.

    Raises
    ------
    CertificateError
    """
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise CertificateError("certificates need the extra 'tls': pip install 'altlas-flow[tls]'") from error


def make_authority(folder: str | os.PathLike[str], *, days: int = CA_DAYS, hosts: Iterable[str] = ()) -> Path:
    """Make a private authority, and a certificate for the scheduler.

    Parameters
    ----------
    folder : path
    days : int
        For which the authority is good.
    hosts : iterable of str
        Names and addresses by which browsers reach the scheduler's dashboard, beside those of this machine.

    Raises
    ------
    CertificateError
        Where the folder has one already, or cannot be written.
    """
    needs_cryptography()
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    _alternatives(hosts := list(hosts))  # before anything is written
    place = Path(folder).absolute()
    if (place / CA).exists() or (place / CA_KEY).exists():
        raise CertificateError(f"{place} has an authority already: name another folder, or use that one")
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise CertificateError(f"{place} cannot be made ({describe(error)})") from error
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(f"{ORGANIZATION} authority", None)
    builder = _builder(subject, subject, key, days).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    _write(place, CA_KEY, CA, key, _sign(builder, key))
    here = ("localhost", "127.0.0.1", "::1", socket.gethostname())
    make_certificate(place, Role.SCHEDULER, "scheduler", hosts=(*here, *hosts))
    return place


def make_certificate(
    folder: str | os.PathLike[str], role: Role, name: str, *, days: int = DAYS, hosts: Iterable[str] = ()
) -> tuple[Path, Path]:
    """Make a certificate; its file, and that of its key.

    Parameters
    ----------
    folder : path
        Of the authority.
    role : Role
    name : str
        Names the files and the bearer.
    days : int
        For which it is good.
    hosts : iterable of str
        Names and addresses of its bearer. Browsers look at them; within the cluster it is the role that
        counts.

    Raises
    ------
    CertificateError
    """
    needs_cryptography()
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

    place = Path(folder).absolute()
    safe = name.replace("-", "").replace("_", "").replace(".", "")
    if (
        not safe.isalnum()
        or not name.isascii()
        or len(name) > 64
        or name[0] in ".-"
        or name in ("ca", "ca-key")
    ):
        raise CertificateError(
            f"{one_line(repr(name), 80)} cannot name a certificate: use up to 64 letters, digits, '-', '_' "
            "and '.'"
        )
    if (place / f"{name}.pem").exists():
        raise CertificateError(
            f"{place} has a certificate {name!r} already: choose another name, or remove it"
        )
    try:
        authority = x509.load_pem_x509_certificate((place / CA).read_bytes())
        signer = serialization.load_pem_private_key((place / CA_KEY).read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise CertificateError(
            f"{place} has no authority ({describe(error)}): make one with altlas-flow certs init {place}"
        ) from error
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise CertificateError(
            f"{place / CA_KEY} is no key of ours: make an authority with altlas-flow certs init"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    both = x509.ExtendedKeyUsage([Usage.CLIENT_AUTH, Usage.SERVER_AUTH])  # workers connect to one another
    only = x509.ExtendedKeyUsage([Usage.CLIENT_AUTH])
    builder = (
        _builder(_subject(name, role), authority.subject, key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(both if role in (Role.SCHEDULER, Role.NODE) else only, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if known := _alternatives(hosts):
        builder = builder.add_extension(x509.SubjectAlternativeName(known), critical=False)
    return _write(place, f"{name}-key.pem", f"{name}.pem", key, _sign(builder, signer))


def _subject(name: str, role: Role | None) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION)]
    if role is not None:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role.value))
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternatives(hosts: Iterable[str]) -> list[x509.GeneralName]:
    from cryptography import x509

    found: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(host)))
            continue
        except ValueError:
            pass
        try:
            found.append(x509.DNSName(host.encode("idna").decode()))
        except ValueError as error:
            text = one_line(repr(host), 80)
            raise CertificateError(f"{text} is neither a name nor an address of a machine") from error
    return found


def _builder(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW if days > 0 else now + timedelta(days=days) - SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _sign(builder: x509.CertificateBuilder, key: EllipticCurvePrivateKey) -> x509.Certificate:
    from cryptography.hazmat.primitives import hashes

    return builder.sign(key, hashes.SHA256())


def _write(
    place: Path, key_name: str, name: str, key: EllipticCurvePrivateKey, certificate: x509.Certificate
) -> tuple[Path, Path]:
    """Write both; the key for its owner's eyes only, from its first byte on."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        with os.fdopen(os.open(place / key_name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secret)
        (place / name).write_bytes(certificate.public_bytes(Encoding.PEM))
    except OSError as error:
        raise CertificateError(f"{place} cannot be written ({describe(error)})") from error
    return place / name, place / key_name
