"""What the thresholds of a cascade make of a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from altlas_flow.aggregation.thresholds import QUALITY, Point, curve_of, rightness, target_of
from altlas_flow.errors import BadRequest, one_line
from altlas_flow.pipeline.locally import run_here
from altlas_flow.pipeline.pipeline import Pipeline
from altlas_flow.pipeline.result import failure

if TYPE_CHECKING:
    from altlas_flow.pipeline.cascade import Cascade

#: Rows of the sample in one request.
ROWS = 256


def measured(
    cascade: Cascade,
    sample: Iterable[Any],
    *,
    target: float | Mapping[str, float],
    truths: Iterable[Any] | None,
    right: Callable[[Any, Any], Any] | None,
    flow: Any,
) -> tuple[Point, ...]:
    """What each threshold would have made of a sample; see `Cascade.calibrate`."""
    what, _ = target_of(target)
    inputs = _listed("sample", sample)
    if not inputs:
        raise BadRequest("the sample is empty: give inputs to calibrate on")
    known = None if truths is None else _listed("truths", truths)
    if known is None and (what == QUALITY or right is not None):
        raise BadRequest("a quality is told by truths: calibrate(sample, truths=...)")
    if known is not None and len(known) != len(inputs):
        raise BadRequest(f"{len(known)} truths for {len(inputs)} inputs: give one for each")
    probe = cascade.probe(both=known is not None)
    judged, large = _asked(flow, probe, inputs) if flow is not None else _here(probe, inputs)
    if any(one["score"] is None and one["verdict"] is not None for one in judged):
        raise BadRequest(
            "accept= says True or False, so there is no threshold to find: have it give a score as a number"
        )
    scores = [one["score"] for one in judged]
    if known is None:
        return curve_of(scores)
    small = [
        0.0 if one["verdict"] is None else rightness([one["verdict"]], [truth], right)[0]
        for one, truth in zip(judged, known, strict=True)
    ]
    return curve_of(scores, small, rightness(large, known, right))


def _listed(name: str, given: Any) -> list[Any]:
    if (
        isinstance(given, (str, bytes, Mapping))
        or hasattr(given, "columns")
        or not isinstance(given, Iterable)
    ):
        shown = one_line(type(given).__name__, 60)
        raise BadRequest(f"{name}= is a {shown}: give a list; of a frame, a column of it")
    return list(given)


def _asked(flow: Any, probe: Pipeline, inputs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Judgements and the large one's answers, from a cluster."""
    handles: list[Any] = []
    try:
        for at in range(0, len(inputs), ROWS):
            handles.append(flow.submit(probe, list(inputs[at : at + ROWS])))
        outputs = [one for handle in handles for one in handle.result().outputs]
    except BaseException:
        for handle in handles:
            handle.cancel()
        raise
    if probe.single:
        return outputs, []
    judge, large = probe.output
    return [one[judge] for one in outputs], [one[large] for one in outputs]


def _here(probe: Pipeline, inputs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The same from this process."""
    found = run_here(probe, inputs)
    for rows in (found[name] for name in probe.output):
        for fault in rows.faults.values():
            raise failure(fault)
    answers = [list(found[name].outputs) for name in probe.output]
    return answers[0], answers[1] if len(answers) > 1 else []
