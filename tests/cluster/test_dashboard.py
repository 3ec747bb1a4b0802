"""A dashboard beyond loopback: HTTPS only, and nothing of Dask's runs for whoever has no token."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import warnings
from urllib.parse import unquote

import pytest
from bokeh.util.token import get_token_payload
from distributed import Client
from tornado.httpclient import HTTPRequest
from tornado.httputil import HTTPHeaders
from tornado.websocket import websocket_connect

from altlas_flow.cluster.scheduler.dashboard import Gate
from altlas_flow.cluster.secure import security_of
from altlas_flow.security.roles import Role, name_in
from tests.cluster.commands import ask, ask_plainly, certificates, commands
from tests.laboratory import LIMIT

pytestmark = pytest.mark.timeout(120)

GIVEN = "given/to+all.who~may=look"
EVERYTHING = {f"DASK_LOGGING__{name}": "debug" for name in ("DISTRIBUTED", "TORNADO", "BOKEH")}
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
#: One of each kind: pages, data, metrics, files, what proxies, what is not there.
PATHS = (
    "/",
    "/status",
    "/status/ws",
    "/status/autoload.js?bokeh-autoload-element=1",
    "/info/main/workers.html",
    "/json/counts.json",
    "/metrics",
    "/health",
    "/sitemap.json",
    "/favicon.ico",
    "/statics/css/base.css",
    "/static/js/bokeh.min.js",
    "/proxy/1/127.0.0.1/status",
    "/nothing",
    "//status",
    "/status?tokens=1&xtoken=2",
)


class Dashboard:
    """A scheduler whose dashboard others than this machine reach: its port, link, token and cookie."""

    def __init__(self, command, context):
        self.command, self.context, self.address = command, context, command.address()
        self.link = command.line().removeprefix("dashboard at ")
        self.port = int(re.fullmatch(r"https://127\.0\.0\.1:(\d+)/status(\?token=.*)?", self.link)[1])
        self.token = unquote(self.link.partition("?token=")[2])

    def ask(self, path, **headers):
        return ask(self.port, path, self.context, **headers)

    def cookie(self):
        status, headers, _ = self.ask(f"/status?token={self.token}")
        assert status == 303
        return headers["Set-Cookie"].partition(";")[0]

    def websocket(self, session="", **headers):
        """The first message of Bokeh's websocket."""

        async def first():
            request = HTTPRequest(
                f"https://127.0.0.1:{self.port}/status/ws".replace("https", "wss"),
                headers=headers,
                ssl_options=self.context,
                request_timeout=LIMIT,
            )
            line = await websocket_connect(request, subprotocols=["bokeh", session])
            async with asyncio.timeout(LIMIT):
                try:
                    return await line.read_message()
                finally:
                    line.close()
                    while await line.read_message() is not None:
                        pass  # what was under way; then it is closed

        return asyncio.run(first())


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """Two schedulers with dashboards on all addresses, and the folder of certificates."""
    folder = tmp_path_factory.mktemp("dashboard")
    certs = certificates(folder)
    context = ssl.create_default_context(cafile=certs / "ca.pem")
    context.check_hostname = False  # the scheduler's certificate names no address
    far = ("scheduler", "--port", "0", "--dashboard", "0.0.0.0:0")
    with commands(folder) as start:
        made = start(*far, "--tls", certs, **EVERYTHING)
        own = {"CERT": str(certs / "node.pem"), "KEY": str(certs / "node-key.pem")}
        own = {f"DASK_DISTRIBUTED__SCHEDULER__DASHBOARD__TLS__{key}": file for key, file in own.items()}
        given = start(*far, "--tls", certs, DASK_ALTLAS__DASHBOARD_TOKEN=GIVEN, **own)
        yield Dashboard(made, context), Dashboard(given, context), certs


@pytest.fixture(scope="module")
def dashboard(started):
    return started[0]


