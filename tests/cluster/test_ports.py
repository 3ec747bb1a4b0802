"""What our programs open, socket by socket, is what docs/architecture.md says: with TLS, and without."""

from __future__ import annotations

import os

import dask
import psutil
import pytest

import altlas_flow as af
from altlas_flow.cluster.secure import check_exposure
from altlas_flow.errors import Exposed
from tests.cluster.commands import ask, ask_plainly, certificates, commands, on_loopback, port_of

pytestmark = pytest.mark.timeout(120)

#: Sockets of a scheduler: its own, its dashboard; of a worker: its own, its nanny's, its status page.
OF_SCHEDULER, OF_WORKER = 2, 3
#: Told from what listens on 127.0.0.1 all the same, and on loopback as well.
ELSEWHERE = "127.0.0.2"


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Schedulers and workers that run, by name."""
    folder = tmp_path_factory.mktemp("ports")
    tls = ("--tls", certificates(folder))
    here = ("--port", "0", "--dashboard", "127.0.0.1:0")
    with commands(folder) as start:
        plain = start("scheduler", *here)
        secure = start("scheduler", *here, *tls)
        plain.at, secure.at = plain.address(), secure.address()
        workers = {
            "plain worker": start("worker", plain.at, "--nthreads", "1"),
            "secure worker": start("worker", secure.at, "--nthreads", "1", "--host", ELSEWHERE, *tls),
        }
        for worker in workers.values():
            worker.at = worker.address()
        yield {"plain": plain, "secure": secure, **workers}


def test_on_loopback_every_socket_of_every_program_is_on_loopback(opened):
    for name, one in opened.items():
        found = one.listening()
        assert len(found) == (OF_WORKER if "worker" in name else OF_SCHEDULER), (name, found)
        assert all(on_loopback(ip) for ip, _ in found), (name, found)


def test_a_workers_status_page_is_not_where_the_worker_listens(opened):
    worker = opened["secure worker"]
    found = worker.listening()
    assert sorted(ip for ip, _ in found) == ["127.0.0.1", ELSEWHERE, ELSEWHERE]
    (page,) = (one for one in found if one[0] == "127.0.0.1")
    assert ask_plainly(*page).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("name", ["secure", "secure worker"])
def test_with_tls_nothing_answers_in_plain_text_but_one_page_on_loopback(opened, name):
    pages = []
    for ip, port in opened[name].listening():
        said = ask_plainly(ip, port)
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
