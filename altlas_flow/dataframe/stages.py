"""A pipeline over rows: each part is one graph, from the rows that were read to what is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from dask.delayed import delayed
from distributed import Client, Future

from altlas_flow.cluster.client.named import named_strategy
from altlas_flow.cluster.connect import call_control
from altlas_flow.cluster.keys import predict_key
from altlas_flow.cluster.packed import Packed
from altlas_flow.dataframe.columns import Input
from altlas_flow.dataframe.lazily import finish_partition, partition_inputs, stage_partition
from altlas_flow.dataframe.passage import Through, finish, inputs_of
from altlas_flow.dataframe.rows import Given
from altlas_flow.dataframe.subject import Subject, Then
from altlas_flow.dataframe.tasks import write_part
from altlas_flow.dataframe.units import Part
from altlas_flow.dataframe.window import eligible_slots
from altlas_flow.errors import BadRequest, InputError, PipelineError, SpecError, names
from altlas_flow.models.types import declared_types
from altlas_flow.pipeline.flat import WITHIN
from altlas_flow.pipeline.graph import Own, Way, send_through
from altlas_flow.pipeline.pipeline import Pipeline
from altlas_flow.pipeline.report import Report
from altlas_flow.pipeline.stage import INPUT
from altlas_flow.pipeline.step import Compiled


@dataclass
class PipelineSubject(Subject):
    """A pipeline over rows.

    Parameters
    ----------
    compiled : Compiled
    parameters, batch
        As a user gave them: stages have their own.
    """

    compiled: Compiled
    parameters: Mapping[str, Any] = field(default_factory=dict)
    batch: Literal["auto"] | int | None = None
    kind = "pipeline"

    def __post_init__(self) -> None:
        self._strategies: dict[str, str] | None = None  # None: the scheduler does not know the stages yet

    @property
    def pipeline(self) -> Pipeline:
        """As its author wrote it."""
        return self.compiled.pipeline

    @property
    def id(self) -> str:  # type: ignore[override]
        return self.pipeline.id

    def __str__(self) -> str:
        return f"{self.id}: {' -> '.join(stage.name for stage in self.pipeline)}"

    @property
    def tokens(self) -> bool:
        return any(step.spec.runtime == "transformers" for step in self.compiled.steps.values())

    @property
    def identity(self) -> list[Any]:
        return [self.compiled.fingerprint, {}]

    def check(self, output: str | None = None) -> None:
        ends = self.pipeline.output
        if output is not None and len(ends) > 1:
            raise InputError(
                f"output={output!r} names one column, and pipeline {self.id!r} has {len(ends)} outputs, each "
                f"of which gets a column of its name ({names(ends)}): leave output= out"
            )
        for name, value in (("parameters", self.parameters), ("batch", self.batch)):
            if value:
                raise InputError(f"{name}= is for models: give it to the stages of pipeline {self.id!r}")

    def slots(self, client: Client) -> int:
        """Of the stage that has most; each must have one."""
        known, found = self._strategies is not None, dict[Any, int]()
        for spec in self.compiled.specs():
            # functions that need the same can go to the same nodes; the scheduler has to hear of each once
            own = "" if spec.runtime == "function" else spec.fingerprint
            key = (
                own,
                spec.memory,
                tuple(sorted(spec.resources.items())),
                tuple(sorted(spec.labels.items())),
            )
            if key not in found or not known:
                found[key] = eligible_slots(client, spec)
        if not known:
            self._strategies = self._named(client)
        return max(found.values())

    def asked(self, input: Input, output: str | None, on_error: Literal["raise", "collect"]) -> Through:
        compiled = self.compiled
        ends = dict(zip(self.pipeline.output, compiled.ends, strict=True))
        return Through(
            name=self.id,
            input=input,
            output=output,
            types=self._types(),
            on_error=on_error,
            ends=ends,
            models={name: step.spec.id for name, step in compiled.steps.items()},
            optional=_optional(self.pipeline),
            takes=tuple(dict.fromkeys((*compiled.ends, *compiled.last))),
            last=compiled.last,
        )

    def _types(self) -> dict[str, pa.DataType] | None:
        outputs = self.pipeline.outputs
        return declared_types(outputs) if outputs else None

    def _named(self, client: Client) -> dict[str, str]:
        """Names of strategies, by step, which the scheduler is told."""
        found: dict[str, str] = {}
        for name, step in self.compiled.steps.items():
            if step.strategy is None:
                continue
            try:
                found[name], code = named_strategy(step.strategy, "")
                call_control(client, "altlas_strategy", name=found[name], function=code)
            except (BadRequest, SpecError) as error:
                raise PipelineError(f"stage {name!r}: {error}") from error
        return found

    def describe(self, client: Client, limit: float) -> tuple[dict[str, pa.DataType] | None, float]:
        return None, 0.0  # the first rows tell

    def send(
        self, client: Client, rows: Given, start: int, stop: int, what: Through, then: Then
    ) -> Future[Any]:
        return self._send(client, rows, start, stop, what, then, (what,))

    def send_part(
        self, client: Client, part: Part, rows: Callable[[], Given], what: Through, folder: Path
    ) -> Future[Any]:
        return self._send(client, rows(), part.start, part.stop, what, write_part, (folder, part.name))

    def _send(
        self,
        client: Client,
        rows: Given,
        start: int,
        stop: int,
        what: Through,
        then: Callable[..., Any],
        args: tuple[Any, ...],
    ) -> Future[Any]:
        first = Own(inputs_of, (rows, start, stop, what.input, what.name))
        last = Own(finish, (rows, start, stop, what, then, args), what.takes)
        traces = None if what.trace is None else Packed.of([(what.trace, stop - start)])
        way = Way(stop - start, lenient=True, strategies=self._strategies, traces=traces)
        return send_through(client, self.compiled, first, last, way)

    def lazily(self, partition: Any, what: Through, index: int, unique: str) -> Any:
        # Collections lose annotations: the keys of the stages alone tell the scheduler what they need.
        done: dict[str, Any] = {
            INPUT: delayed(partition_inputs, pure=False)(
                partition, what, index, dask_key_name=f"altlas-partition_inputs-{unique}-{index}"
            )
        }
        stage = delayed(stage_partition, pure=False)
        for place, (name, step) in enumerate(self.compiled.steps.items()):
            done[name] = stage(
                self.compiled.packed[name],
                *(done[need] for need in step.needs),
                dask_key_name=predict_key(step.spec.fingerprint, f"{unique}-{place}-{index}"),
            )
        return delayed(finish_partition, pure=False)(
            partition,
            what,
            index,
            *(done[name] for name in what.takes),
            dask_key_name=f"altlas-finish_partition-{unique}-{index}",
        )

    def report(self) -> Report:
        return Report(self.pipeline)


def _optional(pipeline: Pipeline, prefix: str = "") -> frozenset[str]:
    """Stages that may fail, also those of pipelines in it, by their places in the whole."""
    found: set[str] = set()
    for stage in pipeline:
        if stage.optional:
            found.add(prefix + stage.name)
        if stage.pipeline is not None:
            found |= _optional(stage.pipeline, prefix + stage.name + WITHIN)
    return frozenset(found)
