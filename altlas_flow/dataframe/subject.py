"""`Subject`: what is run over rows, so that a job needs not know whether that is a model or a pipeline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from dask.delayed import delayed
from distributed import Client, Future

from altlas_flow.cluster.connect import call_control
from altlas_flow.cluster.keys import predict_key
from altlas_flow.cluster.plain import submit_rows, submit_task
from altlas_flow.dataframe.answers import Ask, Predicted
from altlas_flow.dataframe.columns import Input
from altlas_flow.dataframe.lazily import predict_partition
from altlas_flow.dataframe.rows import Given
from altlas_flow.dataframe.tasks import Predict, describe_model, make_part, predict_rows, write_part
from altlas_flow.dataframe.units import Part
from altlas_flow.dataframe.window import ask, eligible_slots
from altlas_flow.errors import InputError
from altlas_flow.models.runtimes import runtime_class
from altlas_flow.models.spec import ModelSpec
from altlas_flow.models.types import declared_types

#: What becomes of predicted rows on the worker that predicted them.
Then = Callable[[Predicted, Any], Any]


class Subject(ABC):
    """What is run over rows.

    Attributes
    ----------
    id : str
    kind : str
        ``model`` or ``pipeline``.
    batch : int or "auto", optional
        Rows a batch, as the user said.
    """

    id: str
    kind: str
    batch: Literal["auto"] | int | None

    @abstractmethod
    def __str__(self) -> str:
        """How it is shown."""

    @property
    @abstractmethod
    def tokens(self) -> bool:
        """Whether its rows are texts of which a few are much work."""

    @property
    @abstractmethod
    def identity(self) -> list[Any]:
        """What decides its answers, as JSON can hold it."""

    @abstractmethod
    def check(self, output: str | None = None) -> None:
        """Refuse arguments that cannot be meant; `output`: what the user named the answers' column."""

    @abstractmethod
    def slots(self, client: Client) -> int:
        """Slots that there are for it now.

        Raises
        ------
        NoEligibleNode
        """

    @abstractmethod
    def asked(self, input: Input, output: str | None, on_error: Literal["raise", "collect"]) -> Ask:
        """How rows are predicted; types of the answers are those that its author declared, or None."""

    @abstractmethod
    def describe(self, client: Client, limit: float) -> tuple[dict[str, pa.DataType] | None, float]:
        """Types of the answers where it knows them, and seconds that loading took.

        Parameters
        ----------
        client : distributed.Client
        limit : float
            Seconds to wait.
        """

    @abstractmethod
    def send(self, client: Client, rows: Given, start: int, stop: int, what: Any, then: Then) -> Future[Any]:
        """Predict rows `start` to `stop`; what `then` makes of them is the result."""

    @abstractmethod
    def send_part(
        self, client: Client, part: Part, rows: Callable[[], Given], what: Any, folder: Path
    ) -> Future[Any]:
        """Predict a part and write it aside; the result is its `Receipt`.

        Parameters
        ----------
        client : distributed.Client
        part : Part
        rows : callable
            Gives the rows of the part's unit.
        what : Ask
        folder : Path
            Where to write.
        """

    @abstractmethod
    def lazily(self, partition: Any, what: Any, index: int, unique: str) -> Any:
        """A partition of a dask frame with the answers, as a Delayed whose key tells what it needs."""

    def report(self) -> Any:
        """What parts add to that passed through stages; None where there are none."""
        return None


@dataclass
class ModelSubject(Subject):
    """A model over rows.

    Parameters
    ----------
    spec : ModelSpec
        Resolved.
    parameters : mapping
    batch : int or "auto", optional
    """

    spec: ModelSpec
    parameters: Mapping[str, Any] = field(default_factory=dict)
    batch: Literal["auto"] | int | None = None
    kind = "model"

    @property
    def id(self) -> str:  # type: ignore[override]
        return self.spec.id

    def __str__(self) -> str:
        return str(self.spec)

    @property
    def tokens(self) -> bool:
        return self.spec.runtime == "transformers"

    @property
    def identity(self) -> list[Any]:
        return [self.spec.fingerprint, dict(self.parameters)]

    def check(self, output: str | None = None) -> None:
        whole = isinstance(self.batch, int) and not isinstance(self.batch, bool) and self.batch > 0
        if not (whole or self.batch in (None, "auto")):
            raise InputError(f"batch={self.batch!r} is no number of at least 1: give one, or leave it out")
        runtime_class(self.spec.runtime)

    def slots(self, client: Client) -> int:
        return eligible_slots(client, self.spec)

    def asked(self, input: Input, output: str | None, on_error: Literal["raise", "collect"]) -> Predict:
        return Predict(
            name=self.spec.id,
            spec=self.spec,
            input=input,
            output=output,
            types=declared_types(self.spec.outputs) if self.spec.outputs else None,
            parameters=dict(self.parameters),
            batch=self.batch,
            on_error=on_error,
        )

    def describe(self, client: Client, limit: float) -> tuple[dict[str, pa.DataType] | None, float]:
        # all nodes load at once, and one of them says what it answers with
        nodes = call_control(client, "altlas_eligible", spec=self.spec.model_dump_json())["nodes"]
        asked, key = (self.spec, dict(self.parameters)), self.spec.fingerprint
        first, *others = [
            client.submit(describe_model, *asked, key=predict_key(key), pure=False)
            for _ in range(max(1, len(nodes)))
        ]
        try:
            described = ask(first, limit)
            return described["types"], described["load_s"]
        finally:
            for other in others:  # a load that has begun goes on
                other.release()

    def send(
        self, client: Client, rows: Given, start: int, stop: int, what: Predict, then: Then
    ) -> Future[Any]:
        return self._rows(client, stop - start, predict_rows, rows, start, stop, what, then)

    def send_part(
        self, client: Client, part: Part, rows: Callable[[], Given], what: Predict, folder: Path
    ) -> Future[Any]:
        chunk, size = part.chunk, part.stop - part.start
        if chunk is not None and not (self.spec.resources or self.spec.labels):
            return self._rows(client, size, make_part, chunk, what, folder, part.name)
        predicted = self._rows(client, size, predict_rows, rows(), part.start, part.stop, what)
        return submit_task(client, write_part, predicted, folder, part.name)

    def _rows(self, client: Client, rows: int, function: Callable[..., Any], *args: Any) -> Future[Any]:
        return submit_rows(client, function, *args, fingerprint=self.spec.fingerprint, rows=rows)

    def lazily(self, partition: Any, what: Predict, index: int, unique: str) -> Any:
        key = predict_key(self.spec.fingerprint, f"{unique}-{index}")
        return delayed(predict_partition, pure=False)(partition, what, index, dask_key_name=key)
