"""What placement knows of a worker, and what a request asks of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from altlas_flow.placement.latency import Latency, Times

MIB = 2**20


@dataclass(slots=True, eq=False)
class Node:
    """One Dask worker, as the roster keeps it: it is changed in place.

    Attributes
    ----------
    address, name : str
    slots : int
        Batches that it runs at once.
    resources : mapping of str to float
        Declared in total, such as ``{"GPU": 1}``.
    labels : mapping of str to str
        Such as ``{"zone": "a"}``.
    memory : int, optional
        Bytes that loaded models may take; None where that is unbounded.
    loaded : dict of str to int
        Models that are loaded, by the digits of their fingerprint, with their bytes. Changed by
        `hold` only.
    available : bool
        Whether it takes work.
    absence : str
        Why it takes none, where that is known.
    barred : str
        Why an operator keeps new work from it; empty where none does.
    rows, tasks : int
        Rows, and pieces of work, in flight.
    backlog : float
        Seconds of work that are expected in flight.
    given : float
        When it was given the newest of it; 0 where nothing is in flight.
    busy : dict of str to float
        When the batch of each slot began that is known to run: time of decisions, seconds.
    latency : dict of str to Latency
        By the digits of the model's fingerprint.
    times : dict of str to Times
        How long requests were there, by the same digits.
    served, failures : int
        Rows answered there, and failures for reasons of the node.
    said : mapping
        What its host says of it beside that: for people.
    used : int
        Bytes of all loaded models.
    """

    address: str
    name: str = ""
    slots: int = 1
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    memory: int | None = None
    loaded: dict[str, int] = field(default_factory=dict)
    available: bool = True
    absence: str = ""
    barred: str = ""
    rows: int = 0
    tasks: int = 0
    backlog: float = 0.0
    given: float = 0.0
    busy: dict[str, float] = field(default_factory=dict)
    latency: dict[str, Latency] = field(default_factory=dict)
    times: dict[str, Times] = field(default_factory=dict)
    served: int = 0
    failures: int = 0
    said: Mapping[str, Any] = field(default_factory=dict)
    used: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.used = sum(self.loaded.values())

    @property
    def load(self) -> float:
        """Rows in flight for each slot."""
        return self.rows / (self.slots or 1)

    @property
    def free(self) -> int | None:
        """Bytes that more models may take without any being unloaded; None where that is unbounded."""
        return None if self.memory is None else self.memory - self.used

    def begin(self, rows: int, seconds: float, now: float = 0.0) -> None:
        """Count in a piece of work of so many rows, expected to take `seconds`, that is given `now`."""
        self.rows += rows
        self.tasks += 1
        self.backlog += seconds
        self.given = now

    def end(self, rows: int, seconds: float) -> None:
        """Count it out again, with the figures that it was counted in with."""
        self.rows = max(self.rows - rows, 0)
        self.tasks = max(self.tasks - 1, 0)
        # an idle node owes nothing: sums of fractions do not come back to zero by themselves
        self.backlog = max(self.backlog - seconds, 0.0) if self.tasks else 0.0
        if not self.tasks:
            self.given = 0.0

    def hold(self, model: str, size: int | None) -> None:
        """Note that a model is loaded and takes `size` bytes, or, with None, that it is not."""
        self.used -= self.loaded.pop(model, 0)
        if size is not None:
            self.loaded[model] = size
            self.used += size


@dataclass(frozen=True, slots=True)
class Needs:
    """What a node must have for a model.

    Attributes
    ----------
    resources : tuple of (name, amount)
    labels : tuple of (name, value)
    memory : int
        Bytes of the loaded model; 0 where that is not known.
    """

    resources: tuple[tuple[str, float], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    memory: int = 0

    @classmethod
    def of(cls, resources: Mapping[str, float], labels: Mapping[str, str], memory: int) -> Needs:
        """The same needs for the same mappings, whatever their order."""
        return cls(tuple(sorted(resources.items())), tuple(sorted(labels.items())), memory)


@dataclass(slots=True)
class Asked:
    """A piece of work that looks for a node.

    Attributes
    ----------
    model : str
        Digits of the model's fingerprint.
    needs : Needs
    rows : int
    exclude : frozenset of str
        Addresses of nodes on which it failed.
    local : mapping of str to int
        Bytes of its inputs that are at an address already.
    bytes : int
        Of all its inputs that are results of tasks, or scattered.
    bandwidth : float
        Bytes per second between workers.
    now : float
        Time of the decision, seconds.
    """

    model: str
    needs: Needs
    rows: int = 1
    exclude: frozenset[str] = frozenset()
    local: Mapping[str, int] = field(default_factory=dict)
    bytes: int = 0
    bandwidth: float = 1e8
    now: float = 0.0


def refusal(needs: Needs, node: Node) -> str | None:
    """Why `node` cannot serve something with these `needs`, as it stands; None where it can."""
    if not node.available:
        return node.absence or "it is not taking work"
    if node.barred:
        return node.barred
    for resource, amount in needs.resources:
        declared = node.resources.get(resource, 0.0)
        if declared < amount:
            return f"it declares {resource}={declared:g} and {resource}={amount:g} is needed"
    for label, value in needs.labels:
        has = node.labels.get(label)
        if has is None:
            return f"it has no label {label}={value}"
        if has != value:
            return f"its label {label}={has} is not {label}={value}"
    if node.memory is not None and needs.memory > node.memory:
        takes = -(-needs.memory // MIB)  # rounded up, or a model may seem to fit
        return f"its models may take {node.memory // MIB} MiB and the model takes {takes} MiB"
    return None
