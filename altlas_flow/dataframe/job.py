"""A checkpointed job: rows from a source through a model into a folder of Parquet parts.

The client decides and commits, workers read, predict and write. Rows never pass through the client.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from distributed import Client, Future

from altlas_flow.cluster.keys import predict_key
from altlas_flow.dataframe.columns import Input, declared_types
from altlas_flow.dataframe.folder import Header, OutputFolder, PartRecord, read_header
from altlas_flow.dataframe.report import Progress, RunSummary, Tally
from altlas_flow.dataframe.tasks import (
    Predict,
    Receipt,
    describe_model,
    predict_rows,
    write_part,
)
from altlas_flow.dataframe.units import Part, Source, Unit, measure, open_source
from altlas_flow.dataframe.window import Window, eligible_slots
from altlas_flow.errors import AltlasError, ClusterLost, InputError, NothingPredicted, SpecError
from altlas_flow.models.runtimes import runtime_class
from altlas_flow.models.spec import ModelSpec
from altlas_flow.settings import Settings

#: Rows predicted ahead to learn the types of a function's answers.
PROBE_ROWS = 20
#: Parts that a short job is cut into, for each slot, and the fewest rows that make a part.
PARTS_PER_SLOT = 8
SMALLEST_PART = 64


@dataclass
class Job:
    """A model over a source, into a folder. `run` does it.

    Parameters
    ----------
    client : distributed.Client
    settings : Settings
    spec : ModelSpec
        Resolved.
    source : Any
        See `altlas_flow.Flow.run`.
    input : str, list of str, or callable
    output : str, optional
    parameters : mapping
    batch : int or "auto", optional
    on_error : "collect" or "raise"
    part_rows : int, optional
    """

    client: Client
    settings: Settings
    spec: ModelSpec
    source: Any
    input: Any
    output: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    batch: Literal["auto"] | int | None = None
    on_error: Literal["raise", "collect"] = "collect"
    part_rows: int | None = None

    def run(self, to: str | Path, *, progress: bool | None = None) -> RunSummary:
        """Do what is missing.

        Raises
        ------
        AltlasError
            Every one of its kinds has its place in `altlas_flow.errors`; what was committed stays.
        """
        started = time.monotonic()
        self.check()
        header = read_header(to)
        source = self.open(header.part_rows if header and self.part_rows is None else None)
        known = self._known_types(header)
        what = self.predict_task()
        digest = self.digest(what)
        types = known or self.learn_types(source, what)
        what = replace(what, types=types)
        header = Header(
            tuple(name for name in source.columns if name not in what.names()),
            what.names(),
            {"input": what.input.label(), "model": digest, "types": _pack(types)},
            self._cut,
        )
        summary = RunSummary(Path(to), str(self.spec))
        with ExitStack() as stack:
            folder = stack.enter_context(OutputFolder.open(to, header))
            runner = Runner(self, folder, source, what, digest)
            stack.callback(runner.window.cancel)
            bar = stack.enter_context(Progress(self.spec.id, source.rows, progress))
            began = time.monotonic()
            runner.go(bar)
            runner.summarise(summary, time.monotonic() - began)
        summary.seconds = time.monotonic() - started
        if not summary.rows:
            raise NothingPredicted(
                f"no row of {summary.dead_letters:,} has an answer: the reasons are in {to}/_dead_letters"
            )
        return summary

    # -- steps that `plan` takes too ---------------------------------------------------------

    def check(self) -> None:
        """Refuse arguments that cannot be meant, before anything is started."""
        if self.on_error not in ("raise", "collect"):
            raise InputError(f'on_error={self.on_error!r} is neither "raise" nor "collect": choose one')
        for name, value in (("batch", self.batch), ("part_rows", self.part_rows)):
            if value in (None, "auto"):
                continue
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name}={value!r} is no number of at least 1: give one, or leave it out")
        runtime_class(self.spec.runtime)

    def open(self, part_rows: int | None = None) -> Source:
        """The source as units; `part_rows` is what an earlier run cut at."""
        tokens = self.spec.runtime == "transformers"
        largest = self.settings.part_rows_tokens if tokens else self.settings.part_rows
        self._cut = self.part_rows or part_rows or largest
        source = open_source(self.client, self.source, self._cut, self.settings.load_timeout)
        if source.rows is not None and not (self.part_rows or part_rows):
            # several parts for each slot, so that all of them stay busy to the end
            slots = eligible_slots(self.client, self.spec)
            self._cut = min(largest, max(SMALLEST_PART, -(-source.rows // (slots * PARTS_PER_SLOT))))
        wanted = Input.of(self.input, source.columns)
        if wanted.columns and source.all_null.issuperset(wanted.columns):
            raise NothingPredicted(
                f"column {wanted.columns[0]!r} holds nothing but nulls: choose another column, or fill it"
            )
        self._input = wanted
        return source

    def predict_task(self) -> Predict:
        """How rows are predicted; the types of the answers may still be unknown."""
        types = declared_types(self.spec.outputs) if self.spec.outputs else None
        return Predict(
            self.spec, self._input, self.output, types, dict(self.parameters), self.batch, self.on_error
        )

    def learn_types(self, source: Source, what: Predict) -> dict[str, pa.DataType]:
        """Types of the answers: the model's word, or what it answers to the first rows."""
        eligible_slots(self.client, self.spec)
        described = self._ask(self.client.submit(describe_model, self.spec, key=self._key(), pure=False))
        types: dict[str, pa.DataType] | None = described["types"] or (dict(what.types) if what.types else None)
        if types is not None:
            return types
        for unit in source.units:
            rows = unit.submit()
            probe = replace(what, on_error="collect", output=None)
            predicted = self._ask(
                self.client.submit(
                    predict_rows, rows, 0, PROBE_ROWS, probe, key=self._key(), pure=False
                )
            )
            added = [name for name in predicted.table.column_names if name not in source.columns]
            if predicted.table.num_rows:
                kinds = predicted.table.schema
                return {name: kinds.field(name).type for name in added or ["prediction"]}
            if predicted.rows_in:
                break
        raise SpecError(
            f"model {self.spec.id!r} answered none of the first rows, so the type of its answers is unknown: "
            'mend the rows, or declare it, as in ModelSpec(outputs={"prediction": "string"})'
        )

    def digest(self, what: Predict) -> str:
        """Fingerprint of what decides the answers: the model, its parameters, and its input."""
        parts = [self.spec.fingerprint, dict(self.parameters), what.input.label()]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()[:32]

    def _known_types(self, header: Header | None) -> dict[str, pa.DataType] | None:
        """Types that an earlier run of the very same model wrote down: it need not be loaded for them."""
        note = header.input if header else None
        if not isinstance(note, dict) or note.get("model") != self.digest(self.predict_task()):
            return None
        return _unpack(note.get("types"))

    def _key(self) -> str:
        return predict_key(self.spec.fingerprint)

    def _ask(self, future: Future) -> Any:
        """Wait for a task ahead of the run, not for ever."""
        try:
            return future.result(self.settings.load_timeout)
        except AltlasError:
            raise
        except TimeoutError as error:
            raise ClusterLost(
                f"no worker answered within {self.settings.load_timeout:.0f} s: see whether workers run, or raise "
                "altlas.load-timeout"
            ) from error


