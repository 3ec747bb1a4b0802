"""The gate before a dashboard that others than this machine reach: HTTPS, and a token with every request.

Dask's dashboard shows what runs and what it fails with, and asks nobody who they are. The gate stands
before its HTTP server rather than in its handlers: pages, websockets, files, metrics and whatever is added
later pass here, or do not run.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
from collections.abc import Awaitable
from http import HTTPStatus
from urllib.parse import quote, unquote

from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
    parse_cookie,
)

#: In an address, what has the token.
PARAMETER = "token"
#: Seconds for which a browser keeps its cookie.
COOKIE_AGE = 30 * 24 * 3600
#: Seconds in which a connection has to say what it wants; Tornado's own is an hour.
HEADER_LIMIT = 60.0
#: What may stand in the address of a redirect; all else is written as %XX.
PLAIN = "/?%:@!$&'()*+,;=-._~"


class Answer:
    """What the gate says instead of the dashboard: one plain line, or a redirect.

    Parameters
    ----------
    status : HTTPStatus
    line : str
    headers : str
        More of them, by name.
    """

    def __init__(self, status: HTTPStatus, line: str, **headers: str) -> None:
        self.status, self.body = status, f"{line}\n".encode()
        self.headers = HTTPHeaders(
            {
                "Content-Type": "text/plain; charset=utf-8",
                "Content-Length": str(len(self.body)),
                "Cache-Control": "no-store",
                "Referrer-Policy": "no-referrer",
                **{name.replace("_", "-"): value for name, value in headers.items()},
            }
        )

    def send(self, connection: HTTPConnection, method: str) -> None:
        """Send it."""
        start = ResponseStartLine("HTTP/1.1", self.status, self.status.phrase)
        connection.write_headers(start, self.headers, b"" if method == "HEAD" else self.body)
        connection.finish()


class Gate(HTTPServerConnectionDelegate):
    """Lets requests with the token pass to the dashboard, without it.

    The token comes in the address (``?token=``), once, and is exchanged for a cookie; or, for programs, as
    ``Authorization: Bearer``.

    Parameters
    ----------
    inner : HTTPServerConnectionDelegate
        The dashboard.
    token : str
    port : int
        Of the dashboard: browsers send cookies to all ports of a host.
    """

    def __init__(self, inner: HTTPServerConnectionDelegate, token: str, port: int) -> None:
        self.inner, self._token = inner, token.encode()
        # "__Host-": browsers take it from this host over HTTPS only
        self.cookie = f"__Host-altlas-dashboard-{port}"
        # not the token itself: what is found in a browser's store opens nothing else
        self._cookie_value = hmac.new(self._token, b"altlas dashboard cookie", hashlib.sha256).hexdigest()

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """A request begins; called by Tornado."""
        return _Request(self, server_conn, request_conn)

    def judge(self, target: str, headers: HTTPHeaders) -> Answer | None:
        """What to answer; None: the dashboard shall."""
        path, _, query = target.partition("?")
        parts = [part for part in query.split("&") if part]
        given = [part for part in parts if unquote(part.partition("=")[0]) == PARAMETER]
        if given:
            if not any(self._is_token(unquote(part.partition("=")[2])) for part in given):
                return _refusal("this is not the token of this dashboard")
            rest = "&".join(part for part in parts if part not in given)
            return self._welcome(path, rest)
        scheme, _, value = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(value.strip()):
            return None
        if not self._has_cookie(headers):
            return _refusal(
                "this dashboard needs a token: open the link that altlas-flow scheduler has printed, or send "
                "the header Authorization: Bearer TOKEN"
            )
        # a browser sends its cookie with what pages of other ports of this host ask for, too
        origin = headers.get("Origin")
        if origin is not None and origin.lower() != f"https://{headers.get('Host', '')}".lower():
            return Answer(HTTPStatus.FORBIDDEN, "this dashboard does not answer to pages of others")
        return None

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(errors="replace"), self._token)

    def _has_cookie(self, headers: HTTPHeaders) -> bool:
        value = parse_cookie(headers.get("Cookie", "")).get(self.cookie, "")
        return hmac.compare_digest(value.encode(errors="replace"), self._cookie_value.encode())

    def _welcome(self, path: str, query: str) -> Answer:
        # one slash: with two, or a backslash, a browser would take what follows for another host
        place = "/" + path.lstrip("/\\") + (f"?{query}" if query else "")
        return Answer(
            HTTPStatus.SEE_OTHER,
            "the same address without its token",
            Location=quote(place, safe=PLAIN, encoding="latin-1"),
            Set_Cookie=f"{self.cookie}={self._cookie_value}; Path=/; Max-Age={COOKIE_AGE}; "
            "Secure; HttpOnly; SameSite=Strict",
        )


class _Request(HTTPMessageDelegate):
    """One request: the dashboard hears of it only after it was let in."""

    def __init__(self, gate: Gate, server: object, connection: HTTPConnection) -> None:
        self._gate, self._server, self._connection = gate, server, connection
        self._inner: HTTPMessageDelegate | None = None
        self._answer: Answer | None = None
        self._method = ""

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        assert isinstance(start_line, RequestStartLine)
        self._method = start_line.method
        self._answer = self._gate.judge(start_line.path, headers)
        if self._answer is not None:
            return None
        # Bokeh writes all headers and cookies into its pages, and Dask's proxy passes them on
        for name in ("Authorization", "Cookie"):
            if name in headers:
                del headers[name]
        self._inner = self._gate.inner.start_request(self._server, self._connection)
        return self._inner.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._inner.data_received(chunk) if self._inner is not None else None

    def finish(self) -> None:
        if self._inner is not None:
            self._inner.finish()
        elif self._answer is not None:
            self._answer.send(self._connection, self._method)

    def on_connection_close(self) -> None:
        if self._inner is not None:
            self._inner.on_connection_close()


def lock(server: HTTPServer, token: str) -> None:
    """Put the gate before a dashboard that listens already, in the same step of its event loop.

    Raises
    ------
    RuntimeError
        Where it does not speak TLS: then the token would travel in plain text.
    """
    context, inner = server.ssl_options, server.request_callback
    if not isinstance(context, ssl.SSLContext) or not isinstance(inner, HTTPServerConnectionDelegate):
        server.stop()
        raise RuntimeError("this dashboard has no TLS, or is not Tornado's: it cannot be opened to others")
    context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
    server.conn_params.header_timeout = HEADER_LIMIT
    server.request_callback = Gate(inner, token, server.port)  # type: ignore[attr-defined]


def _refusal(line: str) -> Answer:
    # Bearer: a browser asks nobody for a password then
    return Answer(HTTPStatus.UNAUTHORIZED, line, WWW_Authenticate='Bearer realm="dashboard"')
