"""Drives the parts of one job: what to send next, and what to commit."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
from distributed import Client, Future

from altlas_flow.cluster.plain import submit_task
from altlas_flow.dataframe.answers import Ask, Receipt
from altlas_flow.dataframe.folder import OutputFolder, PartRecord
from altlas_flow.dataframe.progress import Progress
from altlas_flow.dataframe.report import RunSummary, Tally
from altlas_flow.dataframe.rows import Given, let_go
from altlas_flow.dataframe.subject import Subject
from altlas_flow.dataframe.told import Told
from altlas_flow.dataframe.units import Part, Source, Unit, measure, slug_of
from altlas_flow.dataframe.window import Window
from altlas_flow.errors import AltlasError, OutputMismatch, SourceError, one_line
from altlas_flow.settings import Settings


class Runner:
    """Does the parts of one job that are missing.

    Parameters
    ----------
    client : distributed.Client
    settings : Settings
    folder : OutputFolder
        Held by this job.
    source : Source
    subject : Subject
    what : Ask
    digest : str
        Fingerprint of the subject with its parameters and input.
    cuts : sequence of int
        Rows of a part: what earlier runs cut units at, and last what new ones are cut at.
    told : Told
        Hears of each part.
    most : int, optional
        Parts under way at once.
    """

    def __init__(
        self,
        client: Client,
        settings: Settings,
        folder: OutputFolder,
        source: Source,
        subject: Subject,
        what: Ask,
        digest: str,
        *,
        cuts: Sequence[int],
        told: Told,
        most: int | None = None,
    ) -> None:
        self.client, self.folder, self.source, self.what, self.digest = client, folder, source, what, digest
        self.cuts, self.subject, self.told = cuts, subject, told
        self.stages = subject.report()
        self.tally = Tally()
        self.window = Window(
            client,
            partial(subject.slots, client),
            per_slot=settings.parts_in_flight,
            patience=settings.no_workers_timeout,
            most=most,
        )
        self.wanted: dict[str, tuple[str, str]] = {}
        self.skipped = self.dropped = 0
        self.rows_in = 0
        self._ahead = source.rows is not None  # whether all parts are known before the first one is sent
        self._units = deque(source.units)
        self._parts: deque[Part] = deque()
        self._reading: dict[Unit, Given] = {}
        self._open_parts: Counter[Unit] = Counter()
        self._dropped = False
        self._schema: pa.Schema | None = None  # of the parts of this run, together
        self._stale: set[str] = set()  # of units that are read: their rows must not be there twice

    def go(self, bar: Progress) -> None:
        """Do every part that is missing."""
        self._refuse_strangers()
        if self._ahead:
            # what is stale goes before the first new part comes, so that no reader
            # sees rows of two models, or one row twice
            while self._units:
                self._cut(self._units.popleft(), bar)
        while True:
            while (self._parts or self._units) and self.window.room:
                if self._parts:
                    self._send(self._parts.popleft())
                else:
                    self._open(self._units.popleft())
            if not self.window.busy:
                break
            ended = self.window.next(or_room=bool(self._parts or self._units), tick=bar.tick)
            if ended is None:
                continue
            name, result = ended
            if isinstance(name, Part):
                self._commit(name, result)
                bar.advance(result.rows_in, result.dead.rows if result.dead else 0, result.letters)
            else:
                name.measured = result
                self._cut(name, bar)
        self._drop(self.folder.stale(self.wanted))

    def _refuse_strangers(self) -> None:
        """Refuse a folder whose parts are all of other files: they would be withdrawn for these."""
        slugs = {unit.slug for unit in self.source.units}
        there = {slug_of(name) for name in self.folder.committed}
        if there and not there & slugs:
            raise OutputMismatch(
                f"{self.folder.path} holds the output of another source ({len(self.folder.committed)} parts, "
                f"such as {min(self.folder.committed)}): choose another folder, or delete that one"
            )

    def close(self) -> None:
        """Give up what is under way, and let go of all rows on the cluster."""
        self.window.cancel()
        for rows in self._reading.values():
            let_go(rows)
        self._reading.clear()
        self._units.clear()
        self._parts.clear()

    def _open(self, unit: Unit) -> None:
        """Read a unit whose rows are not known before."""

        def submit() -> Future[Any]:
            return submit_task(self.client, measure, self._rows(unit))

        self.window.send(unit, submit)

    def _rows(self, unit: Unit) -> Given:
        """The rows of a unit: the task that reads it, again where its worker took them along."""
        rows = self._reading.get(unit)
        if rows is None or (isinstance(rows, Future) and rows.status in ("lost", "cancelled", "error")):
            rows = self._reading[unit] = unit.submit()
        return rows

    def _parts_of(self, unit: Unit) -> list[Part]:
        """The unit's parts: cut as an earlier run cut it where that left any, else as new."""
        assert unit.measured is not None
        if not unit.measured.rows:
            return []
        for cut in self.cuts:
            parts = list(unit.parts(cut))
            if any(self._is_done(part) for part in parts):
                return parts
        return parts

    def _committed_of(self, unit: Unit) -> list[str]:
        """Names of the committed parts that came of this unit, however it was cut."""
        if self._ahead:
            return []  # several units may share a slug; all that is stale goes before the first commit
        return [name for name in self.folder.committed if slug_of(name) == unit.slug]

    def _is_done(self, part: Part) -> bool:
        record = self.folder.committed.get(part.name)
        if record is None or (record.unit, record.model) != (part.fingerprint, self.digest):
            return False
        # who wants to stop at a bad row gets to see those that an earlier run put aside
        return self.what.on_error == "collect" or not record.dead_letters

    def _cut(self, unit: Unit, bar: Progress) -> None:
        """Queue the parts of a unit that are not there already."""
        assert unit.measured is not None
        self.rows_in += unit.measured.rows
        parts = self._parts_of(unit)
        names = {part.name for part in parts}
        self._stale |= {name for name in self._committed_of(unit) if name not in names}
        for part in parts:
            self.wanted[part.name] = (part.fingerprint, self.digest)
            if self._is_done(part):
                self.skipped += 1
                bar.skip(part.stop - part.start, self.folder.committed[part.name].dead_letters)
            else:
                self._parts.append(part)
                self._open_parts[unit] += 1
        if not self._open_parts[unit]:
            self._reading.pop(unit, None)

    def _send(self, part: Part) -> None:
        rows = partial(self._rows, part.unit)
        attempts = self.folder.attempts
        submit = partial(self.subject.send_part, self.client, part, rows, self.what, attempts)
        self.told.sent(part.name)
        self.window.send(part, submit)

    def _refuse_unlike(self, part: Part, receipt: Receipt) -> None:
        """Refuse a part that no reader could read together with those before it."""
        if not receipt.attempt.rows:
            return
        try:
            known = [*([self._schema] if self._schema is not None else []), receipt.schema]
            self._schema = pa.unify_schemas(known, promote_options="permissive")
        except pa.ArrowException as error:
            raise SourceError(
                f"{part.unit} has other types than the pieces before it ({one_line(error, 160)}): give each "
                "column of the frame one type, as with frame.astype({'name': str})"
            ) from error

    def _commit(self, part: Part, receipt: Receipt) -> None:
        self._refuse_unlike(part, receipt)
        if not self._dropped:
            self._drop_stale()
        if self._stale:
            self._drop(self._stale)
            self._stale.clear()
        expected = part.stop - part.start
        dead = receipt.dead.rows if receipt.dead else 0
        done = receipt.attempt.rows + dead
        if not expected == receipt.rows_in == done:
            raise AltlasError(
                f"{part.name}: {expected} rows expected, {receipt.rows_in} read, {done} accounted for: this "
                "is a fault of altlas_flow; nothing of the part was committed"
            )
        stats = {key: receipt.stats[key] for key in ("node", "tokens", "padded", "truncated")}
        record = PartRecord(
            part.name,
            part.fingerprint,
            self.digest,
            receipt.rows_in,
            receipt.attempt.rows,
            dead,
            receipt.attempt.bytes,
            stats,
        )
        self.folder.commit(record, receipt.attempt.path, receipt.dead.path if receipt.dead else None)
        self.tally.add(receipt.rows_in, receipt.stats)
        self.told.done(part.name, receipt.rows_in, dead, str(stats["node"]))
        if receipt.passed is not None:
            self.stages.add_piece(receipt.passed.ends())
        self._open_parts[part.unit] -= 1
        if not self._open_parts[part.unit]:
            self._reading.pop(part.unit, None)

    def _drop_stale(self) -> None:
        """Before the first commit: parts of other models, and of inputs that have changed."""
        self._dropped = True
        stale = self.folder.stale(self.wanted)
        if self.source.rows is None:  # units that are not read yet may still want their parts
            there = {unit.slug for unit in self.source.units}
            stale = {
                name
                for name in stale
                if name in self.wanted
                or self.folder.committed[name].model != self.digest
                or slug_of(name) not in there
            }
        self._drop(stale)

    def _drop(self, parts: Iterable[str]) -> None:
        gone = set(parts) & set(self.folder.committed)
        self.dropped += len(gone)
        self.folder.drop(gone)

    def summarise(self, summary: RunSummary, seconds: float) -> None:
        """Fill in what was done, and see that no row is missing."""
        records = self.folder.committed.values()
        tally = self.tally
        summary.rows = sum(record.rows for record in records)
        summary.dead_letters = sum(record.dead_letters for record in records)
        if summary.rows + summary.dead_letters != self.rows_in:
            raise AltlasError(
                f"{self.rows_in} rows in, {summary.rows} out and {summary.dead_letters} dead letters: this "
                "is a fault of altlas_flow; run the same again"
            )
        summary.rows_done = tally.rows_in
        summary.parts, summary.parts_skipped = len(self.wanted), self.skipped
        summary.parts_dropped = self.dropped
        summary.load_s = max([summary.load_s, *tally.load_s.values()])
        summary.rows_per_s = tally.rows_in / max(seconds, 1e-9)
        summary.tokens_per_s = tally.tokens / max(seconds, 1e-9)
        summary.padding, summary.batch, summary.unit = tally.padding, dict(tally.budget), tally.unit
        summary.truncated, summary.stages = tally.truncated, self.stages
