"""Commands of ours that run side by side: what they print, and what they listen on."""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import socket
import subprocess
import sys
import time
from ipaddress import ip_address

import psutil

from altlas_flow.security.certificates import make_authority, make_certificate
from altlas_flow.security.roles import Role
from tests.laboratory import LIMIT


class Command:
    """``altlas-flow`` with some arguments; what it logs is in the file `log`."""

    def __init__(self, log, *arguments, **environment):
        self.log = log
        command = [sys.executable, "-m", "altlas_flow.cli", *map(str, arguments)]
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, bufsize=0, env={**os.environ, **environment}
            )

    def line(self):
        """The next line that it prints."""
        said, end = b"", time.monotonic() + LIMIT
        while not said.endswith(b"\n"):
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))
            assert ready, f"{said!r} is all that it printed; {self.log.read_text()}"
            got = self.process.stdout.read(1)
            assert got, f"it has ended: {self.log.read_text()}"
            said += got
        return said.decode().strip()

    def address(self):
        """Where it is, from the line that says so."""
        return self.line().rpartition(" ")[2]

    def listening(self):
        """``(ip, port)`` of all sockets, UDP as well, on which it or what it has started waits for others."""
        top = psutil.Process(self.process.pid)
        found = set()
        for process in (top, *top.children(recursive=True)):
            for one in process.net_connections("inet"):
                if one.status == psutil.CONN_LISTEN or (one.status == psutil.CONN_NONE and not one.raddr):
                    found.add((one.laddr.ip, one.laddr.port))
        return found


@contextlib.contextmanager
def commands(folder):
    """A function that starts one; all end together."""
    started = []

    def start(*arguments, **environment):
        started.append(Command(folder / f"{len(started)}.log", *arguments, **environment))
        return started[-1]

    try:
        yield start
    finally:
        # workers first: one whose scheduler is gone takes longer to close
        workers = [one for one in started if "worker" in one.process.args]
        for some in (workers, [one for one in started if one not in workers]):
            for one in some:
                one.process.terminate()
            for one in some:
                try:
                    one.process.wait(LIMIT)
                finally:
                    one.process.kill()
                    one.process.stdout.close()


def ask(port, path, context=None, method="GET", **headers):
    """Status, headers and text of what HTTP, or HTTPS with a `context`, answers; nothing is followed."""
    kind = {"context": context} if context else {}
    line = (http.client.HTTPSConnection if context else http.client.HTTPConnection)(
        "127.0.0.1", port, timeout=LIMIT, **kind
    )
    with contextlib.closing(line):
        line.request(method, path, headers=headers)
        answer = line.getresponse()
        return answer.status, answer.headers, answer.read().decode()


def ask_plainly(ip, port):
    """What a socket says to whoever speaks plain HTTP to it."""
    said = b""
    with socket.create_connection((ip, port), timeout=LIMIT) as line, contextlib.suppress(ConnectionError):
        line.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        while got := line.recv(65536):
            said += got
    return said


def certificates(folder):
    """A folder with one certificate of each kind that programs need, and a client's."""
    made = make_authority(folder / "certs")
    make_certificate(made, Role.NODE, "node")
    make_certificate(made, Role.CLIENT, "client")
    return made


def on_loopback(ip):
    """Whether only this machine reaches it."""
    return ip_address(ip).is_loopback


def port_of(address):
    """Of an address such as ``tls://127.0.0.1:8786``."""
    return int(address.rpartition(":")[2])
