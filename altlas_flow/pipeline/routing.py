"""Stages that name a task: for each row one of the models that serve it is chosen, on the worker.

Such a stage becomes a pipeline: ``choice`` draws a model for each row, each model has a stage that is done
for its rows only, and ``answer`` is what they answered. The worker decides as a client does, on what has been
learned until a moment ago, and tells what came of it.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from altlas_flow.cluster.worker.choosing import choosing_here
from altlas_flow.errors import AltlasError, BadRequest, NodeFault, PipelineError
from altlas_flow.models.spec import ModelSpec
from altlas_flow.pipeline.pipeline import Pipeline
from altlas_flow.pipeline.rows import StageRows
from altlas_flow.pipeline.stage import EXPLAIN, INPUT, Stage
from altlas_flow.selection.wanted import Context, Wanted, features_of, subtype_of, wanted

CHOICE, ANSWER, EMBEDDING = "choice", "answer", "embedding"
#: What a row's record says of its choice: the model, and the id by which `Flow.feedback` knows it.
MODEL, DECISION = "model", "decision_id"


class Aside(ABC):
    """What a stage does for rows beside the host: it takes no slot, and predicts nothing."""

    @abstractmethod
    def one(self, value: Any, row: int, upstream: Sequence[StageRows], node: str) -> Any:
        """The output of one row.

        Raises
        ------
        AltlasError
            It fails the row.
        """

    def close(self) -> None:  # noqa: B027
        """All rows are done: nothing more is to do for most."""

    def __call__(self, value: Any) -> Any:
        """Where there is no cluster."""
        raise BadRequest("a stage with task= chooses on a cluster's workers: give flow=")


@dataclass(frozen=True)
class Choose(Aside):
    """Draws a model for a row.

    Parameters
    ----------
    task : str
    wanted : Wanted
    context : mapping or callable, optional
    models : tuple of str
        Those that the pipeline was made for.
    embedded : bool
        Whether a row comes with its embedding.
    language : bool
        Whether the language of a text is a feature.
    """

    task: str
    wanted: Wanted
    context: Context
    models: tuple[str, ...]
    embedded: bool = False
    language: bool = False

    def one(self, value: Any, row: int, upstream: Sequence[StageRows], node: str) -> dict[str, str]:
        """Its model, and the decision."""
        choosing, wanted = choosing_here(), self.wanted
        value, vector = (value[INPUT], value[EMBEDDING]) if self.embedded else (value, None)
        try:
            features = features_of(value, self.context, in_rows=True, vector=vector, language=self.language)
        except AltlasError:
            raise
        except Exception as error:
            # a function of the user's own may fail on a row in any way
            raise BadRequest(f"context= failed: {type(error).__name__}: {error}") from error
        choice = choosing.choose(
            self.task,
            features,
            wanted.goal,
            wanted.strategy,
            explore=wanted.explore,
            id=os.urandom(16).hex(),
            subtype=subtype_of(features),
            among=self.models,
        )
        choosing.use(choice)
        return {MODEL: choice.decision.model, DECISION: choice.decision.id}

    def close(self) -> None:
        """Have the decisions known before anybody can speak of them."""
        choosing_here().hurry()

    def digest_parts(self) -> list[Any]:
        """What decides what it gives."""
        goal = self.wanted.goal
        aims = [repr(goal), str(self.wanted.strategy), self.wanted.explore]
        return [self.task, aims, self.context, list(self.models), self.embedded, self.language]


@dataclass(frozen=True)
class Pick(Aside):
    """The answer of the model that was asked.

    Parameters
    ----------
    models : tuple of str
        In the order of the stages before it; the choice comes first.
    name : str
        Of an answer that is no record, where records are asked for; empty: the answer alone.
    """

    models: tuple[str, ...]
    name: str = ""

    def one(self, value: Any, row: int, upstream: Sequence[StageRows], node: str) -> Any:
        """Of the one whose stage was done for the row."""
        asked = [place for place, one in enumerate(upstream[1:]) if row not in one.skipped]
        if not asked:
            # the worker that had chosen is gone, and another one chose anew, after that stage was done
            raise NodeFault(node, "a worker that chose models was lost: run it again")
        answer = upstream[1 + asked[0]].outputs[row]
        if not self.name:
            return answer
        said = {MODEL: self.models[asked[0]], DECISION: upstream[0].outputs[row][DECISION]}
        return {**answer, **said} if isinstance(answer, Mapping) else {self.name: answer, **said}

    def digest_parts(self) -> list[Any]:
        """What decides what it gives."""
        return [list(self.models), self.name]


@dataclass(frozen=True)
class Chosen:
    """Whether a row is for a model."""

    model: str

    def __call__(self, given: Mapping[str, Any]) -> bool:
        """Of the input and the choice, by name."""
        return bool(given[CHOICE][MODEL] == self.model)

    def digest_parts(self) -> list[Any]:
        """What decides what it gives."""
        return [self.model]


@dataclass(frozen=True)
class OfRow:
    """What the chosen model gets.

    Parameters
    ----------
    task : str
    of : str
        The stage that chose.
    """

    task: str
    of: str = CHOICE

    def __call__(self, given: Mapping[str, Any]) -> Any:
        """Of the input and the choice, by name."""
        return given[INPUT]

    def digest_parts(self) -> list[Any]:
        """What decides what it gives."""
        return [self.task]


def tell(task: str, model: str, choices: StageRows, rows: Sequence[int], seconds: float, faults: Any) -> None:
    """Say what came of choices.

    Parameters
    ----------
    task, model : str
    choices : StageRows
        Records of the choice.
    rows : sequence of int
        That the model was asked for.
    seconds : float
        That the model took for all of them.
    faults : mapping of int to Fault
        Rows that failed.
    """
    choosing = choosing_here()
    took: float | None = seconds / max(1, len(rows))
    for row in rows:
        fault = faults.get(row)
        id = choices.outputs[row][DECISION]
        choosing.ended(id, task, model, latency=took, error=None if fault is None else fault.error)
        if fault is None:
            took = None  # they were predicted together: that was one measurement, not so many


def routed(pipeline: Pipeline, serving: Callable[[str], Sequence[ModelSpec]]) -> Pipeline:
    """The pipeline with a stage for each model that may be chosen; the same where it names no task.

    Parameters
    ----------
    pipeline : Pipeline
    serving : callable
        Gives the models that serve a task.

    Raises
    ------
    PipelineError
        Its text names the stage.
    """
    stages = [_stage(stage, serving) for stage in pipeline]
    if all(new is old for new, old in zip(stages, pipeline, strict=True)):
        return pipeline
    return Pipeline(
        stages,
        id=pipeline.id,
        output=list(pipeline.output) if not pipeline.single else pipeline.output[0],
        outputs=pipeline.outputs,
    )


def _stage(stage: Stage, serving: Callable[[str], Sequence[ModelSpec]]) -> Stage:
    if stage.pipeline is not None:
        inner = routed(stage.pipeline, serving)
        return stage if inner is stage.pipeline else replace(stage, pipeline=inner)
    if stage.task is None:
        return stage
    try:
        specs = serving(stage.task)
    except AltlasError as error:
        raise PipelineError(f"stage {stage.name!r}: {error}") from error
    inner = _choosing(stage, stage.task, [spec.id for spec in specs])
    return Stage(
        stage.name,
        pipeline=inner,
        after=stage.after,
        inputs=stage.inputs,
        when=stage.when,
        optional=stage.optional,
    )


def _choosing(stage: Stage, task: str, models: Sequence[str]) -> Pipeline:
    """The pipeline that a stage with a task stands for."""
    options = dict(stage.choose)
    explain = options.pop(EXPLAIN, False)
    context, embed = options.pop("context", None), options.pop("embed", None)
    language = options.pop("language", False)
    names = dict(zip(_names(models), models, strict=True))
    choose = Choose(task, wanted(**options), context, tuple(models), embed is not None, language)
    first = [] if embed is None else [Stage(EMBEDDING, model=embed)]
    asked = []
    for name, model in names.items():
        own = replace(stage, name=name, model=model, task=None, choose={}, optional=False)
        asked.append(replace(own, after=(INPUT, CHOICE), inputs=OfRow(task), when=Chosen(model)))
    name = explain if isinstance(explain, str) else ANSWER if explain else ""
    return Pipeline(
        [
            *first,
            Stage(CHOICE, function=choose, after=(INPUT, *(stage.name for stage in first))),
            *asked,
            Stage(ANSWER, function=Pick(tuple(models), name), after=(CHOICE, *names)),
        ],
        id=task[:100],
        output=ANSWER,
    )


def _names(models: Sequence[str]) -> list[str]:
    """A name of a stage for each model: like its id, where that is one."""
    found: list[str] = []
    for model in models:
        name = re.sub(r"[^A-Za-z0-9_-]", "-", model)[:90].lstrip("-") or "model"
        taken = {*found, CHOICE, ANSWER, INPUT}
        found.append(
            name
            if name not in taken
            else next(f"{name}-{n}" for n in range(2, 9999) if f"{name}-{n}" not in taken)
        )
    return found