@pytest.mark.parametrize("path", PATHS)
def test_without_a_token_one_plain_line_is_all_there_is(dashboard, path):
    for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": f"Basic {dashboard.token}"}):
        status, told, text = dashboard.ask(path, **headers)
        assert (status, told["Content-Type"]) == (401, "text/plain; charset=utf-8")
        assert len(text.splitlines()) == 1 and "token" in text
        assert "Set-Cookie" not in told and "Server" not in told
        assert not re.search("(?i)dask|bokeh|tornado|traceback", text)


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "NONSENSE"])
def test_no_method_passes_without_a_token(dashboard, method):
    status, _, text = ask(dashboard.port, "/status", dashboard.context, method=method)
    assert status == 401 and ("token" in text or method == "HEAD")


def test_a_wrong_token_is_refused_wherever_it_stands(dashboard):
    wrong = dashboard.token[:-1] + ("a" if dashboard.token[-1] != "a" else "b")
    name, _, value = dashboard.cookie().partition("=")
    for path, headers in (
        (f"/status?token={wrong}", {}),
        ("/status?token=", {}),
        ("/status?%74oken=", {"Authorization": f"Bearer {dashboard.token}"}),
        (f"/status?token={dashboard.token}x", {"Cookie": dashboard.cookie()}),
        ("/status?token=%ff%00%0d%0a", {}),
        ("/status", {"Authorization": f"Bearer {wrong}"}),
        ("/status", {"Authorization": f"Bearer {dashboard.token} {dashboard.token}"}),
        ("/status", {"Authorization": f"Bearer {value}"}),
        ("/status", {"Cookie": f"{name}={wrong}"}),
        ("/status", {"Cookie": f"{name}={dashboard.token}"}),
        ("/status", {"Cookie": f"other={value}"}),
        ("/status", {"Cookie": f"{name}=é"}),
    ):
        status, _, text = dashboard.ask(path, **headers)
        assert status == 401 and len(text.splitlines()) == 1, path


def test_the_token_becomes_a_cookie_and_goes_from_the_address(dashboard):
    status, headers, text = dashboard.ask(f"/status?a=1&token={dashboard.token}&b=%26")
    assert (status, headers["Location"]) == (303, "/status?a=1&b=%26")
    assert dashboard.token not in text + str(headers)
    cookie, *flags = headers["Set-Cookie"].split("; ")
    assert {"Path=/", "Secure", "HttpOnly", "SameSite=Strict"} < set(flags)
    assert not any(flag.startswith("Domain") for flag in flags)
    assert headers["Referrer-Policy"] == "no-referrer"
    status, _, page = dashboard.ask(headers["Location"], Cookie=f"theme=dark; {cookie}")
    assert status == 200 and "Dask" in page


def test_no_page_has_the_token_or_the_cookie(dashboard):
    """Bokeh writes the headers and cookies of a request into the page, for the session that it begins."""
    cookie = dashboard.cookie()
    for headers in ({"Cookie": cookie}, {"Authorization": f"Bearer {dashboard.token}"}):
        status, _, page = dashboard.ask("/status", **headers)
        (session,) = re.findall(r'"token":"([^"]+)"', page)
        payload = str(get_token_payload(session))
        assert status == 200 and "127.0.0.1" in payload
        for secret in (dashboard.token, cookie.partition("=")[2]):
            assert secret not in page and secret not in payload


def test_programs_send_the_token_in_a_header(dashboard):
    for path, word in (("/metrics", "#"), ("/health", "ok"), ("/json/counts.json", "workers")):
        for scheme in ("Bearer", "bearer"):
            status, headers, text = dashboard.ask(path, Authorization=f"{scheme} {dashboard.token}")
            assert status == 200 and word in text and "Set-Cookie" not in headers


