"""What people see of a task: the life of one request."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from pydantic import Field

from altlas_flow.errors import BadRequest, one_line
from altlas_flow.records.base import Record
from altlas_flow.records.html import facts, moment


class TaskStatus(StrEnum):
    """Where a task is.

    ``pending`` -> ``running`` -> ``completed``, ``error`` or ``cancelled``; the last three are final. One
    that has to be tried again elsewhere is pending again, and one may end without having run.
    """

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    ERROR = "error"
    CANCELLED = "cancelled"

    @classmethod
    def _missing_(cls, value: object) -> TaskStatus | None:
        return cls.__members__.get(str(value).upper())

    @property
    def final(self) -> bool:
        """Whether nothing more comes."""
        return self in (TaskStatus.COMPLETED, TaskStatus.ERROR, TaskStatus.CANCELLED)


class TaskInfo(Record):
    """One request of whichever client.

    Attributes
    ----------
    task_id : str
        The request's id.
    model_id : str
    client : str
        Dask's name of the client that asked.
    status : TaskStatus
    submitted, started, ended : float, optional
        Seconds since 1970: when it was asked for, began to run (as its worker says), and was over.
    node_id : str, optional
        Where it runs, or was answered.
    tries : int
        How often it was tried.
    error : str, optional
        What it ended with.
    """

    task_id: str
    model_id: str
    client: str
    status: TaskStatus
    submitted: float | None = Field(default=None, description="seconds since 1970")
    started: float | None = Field(default=None, description="seconds since 1970")
    ended: float | None = Field(default=None, description="seconds since 1970")
    node_id: str | None = None
    tries: int = 0
    error: str | None = None

    @classmethod
    def of(cls, row: Iterable[Any]) -> TaskInfo:
        """One with these values, in the order of the fields.

        Raises
        ------
        BadRequest
        """
        try:
            return cls.model_validate(dict(zip(cls.model_fields, row, strict=True)))
        except ValueError as error:
            raise BadRequest(f"TaskInfo: a row is of another length ({one_line(error)})") from error

    def _repr_html_(self) -> str:
        """What is known of it; everything is escaped."""
        pairs = [
            ("model", self.model_id),
            ("error", self.error),
            ("node", self.node_id),
            ("tries", self.tries or None),
            ("submitted (UTC)", moment(self.submitted)),
            ("started", moment(self.started)),
            ("ended", moment(self.ended)),
            ("client", self.client),
        ]
        return facts(f"task {self.task_id}: {self.status}", pairs)

    def __repr__(self) -> str:
        where = f" on {self.node_id}" if self.node_id else ""
        why = f": {self.error}" if self.error else ""
        return f"<TaskInfo {self.task_id} of {self.model_id}: {self.status}{where}{why}>"
