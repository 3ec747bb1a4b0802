"""What our programs open, socket by socket, is what docs/architecture.md says: with TLS, and without."""

from __future__ import annotations

import os
import socket

import dask
import psutil
import pytest

import altlas_flow as af
from altlas_flow.cluster.secure import check_exposure
from altlas_flow.errors import Exposed
from tests.cluster.commands import ask, certificates, commands, on_loopback, port_of
from tests.laboratory import LIMIT

pytestmark = pytest.mark.timeout(120)

#: Sockets of a scheduler: its own, its dashboard; of a worker: its own, its nanny's, its status page.
OF_SCHEDULER, OF_WORKER = 2, 3


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Schedulers and workers that run, by name; ``far``: a worker that others than this machine reach."""
    folder = tmp_path_factory.mktemp("ports")
    tls = ("--tls", certificates(folder))
    here = ("--port", "0", "--dashboard", "127.0.0.1:0")
    with commands(folder) as start:
        plain = start("scheduler", *here)
        secure = start("scheduler", *here, *tls)
        plain.at, secure.at = plain.address(), secure.address()
        workers = {
            "plain worker": start("worker", plain.at, "--nthreads", "1"),
            "secure worker": start("worker", secure.at, "--nthreads", "1", *tls),
            "far": start("worker", secure.at, "--nthreads", "1", "--host", "0.0.0.0", *tls),
        }
        for worker in workers.values():
            worker.at = worker.address()
        yield {"plain": plain, "secure": secure, **workers}


def plain_answer(port, path="/"):
    """What a socket says to whoever speaks plain HTTP to it."""
    said = b""
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as line:
        try:
            line.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n".encode())
            while got := line.recv(65536):
                said += got
        except ConnectionError:
            pass
    return said


def test_on_loopback_every_socket_of_every_program_is_on_loopback(opened):
    for name, count in (
        ("plain", OF_SCHEDULER),
        ("secure", OF_SCHEDULER),
        ("plain worker", OF_WORKER),
        ("secure worker", OF_WORKER),
    ):
        found = opened[name].listening()
        assert len(found) == count, (name, found)
        assert all(on_loopback(ip) for ip, _ in found), (name, found)


def test_a_workers_status_page_stays_on_loopback_where_the_worker_listens_beyond_it(opened):
    found = opened["far"].listening()
    beyond = {port for ip, port in found if not on_loopback(ip)}
    (page,) = {port for ip, port in found if on_loopback(ip)}
    assert len(beyond) == OF_WORKER - 1 and port_of(opened["far"].at) in beyond
    assert plain_answer(page, "/health").startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("name", ["secure", "secure worker", "far"])
def test_with_tls_nothing_answers_in_plain_text_but_one_page_on_loopback(opened, name):
    pages = []
    for ip, port in opened[name].listening():
        said = plain_answer(port)
        if said.startswith(b"HTTP/"):
            pages.append(ip)
        else:
            # nothing, or TLS's own word that this is no TLS
            assert said == b"" or said[0] == 0x15, said
    assert len(pages) == 1 and on_loopback(pages[0])


def test_a_dashboard_on_loopback_asks_for_no_token(opened):
    for name in ("plain", "secure"):
        one = opened[name]
        ((_, port),) = {found for found in one.listening() if found[1] != port_of(one.at)}
        status, headers, text = ask(port, "/info/main/workers.html")
        assert status == 200 and "worker" in text
        assert headers["Set-Cookie"] is None


def test_an_embedded_cluster_listens_on_loopback_only(flow):
    nannies = set(flow.client.run(os.getppid).values())
    found = set()
    for nanny in map(psutil.Process, nannies):
        for process in (nanny, *nanny.children(recursive=True)):
            found |= {one.laddr for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN}
    assert len(found) == OF_WORKER * len(nannies)
    info = flow.client.scheduler_info(n_workers=0)
    ours = {port_of(info["address"]), info["services"]["dashboard"]}
    found |= {one.laddr for one in psutil.Process().net_connections("tcp") if one.laddr.port in ours}
    assert ours < {address.port for address in found}
    assert all(on_loopback(address.ip) for address in found), found


@pytest.mark.parametrize("address", ["0.0.0.0:0", "127.0.0.1:1,0.0.0.0:0"])
def test_an_embedded_dashboard_beyond_loopback_is_refused(address):
    with dask.config.set({"altlas.dashboard": address}), pytest.raises(Exposed, match=r"altlas\.dashboard"):
        af.connect(workers=1)


@pytest.mark.parametrize(
    "host",
    ["", "0.0.0.0", "::", "[::]", "10.0.0.1:2,127.0.0.1", "127.0.0.1:1,0.0.0.0", "127.0.0.1/../", "a b"],
)
def test_what_is_no_address_of_this_machine_alone_counts_as_open_to_others(host):
    with pytest.raises(Exposed):
        check_exposure(host, tls=False, announced=False, insecure=False)
    check_exposure(host, tls=True, announced=False, insecure=False)
    check_exposure(host, tls=False, announced=False, insecure=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "[::1]", "tcp://127.0.0.1:0"])
def test_loopback_has_several_names(host):
    check_exposure(host, tls=False, announced=False, insecure=False)