class Runner:
    """Drives the parts of one job: what to send next, and what to commit."""

    def __init__(self, job: Job, folder: OutputFolder, source: Source, what: Predict, digest: str) -> None:
        self.job, self.folder, self.source, self.what, self.digest = job, folder, source, what, digest
        self.tally = Tally()
        settings = job.settings
        self.window = Window(
            job.client, job.spec, per_slot=settings.parts_in_flight, patience=settings.no_workers_timeout
        )
        self.wanted: dict[str, tuple[str, str]] = {}
        self.skipped = 0
        self.rows_in = 0
        self._units = deque(source.units)
        self._parts: deque[Part] = deque()
        self._reading: dict[int, Future] = {}
        self._dropped = False

    def go(self, bar: Progress) -> None:
        """Do every part that is missing."""
        if self.source.rows is not None:
            # all is known: what is stale goes before the first new part comes, so that no reader
            # sees rows of two models, or one row twice
            while self._units:
                self._cut(self._units.popleft(), bar)
        while True:
            while self.window.room and (self._parts or self._units):
                if self._parts:
                    self._send(self._parts.popleft())
                else:
                    self._open(self._units.popleft())
            if not self.window.busy:
                break
            name, result = self.window.next()
            if isinstance(name, Part):
                self._commit(name, result)
                bar.advance(result.rows_in)
            else:
                name.measured = result
                self._cut(name, bar)
        self.folder.drop(self.folder.stale(self.wanted))

    def _open(self, unit: Unit) -> None:
        """Read a unit whose rows are not known before."""

        def submit() -> Future:
            rows = self._reading[id(unit)] = unit.submit()
            return self.job.client.submit(measure, rows, pure=False)

        self.window.send(unit, submit)

    def _cut(self, unit: Unit, bar: Progress) -> None:
        """Queue the parts of a unit that are not there already."""
        assert unit.measured is not None
        self.rows_in += unit.measured.rows
        parts = list(unit.parts(self.job._cut)) if unit.measured.rows else []
        self.wanted.update({part.name: (part.fingerprint, self.digest) for part in parts})
        for part in parts:
            record = self.folder.committed.get(part.name)
            if record is not None and (record.unit, record.model) == self.wanted[part.name]:
                self.skipped += 1
                bar.advance(record.rows_in)
            else:
                self._parts.append(part)
        if not any(part.unit is unit for part in self._parts):
            self._reading.pop(id(unit), None)

    def _send(self, part: Part) -> None:
        client, job = self.job.client, self.job
        last = not (self._parts and self._parts[0].unit is part.unit)

        def submit() -> Future:
            rows = self._reading.get(id(part.unit))
            if rows is None or rows.status in ("lost", "cancelled", "error"):
                rows = self._reading[id(part.unit)] = part.unit.submit()
            predicted = client.submit(
                predict_rows, rows, part.start, part.stop, self.what, key=job._key(), pure=False
            )
            written = client.submit(write_part, predicted, self.folder.attempts, part.name, pure=False)
            if last:  # Dask keeps the rows as long as a task needs them
                self._reading.pop(id(part.unit), None)
            return written

        self.window.send(part, submit)

    def _commit(self, part: Part, receipt: Receipt) -> None:
        if not self._dropped:
            self._drop_stale()
        expected = part.stop - part.start
        done = receipt.attempt.rows + (receipt.dead.rows if receipt.dead else 0)
        if not expected == receipt.rows_in == done:
            raise AltlasError(
                f"{part.name}: {expected} rows expected, {receipt.rows_in} read, {done} accounted for: this is a "
                "fault of altlas_flow; nothing of the part was committed"
            )
        stats = {key: receipt.stats[key] for key in ("node", "tokens", "padded", "truncated")}
        self.folder.commit(
            PartRecord(
                part.name,
                part.fingerprint,
                self.digest,
                receipt.rows_in,
                receipt.attempt.rows,
                receipt.dead.rows if receipt.dead else 0,
                receipt.attempt.bytes,
                stats,
            ),
            receipt.attempt.path,
            receipt.dead.path if receipt.dead else None,
        )
        self.tally.add(receipt.rows_in, receipt.stats)

    def _drop_stale(self) -> None:
        """Before the first commit: parts of other models, and of inputs that have changed."""
        self._dropped = True
        stale = self.folder.stale(self.wanted)
        if self.source.rows is None:  # units that are not read yet may still want their parts
            known = {name for name in stale if self.folder.committed[name].model != self.digest}
            stale = known | {name for name in stale if name in self.wanted}
        self.folder.drop(stale)

    def summarise(self, summary: RunSummary, seconds: float) -> None:
        """Fill in what was done, and see that no row is missing."""
        records = self.folder.committed.values()
        tally = self.tally
        summary.rows = sum(record.rows for record in records)
        summary.dead_letters = sum(record.dead_letters for record in records)
        if summary.rows + summary.dead_letters != self.rows_in:
            raise AltlasError(
                f"{self.rows_in} rows in, {summary.rows} out and {summary.dead_letters} dead letters: this is a fault "
                "of altlas_flow; run the same again"
            )
        summary.rows_done = tally.rows_in
        summary.parts, summary.parts_skipped = len(self.wanted), self.skipped
        summary.load_s = max(tally.load_s.values(), default=0.0)
        summary.rows_per_s = tally.rows_in / max(seconds, 1e-9)
        summary.tokens_per_s = tally.tokens / max(seconds, 1e-9)
        summary.padding, summary.batch, summary.unit = tally.padding, dict(tally.budget), tally.unit
        summary.truncated = tally.truncated


def _pack(types: Mapping[str, pa.DataType]) -> str:
    schema: pa.Schema = pa.schema(list(types.items()))
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def _unpack(text: Any) -> dict[str, pa.DataType] | None:
    if not isinstance(text, str):
        return None
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
    return {item.name: item.type for item in schema}