def test_a_websocket_needs_the_cookie_too(dashboard):
    cookie, here = dashboard.cookie(), f"https://127.0.0.1:{dashboard.port}"
    _, _, page = dashboard.ask("/status", Cookie=cookie)
    (session,) = re.findall(r'"token":"([^"]+)"', page)
    assert "ACK" in dashboard.websocket(session, Cookie=cookie, Origin=here)
    assert "ACK" in dashboard.websocket(session, Authorization=f"Bearer {dashboard.token}")
    for headers, status in (
        ({}, 401),
        ({"Origin": here}, 401),
        # a page of another port of this host: browsers send the cookie with what that asks for
        ({"Cookie": cookie, "Origin": "https://127.0.0.1:1"}, 403),
        ({"Cookie": cookie, "Origin": here.replace("https", "http")}, 403),
        ({"Cookie": cookie, "Origin": "null"}, 403),
    ):
        asked = {**UPGRADE, "Sec-WebSocket-Protocol": f"bokeh, {session}", **headers}
        assert dashboard.ask("/status/ws", **asked)[0] == status


@pytest.mark.parametrize(
    "target", ["//evil.example", "/\\evil.example", "\\\\evil.example", "https://evil.example/"]
)
def test_a_redirect_stays_where_it_is(dashboard, target):
    """As raw bytes: no client of Python's sends such a target."""
    with (
        socket.create_connection(("127.0.0.1", dashboard.port), timeout=LIMIT) as plain,
        dashboard.context.wrap_socket(plain) as line,
    ):
        request = f"GET {target}?token={dashboard.token}&x=%0d%0aSet-Cookie:a HTTP/1.1\r\nHost: evil\r\n\r\n"
        line.sendall(request.encode())
        said = b""
        while b"\r\n\r\n" not in said:
            said += line.recv(65536)
    (place,) = re.findall(rb"Location: (.*)\r\n", said)
    assert re.match(rb"/[^/\\]", place) and place.endswith(b"?x=%0d%0aSet-Cookie:a")
    assert said.count(b"Set-Cookie: ") == 1


def test_it_speaks_tls_of_today_only(dashboard):
    said = ask_plainly("127.0.0.1", dashboard.port)
    assert said == b"" or said[0] == 0x15  # TLS's own alert
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", dashboard.port), timeout=LIMIT) as line,
        pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"),
    ):
        old.wrap_socket(line)


def test_the_token_is_told_to_nobody_else(started):
    made, _, certs = started
    secrets = (made.token, made.cookie().partition("=")[2])
    with Client(made.address, security=security_of(certs, Role.CLIENT), set_as_default=False) as client:
        told = str(client.scheduler_info(n_workers=-1)) + str(client.sync(client.scheduler.identity))
    logs = made.command.log.read_text()
    assert "Scheduler at" in logs and "https://" in logs
    assert not any(secret in told + logs for secret in secrets)


def test_a_token_that_was_set_is_not_printed_and_another_one_is_made_at_each_start(started):
    made, given, _ = started
    assert given.token == "" and len(made.token) >= 22 and made.token != GIVEN
    assert given.ask("/health", Authorization=f"Bearer {GIVEN}")[0] == 200
    for written in (GIVEN, GIVEN.replace("+", "%2B").replace("/", "%2F")):
        assert given.ask(f"/health?token={written}")[0] == 303
    assert given.ask("/health", Authorization=f"Bearer {made.token}")[0] == 401
    # the same at the next start of this one
    assert Gate(None, GIVEN, given.port).judge("/", HTTPHeaders(Cookie=_cookie_of(given))) is None
    assert Gate(None, GIVEN + "x", given.port).judge("/", HTTPHeaders(Cookie=_cookie_of(given))) is not None


@pytest.mark.parametrize(("which", "name"), [(0, "scheduler"), (1, "node")])
def test_a_certificate_that_dask_was_given_for_it_is_used(started, which, name):
    dashboard = started[which]
    with (
        socket.create_connection(("127.0.0.1", dashboard.port), timeout=LIMIT) as plain,
        dashboard.context.wrap_socket(plain) as line,
    ):
        assert name_in(line.getpeercert()) == name


def _cookie_of(given):
    return given.ask(f"/?token={GIVEN}")[1]["Set-Cookie"].partition(";")[0]
