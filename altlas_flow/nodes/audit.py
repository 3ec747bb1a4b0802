"""The audit log: who did what to the cluster, one JSON object a line."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from altlas_flow.errors import SettingsError, describe
from altlas_flow.logs import TEXT, printable, unchanged

logger = logging.getLogger(__name__)


class Audit:
    """Writes what happened, as it happens; without a file, to the log of this program only.

    Parameters
    ----------
    path : path, optional
        Lines are appended; readable for its owner only.
    clock : callable
        Seconds since 1970.

    Raises
    ------
    SettingsError
        Where the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str] | None, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._file = -1
        self.lost = 0  # lines that could not be written
        if path is not None:
            place = Path(path).absolute()
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise SettingsError(f"altlas.audit: {place} cannot be written ({describe(error)})") from error

    def note(self, event: str, *, address: str = "", **what: Any) -> None:
        """One line: what happened, asked for from which address, and what it was about."""
        when = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        # JSON escapes what would be a line of its own, or steer a terminal
        line = json.dumps({"time": when, "event": event, "address": address, **what}, default=str)
        if logger.isEnabledFor(logging.INFO):
            name = f"node {event}" if "node" in what else event
            about = " ".join(f"{key}={value}" for key, value in what.items())
            told = {**what, TEXT: printable(f"{name}: {about or address}")}
            unchanged(logger, logging.INFO, name, "%s", line, address=address or None, **told)
        self._write(line)

    def warn(self, text: str, **what: Any) -> None:
        """One line, and a warning in this program's log: something is unusual."""
        unchanged(logger, logging.WARNING, "unusual", "unusual: %s", text, **what)
        self.note("unusual", text=text, **what)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write(self, line: str) -> None:
        if self._file < 0:
            return
        try:
            # one write for a whole line: lines of several programs do not mix
            os.write(self._file, line.encode() + b"\n")
        except OSError as error:
            self.lost += 1
            logger.error("a line of the audit log is lost (%s): %s", describe(error), line)
