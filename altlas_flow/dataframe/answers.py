"""What is asked for the rows of a table, and how answers and faults become columns and dead letters.

The same for a model and for a pipeline; runs on workers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from altlas_flow.dataframe.arrow import CarriesTables
from altlas_flow.dataframe.attempts import DEAD_LETTER_SCHEMA, Attempt
from altlas_flow.dataframe.columns import Input, infer_types, output_names, to_columns
from altlas_flow.dataframe.rows import Rows
from altlas_flow.errors import BadRow, SpecError, one_line
from altlas_flow.pipeline.rows import Fault, Note, StageRows
from altlas_flow.tracing import Carrier

#: Characters of a bad input that a dead letter keeps.
EXCERPT = 200

Answers = np.ndarray | list[Any]


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What is asked for the rows of a table, and what becomes of the answers.

    Attributes
    ----------
    name : str
        Id of the model or the pipeline.
    input : Input
    output : str or None
        The name that the user wants for the first output column.
    types : dict of str to pyarrow.DataType, optional
        Of the answers, by key; None: learnt from the answers themselves.
    learnt : bool
        Whether `types` were learnt from the first rows, and may be too narrow for others.
    trace : Carrier, optional
        Context of the job, where that is traced.
    """

    kind: ClassVar[str] = "model"
    recipe: ClassVar[str] = "ModelSpec"  # what the user declares types with
    first: ClassVar[str | None] = None  # where a row is before it has come to any stage

    name: str
    input: Input
    output: str | None = None
    types: Mapping[str, pa.DataType] | None = None
    learnt: bool = False
    on_error: Literal["raise", "collect"] = "collect"
    trace: Carrier | None = None

    def names(self) -> tuple[str, ...]:
        """Names of the columns that are added."""
        assert self.types is not None
        return output_names(list(self.types), self.output)

    def declare(self, outputs: Mapping[str, str] | None = None) -> str:
        """How a user declares types."""
        shown = '{"prediction": "string"}' if outputs is None else repr(dict(outputs))
        return f"{self.recipe}(outputs={shown})"


class Bad(NamedTuple):
    """Why a row has no answer, as a dead letter says it."""

    phase: str
    error: str
    kind: str
    model: str
    node: str
    stage: str | None = None


@dataclass(frozen=True)
class Passed:
    """How a part went through the stages of a pipeline; no rows.

    Attributes
    ----------
    rows : int
    faults : tuple of dict of int to Fault
        Rows that failed, for each of the last steps.
    notes : dict of str to Note
        Of all steps.
    """

    rows: int
    faults: tuple[Mapping[int, Fault], ...]
    notes: Mapping[str, Note]

    def ends(self) -> list[StageRows]:
        """As the last steps returned it, without their outputs."""
        nothing = [None] * self.rows
        return [StageRows(nothing, dict(faults), notes=dict(self.notes)) for faults in self.faults]


@dataclass
class Predicted(CarriesTables):
    """A predicted part: the good rows with their answers, the dead letters, and what it took."""

    table: pa.Table
    dead: pa.Table
    rows_in: int
    stats: dict[str, Any]
    types: Mapping[str, pa.DataType] = field(default_factory=dict)
    passed: Passed | None = None


@dataclass(frozen=True)
class Probe:
    """What was learnt from some rows: types of the answers (None: no row has one), and the first fault.

    Attributes
    ----------
    types : dict of str to pyarrow.DataType or None
    rows_in : int
    fault, kind : str or None
        Its text, with the stage of a pipeline, and the name of its type.
    """

    types: dict[str, pa.DataType] | None
    rows_in: int
    fault: str | None
    kind: str | None = None


@dataclass(frozen=True)
class Receipt:
    """What the client learns of a written part; no rows, but the first of those put aside by their names."""

    attempt: Attempt
    dead: Attempt | None
    rows_in: int
    stats: dict[str, Any]
    schema: pa.Schema
    passed: Passed | None = None
    letters: tuple[dict[str, Any], ...] = ()


#: Dead letters of a part that its receipt names, what of each, and characters of that.
NAMED, FIELDS, LONG = 3, ("row_id", "stage", "error_type", "error", "node"), 500


def named_letters(dead: pa.Table) -> tuple[dict[str, Any], ...]:
    """The first dead letters of a part, for those who watch: no inputs are in them."""
    found = dead.slice(0, NAMED).select(list(FIELDS)).to_pylist()
    return tuple({name: one_line(value or "", LONG) for name, value in letter.items()} for letter in found)


