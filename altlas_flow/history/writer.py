"""Writing behind: what is over goes to a program of its own, and so do questions."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from altlas_flow.history.courier import AGAIN, CLOSE_LIMIT, Courier
from altlas_flow.history.inbox import Inbox, Question
from altlas_flow.history.parts import Part


class Writer:
    """Has a keeper write the history file; may be called from any thread, and never waits.

    Parameters
    ----------
    path : path
        Of the file; opened by the keeper, since a large one takes time to be looked at.
    opened : callable
        Called on a thread with what was found damaged, each time that the file is opened.
    """

    def __init__(
        self, path: str | os.PathLike[str], opened: Callable[[str], None] = lambda said: None
    ) -> None:
        self._inbox = Inbox()
        self._courier = Courier(str(Path(path).absolute()), self._inbox, opened)
        # a daemon: one that nobody closed must not keep its process
        self._thread = threading.Thread(target=self._courier.run, name="altlas-history", daemon=True)
        self._thread.start()

    @property
    def written(self) -> int:
        """Rows that are in the file."""
        return self._inbox.written

    @property
    def dropped(self) -> int:
        """Rows that the disk did not take until the end, that were too many, or that are no rows."""
        return self._inbox.dropped

    @property
    def fault(self) -> str:
        """What went wrong last; empty where nothing did."""
        return self._courier.fault

    @property
    def keeper(self) -> int | None:
        """The process id of the program that has the file."""
        return self._courier.keeper

    def put(self, part: Part) -> None:
        """Have a part written."""
        self._inbox.put(part)

    def ask(self, name: str, **arguments: Any) -> Future[Any]:
        """What a method of `Store` finds once all is written that was put before.

        Parameters
        ----------
        name : str
            ``find``, ``read`` or ``count``.
        arguments
            Its own.

        Returns
        -------
        concurrent.futures.Future
            Fails with HistoryError where there is no answer.
        """
        answer: Future[Any] = Future()
        self._inbox.ask(Question(name, arguments, answer))
        return answer

    def close(self) -> None:
        """Write what waits, and close the file."""
        self._inbox.close()
        self._thread.join(CLOSE_LIMIT + AGAIN)
