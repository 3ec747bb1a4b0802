"""Pipelines in pipelines, laid flat: what is left are models, functions and aggregations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from altlas_flow.pipeline.pipeline import Pipeline
from altlas_flow.pipeline.stage import INPUT, Stage

#: Between the name of a stage that is a pipeline and the names of the stages in it.
WITHIN = "."


@dataclass(frozen=True)
class Placed:
    """A stage at its place in the whole.

    Attributes
    ----------
    name : str
        ``outer.inner`` for a stage of an inner pipeline.
    stage : Stage
    needs : tuple of (str, str)
        What it depends on: by which name it knows it, and where it is.
    """

    name: str
    stage: Stage
    needs: tuple[tuple[str, str], ...]


def flatten(pipeline: Pipeline) -> tuple[list[Placed], tuple[str, ...]]:
    """The stages of a pipeline, each after those that it depends on; and where its outputs are."""
    found, ends = _flatten(pipeline, INPUT, "")
    return found, ends


def _flatten(pipeline: Pipeline, entry: str, prefix: str) -> tuple[list[Placed], tuple[str, ...]]:
    found: list[Placed] = []
    where = {INPUT: entry}  # a stage's name in this pipeline -> where its output is
    for stage in pipeline:
        name = prefix + stage.name
        needs = tuple((one, where[one]) for one in stage.after)
        if stage.pipeline is None:
            found.append(Placed(name, stage, needs))
            where[stage.name] = name
            continue
        inside = needs[0][1]
        if len(needs) > 1 or stage.inputs is not None or stage.when is not None:
            gate = Stage("gate", function=same, after=stage.after, inputs=stage.inputs, when=stage.when)
            inside = f"{name}{WITHIN}{INPUT}"
            found.append(Placed(inside, gate, needs))
        inner, ends = _flatten(stage.pipeline, inside, name + WITHIN)
        found += inner
        where[stage.name] = _close(stage, name, ends, found)
    return found, tuple(where[name] for name in pipeline.output)


def _close(stage: Stage, name: str, ends: tuple[str, ...], found: list[Placed]) -> str:
    """Where the output of an inner pipeline is; several outputs are gathered there."""
    inner = stage.pipeline
    assert inner is not None
    if inner.single and not stage.optional:
        return ends[0]
    labels = dict(zip(inner.output, ends, strict=True))
    gather = Stage("gather", function=same, after=tuple(labels), optional=stage.optional)
    found.append(Placed(name, gather, tuple(labels.items())))
    return name


def same(value: Any) -> Any:
    """What it is given."""
    return value


def may_fail(step: str, optional: frozenset[str]) -> bool:
    """Whether a step, or a pipeline that it is in, is optional."""
    names = step.split(WITHIN)
    return any(WITHIN.join(names[:count]) in optional for count in range(1, len(names) + 1))
