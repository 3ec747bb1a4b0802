"""The protocol between a model host and what actually predicts.

A runtime turns a `ModelSpec` into something that predicts: load, prepare rows, predict a batch,
unload, memory in bytes. One file each; a new one needs nothing but a class of this shape and an
entry point in the group ``altlas_flow.runtimes``. Importing a runtime's module must be cheap:
heavy libraries are imported in `load`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from altlas_flow.models.spec import ModelSpec


@dataclass
class Prepared:
    """Rows made ready for batching, once.

    Attributes
    ----------
    items : sequence
        What `Runtime.predict` takes, one for each row, in the order of the rows. What stands at
        the place of a faulty row is never looked at.
    costs : numpy.ndarray of int64, shape (rows,), or None
        Tokens of each row; None where rows have no tokens and each costs 1.
    faults : dict of int to Exception
        Rows that cannot be predicted (wrong type, null), by position.
    truncated : int
        Rows that were longer than the model reads, and were cut.
    """

    items: Sequence[Any]
    costs: np.ndarray | None = None
    faults: dict[int, Exception] = field(default_factory=dict)
    truncated: int = 0


class Control(Protocol):
    """What a runtime asks and hands out between the steps of a batch; by positions in the batch."""

    def wanted(self, position: int) -> bool:
        """Whether anybody still wants that row's answer; once it says no, it goes on to."""

    def emit(self, position: int, piece: str) -> None:
        """Hand out the next piece of that row's answer; all pieces together are the answer."""


class Unwatched:
    """The `Control` of a batch that goes to its end, and of which nobody reads pieces."""

    def wanted(self, position: int) -> bool:
        """Yes."""
        return True

    def emit(self, position: int, piece: str) -> None:
        """Nobody listens."""


class Runtime(Protocol):
    """What a host needs of an engine. All methods may be called from any thread.

    `predict` is called by one thread at a time for each slot of the host, so several threads may
    predict with one loaded model; `load` and `unload` are called once each.

    A runtime that computes exactly the tokens of its rows says so with an attribute ``pads = False``;
    without it, a batch counts as padded to its longest row. One whose answers have other types with other
    parameters has a method ``types_for(parameters)`` beside `output_types`. One that works on files names in
    ``path_tasks`` the tasks for which a plain text is a path: it gets the bytes.

    A batch that fails is predicted again. A runtime whose `predict` neither writes into its items nor keeps
    what it answers with says so with an attribute ``writes = False``, and gets the items themselves; without
    it, copies of what can be written into.

    One that answers step by step has another method, ``predict_steps(items, parameters, control)``, which
    is called in place of `predict`: between its steps it asks the `Control` which rows are still wanted, and
    leaves out those that are not (what it answers for them is dropped); texts it hands out piece by piece.
    """

    #: names of the parameters that `predict` knows; None: it takes any (a callable's ``**kwargs``)
    known_parameters: ClassVar[frozenset[str] | None]

    def __init__(self, spec: ModelSpec, *, device: str = "cpu") -> None: ...

    def check_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Raise `ParameterError`, naming the known ones, where a parameter is not known."""

    def load(self) -> None:
        """Load the weights. Raises `UnsafeModel`, `OSError`, or what the engine raises."""

    def prepare(self, rows: Sequence[Any], parameters: Mapping[str, Any]) -> Prepared:
        """Check and tokenise rows, once; a bad row becomes a fault, it never raises for it."""

    def predict(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> np.ndarray | list[Any]:
        """Predict one batch of prepared items; the answer has one entry for each, in order."""

    def output_types(self) -> dict[str, pa.DataType] | None:
        """Arrow types of an answer, by column; None where only an answer can tell."""

    def unload(self) -> None:
        """Let go of the weights."""

    def memory(self) -> int:
        """Bytes that the loaded weights take."""
