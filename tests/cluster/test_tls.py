"""TLS with roles: the wrong certificate, or none, is refused on every port, and nothing of ours runs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
import sys

import dask
import pytest
from distributed import Client
from distributed.core import rpc

import altlas_flow as af
from altlas_flow.cluster.secure import security_of
from altlas_flow.errors import CertificateError, ConnectError, Exposed, Forbidden
from altlas_flow.security.certificates import make_authority, make_certificate
from altlas_flow.security.roles import Role
from tests.cluster.stages import echo, model
from tests.laboratory import LIMIT, until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    """A folder for each role, of one authority; ``other``: of another one."""
    root = tmp_path_factory.mktemp("pki")
    master = make_authority(root / "master")
    roles = {"node": Role.NODE, "client": Role.CLIENT, "operator": Role.OPERATOR}
    folders = {"scheduler": master}
    for name, role in roles.items():
        make_certificate(master, role, name)
        folders[name] = take(master, root / name, name)
    make_certificate(master, Role.NODE, "old", days=-1)
    folders["old"] = take(master, root / "old", "old")
    other = make_authority(root / "other")
    make_certificate(other, Role.NODE, "node")
    make_certificate(other, Role.CLIENT, "client")
    folders["other"] = other
    return folders


def take(source, target, name):
    """A folder with what one machine needs."""
    target.mkdir()
    for file in ("ca.pem", f"{name}.pem", f"{name}-key.pem"):
        (target / file).write_bytes((source / file).read_bytes())
    return target


@contextlib.contextmanager
def program(*arguments):
    """A command of ours that runs, and its first line on the screen."""
    command = [sys.executable, "-m", "altlas_flow.cli", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as started:
        try:
            yield started, started.stdout.readline().strip()
        finally:
            started.terminate()
            started.wait(LIMIT)


@pytest.fixture(scope="module")
def cluster(pki):
    """Address of a scheduler, with one worker."""
    with program("scheduler", "--port", "0", "--dashboard", "none", "--tls", pki["scheduler"]) as (_, line):
        address = line.removeprefix("scheduler at ")
        with program("worker", address, "--name", "w", "--nthreads", "1", "--tls", pki["node"]) as (_, said):
            assert said.startswith("worker at tls://")
            yield address


@contextlib.contextmanager
def flow_as(pki, name, address):
    with dask.config.set({"altlas.tls": str(pki[name])}), af.connect(address) as flow:
        yield flow


def test_a_client_asks_and_an_operator_operates(cluster, pki):
    assert cluster.startswith("tls://")
    with flow_as(pki, "client", cluster) as flow:
        spec = flow.register(model(echo))
        response = flow.submit(spec, 5).result(LIMIT)
        assert (response.outputs, response.node_id) == (5, "w")
        assert [info.node_id for info in flow.nodes()] == ["w"]
        for forbidden in (
            lambda: flow.cordon("w"),
            lambda: flow.drain("w"),
            lambda: flow.load("w", spec.id),
            lambda: flow.update_node_models("w", []),
            lambda: flow.register_node(af.NodeInfo(node_id="x")),
            lambda: flow.unregister_node("w"),
        ):
            with pytest.raises(Forbidden, match="for operators"):
                forbidden()
    with flow_as(pki, "operator", cluster) as flow:
        flow.cordon("w")
        assert flow.node("w").cordoned
        flow.uncordon("w")
        flow.load("w", spec.id)


def test_a_client_may_give_up_its_own_and_only_operators_those_of_others(cluster, pki):
    def waits(rows):
        import time

        time.sleep(1)
        return rows

    with flow_as(pki, "client", cluster) as flow, flow_as(pki, "operator", cluster) as operator:
        spec = flow.register(model(waits))
        handles = [flow.submit(spec, n) for n in range(4)]
        assert flow.cancel_task(handles[3].request_id)
        theirs = [operator.submit(spec, n) for n in range(10, 13)]
        until(lambda: operator.task(theirs[2].request_id).status == "pending")
        with pytest.raises(Forbidden):
            flow.cancel_task(theirs[2].request_id)
        assert operator.cancel_task(handles[2].request_id)
        for handle in (*handles, *theirs):
            handle.cancel()


def test_dasks_own_operations_that_change_the_cluster_are_for_operators(cluster, pki):
    security = security_of(pki["client"], Role.CLIENT)
    with Client(cluster, security=security, set_as_default=False) as client:
        for forbidden in (
            lambda: client.run_on_scheduler(lambda: 1),
            lambda: client.retire_workers(),
            lambda: client.restart(timeout=LIMIT),
            lambda: client.run(lambda: 1),
        ):
            with pytest.raises(Forbidden):
                forbidden()


@pytest.mark.parametrize(
    "name",
    [
        "client",
        "operator",
        pytest.param("other", marks=pytest.mark.long),
        pytest.param("old", marks=pytest.mark.long),
        pytest.param(None, marks=pytest.mark.long),
    ],
)
def test_no_worker_joins_without_a_nodes_certificate(cluster, pki, tmp_path, name):
    """Tried with Dask's own worker: it knows nothing of roles."""
    address = cluster if name else cluster.replace("tls://", "tcp://")
    certificate = {"other": "node"}.get(name, name)
    files = []
    if name:
        folder = pki[name]
        files = ["--tls-ca-file", folder / "ca.pem", "--tls-cert", folder / f"{certificate}.pem"]
        files += ["--tls-key", folder / f"{certificate}-key.pem"]
    command = [
        sys.executable,
        "-m",
        "distributed.cli.dask_worker",
        address,
        "--no-nanny",
        "--name",
        "intruder",
    ]
    options = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0", "--death-timeout", "5", *files]
    done = subprocess.run(
        [*command, *map(str, options)], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode != 0
    with flow_as(pki, "operator", cluster) as flow:
        assert [info.node_id for info in flow.nodes()] == ["w"]


@pytest.mark.parametrize("name", ["other", None])
def test_no_client_connects_without_a_certificate_of_the_authority(cluster, pki, name):
    settings = {"altlas.start-timeout": "3s", "altlas.tls": str(pki[name]) if name else None}
    address = cluster if name else cluster.replace("tls://", "tcp://")
    with dask.config.set(settings), pytest.raises(ConnectError):
        af.connect(address)


def ports(cluster, pki):
    with flow_as(pki, "operator", cluster) as flow:
        workers = flow.client.sync(flow.client.scheduler.identity, n_workers=-1)["workers"]
        return [cluster, *workers, *(worker["nanny"] for worker in workers.values())]


def test_every_port_refuses_plain_tcp_and_certificates_of_others(cluster, pki):
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    other.check_hostname, other.verify_mode = False, ssl.CERT_NONE
    other.load_cert_chain(pki["other"] / "node.pem", pki["other"] / "node-key.pem")

    async def ask(address):
        async with rpc(address.replace("tls://", "tcp://"), timeout=3) as remote:
            await remote.identity()

    def listen(address):
        host, _, port = address.removeprefix("tls://").rpartition(":")
        with (
            socket.create_connection((host, int(port)), timeout=LIMIT) as plain,
            other.wrap_socket(plain) as tls,
        ):
            # with TLS 1.3 a refusal is heard only now
            return tls.recv(1)

    for address in ports(cluster, pki):
        with pytest.raises(OSError, match=r"(?i)timed out|closed|comm was established"):
            asyncio.run(ask(address))
        with pytest.raises(OSError, match=r"(?i)alert|reset|unknown ca"):
            listen(address)


def test_a_scheduler_without_a_schedulers_certificate_is_not_believed(pki):
    """A worker's certificate is of the same authority, and may serve."""
    node = pki["node"]
    command = [
        sys.executable,
        "-m",
        "distributed.cli.dask_scheduler",
        "--port",
        "0",
        "--host",
        "tls://127.0.0.1",
    ]
    files = [
        "--tls-ca-file",
        node / "ca.pem",
        "--tls-cert",
        node / "node.pem",
        "--tls-key",
        node / "node-key.pem",
    ]
    where = node.parent / "impostor.json"
    options = ["--dashboard-address", "127.0.0.1:0", "--scheduler-file", where, *files]
    with subprocess.Popen([*command, *map(str, options)], stderr=subprocess.DEVNULL) as impostor:
        try:
            until(lambda: where.exists() and where.read_text().endswith("}"))
            with (
                dask.config.set({"altlas.tls": str(pki["client"])}),
                pytest.raises(CertificateError, match="taken its place"),
            ):
                af.connect(where)
        finally:
            impostor.terminate()
            impostor.wait(LIMIT)


@pytest.mark.parametrize(
    "arguments",
    [
        ["scheduler", "--host", "0.0.0.0", "--port", "0"],
        ["scheduler", "--announce", "--port", "0"],
        ["scheduler", "--dashboard", "0.0.0.0:0", "--port", "0"],
        pytest.param(["worker", "tcp://127.0.0.1:9", "--host", "0.0.0.0"], marks=pytest.mark.long),
    ],
)
def test_what_would_be_open_to_others_is_refused_in_one_line(arguments):
    done = subprocess.run(
        [sys.executable, "-m", "altlas_flow.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "--insecure" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert Exposed.__name__ not in done.stderr
