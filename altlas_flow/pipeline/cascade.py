"""`cascade`: the small model answers, and the large one is asked only where the small one is unsure."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

from altlas_flow.aggregation import aggregator_of
from altlas_flow.aggregation.judging import AGREEMENT, SCORE, Judge
from altlas_flow.aggregation.thresholds import Point, choose
from altlas_flow.aggregation.values import is_number
from altlas_flow.errors import BadRequest, PipelineError, one_line
from altlas_flow.models.spec import ModelSpec
from altlas_flow.pipeline.pipeline import Pipeline, as_pipeline
from altlas_flow.pipeline.stage import INPUT, Stage
from altlas_flow.records.html import facts

SMALL, JUDGE, LARGE, ANSWER = "small", "judge", "large", "answer"
#: A score that is enough where nobody says which: that of one model, and the agreement of several.
ENOUGH = {SCORE: 0.5, AGREEMENT: 1.0}


def cascade(
    small: Any,
    large: Any,
    *,
    accept: Any = None,
    threshold: float | None = None,
    combine: Any = None,
    explain: bool = False,
    id: str = "cascade",
    outputs: Mapping[str, str] | None = None,
) -> Cascade:
    """Ask the small model, and the large one only where the small one is unsure.

    Parameters
    ----------
    small : str, ModelSpec, callable, Stage or Pipeline; or a list of these
        Several answer side by side, and `combine` makes one verdict of their answers. A `Stage` brings its
        options (parameters, strategy, timeout); its name and ``after=`` are not looked at. None, what an
        optional one gives that failed, is never accepted.
    large : str, ModelSpec, callable, Stage or Pipeline
        Takes the same input. Where it is an optional `Stage` and fails, the small one's answer counts.
    accept : float, "score", "agreement" or callable, optional
        What is enough. ``"score"``: the score that the answer itself has (beside its label, the highest of
        a map of labels, or the answer where it is a number). ``"agreement"``: the share of several small
        ones that agree with the verdict. A function of the small one's answer (of several: of their answers
        by name): True, False, or a score. A number is the `threshold` of a score, or of several small ones
        of their agreement. By default ``"score"``, and of several ``"agreement"``.
    threshold : float, optional
        Scores of at least it are accepted; by default 0.5, and 1 of an agreement. `Cascade.calibrate` finds
        a better one.
    combine : Aggregator, ResultAggregationStrategy or str, optional
        Of several small ones; by default ``af.vote()``.
    explain : bool
        Answer with records: ``answer``, ``answered_by`` (``"small"`` or ``"large"``) and ``score``. Over
        data each becomes a column.
    id : str
        See `Pipeline`.
    outputs : mapping of str to str, optional
        See `Pipeline`.

    Returns
    -------
    Cascade
        Stands wherever a pipeline does: ``flow.submit(cascade, input)``, ``flow.map(frame, cascade, ...)``,
        or a stage of another one.

    Raises
    ------
    PipelineError
        Where it cannot be meant.

    Notes
    -----
    Good where most inputs are easy and scores tell which. Bad where the small model is sure of what it gets
    wrong: calibrate on rows whose truths are known, and look at the curve.

    Examples
    --------
    >>> cascade(len, str.upper, accept=lambda length: length < 3)
    <Cascade cascade: len, or upper where accept= refuses it, or its score is below 0.5>
    """
    several = not isinstance(small, (str, ModelSpec, Stage, Pipeline)) and isinstance(small, Iterable)
    given = list(small) if several else [small]
    if not given:
        raise PipelineError(f"cascade {id!r}: small=[] names no model: give at least one")
    if len(given) == 1:
        several = False
    if not callable(accept) and not isinstance(accept, str) and is_number(accept):
        if threshold is not None:
            raise PipelineError(f"cascade {id!r}: accept={accept} is a threshold: leave threshold= out")
        accept, threshold = None, accept
    if accept is None:
        accept = AGREEMENT if several else SCORE
    if not callable(accept) and accept not in (SCORE, AGREEMENT):
        raise PipelineError(
            f"cascade {id!r}: accept={one_line(repr(accept), 60)} is none: give a number, {SCORE!r}, "
            f"{AGREEMENT!r}, or a function of the answer"
        )
    if not several and (accept == AGREEMENT or combine is not None):
        raise PipelineError(f"cascade {id!r}: one small model has nobody to agree with: name several")
    if threshold is None:
        threshold = ENOUGH[AGREEMENT if accept == AGREEMENT else SCORE]
    if not is_number(threshold) or math.isnan(threshold):
        raise PipelineError(
            f"cascade {id!r}: threshold={one_line(repr(threshold), 60)} is no number: give one"
        )
    if not isinstance(explain, bool):
        raise PipelineError(f"cascade {id!r}: explain={explain!r} is neither True nor False")
    large_stage = _stage(id, LARGE, large)
    names = [f"{SMALL}-{at}" for at in range(1, len(given) + 1)] if several else [SMALL]
    try:
        combination = aggregator_of("MAJORITY_VOTE" if combine is None else combine) if several else None
        if combination is not None:
            combination.check(names)
    except BadRequest as error:
        raise PipelineError(f"cascade {id!r}: {error}") from error
    small_stages = tuple(_stage(id, name, one) for name, one in zip(names, given, strict=True))
    if any(_alike(one, large_stage) for one in small_stages):
        raise PipelineError(
            f"cascade {id!r}: {_shown(large_stage)} is both small and large, and would answer the same "
            "again: name another one as large"
        )
    made = Cascade(
        small_stages,
        large_stage,
        judge=Judge(accept, float(threshold), combination),
        explain=explain,
        id=id,
        outputs=None if outputs is None else dict(outputs),
    )
    made.as_pipeline()  # what cannot be meant is told here
    return made


@dataclass(frozen=True, eq=False, repr=False)
class Cascade:
    """See `cascade`. Frozen, and picklable where its functions are.

    Attributes
    ----------
    small : tuple of Stage
        Named ``small``, or ``small-1`` and so on.
    large : Stage
    judge : Judge
        Says what is accepted: its ``accept``, ``threshold`` and ``combine``.
    explain : bool
    id : str
    outputs : dict of str to str or None
    curve : tuple of Point
        Of a cascade that was calibrated: for each threshold the share of the sample that goes to the large
        model, and the quality.
    """

    small: tuple[Stage, ...]
    large: Stage
    _: KW_ONLY
    judge: Judge
    explain: bool = False
    id: str = "cascade"
    outputs: Mapping[str, str] | None = None
    curve: tuple[Point, ...] = field(default=())

    @property
    def threshold(self) -> float:
        """Scores of at least it are accepted."""
        return self.judge.threshold

    def as_pipeline(self) -> Pipeline:
        """The same as a `Pipeline`, the same one each time.

        Its stages are ``small`` (of several: ``small-1`` and so on), ``judge`` (whether the answer is
        accepted, the verdict and its score), ``large`` and ``answer``. Of a request,
        ``result["large"].metadata`` has ``skipped`` where the large one was not asked.
        """
        return self._pipeline

    @functools.cached_property
    def _pipeline(self) -> Pipeline:
        large = replace(self.large, after=(INPUT, JUDGE), inputs=OfInput(self.large.inputs), when=unsure)
        answer = Answer(self.explain, fallback=self.large.optional)
        return Pipeline(
            [
                *self._judged(),
                large,
                Stage(ANSWER, function=answer, after=(JUDGE, LARGE)),
            ],
            id=self.id,
            output=ANSWER,
            outputs=self.outputs,
        )

    def calibrate(
        self,
        sample: Iterable[Any],
        *,
        target: float | Mapping[str, float],
        truths: Iterable[Any] | None = None,
        right: Callable[[Any, Any], Any] | None = None,
        flow: Any = None,
    ) -> Cascade:
        """Find the threshold for a wished share of large calls, or a wished quality.

        Parameters
        ----------
        sample : iterable
            Inputs like those that will come; not those that the models were trained on.
        target : float or mapping
            A number or ``{"share": 0.2}``: at most that share goes to the large model, and of what scores
            allow the most. ``{"quality": 0.95}``: at least so much is answered right, with the fewest calls.
        truths : iterable, optional
            What would be right, row by row; needed for a quality. Only then the large model runs as well.
        right : callable, optional
            Of an answer and its truth: whether it is right, or a number from 0 to 1. By default where their
            (best) labels are the same.
        flow : Flow, optional
            Where the models run; without it in this process, which takes models given as `ModelSpec`.

        Returns
        -------
        Cascade
            The same with the threshold, and with a ``curve``.

        Raises
        ------
        TargetUnreachable
            With the best that can be reached.
        StageFailed
            Where a model fails on a row.
        BadRequest
            Where inputs and truths do not fit, or scores are yes and no.
        """
        from altlas_flow.pipeline.calibration import measured

        curve = measured(self, sample, target=target, truths=truths, right=right, flow=flow)
        return replace(self, curve=curve).at(target)

    def at(self, target: float | Mapping[str, float]) -> Cascade:
        """The same with the threshold that another target asks for; of one that was calibrated.

        Parameters
        ----------
        target : float or mapping
            See `calibrate`.

        Raises
        ------
        TargetUnreachable, BadRequest
        """
        if not self.curve:
            raise BadRequest("this cascade has no curve to choose from: calibrate(sample, target=...) first")
        point = choose(self.curve, target)
        return replace(self, judge=replace(self.judge, threshold=point.threshold))

    def probe(self, *, both: bool) -> Pipeline:
        """The pipeline that calibration asks: the judgement, and with `both` all answers of the large one."""
        stages = [*self._judged(), *([self.large] if both else [])]
        return Pipeline(stages, id=self.id, output=[JUDGE, LARGE] if both else JUDGE)

    def _judged(self) -> Sequence[Stage]:
        after = tuple(stage.name for stage in self.small)
        return [*self.small, Stage(JUDGE, function=self.judge, after=after)]

    def _repr_html_(self) -> str:
        """What it does, drawn, and where the threshold is; everything is escaped."""
        pairs = [("threshold", f"{self.threshold:.6g}")]
        for point in self.curve:
            if point.threshold == self.threshold:
                right = "" if point.quality is None else f", {point.quality:.1%} right"
                pairs.append(("on its sample", f"{point.share:.1%} went to the large one{right}"))
        return facts(repr(self)[1:-1], pairs, self._pipeline._repr_html_())

    def __repr__(self) -> str:
        small = ", ".join(_shown(stage) for stage in self.small)
        judge = self.judge
        if judge.threshold == math.inf and (self.curve or not callable(judge.accept)):
            return (
                f"<Cascade {self.id}: always the large one, {_shown(self.large)}: none of {small} is enough>"
            )
        if callable(judge.accept):
            where = f"accept= refuses it, or its score is below {judge.threshold:.6g}"
        else:
            where = f"the {judge.accept} is below {judge.threshold:.6g}"
        return f"<Cascade {self.id}: {small}, or {_shown(self.large)} where {where}>"


@dataclass(frozen=True)
class OfInput:
    """What the large model gets: the input, or what its own ``inputs=`` makes of it."""

    inputs: Any = None

    def __call__(self, given: Mapping[str, Any]) -> Any:
        """Of the input and the judgement, by name."""
        return given[INPUT] if self.inputs is None else self.inputs(given[INPUT])

    def digest_parts(self) -> list[Any]:
        """What decides what it gives."""
        return [self.inputs]


@dataclass(frozen=True)
class Answer:
    """The accepted verdict, or the large one's answer.

    Parameters
    ----------
    explain : bool
        Say who answered.
    fallback : bool
        Where the large one has no answer, the verdict counts.
    """

    explain: bool = False
    fallback: bool = False

    def __call__(self, given: Mapping[str, Any]) -> Any:
        """Of the judgement and the large one's answer, by name."""
        judgement, large = given[JUDGE], given[LARGE]
        accepted = judgement["accepted"] or (self.fallback and large is None)
        answer = judgement["verdict"] if accepted else large
        if not self.explain:
            return answer
        return {
            "answer": answer,
            "answered_by": SMALL if accepted else LARGE,
            "score": judgement["score"],
        }

    def digest_parts(self) -> list[Any]:
        """What decides what it gives."""
        return [self.explain, self.fallback]


