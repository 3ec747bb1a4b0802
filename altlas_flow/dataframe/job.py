"""A checkpointed job: rows from a source through a model or a pipeline into a folder of Parquet parts.

The client decides and commits, workers read, predict and write. Rows never pass through the client.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from dask.base import tokenize
from distributed import Client

from altlas_flow.cluster.telling import teller
from altlas_flow.dataframe.answers import Ask, Probe, probed
from altlas_flow.dataframe.columns import Input, named_columns, refuse_replaced
from altlas_flow.dataframe.folder import Header, OutputFolder, read_header
from altlas_flow.dataframe.progress import Progress, reported
from altlas_flow.dataframe.report import RunSummary
from altlas_flow.dataframe.rows import let_go
from altlas_flow.dataframe.runner import Runner
from altlas_flow.dataframe.subject import Subject
from altlas_flow.dataframe.told import Told, told
from altlas_flow.dataframe.units import Source, Unit, open_source
from altlas_flow.dataframe.window import ask
from altlas_flow.errors import (
    EmptyInput,
    InputError,
    NothingPredicted,
    OutputMismatch,
    OutputNotWritable,
    SpecError,
    one_line,
)
from altlas_flow.settings import Settings

#: Rows predicted ahead to learn the types of a function's answers; more, up to a limit, where all are bad.
PROBE_ROWS = 20
PROBE_STEP = 500
PROBE_LIMIT = 2_000
#: Errors that are of how a model or a stage was set up, whatever the rows hold: they say what to mend.
SETUP = frozenset(
    {"BadRequest", "ModelLoadError", "ParameterError", "PipelineError", "SpecError", "UnsafeModel"}
)
#: Parts from which on an input that has grown is cut anew, and not as an earlier run cut it.
MANY_PARTS = 4_096
#: Parts that a short job is cut into, for each slot, and the fewest rows that make a part.
PARTS_PER_SLOT = 8
SMALLEST_PART = 64


@dataclass
class Job:
    """A model or a pipeline over a source, into a folder. `run` does it.

    Parameters
    ----------
    client : distributed.Client
    settings : Settings
    subject : Subject
    source : Any
        See `altlas_flow.Flow.run`.
    input : str, list of str, or callable
    output : str, optional
    on_error : "collect" or "raise"
    part_rows, max_in_flight : int, optional
    """

    client: Client
    settings: Settings
    subject: Subject
    source: Any
    input: Any
    output: str | None = None
    on_error: Literal["raise", "collect"] = "collect"
    part_rows: int | None = None
    max_in_flight: int | None = None
    load_s: float = field(default=0.0, init=False)  # of the model, where this job had it loaded

    def run(self, to: str | Path, *, progress: bool | None = None) -> RunSummary:
        """Do what is missing.

        Raises
        ------
        AltlasError
            Every one of its kinds has its place in `altlas_flow.errors`; what was committed stays.
        """
        self.check()
        to = _folder(to)
        report = teller(self.client, self.subject.id, str(to))
        with (
            told("run", self.subject.id, str(to), self.settings.traces) as telling,
            reported(report) as tell,
        ):
            return self._run(to, progress, telling, tell)

    def _run(
        self, to: str | Path, progress: bool | None, telling: Told, tell: Callable[[dict[str, Any]], None]
    ) -> RunSummary:
        started = time.monotonic()
        header = read_header(to)
        source = self.open(header)
        refuse_overlap(to, source.paths)
        known = self._known_types(header)
        what = telling.within(self.predict_task())
        digest = self.digest(what)
        types = known or self.learn_types(source, what)
        what = replace(what, types=types, learnt=what.types is None)
        refuse_replaced(what.names(), self.output, source.columns)
        header = Header(
            tuple(name for name in source.columns if name not in what.names()),
            what.names(),
            {
                "input": what.input.label(),
                "model": digest,
                "types": _pack(types),
                "unit_rows": self._unit_rows,
                "cuts": [cut for cut in self._cuts if cut != self._cut],
            },
            self._cut,
        )
        summary = RunSummary(Path(to), str(self.subject), load_s=self.load_s)
        with ExitStack() as stack:
            folder = stack.enter_context(OutputFolder.open(to, header))
            runner = Runner(
                self.client,
                self.settings,
                folder,
                source,
                self.subject,
                what,
                digest,
                most=self.max_in_flight,
                cuts=[cut for cut in self._cuts if cut != self._cut] + [self._cut],
                told=telling,
            )
            stack.callback(runner.close)
            bar = stack.enter_context(Progress(self.subject.id, source.rows, progress, tell=tell))
            began = time.monotonic()
            runner.go(bar)
            runner.summarise(summary, time.monotonic() - began)
        summary.seconds = time.monotonic() - started
        if not summary.rows and not summary.dead_letters:
            raise EmptyInput("the input has no rows: there is nothing to predict; check the source")
        if not summary.rows:
            first = summary.dead_letter_frame()["error"].iloc[0]
            raise NothingPredicted(
                f"no row of {summary.dead_letters:,} has an answer ({one_line(first, 160)}): the reasons are "
                f"in {to}/_dead_letters"
            )
        return summary

    # -- steps that `plan` takes too ---------------------------------------------------------

    def check(self) -> None:
        """Refuse arguments that cannot be meant, before anything is started."""
        if self.on_error not in ("raise", "collect"):
            raise InputError(f'on_error={self.on_error!r} is neither "raise" nor "collect": choose one')
        for name, value in (("part_rows", self.part_rows), ("max_in_flight", self.max_in_flight)):
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name}={value!r} is no number of at least 1: give one, or leave it out")
        if self.output is not None and not (isinstance(self.output, str) and self.output):
            raise InputError(f"output={self.output!r} is no name of a column: give a text, or leave it out")
        self.subject.check(self.output)

    def open(self, header: Header | None = None) -> Source:
        """The source as units, and how these are cut; an earlier run's `header` says how it was before."""
        largest = self.largest_part
        note = header.input if header and isinstance(header.input, dict) else {}
        before = header.part_rows if header else 0
        # Units stay as they were: their fingerprints are those of the parts that are there.
        read = note.get("unit_rows")
        self._unit_rows = max(read if isinstance(read, int) else largest, self.part_rows or 1)
        held = hasattr(self.source, "iloc") and not hasattr(self.source, "npartitions")
        rows = len(self.source) if held else None
        # a frame in memory is sent part by part; its parts have fingerprints of their own
        whole = self._unit_rows if rows is None else self._choose_cut(rows, largest, note, before)
        source = open_source(
            self.client, self.source, whole, self.settings.load_timeout, named_columns(self.input)
        )
        wanted = Input.of(self.input, source.columns)
        if wanted.columns and source.all_null.issuperset(wanted.columns):
            name = " and ".join(repr(column) for column in wanted.columns)
            raise NothingPredicted(
                f"column {name} holds nothing but nulls: choose another column, or fill it"
            )
        self._input = wanted
        if rows is None:
            self._choose_cut(source.rows, largest, note, before)
        return source

    def _choose_cut(self, rows: int | None, largest: int, note: Mapping[str, Any], before: int) -> int:
        """Rows of a part: as the user says, as `before`, or so that all slots stay busy to the end."""
        self._cuts: list[int] = []
        if self.part_rows:
            self._cut = self.part_rows
            return self._cut
        noted = note.get("cuts")
        earlier = [*(noted if isinstance(noted, list) else ()), before]
        self._cuts = [cut for cut in earlier if isinstance(cut, int) and cut > 0]
        self._cut = before or largest
        if rows and (not before or rows > MANY_PARTS * before):
            slots = self.subject.slots(self.client)
            self._cut = min(largest, max(SMALLEST_PART, -(-rows // (slots * PARTS_PER_SLOT))))
        return self._cut

    @property
    def largest_part(self) -> int:
        """Rows of a part at most, where the user does not say."""
        return self.settings.part_rows_tokens if self.subject.tokens else self.settings.part_rows

    def predict_task(self) -> Ask:
        """How rows are predicted; the types of the answers may still be unknown."""
        return self.subject.asked(self._input, self.output, self.on_error)

    def learn_types(self, source: Source, what: Ask) -> dict[str, pa.DataType]:
        """Types of the answers: the author's word, or what comes of the first rows."""
        self.subject.slots(self.client)
        if what.types is not None:
            return dict(what.types)
        types, self.load_s = self.subject.describe(self.client, self.settings.load_timeout)
        if types is not None:
            return types
        what, seen, why, setup = replace(what, on_error="collect", output=None), 0, None, False
        for unit in source.units:
            for probe in self._probes(unit, what, PROBE_LIMIT - seen):
                seen += probe.rows_in
                if why is None and probe.fault is not None:
                    why, setup = probe.fault, probe.kind in SETUP
                if probe.types is not None:
                    return probe.types
            if seen >= PROBE_LIMIT:
                none = f"{what.kind} {what.name!r} answered none of the first {seen:,} rows"
                raise SpecError(
                    f"{none}: {why}"
                    if setup
                    else f"{none} ({why}), so the type of its answers is unknown: mend the rows, or declare "
                    f"it, as in {what.declare()}"
                )
        if not seen:
            raise EmptyInput("the input has no rows: there is nothing to predict; check the source")
        none = f"{what.kind} {what.name!r} answered none of the {seen:,} rows"
        raise NothingPredicted(
            f"{none}: {why}" if setup else f"{none} ({why}): mend the rows, or choose another column"
        )

    def _probes(self, unit: Unit, what: Ask, limit: int) -> Iterator[Probe]:
        """Predict the first rows of a unit, and more while these are wanted."""
        rows = unit.submit()
        try:
            start = 0
            while start < limit:
                stop = min(start + (PROBE_STEP if start else PROBE_ROWS), limit)
                future = self.subject.send(self.client, rows, start, stop, what, probed)
                probe: Probe = ask(future, self.settings.load_timeout)
                yield probe
                if probe.rows_in < stop - start:
                    return
                start = stop
        finally:
            let_go(rows)

    def digest(self, what: Ask) -> str:
        """Fingerprint of what decides the answers: the model with its parameters, and its input."""
        parts = [*self.subject.identity, what.input.label()]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=tokenize).encode()).hexdigest()[:32]

    def _known_types(self, header: Header | None) -> dict[str, pa.DataType] | None:
        """Types that an earlier run of the very same model wrote down: it need not be loaded for them."""
        note = header.input if header else None
        if not isinstance(note, dict) or note.get("model") != self.digest(self.predict_task()):
            return None
        return _unpack(note.get("types"))


def _folder(given: str | Path) -> str | Path:
    """The output folder as a path; what is no local path is refused where the folder is opened."""
    if "://" in str(given):
        return given
    if not isinstance(given, (str, os.PathLike)):
        raise InputError(f"to={one_line(repr(given), 60)} is no folder: give the path of one, to write into")
    try:
        return Path(given).expanduser()
    except RuntimeError as error:  # there is no such user
        raise OutputNotWritable(f"cannot write to {given}: {error}: give the folder's whole path") from error


def refuse_overlap(to: str | Path, paths: Sequence[str]) -> None:
    """Refuse an output folder that holds files of the source: a run would read what it writes.

    Raises
    ------
    OutputMismatch
    """
    folder = Path(to).resolve()
    for path in paths:
        if folder in Path(path).resolve().parents:
            raise OutputMismatch(
                f"{to} holds {path}, which is a file of the source: choose a folder that the source does "
                "not reach into"
            )


def _pack(types: Mapping[str, pa.DataType]) -> str:
    schema: pa.Schema = pa.schema(list(types.items()))
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def _unpack(text: Any) -> dict[str, pa.DataType] | None:
    if not isinstance(text, str):
        return None
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
    except (pa.ArrowException, OSError, binascii.Error):
        return None  # they are learnt anew
    return {item.name: item.type for item in schema}
