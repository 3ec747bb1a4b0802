"""What runs on workers for a pipeline over a DataFrame: rows for its stages, and their outcomes as columns.

The stages between are tasks of the pipeline's own. None raises for a row: what failed at any of them, unless
that one is optional, is put aside as a dead letter that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from distributed import get_worker

from altlas_flow.cluster.packed import Packed
from altlas_flow.dataframe.answers import Answers, Ask, Bad, Passed, Predicted, assemble
from altlas_flow.dataframe.columns import Input, infer_types, to_columns
from altlas_flow.dataframe.rows import Rows, taken
from altlas_flow.errors import AltlasError, InputError, SpecError, describe, located
from altlas_flow.pipeline.flat import may_fail
from altlas_flow.pipeline.rows import Fault, Note, StageRows, together
from altlas_flow.pipeline.stage import INPUT


@dataclass(frozen=True, kw_only=True)
class Through(Ask):
    """How rows of a table go through a pipeline.

    Attributes
    ----------
    ends : mapping of str to str
        The pipeline's outputs: their names, and the steps that make them.
    models : mapping of str to str
        Ids of the models, by step, each after those that it needs.
    optional : frozenset of str
        Steps, and stages that are pipelines, which may fail.
    takes : tuple of str
        Whose outcomes `collect` takes: those of the ends, and of all last steps.
    last : tuple of str
        The last steps.
    """

    kind: ClassVar[str] = "pipeline"
    recipe: ClassVar[str] = "Pipeline"
    first: ClassVar[str | None] = INPUT

    ends: Mapping[str, str]
    models: Mapping[str, str]
    optional: frozenset[str]
    takes: tuple[str, ...]
    last: tuple[str, ...]


def inputs_of(rows: Rows | Packed, start: int, stop: int, input: Input, name: str) -> StageRows:
    """What of rows `start` to `stop` the pipeline of that name is given."""
    table = taken(rows).part(start, stop).table
    inputs, positions, faults = input.rows(table)
    if not faults:
        return StageRows(inputs)
    outputs: list[Any] = [None] * table.num_rows
    for row, value in zip(positions, inputs, strict=True):
        outputs[row] = value
    node = str(get_worker().name)
    return StageRows(outputs, {row: Fault(INPUT, name, node, _typed(e), INPUT) for row, e in faults.items()})


def finish(
    rows: Rows | Packed,
    start: int,
    stop: int,
    what: Through,
    then: Callable[..., Any],
    args: tuple[Any, ...],
    *results: Any,
) -> Any:
    """What `then` makes of the rows with the outcomes of their stages.

    Parameters
    ----------
    rows, start, stop
        See `inputs_of`.
    what : Through
    then : callable
        Gets the `Predicted` and `args`.
    *results : StageRows
        Of the steps that `what.takes` names.

    Raises
    ------
    BadRow
        With ``on_error="raise"``, for the first bad row.
    """
    return then(collect(taken(rows).part(start, stop), what, results, str(get_worker().name)), *args)


def collect(part: Rows, what: Through, results: Sequence[StageRows], node: str) -> Predicted:
    """Outcomes of stages beside the rows of a part."""
    found = dict(zip(what.takes, results, strict=True))
    faults = lasting_faults(results, what)
    rows = (
        [row for row in range(part.table.num_rows) if row not in faults]
        if faults
        else range(part.table.num_rows)
    )
    answers, types = _answers(what, found, rows, part)

    def misfit(index: int, error: Exception) -> Bad:
        stage = _at_fault(what, answers[index], types)
        return Bad(
            "output", located(error), type(error).__name__, what.models.get(stage, what.name), node, stage
        )

    notes = together(results)
    ends = tuple(_brief(found[name].faults) for name in what.last)
    predicted = assemble(
        part,
        what,
        answers,
        rows,
        {row: _bad(fault) for row, fault in faults.items()},
        types=types,
        misfit=misfit,
        node=node,
        stats=_stats(notes, node),
    )
    predicted.passed = Passed(part.table.num_rows, ends, {name: _light(note) for name, note in notes.items()})
    return predicted


def lasting_faults(results: Sequence[StageRows], what: Through) -> dict[int, Fault]:
    """Rows that failed where that counts, each at the first such stage.

    An optional stage gives None for a row that failed before it; the row has failed there all the same.
    """
    order = {name: place for place, name in enumerate((INPUT, *what.models))}
    found: dict[int, Fault] = {}

    def add(row: int, fault: Fault) -> None:
        known = found.get(row)
        if known is None or order.get(fault.stage, -1) < order.get(known.stage, -1):
            found[row] = fault

    for one in results:
        for row, fault in one.faults.items():
            add(row, fault)
    for note in together(results).values():
        for row, fault in note.forgiven.items():
            if not may_fail(fault.stage, what.optional):
                add(row, fault)
    return found


def _answers(
    what: Through, found: Mapping[str, StageRows], rows: Sequence[int], part: Rows
) -> tuple[Answers, Mapping[str, pa.DataType]]:
    """Answers of rows, and their types; where the last stage was skipped for a row, that is no answer."""
    if len(what.ends) > 1:
        columns = {name: found[step].outputs for name, step in what.ends.items()}
        answers: Answers = [{name: _flat(column[row]) for name, column in columns.items()} for row in rows]
        if what.types is not None:
            return answers, what.types
        types: dict[str, pa.DataType] = {}
        for name in columns:
            at = [place for place, answer in enumerate(answers) if answer[name] is not None]
            known = [{name: answers[place][name]} for place in at] or [{name: None}]
            learnt = _learnt(known, name, what.ends[name], part, [rows[place] for place in at])
            types[name] = next(iter(learnt.values()))
        return answers, types
    (step,) = what.ends.values()
    end = found[step]
    outputs = end.outputs
    if len(rows) == len(outputs):
        answers = outputs
    else:
        answers = outputs[rows] if isinstance(outputs, np.ndarray) else [outputs[row] for row in rows]
    missing = end.skipped.union(end.notes[step].forgiven)
    blank = [place for place, row in enumerate(rows) if row in missing] if missing else []
    if not blank:
        return answers, what.types or _learnt(answers, "prediction", step, part, rows)
    without = set(blank)
    answers = [None if place in without else _flat(answer) for place, answer in enumerate(answers)]
    at = [place for place in range(len(answers)) if place not in without]
    known = [answers[place] for place in at]
    learnt = what.types or _learnt(known, "prediction", step, part, [rows[place] for place in at])
    if len(learnt) > 1 or any(isinstance(answer, Mapping) for answer in known):
        for place in blank:
            answers[place] = dict.fromkeys(learnt)
    return answers, learnt


def _learnt(
    answers: Answers, default: str, step: str, part: Rows, rows: Sequence[int]
) -> Mapping[str, pa.DataType]:
    """Types of a step's answers to rows of a part.

    Raises
    ------
    SpecError
        Its text names the step, and the first row whose answer does not go with that to the first one.
    """
    try:
        return infer_types(answers, default)
    except SpecError as error:
        where = f"stage {step!r}"
        for place, row in enumerate(rows):
            try:
                infer_types([answers[0], answers[place]], default)
            except SpecError:
                where += f", row {part.row_id(row)}"
                break
        raise SpecError(f"{where}: {error}") from error


def _flat(answer: Any) -> Any:
    """A matrix as a column has it; beside one that is missing, Arrow would not take it as it is."""
    return answer.reshape(-1) if isinstance(answer, np.ndarray) and answer.ndim > 1 else answer


def _at_fault(what: Through, answer: Any, types: Mapping[str, pa.DataType]) -> str:
    """The step whose output does not fit."""
    if len(what.ends) > 1:
        for name, step in what.ends.items():
            if name in types and to_columns([{name: answer[name]}], {name: types[name]})[1]:
                return step
    return next(iter(what.ends.values()))


def _bad(fault: Fault) -> Bad:
    kind = next(iter(fault.error.kinds), type(fault.error).__name__)
    return Bad(fault.phase, describe(fault.error), kind, fault.model, fault.node, fault.stage)


def _typed(error: Exception) -> AltlasError:
    return error if isinstance(error, AltlasError) else InputError(describe(error))


def _brief(faults: Mapping[int, Fault]) -> dict[int, Fault]:
    """The first fault of each stage for all rows that failed there: the others stand in the dead letters."""
    firsts: dict[str, Fault] = {}
    return {row: firsts.setdefault(fault.stage, fault) for row, fault in faults.items()}


def _light(note: Note) -> Note:
    # a copy: what a worker keeps may be asked for again
    return replace(note, forgiven=_brief(note.forgiven), trace={})


def _stats(notes: Mapping[str, Note], node: str) -> dict[str, Any]:
    """What the stages took together."""
    stats = [note.stats for note in notes.values() if note.stats]
    sums = {key: sum(one[key] for one in stats) for key in ("tokens", "padded", "truncated", "predict_s")}
    return {
        "node": node,
        **sums,
        "load_s": max((one["load_s"] for one in stats), default=0.0),
        "wait_s": sum(note.queue for note in notes.values()),
        "budget": 0,  # each stage has its own
        "rows_limit": True,
        "settled": all(one["settled"] for one in stats),
    }
