"""Errors of what is read and written: inputs, outputs, histories."""

from __future__ import annotations

from collections.abc import Iterable

from altlas_flow.errors.base import AltlasError
from altlas_flow.errors.words import names, one_line


class InputError(AltlasError):
    """What was given to predict on is wrong."""


class MissingColumn(InputError):
    """The input has no such column.

    Parameters
    ----------
    column : str
        What was asked for.
    known : sequence of str
        The columns there are.
    """

    def __init__(self, column: str, known: Iterable[str] = ()) -> None:
        self.column, self.known = column, tuple(str(name) for name in known)
        super().__init__(column, self.known)

    def text(self) -> str:
        return f"the input has no column {self.column!r}: choose one of {names(self.known, 20)}"


class EmptyInput(InputError):
    """The input has no rows."""


class NothingPredicted(InputError):
    """Every row became a dead letter."""


class SourceError(InputError):
    """A source file cannot be found or read."""


class FileRefused(SourceError):
    """A file may not be read as an input: not in an allowed folder, no regular file, too large, a URL."""


class BadRow(InputError):
    """One row is at fault, and ``on_error="raise"`` was asked for.

    Parameters
    ----------
    row_id : str
        Which row.
    phase : str
        Where it failed: ``read``, ``input``, ``predict`` or ``output``.
    model : str
        The model's id.
    cause : str
        What went wrong, in one line.
    stage : str, optional
        Of a pipeline.
    """

    def __init__(self, row_id: str, phase: str, model: str, cause: str, stage: str | None = None) -> None:
        self.row_id, self.phase, self.model, self.cause = row_id, phase, model, one_line(cause)
        self.stage = stage
        super().__init__(row_id, phase, model, self.cause, stage)

    def text(self) -> str:
        at = f" of stage {self.stage!r}" if self.stage else ""
        return (
            f"row {self.row_id} failed at {self.phase}{at} with model {self.model!r}: {self.cause}: "
            'mend the row; flow.map and flow.run collect such rows with on_error="collect"'
        )


class OutputError(AltlasError):
    """The output folder cannot be used."""


class OutputNotWritable(OutputError):
    """The folder cannot be written: rights, a full disk, a read-only file system."""


class OutputLocked(OutputError):
    """Another job works on the folder."""


class OutputMismatch(OutputError):
    """The folder holds something else than this job's output."""


class HistoryError(OutputError):
    """The history file cannot be used."""
