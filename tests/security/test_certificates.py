"""Certificates: of one authority, with a role in each, keys for their owner only."""

from __future__ import annotations

import contextlib
import socket
import ssl
import stat
import threading

import pytest

from altlas_flow.errors import CertificateError
from altlas_flow.security.certificates import make_authority, make_certificate
from altlas_flow.security.folder import credentials, role_in
from altlas_flow.security.roles import Role, name_in, role_of

LIMIT = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = make_authority(tmp_path_factory.mktemp("certs") / "lab")
    for role in (Role.NODE, Role.CLIENT, Role.OPERATOR):
        make_certificate(made, role, role.value)
    return made


def context(folder, name, *, server, authority=None):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations((authority or folder) / "ca.pem")
    made.load_cert_chain(folder / f"{name}.pem", folder / f"{name}-key.pem")
    return made


def shake(server, client, host=None):
    """What each sees of the other; raises what went wrong."""
    left, right = socket.socketpair()
    seen = {}

    def serve():
        with contextlib.suppress(OSError), server.wrap_socket(left, server_side=True) as tls:
            seen["server"] = tls.getpeercert()
            tls.send(b"x")

    helper = threading.Thread(target=serve)
    helper.start()
    try:
        right.settimeout(LIMIT)
        with client.wrap_socket(right, server_hostname=host) as tls:
            assert tls.recv(1) == b"x"
            return tls.getpeercert(), seen["server"], tls.version()
    finally:
        right.close()
        helper.join(LIMIT)
        left.close()


@pytest.mark.parametrize("name", ["node", "client", "operator", "scheduler"])
def test_each_side_sees_the_role_and_the_name_of_the_other(folder, name):
    theirs, ours, version = shake(
        context(folder, "scheduler", server=True), context(folder, name, server=False)
    )
    assert (role_of(theirs), name_in(theirs)) == (Role.SCHEDULER, "scheduler")
    assert (role_of(ours), name_in(ours)) == (Role(name), name)
    assert version == "TLSv1.3"


def test_a_client_cannot_serve(folder):
    with pytest.raises(ssl.SSLError):
        shake(context(folder, "client", server=True), context(folder, "node", server=False))


def test_another_authority_is_refused_on_both_sides(folder, tmp_path):
    other = make_authority(tmp_path / "other")
    with pytest.raises((ssl.SSLError, OSError, AssertionError)):
        shake(
            context(folder, "scheduler", server=True),
            context(other, "scheduler", server=False, authority=folder),
        )
    with pytest.raises((ssl.SSLError, OSError)):
        shake(
            context(other, "scheduler", server=True, authority=folder), context(folder, "node", server=False)
        )


def test_an_expired_certificate_is_refused(folder):
    make_certificate(folder, Role.NODE, "old", days=-1)
    with pytest.raises((ssl.SSLError, OSError, AssertionError)):
        shake(context(folder, "scheduler", server=True), context(folder, "old", server=False))
    with pytest.raises(ssl.SSLError, match="expired"):
        shake(context(folder, "old", server=True), context(folder, "node", server=False))


def test_keys_are_for_their_owner_only(folder):
    keys = list(folder.glob("*-key.pem"))
    assert len(keys) >= 5
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "-x", "ca", "ca-key", "x" * 65, "ä", "a b"])
def test_a_name_that_could_be_a_path_is_refused(folder, name):
    before = sorted(folder.iterdir())
    with pytest.raises(CertificateError, match="cannot name a certificate"):
        make_certificate(folder, Role.NODE, name)
    assert sorted(folder.iterdir()) == before


def test_nothing_is_written_over(folder, tmp_path):
    before = (folder / "node.pem").read_bytes()
    with pytest.raises(CertificateError, match="already"):
        make_certificate(folder, Role.NODE, "node")
    with pytest.raises(CertificateError, match="has an authority already"):
        make_authority(folder)
    with pytest.raises(CertificateError, match="certs init"):
        make_certificate(tmp_path, Role.NODE, "node")
    assert (folder / "node.pem").read_bytes() == before


@pytest.mark.parametrize(
    "certificate",
    [
        None,
        {},
        {"subject": ((("commonName", "node"),),)},
        {"subject": ((("organizationName", "altlas_flow"),), (("organizationalUnitName", "king"),))},
        {"subject": ((("organizationName", "other"),), (("organizationalUnitName", "operator"),))},
    ],
)
def test_what_bears_no_role_of_ours_has_none(certificate):
    assert role_of(certificate) is None


@pytest.mark.parametrize(
    ("host", "known"),
    [("localhost", True), ("127.0.0.1", True), ("lab.example", True), ("10.1.2.3", True), ("other", False)],
)
def test_a_browser_knows_the_scheduler_by_the_names_it_was_given(tmp_path, host, known):
    folder = make_authority(tmp_path / "named", hosts=["lab.example", "10.1.2.3"])
    make_certificate(folder, Role.CLIENT, "client")
    browser = context(folder, "client", server=False)
    browser.check_hostname = True
    expected = contextlib.nullcontext() if known else pytest.raises(ssl.SSLCertVerificationError)
    with expected:
        shake(context(folder, "scheduler", server=True), browser, host)


def test_a_host_that_is_none_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(CertificateError, match="neither a name nor an address"):
        make_authority(tmp_path / "named", hosts=["a" * 70 + ".example"])
    assert not (tmp_path / "named").exists()


def test_a_certificate_says_its_role_wherever_its_key_is(folder, tmp_path):
    text = (folder / "scheduler.pem").read_text()
    alone = tmp_path / "server.crt"
    alone.write_text(text)
    both = tmp_path / "both.pem"
    both.write_text((folder / "scheduler-key.pem").read_text() + text)
    assert {role_in(str(alone)), role_in(str(both)), role_in(text)} == {Role.SCHEDULER}
    assert role_in(str(folder / "ca.pem")) is None
    alone.write_text("none")
    for wrong in (str(alone), str(tmp_path / "nowhere.pem"), "no\ncertificate"):
        with pytest.raises(CertificateError, match="cannot be read") as caught:
            role_in(wrong)
        assert "\n" not in str(caught.value)


def test_what_a_folder_lacks_is_said_with_all_commands_that_make_it(folder, tmp_path):
    (tmp_path / "ca.pem").write_text((folder / "ca.pem").read_text())
    with pytest.raises(CertificateError) as caught:
        credentials(tmp_path, Role.OPERATOR, Role.CLIENT)
    assert "no certificate for an operator or a client" in str(caught.value)
    assert "altlas-flow certs client --operator or altlas-flow certs client" in str(caught.value)
