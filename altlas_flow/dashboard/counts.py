"""`Counts`: what is counted of requests, batches and choices, by model and node; bounded, whatever comes."""

from __future__ import annotations

import hashlib
import math
import re
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from altlas_flow.errors import one_line

#: Upper ends of the buckets of latencies, seconds: eight to each power of ten, from 1 ms to 1,000 s.
BOUNDS: tuple[float, ...] = tuple(10 ** (-3 + step / 8) for step in range(49))
_BOUNDS = np.array(BOUNDS)
#: Models that are counted by themselves; all others together.
MODELS = 200
#: Kinds of what is counted by node or by word; beyond it they are counted together.
LABELS = 2_000
#: Tasks times models of which decisions are counted.
CHOICES = 400
#: Hosts times models of which it is known what they have said; others are not counted.
HEARD = 50_000
#: Stands for all that are not counted by themselves.
OTHERS = "(others)"
#: Characters of a name, and of those that tell it from others; of an error.
NAME, LONGEST, TEXT = 120, 1_000, 500
#: Faults, the newest, that are kept.
FAULTS = 200
#: Lines, and characters of each, of what is kept of a request that failed.
LINES, LINE = 16, 240
#: Which of the inputs of a request was bad.
_PLACE = re.compile(r"^inputs\[\d+\]: ")
#: Requests up to which they are looked at one by one: an array costs some microseconds.
FEW = 8

#: Of each model, what is summed up: its columns in `Counts.sums`.
SUMS = (
    "completed",
    "error",
    "cancelled",
    "retries",
    "seconds",
    "queue_s",
    "rows",
    "predict_s",
    "batches",
    "batched",
    "loads",
    "load_failures",
    "evictions",
)
#: Those of them that hosts count, in their order.
HOSTS = ("batches", "batched", "loads", "load_failures", "evictions")
_AT = {name: at for at, name in enumerate(SUMS)}
ENDS = ("completed", "error", "cancelled")

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class Counts:
    """Counters that only grow.

    Attributes
    ----------
    models : dict of str to int
        Model -> its row in `sums` and `latencies`.
    sums : numpy.ndarray of float64, shape (models or more, ``len(SUMS)``)
    latencies : numpy.ndarray of int64, shape (models or more, ``len(BOUNDS) + 1``)
        Requests by the seconds from `submit` to the answer; the last bucket has what took longer.
    requests : Counter
        By model, node and how they ended.
    decisions : Counter
        By task and model.
    errors : Counter
        By kind.
    faults : deque of dict
        The newest last: ``at`` (seconds since 1970), ``kind``, ``error``, ``model``, ``node``, ``task``,
        ``client``, ``tries``, ``trace`` (lines).
    alike : Counter
        By `likeness`: requests that failed so, of `faults` and a while longer.
    """

    def __init__(self) -> None:
        self.models: dict[str, int] = {}
        self._names: list[str] = []
        self._heard: dict[str, dict[str, tuple[float, ...]]] = {}  # by host and model
        self._pairs = 0  # of them
        self.sums: Floats = np.zeros((8, len(SUMS)))
        self.latencies: Integers = np.zeros((8, len(BOUNDS) + 1), dtype=np.int64)
        self.requests: Counter[tuple[str, str, str]] = Counter()
        self.decisions: Counter[tuple[str, str]] = Counter()
        self.errors: Counter[str] = Counter()
        self.faults: deque[dict[str, Any]] = deque(maxlen=FAULTS)
        self.alike: Counter[tuple[str, str, str]] = Counter()

    def ended(self, columns: Mapping[str, Any], client: str, now: float) -> None:
        """Requests of one client that ended in one way, as `altlas_flow.history.parts.Part` has them.

        Beside its columns there may be ``kind`` and ``trace``, of an error. All of it may be anything:
        this may raise anything, and counts either all of it or nothing.
        """
        submitted, started, tries = columns["submitted"], columns["started"], columns["tries"]
        many, ended, status = len(columns["ids"]), float(columns["ended"]), str(columns["status"])
        if not many or status not in ENDS:
            return
        each = tries if isinstance(tries, (list, tuple)) else None
        retries = sum(max(0, int(one) - 1) for one in each) if each else many * max(0, int(tries) - 1)
        buckets, took, queued = _times(submitted, started, ended, tell=status == "completed")
        node = label(columns["node"])
        fault = self._fault(columns, label(client), now - ended) if status == "error" else None
        # from here on nothing of what was sent is looked at any more
        row = self._row(str(columns["model"]))
        name, sums = self._names[row], self.sums[row]
        sums[_AT[status]] += many
        sums[_AT["retries"]] += retries
        sums[_AT["seconds"]] += took
        sums[_AT["queue_s"]] += queued
        if len(buckets):
            self.latencies[row] += np.bincount(buckets, minlength=len(BOUNDS) + 1)
        _count(self.requests, (name, node, status), (name, OTHERS, status), many)
        if fault is not None:
            _count(self.errors, fault["kind"], OTHERS, many)
            self.faults.append(fault)
            self.alike[likeness(fault)] += many
            if len(self.alike) > 2 * FAULTS:
                self.alike = Counter({key: self.alike[key] for key in map(likeness, self.faults)})

    def latest(self) -> list[dict[str, Any]]:
        """`faults`, the newest first; of those that say the same the newest, and ``alike``: how many."""
        found: dict[tuple[str, str, str], dict[str, Any]] = {}
        for fault in reversed(self.faults):
            found.setdefault(likeness(fault), fault)
        return [{**fault, "alike": self.alike[key]} for key, fault in found.items()]

    def _fault(self, columns: Mapping[str, Any], client: str, at: float) -> dict[str, Any]:
        tries = columns["tries"]
        return {
            "at": at,
            "kind": label(columns.get("kind") or "error"),
            "error": one_line(str(columns["error"]), TEXT),
            "model": label(columns["model"]),
            "node": label(columns["node"]),
            "task": label(columns["ids"][0]),
            "client": client,
            "tries": int(tries[0] if isinstance(tries, (list, tuple)) else tries),
            "trace": [one_line(str(line), LINE) for line in (columns.get("trace") or ())[:LINES]],
        }

    def predicted(self, model: str, rows: int, seconds: float | None) -> None:
        """Rows were predicted, of requests or of frames, in so many seconds together."""
        row = self._row(model)  # first: for a new model there may be other arrays
        sums = self.sums[row]
        sums[_AT["rows"]] += rows
        sums[_AT["predict_s"]] += seconds or 0.0

    def heard(self, host: str, model: str, totals: Sequence[float]) -> None:
        """What a host has counted of a model by now: as many figures as `HOSTS` has names.

        Parameters
        ----------
        host : str
            No other one is ever called so, as an address with its port: it begins at nothing.
        """
        known = self._heard.setdefault(host, {})
        before = known.get(model)
        now = tuple(float(total) for total in totals)
        if now == before or len(now) != len(HOSTS):
            return
        if before is None:
            if self._pairs >= HEARD:
                return  # what was not noted would be counted again with each heartbeat
            self._pairs += 1
            before = (0.0,) * len(HOSTS)
        known[model] = now
        row = self._row(model)  # first: for a new model there may be other arrays
        sums = self.sums[row]
        for name, new, old in zip(HOSTS, now, before, strict=True):
            sums[_AT[name]] += new - old

    def gone(self, host: str) -> None:
        """A host is gone; what it has counted stays counted."""
        self._pairs -= len(self._heard.pop(host, ()))

    def decided(self, task: str, model: str) -> None:
        """A model was chosen for a task."""
        key = label(task), label(model)
        self.decisions[
            key if key in self.decisions or len(self.decisions) < CHOICES else (OTHERS, OTHERS)
        ] += 1

    def _row(self, model: str) -> int:
        name = label(model)
        row = self.models.get(name)
        if row is not None:
            return row
        if len(self.models) >= MODELS:
            name = OTHERS
            if name in self.models:
                return self.models[name]
        row = self.models[name] = len(self.models)
        self._names.append(name)
        if row == len(self.sums):
            self.sums = np.concatenate([self.sums, np.zeros_like(self.sums)])
            self.latencies = np.concatenate([self.latencies, np.zeros_like(self.latencies)])
        return row


