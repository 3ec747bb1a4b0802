"""Somebody who has a page of the dashboard open: takes what it is sent, as a browser does, and draws nothing.

python -m benchmarks._looker URL
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import _contest

#: What it says once the page sends.
READY = "open"
#: Seconds until then.
LIMIT = 60.0


@contextmanager
def looking(page: str) -> Iterator[None]:
    """A program that has a page open, for as long as the block runs."""
    program = subprocess.Popen(
        [sys.executable, "-m", "benchmarks._looker", page],
        stdout=subprocess.PIPE,
        text=True,
        cwd=_contest.ROOT,
    )
    try:
        assert program.stdout is not None
        if program.stdout.readline().strip() != READY:  # it ends by itself where it takes too long
            raise _contest.ContestantFailed(f"{page} cannot be opened")
        yield
    finally:
        program.kill()
        program.communicate()


async def _look(page: str) -> None:
    from tornado.httpclient import AsyncHTTPClient, HTTPRequest
    from tornado.websocket import websocket_connect

    # the token that the page has for its own socket, and the document that the socket has for the page
    text = (await AsyncHTTPClient().fetch(page, request_timeout=LIMIT)).body.decode()
    (token,) = re.findall(r'"token":"([^"]+)"', text)
    where = HTTPRequest(f"{page.replace('http', 'ws', 1)}/ws", connect_timeout=LIMIT)
    socket = await websocket_connect(where, subprotocols=["bokeh", token], max_message_size=2**28)
    said = False
    while await socket.read_message() is not None:
        if not said:
            print(READY, flush=True)
            said = True


def main(page: str) -> int:
    """Keep a page open until the other side, or somebody, ends that."""
    asyncio.run(asyncio.wait_for(_look(page), timeout=3600))
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
