"""`Jobs`: how far runs over rows are, as their clients tell."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from altlas_flow.dashboard.counts import TEXT, label
from altlas_flow.errors import one_line

#: Jobs that are kept, the newest.
KEPT = 50
#: Dead letters that are kept, the newest.
LETTERS = 100
#: What a job is: the first until its client says one of the others, or goes.
RUNNING, DONE, FAILED, GONE = "running", "done", "failed", "gone"
STATES = (RUNNING, DONE, FAILED)


class Jobs:
    """Of each job the latest that was told; bounded."""

    def __init__(self) -> None:
        self._jobs: dict[tuple[str, str], dict[str, Any]] = {}
        self.letters: deque[dict[str, Any]] = deque(maxlen=LETTERS)  # the newest last

    def told(self, client: str, job: Mapping[str, Any], now: float, at: float = 0.0) -> None:
        """What a client says of a job of its own.

        Parameters
        ----------
        client : str
        job : mapping
            ``id``, ``model``, ``output``, ``state``, ``done`` (rows), ``skipped`` (of them, rows that were
            there already), ``total`` (rows, or None), ``dead`` (rows put aside), ``seconds``
            (since it began), and perhaps ``error``: why it failed, and ``letters``: rows put aside since
            the last time, each with ``row_id``, ``stage``, ``error_type``, ``error`` and ``node``.
        now, at : float
            Monotonic seconds; seconds since 1970.

        Raises
        ------
        ValueError, TypeError, KeyError
            Where it is something else.
        """
        state = str(job["state"])
        if state not in STATES:
            raise ValueError(f"a job is not {state[:20]!r}")
        key = client, label(job["id"])
        found = {
            "model": label(job["model"]),
            "output": label(job["output"]),
            "client": label(client),
            "state": state,
            **{name: _rows(job[name]) for name in ("done", "skipped", "dead")},
            "total": None if job["total"] is None else _rows(job["total"]),
            "seconds": _seconds(job["seconds"]),
            "error": one_line(str(job.get("error") or ""), TEXT),
            "at": at,
            "told": now,
        }
        letters = [
            {
                "at": at,
                "kind": label(letter["error_type"]),
                "error": one_line(str(letter["error"]), TEXT),
                "model": found["model"],
                "stage": label(letter["stage"]),
                "node": label(letter["node"]),
                "row": one_line(str(letter["row_id"]), TEXT),
                "output": one_line(str(job["output"]), TEXT),
            }
            for letter in (job.get("letters") or ())[-LETTERS:]
        ]
        self._jobs.pop(key, None)
        self._jobs[key] = found
        self.letters.extend(letters)
        over = [key for key, job in self._jobs.items() if job["state"] != RUNNING] + list(self._jobs)
        for oldest in over[: max(0, len(self._jobs) - KEPT)]:
            self._jobs.pop(oldest, None)

    def left(self, client: str) -> None:
        """A client is gone: nobody drives its jobs any more."""
        for (owner, _), job in self._jobs.items():
            if owner == client and job["state"] == RUNNING:
                job["state"] = GONE

    def latest(self, now: float) -> list[dict[str, Any]]:
        """Those that run, then the others, the newest first."""
        found = []
        for (_, name), job in reversed(self._jobs.items()):
            fresh = job["done"] - job["skipped"]
            rate = fresh / job["seconds"] if job["seconds"] > 0 else 0.0
            left = None
            if job["state"] == RUNNING and job["total"] is not None and rate > 0:
                left = max(0.0, (job["total"] - job["done"]) / rate - (now - job["told"]))
            shown = {key: value for key, value in job.items() if key != "told"}
            found.append({"id": name, **shown, "rows_per_s": rate, "left": left})
        return sorted(found, key=lambda job: job["state"] != RUNNING)


def _rows(value: Any) -> int:
    rows = int(value)
    if rows < 0:
        raise ValueError("fewer than no rows")
    return rows


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError("no time")
    return seconds