def likeness(fault: Mapping[str, Any]) -> tuple[str, str, str]:
    """What faults have in common that say the same, whichever of several inputs it was."""
    return fault["model"], fault["kind"], _PLACE.sub("", fault["error"])


def label(value: object) -> str:
    """A name as it is counted and shown: one line, not long; those that differ in their ends stay apart."""
    if value is None:
        return ""
    text = one_line(str(value), LONGEST)
    if len(text) <= NAME:
        return text
    return f"{text[: NAME - 9]}…{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


def _count(counter: Counter[Any], key: Any, others: Any, many: int) -> None:
    counter[key if key in counter or len(counter) < LABELS else others] += many


def _times(
    submitted: Sequence[float], started: Sequence[float | None], ended: float, *, tell: bool
) -> tuple[Sequence[int] | Integers, float, float]:
    """Buckets and sum of what requests took, where that is to be told, and what they waited together."""
    if len(submitted) <= FEW:
        took = [float(ago) - ended for ago in submitted]
        queued = sum(
            max(0.0, ago - since) for ago, since in zip(submitted, started, strict=True) if since is not None
        )
        total = _finite(sum(took))
        return [bisect_left(BOUNDS, one) for one in took] if tell else [], total * tell, _finite(queued)
    ago = np.asarray(submitted, dtype=np.float64)
    since = np.asarray(started, dtype=np.float64)  # None becomes NaN
    total = _finite(float(ago.sum()) - ended * len(ago))
    waited = ago - since
    queued = float(waited[waited > 0.0].sum())  # which leaves out what is NaN, sooner than `nansum` does
    return np.searchsorted(_BOUNDS, ago - ended) if tell else [], total * tell, _finite(queued)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("a time that is none")
    return value


def quantiles(buckets: npt.NDArray[np.integer[Any]], shares: Sequence[float]) -> Floats:
    """Seconds within which those shares were answered, between the ends of buckets by their logarithms.

    Parameters
    ----------
    buckets : numpy.ndarray, shape (models, ``len(BOUNDS) + 1``)
    shares : sequence of float

    Returns
    -------
    numpy.ndarray of float64, shape (models, shares)
        NaN where nothing was answered.
    """
    ends = np.log(np.asarray([*BOUNDS, BOUNDS[-1] * 10]))
    begins = np.concatenate([[ends[0] - (ends[1] - ends[0])], ends[:-1]])
    grown = np.cumsum(buckets, axis=1)
    total = grown[:, -1]
    found = np.full((len(buckets), len(shares)), np.nan)
    for at, share in enumerate(shares):
        wanted = share * total
        bucket = (grown < wanted[:, None]).sum(axis=1).clip(0, len(ends) - 1)
        rows = np.arange(len(buckets))
        inside = buckets[rows, bucket]
        before = grown[rows, bucket] - inside
        part = np.divide(wanted - before, inside, out=np.ones(len(buckets)), where=inside > 0)
        value = np.exp(begins[bucket] + part * (ends[bucket] - begins[bucket]))
        found[:, at] = np.where(total > 0, value, np.nan)
    return found
