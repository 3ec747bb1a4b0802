"""A program as its owner sees it, the keeper's or another: two pipes, to which nobody ever waits to write."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import subprocess
import sys
import time
from collections import deque

from altlas_flow.history.frames import CHUNK, Message, Unpacker

#: Bytes of the pipe to it: what is in there is written even where its owner is killed.
PIPE = 1 << 20
#: Seconds that it gets to end once it has closed its pipe.
END_LIMIT = 5.0


class Child:
    """Starts the program of a file; for one thread.

    Parameters
    ----------
    path : str
        What the program is told.
    module : str
        The program.

    Attributes
    ----------
    pid : int
    requests, replies : int
        The file descriptors.
    alive : bool
        Whether it has ever said anything.

    Raises
    ------
    OSError
        Where no program can be started.
    """

    def __init__(self, path: str, module: str = "altlas_flow.history.keeper") -> None:
        self._process = subprocess.Popen(
            # -P: as its owner finds modules, which is said below, and not in the working directory first
            [sys.executable, "-P", "-m", module, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(one or os.getcwd() for one in sys.path)},
            start_new_session=True,  # Ctrl-C is for its owner, also before it can say that it ignores it
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.pid = self._process.pid
        self.requests, self.replies = self._process.stdin.fileno(), self._process.stdout.fileno()
        for pipe in (self.requests, self.replies):
            os.set_blocking(pipe, False)
        with contextlib.suppress(OSError, AttributeError):  # Linux only, and up to a limit of each user
            fcntl.fcntl(self.requests, fcntl.F_SETPIPE_SZ, PIPE)
        self.alive = False
        self._unsent: deque[memoryview] = deque()
        self._unpacker = Unpacker()

    @property
    def busy(self) -> bool:
        """Whether it has still to take what was sent."""
        return bool(self._unsent)

    def send(self, data: bytes) -> None:
        """Send as much as goes at once; `flush` sends the rest."""
        self._unsent.append(memoryview(data))
        self.flush()

    def flush(self) -> None:
        """Send what is left, as much as goes at once."""
        try:
            while self._unsent:
                sent = os.write(self.requests, self._unsent[0])
                if sent < len(self._unsent[0]):
                    self._unsent[0] = self._unsent[0][sent:]
                else:
                    self._unsent.popleft()
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._unsent.clear()  # `receive` sees that it has ended

    def receive(self) -> list[Message] | None:
        """What it has said; None where it has ended."""
        try:
            data = os.read(self.replies, CHUNK)
        except BlockingIOError:
            return []
        self.alive = self.alive or bool(data)
        return list(self._unpacker.feed(data)) if data else None

    def end(self) -> int:
        """Its exit code, once it has closed its pipe; it is killed where it does not end."""
        self.leave()
        try:
            return self._process.wait(END_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def finish(self, last: bytes, limit: float) -> int:
        """Send what is left and a last message, and wait until it has ended; its exit code.

        For the end only: this waits, for `limit` seconds at most. It goes on to read meanwhile, or both could
        wait for each other.
        """
        self.send(last)
        ends = time.monotonic() + limit
        while (left := ends - time.monotonic()) > 0:
            poll = select.poll()  # not select: a descriptor may be any number
            poll.register(self.replies, select.POLLIN)
            if self._unsent:
                poll.register(self.requests, select.POLLOUT)
            ready = poll.poll(1000 * left)
            self.flush()
            if any(place == self.replies for place, _ in ready) and self.receive() is None:
                break
        return self.end()

    def leave(self) -> None:
        """Close the pipes: it writes what it has, and ends by itself."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
