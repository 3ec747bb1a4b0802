"""What runs on workers for a DataFrame: read a chunk, predict some of its rows, write a part.

Each is a Dask task of its own, so that a model's needs restrict only the prediction, and reading
and writing run anywhere; where a model needs nothing that not every worker has, one task does all three.
A prediction never raises for a row: it puts the row aside as a dead letter.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from distributed import get_worker, secede

from altlas_flow.cluster.worker.plugin import current_host, current_plugin, still_wanted
from altlas_flow.dataframe.arrow import CarriesTables
from altlas_flow.dataframe.attempts import DEAD_LETTER_SCHEMA, Attempt, write_attempt
from altlas_flow.dataframe.columns import Input, infer_types, output_names, to_columns
from altlas_flow.dataframe.readers import read_chunk
from altlas_flow.dataframe.sources import Chunk
from altlas_flow.errors import BadRow, InputError, SpecError, located
from altlas_flow.models.spec import ModelSpec
from altlas_flow.models.types import declared_types

#: Characters of a bad input that a dead letter keeps.
EXCERPT = 200


@dataclass(frozen=True)
class Predict:
    """How to predict the rows of a table.

    Attributes
    ----------
    spec : ModelSpec
    input : Input
    output : str or None
        The name that the user wants for the first output column.
    types : dict of str to pyarrow.DataType, optional
        Of the answers, by key; None: learnt from the answers themselves.
    learnt : bool
        Whether `types` were learnt from the first rows, and may be too narrow for others.
    """

    spec: ModelSpec
    input: Input
    output: str | None = None
    types: Mapping[str, pa.DataType] | None = None
    learnt: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    batch: Literal["auto"] | int | None = None
    on_error: Literal["raise", "collect"] = "collect"

    def names(self) -> tuple[str, ...]:
        """Names of the columns that are added."""
        assert self.types is not None
        return output_names(list(self.types), self.output)


@dataclass
class Rows(CarriesTables):
    """Rows as a task holds them: a table, where they come from, and what was bad on reading.

    Attributes
    ----------
    table : pyarrow.Table
    source : str
        Shown in row ids.
    positions : numpy.ndarray of int64, optional
        Row numbers within the source; None: consecutive from `first_row`.
    bad : list of (int, str, str)
        Row number within the source, error, excerpt: rows that could not be read.
    """

    table: pa.Table
    source: str
    first_row: int = 0
    positions: np.ndarray | None = None
    bad: list[tuple[int, str, str]] = field(default_factory=list)

    def number(self, position: int) -> int:
        """Number within the source of the row at a position of the table."""
        return self.first_row + position if self.positions is None else int(self.positions[position])

    @property
    def count(self) -> int:
        """Rows as they stand in the source, bad ones included."""
        return int(self.table.num_rows) + len(self.bad)

    def row_id(self, position: int) -> str:
        """How dead letters name the row at a position of the table."""
        return f"{self.source}:{self.number(position)}"

    def part(self, start: int, stop: int) -> Rows:
        """Rows from `start` to `stop`, counted as they stand in the source, bad ones included."""
        low, high = self.first_row + start, self.first_row + stop
        bad = [row for row in self.bad if low <= row[0] < high]
        if self.positions is None:
            return Rows(self.table.slice(start, stop - start), self.source, low, None, bad)
        first, last = np.searchsorted(self.positions, [low, high])
        table = self.table.slice(int(first), int(last - first))
        return Rows(table, self.source, low, self.positions[first:last], bad)


@dataclass
class Predicted(CarriesTables):
    """A predicted part: the good rows with their answers, the dead letters, and what it took."""

    table: pa.Table
    dead: pa.Table
    rows_in: int
    stats: dict[str, Any]
    types: Mapping[str, pa.DataType] = field(default_factory=dict)


@dataclass(frozen=True)
class Probe:
    """What was learnt from some rows: types of the answers (None: no row has one), and the first fault."""

    types: dict[str, pa.DataType] | None
    rows_in: int
    fault: str | None


@dataclass(frozen=True)
class Receipt:
    """What the client learns of a written part; no rows."""

    attempt: Attempt
    dead: Attempt | None
    rows_in: int
    stats: dict[str, Any]
    schema: pa.Schema


def read_rows(chunk: Chunk) -> Rows:
    """Read one chunk of a source file."""
    table, bad, positions = read_chunk(chunk)
    first = chunk.first_row
    return Rows(
        table,
        chunk.name,
        first,
        None if positions is None else positions + first,
        [(first + row, error, excerpt) for row, error, excerpt in bad],
    )


def predict_rows(rows: Rows, start: int, stop: int, what: Predict) -> Predicted:
    """Predict rows `start` to `stop` of `rows`; takes a slot of the worker's host.

    Raises
    ------
    BadRow
        With ``on_error="raise"``, for the first bad row.
    ModelLoadError, UnsafeModel, ParameterError, HostClosed
        Where the model cannot be used at all.
    """
    plugin, worker = current_plugin(), get_worker()
    host, key = plugin.host, str(worker.get_current_task())
    part = rows.part(start, stop)
    # Out of the thread pool before any waiting: those who read, write or ask for one prediction need
    # the pool's threads. What runs here is bounded by who sends it.
    secede()
    assert host is not None
    with host.parts:
        predicted = predict_part(part, what, host, str(worker.name))
    plugin.told(key, part.count, predicted.stats["predict_s"])
    return predicted


def probe_rows(rows: Rows, start: int, stop: int, what: Predict) -> Probe:
    """Predict some rows for the types of their answers; otherwise as `predict_rows`."""
    predicted = predict_rows(rows, start, stop, what)
    fault = predicted.dead["error"][0].as_py() if predicted.dead.num_rows else None
    return Probe(dict(predicted.types) if predicted.table.num_rows else None, predicted.rows_in, fault)


def predict_part(part: Rows, what: Predict, host: Any, node: str) -> Predicted:
    """Predict all rows of a part with a host."""
    model = what.spec.id
    inputs, positions, faults = what.input.rows(part.table)
    started = time.perf_counter()
    # a host that has the model from another spec knows that one's batch size
    batch = what.spec.batch if what.batch is None else what.batch
    result = host.predict(what.spec, inputs, parameters=what.parameters, batch=batch, wanted=still_wanted())
    seconds = time.perf_counter() - started
    for index, error in result.errors.items():
        faults[int(positions[index])] = error
    answers = result.outputs
    if result.errors:
        kept = [i for i in range(len(inputs)) if i not in result.errors]
        answers = answers[kept] if isinstance(answers, np.ndarray) else [answers[i] for i in kept]
        positions = [int(positions[i]) for i in kept]
    types = (
        what.types or host.describe(what.spec, what.parameters)["types"] or learn_types(what.spec, answers)
    )
    arrays, misfits = to_columns(answers, types)
    if misfits and what.learnt:
        refuse_narrow(what.spec, types, answers)
    misfit_rows = {int(positions[index]) for index in misfits}
    faults.update((int(positions[index]), error) for index, error in misfits.items())
    if misfits:
        fitting = pa.array([i for i in range(len(positions)) if i not in misfits], pa.int64())
        arrays = {key: array.take(fitting) for key, array in arrays.items()}
    table = part.table
    if faults:
        table = table.take(pa.array([i for i in range(table.num_rows) if i not in faults], pa.int64()))
    for name, array in zip(output_names(list(types), what.output), arrays.values(), strict=True):
        if name in table.column_names:
            table = table.drop_columns([name])
        table = table.append_column(name, array)
    dead = _dead_letters(part, what, faults, misfit_rows, node)
    if dead.num_rows and what.on_error == "raise":
        first = dead.slice(0, 1).to_pylist()[0]
        raise BadRow(first["row_id"], first["phase"], model, first["error"])
    stats = {
        "node": node,
        "tokens": result.tokens,
        "padded": result.padded,
        "truncated": result.truncated,
        "predict_s": result.predict_s,
        "load_s": result.load_s,
        "wait_s": seconds - result.predict_s,
        "budget": result.budget,
        "rows_limit": batch != "auto",
        "settled": result.settled,
    }
    return Predicted(table, dead, part.count, stats, types)


def _dead_letters(
    part: Rows, what: Predict, faults: Mapping[int, Exception], misfits: set[int], node: str
) -> pa.Table:
    """The rows put aside, in the order of the input: unread ones, and those of the table with `faults`."""
    letters = [
        (row, f"{part.source}:{row}", "read", error, "SourceError", excerpt)
        for row, error, excerpt in part.bad
    ]
    for row, error in faults.items():
        # where it failed: at its input, in the model, or at its output
        phase = "output" if row in misfits else "input" if isinstance(error, InputError) else "predict"
        excerpt = _excerpt(part.table, what.input, row)
        letters.append(
            (part.number(row), part.row_id(row), phase, located(error), type(error).__name__, excerpt)
        )
    letters.sort(key=lambda letter: letter[0])
    columns = list(zip(*letters, strict=True)) or [()] * 6
    _, row_ids, phases, errors, kinds, inputs = columns
    count = len(letters)
    return pa.table(
        [row_ids, phases, errors, kinds, [what.spec.id] * count, [node] * count, inputs],
        schema=DEAD_LETTER_SCHEMA,
    )


def learn_types(spec: ModelSpec, answers: np.ndarray | list[Any]) -> dict[str, pa.DataType]:
    """Types of the answers: as the spec declares them, or as they are."""
    if spec.outputs:
        return declared_types(spec.outputs)
    return infer_types(answers, "prediction")


def refuse_narrow(spec: ModelSpec, types: Mapping[str, pa.DataType], answers: Any) -> None:
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
            f"model {spec.id!r}: its first answers were {', '.join(str(types[key]) for key in wider)}, "
            f"later ones are {', '.join(wider.values())}: declare the type that fits all, as in "
            f"ModelSpec(outputs={wider})"
        )


def describe_model(spec: ModelSpec, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Load the model on this worker; what it answers with (see `ModelHost.describe`)."""
    host = current_host()
    secede()
    return host.describe(spec, parameters)


def write_part(predicted: Predicted, folder: Path, part: str) -> Receipt:
    """Write a part aside, and its dead letters; the job's owner commits them."""
    attempt = write_attempt(predicted.table, folder, part)
    dead = write_attempt(predicted.dead, folder, f"dead-{part}") if predicted.dead.num_rows else None
    schema = predicted.table.schema.remove_metadata()
    return Receipt(attempt, dead, predicted.rows_in, predicted.stats, schema)


def make_part(chunk: Chunk, what: Predict, folder: Path, part: str) -> Receipt:
    """Read a chunk, predict it and write it, where it is one part and every worker may have the model.

    Rows do not travel, and the scheduler has one task to think of, not three.
    """
    rows = read_rows(chunk)
    return write_part(predict_rows(rows, 0, chunk.rows, what), folder, part)


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
