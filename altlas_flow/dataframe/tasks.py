"""What runs on workers for a model over a DataFrame: predict some rows of a chunk, write a part.

Reading, predicting and writing are Dask tasks of their own, so that a model's needs restrict only the
prediction, and reading and writing run anywhere; where a model needs nothing that not every worker has,
one task does all three. A prediction never raises for a row: it puts the row aside as a dead letter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from distributed import get_worker, secede

from altlas_flow.cluster.packed import Packed
from altlas_flow.cluster.worker.plugin import current_host, current_plugin, still_wanted
from altlas_flow.dataframe.answers import Ask, Bad, Predicted, Receipt, assemble, named_letters
from altlas_flow.dataframe.attempts import write_attempt
from altlas_flow.dataframe.columns import infer_types
from altlas_flow.dataframe.rows import Rows, read_rows, taken
from altlas_flow.dataframe.sources import Chunk
from altlas_flow.errors import InputError, located
from altlas_flow.models.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Predict(Ask):
    """How to predict the rows of a table with a model.

    Attributes
    ----------
    spec : ModelSpec
    parameters : mapping
    batch : int or "auto", optional
    """

    spec: ModelSpec
    parameters: Mapping[str, Any] = field(default_factory=dict)
    batch: Literal["auto"] | int | None = None


def predict_rows(
    rows: Rows | Packed,
    start: int,
    stop: int,
    what: Predict,
    then: Callable[[Predicted, Ask], Any] | None = None,
) -> Any:
    """Predict rows `start` to `stop` of `rows`; takes a slot of the worker's host.

    Returns
    -------
    Predicted
        Or what `then` makes of it.

    Raises
    ------
    BadRow
        With ``on_error="raise"``, for the first bad row.
    ModelLoadError, UnsafeModel, ParameterError, HostClosed
        Where the model cannot be used at all.
    """
    plugin, worker = current_plugin(), get_worker()
    host, key = plugin.host, str(worker.get_current_task())
    part = taken(rows).part(start, stop)
    # Out of the thread pool before any waiting: those who read, write or ask for one prediction need
    # the pool's threads. What runs here is bounded by who sends it.
    secede()
    assert host is not None
    with host.parts:
        predicted = predict_part(part, what, host, str(worker.name))
    plugin.told(key, part.count, predicted.stats["predict_s"])
    return predicted if then is None else then(predicted, what)


def predict_part(part: Rows, what: Predict, host: Any, node: str) -> Predicted:
    """Predict all rows of a part with a host."""
    inputs, positions, faults = what.input.rows(part.table)
    started = time.perf_counter()
    # a host that has the model from another spec knows that one's batch size
    batch = what.spec.batch if what.batch is None else what.batch
    result = host.predict(
        what.spec,
        inputs,
        parameters=what.parameters,
        batch=batch,
        wanted=still_wanted(),
        traces=None if what.trace is None else [what.trace] * len(inputs),
    )
    seconds = time.perf_counter() - started
    for index, error in result.errors.items():
        faults[int(positions[index])] = error
    answers = result.outputs
    if result.errors:
        kept = [i for i in range(len(inputs)) if i not in result.errors]
        answers = answers[kept] if isinstance(answers, np.ndarray) else [answers[i] for i in kept]
        positions = [int(positions[i]) for i in kept]
    described = what.types or host.describe(what.spec, what.parameters)["types"]
    types = described or infer_types(answers, "prediction")

    def bad(error: Exception, phase: str = "predict") -> Bad:
        # where it failed: at its input, in the model, or at its output
        where = "input" if phase == "predict" and isinstance(error, InputError) else phase
        return Bad(where, located(error), type(error).__name__, what.spec.id, node)

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
    return assemble(
        part,
        what,
        answers,
        positions,
        {row: bad(error) for row, error in faults.items()},
        types=types,
        misfit=lambda index, error: bad(error, "output"),
        node=node,
        stats=stats,
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
    letters = named_letters(predicted.dead) if dead is not None else ()
    return Receipt(attempt, dead, predicted.rows_in, predicted.stats, schema, predicted.passed, letters)


def make_part(chunk: Chunk, what: Predict, folder: Path, part: str) -> Receipt:
    """Read a chunk, predict it and write it, where it is one part and every worker may have the model.

    Rows do not travel, and the scheduler has one task to think of, not three.
    """
    rows = read_rows(chunk)
    return write_part(predict_rows(rows, 0, chunk.rows, what), folder, part)