def unsure(given: Mapping[str, Any]) -> bool:
    """Whether the large model is asked."""
    return not given[JUDGE]["accepted"]


def _stage(cascade: str, name: str, given: Any) -> Stage:
    """What was given as a stage of that name."""
    if isinstance(given, Stage):
        if given.when is not None or given.after != (INPUT,):
            raise PipelineError(
                f"cascade {cascade!r}: stage {given.name!r} has when= or after=: a cascade says these itself"
            )
        return given.renamed(name, (INPUT,))
    if isinstance(given, (str, ModelSpec)):
        return Stage(name, given)
    if (pipeline := as_pipeline(given)) is not None:
        return Stage(name, pipeline=pipeline)
    if callable(given) and not isinstance(given, type):
        return Stage(name, function=given)
    raise PipelineError(
        f"cascade {cascade!r}: {one_line(repr(given), 60)} is no model: give an id, a ModelSpec, a function, "
        "a Stage or a Pipeline"
    )


def _alike(small: Stage, large: Stage) -> bool:
    """Whether one model would be asked the same twice."""
    if small.model is None or small.model != large.model:
        return False
    return small.inputs is large.inputs and dict(small.parameters) == dict(large.parameters)


def _shown(stage: Stage) -> str:
    what: Any = getattr(stage, stage.kind)
    if isinstance(what, str):
        return what
    return str(getattr(what, "id", None) or getattr(what, "__name__", what))
