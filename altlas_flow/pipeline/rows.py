"""What passes from stage to stage: an outcome for each row, and notes of how it came about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from altlas_flow.errors import AltlasError
from altlas_flow.models.copies import CONSTANT
from altlas_flow.models.copies import writable as writable

#: Why a stage did not run for a row.
SKIPPED = "skipped: when= said no"
FOLLOWS = "skipped: all that it depends on was"


@dataclass(frozen=True)
class Fault:
    """Why a row has no output, and where it failed first.

    Attributes
    ----------
    stage : str
    model : str
    node : str
    error : AltlasError
    phase : str
        ``input`` (of the stage) or ``predict``.
    """

    stage: str
    model: str
    node: str
    error: AltlasError
    phase: str = "predict"


@dataclass
class Note:
    """How a stage came by its outputs.

    Attributes
    ----------
    model, node : str
    rows : int
        That were predicted here.
    cached : frozenset of int
        Rows whose answers were known.
    skipped : mapping of int to str
        Rows that the stage was not done for, and why.
    forgiven : mapping of int to Fault
        Rows that failed at an optional stage.
    began : float
        Seconds since the epoch, of its node's clock.
    seconds, queue, load : float
        That it took on its node; that it waited there for a slot before; that loading the model took.
    tries : int
    trace : mapping
        Why it went where it went.
    stats : mapping
        Tokens, padding and batch budget, for the report of a job.
    """

    model: str
    node: str
    rows: int = 0
    cached: frozenset[int] = frozenset()
    skipped: Mapping[int, str] = field(default_factory=dict)
    forgiven: Mapping[int, Fault] = field(default_factory=dict)
    began: float = 0.0
    seconds: float = 0.0
    queue: float = 0.0
    load: float = 0.0
    tries: int = 1
    trace: Mapping[str, Any] = field(default_factory=dict)
    stats: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class StageRows:
    """Outputs of a stage, one for each row of the piece that travels through the pipeline.

    Attributes
    ----------
    outputs : list or numpy.ndarray of length rows
        None, or nothing that means anything, at rows that failed or were skipped.
    faults : dict of int to Fault
        Rows that failed here or before.
    skipped : frozenset of int
        Rows that this stage was not done for.
    notes : dict of str to Note
        Of this stage, and of all before it.
    """

    outputs: list[Any] | np.ndarray
    faults: dict[int, Fault] = field(default_factory=dict)
    skipped: frozenset[int] = frozenset()
    notes: dict[str, Note] = field(default_factory=dict)

    @classmethod
    def failed(cls, count: int, fault: Fault, *, optional: bool, notes: Mapping[str, Note]) -> StageRows:
        """Where a whole stage failed; an optional one has None for each row."""
        faults = dict.fromkeys(range(count), fault)
        note = Note(fault.model, fault.node, forgiven=faults if optional else {})
        return cls([None] * count, {} if optional else faults, notes={**notes, fault.stage: note})

    def copied(self) -> StageRows:
        """The same with outputs that may be written into."""
        outputs = self.outputs
        if isinstance(outputs, np.ndarray):
            outputs = outputs.copy()
        elif not set(map(type, outputs)) <= CONSTANT:
            outputs = [writable(value) for value in outputs]
        return replace(self, outputs=outputs)

    def __len__(self) -> int:
        return len(self.outputs)

    def __sizeof__(self) -> int:
        from dask.sizeof import sizeof

        return int(object.__sizeof__(self) + sizeof(self.outputs))


def together(upstream: Iterable[StageRows]) -> dict[str, Note]:
    """Notes of all that came before."""
    found: dict[str, Note] = {}
    for one in upstream:
        found.update(one.notes)
    return found


@dataclass
class Taken:
    """What a stage gets: the rows that it is to be done for, and what becomes of the others."""

    values: Sequence[Any] | np.ndarray
    at: Sequence[int]
    faults: dict[int, Fault]
    skipped: dict[int, str]


def take(labels: Sequence[str], upstream: Sequence[StageRows], *, optional: bool = False) -> Taken:
    """Outputs of the stages before as the inputs of one: alone as they are, several as a dict by name.

    A row that failed before fails here, with the same fault; one that all of them skipped is skipped.
    """
    count = len(upstream[0])
    faults: dict[int, Fault] = {}
    for one in upstream:
        for row, fault in one.faults.items():
            faults.setdefault(row, fault)
    gone = frozenset.intersection(*(one.skipped for one in upstream))
    skipped = dict.fromkeys((row for row in gone if row not in faults), FOLLOWS)
    at: Sequence[int] = range(count)
    if faults or skipped:
        at = [row for row in at if row not in faults and row not in skipped]
    if len(upstream) > 1:
        columns = [one.outputs for one in upstream]
        values: Any = [dict(zip(labels, (column[row] for column in columns), strict=True)) for row in at]
    elif len(at) == count:
        values = upstream[0].outputs
    else:
        values = [upstream[0].outputs[row] for row in at]
    return Taken(values, at, faults, skipped)