def assemble(
    part: Rows,
    what: Ask,
    answers: Answers,
    positions: Any,
    faults: dict[int, Bad],
    *,
    types: Mapping[str, pa.DataType],
    misfit: Callable[[int, Exception], Bad],
    node: str,
    stats: dict[str, Any],
) -> Predicted:
    """Put answers beside the rows that they are of, and the other rows aside.

    Parameters
    ----------
    part : Rows
    what : Ask
    answers : numpy.ndarray or list
    positions : sequence of int
        Where in the part's table the rows of the answers stand.
    faults : dict of int to Bad
        The other rows of the table; it is added to.
    types : mapping of str to pyarrow.DataType
    misfit : callable
        Of the index of an answer that does not fit the types, and why: what is said of its row.
    node : str
        Where rows could not be read.
    stats : dict

    Raises
    ------
    BadRow
        With ``on_error="raise"``, for the first bad row.
    SpecError
        Where the types are too narrow for good answers.
    """
    arrays, misfits = to_columns(answers, types)
    if misfits:
        if what.learnt:
            refuse_narrow(what, types, answers)
        faults.update((int(positions[index]), misfit(index, error)) for index, error in misfits.items())
        fitting = pa.array([i for i in range(len(positions)) if i not in misfits], pa.int64())
        arrays = {key: array.take(fitting) for key, array in arrays.items()}
    table = part.table
    if faults:
        table = table.take(pa.array([i for i in range(table.num_rows) if i not in faults], pa.int64()))
    for name, array in zip(output_names(list(types), what.output), arrays.values(), strict=True):
        if name in table.column_names:
            table = table.drop_columns([name])
        table = table.append_column(name, array)
    dead = _dead_letters(part, what, faults, node)
    if dead.num_rows and what.on_error == "raise":
        first = dead.slice(0, 1).to_pylist()[0]
        raise BadRow(first["row_id"], first["phase"], first["model"], first["error"], first["stage"])
    return Predicted(table, dead, part.count, stats, types)


def _dead_letters(part: Rows, what: Ask, faults: Mapping[int, Bad], node: str) -> pa.Table:
    """The rows put aside, in the order of the input: unread ones, and those of the table with `faults`."""
    letters = [
        (row, f"{part.source}:{row}", excerpt, Bad("read", error, "SourceError", what.name, node, what.first))
        for row, error, excerpt in part.bad
    ]
    for row, bad in faults.items():
        excerpt = _excerpt(part.table, what.input, row)
        letters.append((part.number(row), part.row_id(row), excerpt, bad))
    letters.sort(key=lambda letter: letter[0])
    return pa.table(
        {
            "row_id": [row_id for _, row_id, _, _ in letters],
            "phase": [bad.phase for *_, bad in letters],
            "error": [bad.error for *_, bad in letters],
            "error_type": [bad.kind for *_, bad in letters],
            "model": [bad.model for *_, bad in letters],
            "node": [bad.node for *_, bad in letters],
            "input": [excerpt for _, _, excerpt, _ in letters],
            "stage": [bad.stage for *_, bad in letters],
        },
        schema=DEAD_LETTER_SCHEMA,
    )


def refuse_narrow(what: Ask, types: Mapping[str, pa.DataType], answers: Answers) -> None:
    """Refuse types of the first rows that these answers, by themselves good, show to be too narrow.

    Raises
    ------
    SpecError
        Its text says what to declare.
    """
    try:
        here = infer_types(answers, next(iter(types)))
    except SpecError:
        return  # answers of no one type: those that do not fit are at fault
    wider = {key: str(kind) for key, kind in here.items() if key in types and kind != types[key]}
    if wider:
        raise SpecError(
            f"{what.kind} {what.name!r}: its first answers were {', '.join(str(types[key]) for key in wider)}"
            f", later ones are {', '.join(wider.values())}: declare the type that fits all, as in "
            f"{what.declare(wider)}"
        )


def alone(predicted: Predicted, what: Ask) -> Predicted:
    """Without the columns that the answers were added to."""
    names = output_names(list(predicted.types), what.output)
    return Predicted(
        predicted.table.select(list(names)),
        predicted.dead,
        predicted.rows_in,
        predicted.stats,
        predicted.types,
        predicted.passed,
    )


def probed(predicted: Predicted, what: Ask) -> Probe:
    """The types of the answers, and the first fault."""
    types = dict(predicted.types) if predicted.table.num_rows else None
    if not predicted.dead.num_rows:
        return Probe(types, predicted.rows_in, None)
    [first] = predicted.dead.slice(0, 1).to_pylist()
    where = f"stage {first['stage']!r}: " if first["stage"] else ""
    return Probe(types, predicted.rows_in, where + first["error"], first["error_type"])


def _excerpt(table: pa.Table, columns: Input, row: int) -> str:
    """The start of a bad row's input, to recognise it by."""
    names = columns.needed()
    try:
        record = (table.select(names) if names else table).slice(row, 1).to_pylist()[0]
    except (ValueError, OverflowError, pa.ArrowException):
        return ""  # Python has no such value: the error says so
    value = next(iter(record.values())) if len(record) == 1 else record
    text = value if isinstance(value, str) else repr(value)
    return text[:EXCERPT]
