"""`Stage`: one step of a pipeline, as its author writes it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import timedelta
from math import inf
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

from altlas_flow.aggregation import Aggregator, Stacking, aggregator_of
from altlas_flow.aggregation.choosing import MAKERS
from altlas_flow.cluster.client.named import check_strategy
from altlas_flow.errors import AltlasError, BadRequest, PipelineError, SpecError, one_line
from altlas_flow.models.spec import ModelSpec, import_object
from altlas_flow.records import RetryPolicy
from altlas_flow.records.request import seconds
from altlas_flow.selection.features import known as known_features
from altlas_flow.selection.wanted import CHOOSE, language_asked, task_of, wanted

if TYPE_CHECKING:
    from altlas_flow.pipeline.pipeline import Pipeline

#: By this name stages refer to what the pipeline is given.
INPUT = "input"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
#: What a stage may be; each takes exactly one.
KINDS = ("model", "task", "function", "combine", "pipeline")
#: What a stage that is a pipeline leaves to the stages in it.
OF_WORK = (
    "parameters",
    "resources",
    "strategy",
    "retry",
    "timeout",
    "validator",
    "cache",
    "batch",
    "batched",
    "each",
    "choose",
)
#: What a stage that names a task may say of a choice, beside what `Flow.select` takes.
EXPLAIN = "explain"


@dataclass(frozen=True, eq=False, repr=False)
class Stage:
    """A step of a pipeline: a model, a function, an aggregation, or another pipeline.

    Parameters
    ----------
    name : str
        Letters, digits, ``-`` and ``_``; not ``input``.
    model : str or ModelSpec, optional
        The id of a registered model, or a recipe.
    task : str, optional
        For each row one of the models that serve it is chosen, as by `Flow.select`, on the worker.
    function : callable or str, optional
        Takes what the stages before it give, and gives this stage's output; or ``"package.module:name"``.
    combine : Aggregator, ResultAggregationStrategy, str or callable, optional
        Makes one verdict of the outputs of several stages: ``af.vote()``, ``"MAJORITY_VOTE"``, a function of
        the outputs by stage, or ``"package.module:name"``. To an aggregator, a stage that was skipped, and
        an optional one that failed, has no answer.
    pipeline : Pipeline, optional
        Or what makes one, such as a cascade. In results its stages are named after this one: ``name.stage``.
    after : str or sequence of str
        The stages that it depends on; ``"input"`` is what the pipeline is given. By default that alone.
    inputs : callable or str, optional
        Of the outputs of the stages before it: what this stage gets. By default the output of that stage;
        of several, a dict by their names.
    when : callable or str, optional
        Of the same: whether to do this stage at all. Where not, its output is None; a stage after it is
        skipped as well where all that it depends on are skipped.
    parameters : mapping
        Of the prediction, or keywords of the function.
    resources : mapping
        What a worker must have declared for a function, such as ``{"GPU": 1}``; a model's recipe has its own.
    strategy : str, DistributionStrategy or callable, optional
        How its node is chosen.
    retry : int or RetryPolicy
        Tries, after which errors too; faults of nodes are tried again elsewhere in any case.
    timeout : float, str or timedelta, optional
        Seconds for one try, without loading the model.
    validator : callable, pydantic model or str, optional
        An output that it refuses (False, or an error) is a failed try.
    optional : bool
        Where it fails, stages after it get None.
    cache : bool or path
        Do not predict again what was predicted before with the same model and parameters: True keeps answers
        in the memory of each worker, a folder keeps them on disk as well.
    batch : int or "auto", optional
        Rows a batch.
    batched : bool
        Call the function with a list of inputs, not with one.
    choose : mapping
        With `task`: what `Flow.select` takes beside the inputs; ``context`` may be a function of the row.
        ``{"explain": True}``: answer with records that have ``model`` and ``decision_id`` beside the answer.
    each : bool
        Its input is a list of inputs, and its output the list of answers.

    Raises
    ------
    PipelineError
        Its text names the stage.
    """

    name: str
    model: str | ModelSpec | None = None
    _: KW_ONLY
    task: str | None = None
    choose: Mapping[str, Any] = field(default_factory=dict)
    function: Callable[..., Any] | str | None = None
    combine: Any = None
    pipeline: Pipeline | None = None
    after: str | Sequence[str] = (INPUT,)
    inputs: Callable[[Any], Any] | str | None = None
    when: Callable[[Any], Any] | str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)
    strategy: Any = None
    retry: RetryPolicy | int | None = None
    timeout: float | str | timedelta | None = None
    validator: Any = None
    optional: bool = False
    cache: bool | str | os.PathLike[str] = False
    batch: Literal["auto"] | int | None = None
    batched: bool = False
    each: bool = False

    def __post_init__(self) -> None:
        self._settle()

    @property
    def kind(self) -> str:
        """``model``, ``task``, ``function``, ``combine`` or ``pipeline``."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    def renamed(self, name: str, after: Sequence[str]) -> Stage:
        """The same stage under another name, after others."""
        return replace(self, name=name, after=tuple(after))

    def _settle(self) -> None:
        """Check what was given, and bring it into one form."""
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise PipelineError(
                f"{self.name!r} is no name of a stage: use letters, digits, '-' and '_', 100 at most"
            )
        if self.name == INPUT:
            raise PipelineError("a stage cannot be called 'input': that is what the pipeline is given")
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            what = " and ".join(given) if given else "none"
            raise self._wrong(f"it takes one of {', '.join(KINDS)}, and has {what}")
        given_after: Any = INPUT if self.after is None else self.after
        if isinstance(given_after, str) or not isinstance(given_after, Iterable):
            given_after = (given_after,)
        after = tuple(given_after) or (INPUT,)
        if not all(isinstance(one, str) for one in after):
            raise self._wrong(f"after={one_line(repr(self.after), 80)} names no stages: give their names")
        if twice := [one for one in after if after.count(one) > 1]:
            raise self._wrong(f"it names {twice[0]!r} twice in after=")
        self._set(after=after)
        self._check_kinds()
        for flag in ("optional", "batched", "each"):
            if not isinstance(getattr(self, flag), bool):
                raise self._wrong(f"{flag}={getattr(self, flag)!r} is neither True nor False")
        for mapping in ("parameters", "resources"):
            value = getattr(self, mapping)
            if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
                raise self._wrong(f"{mapping}={one_line(repr(value), 80)} is no mapping of names to values")
            self._set(**{mapping: dict(value)})
        amounts: Mapping[str, Any] = self.resources
        for name, amount in amounts.items():
            if isinstance(amount, bool) or not isinstance(amount, Real) or not 0 < float(amount) < inf:
                shown = one_line(repr(amount), 60)
                raise self._wrong(
                    f"resources: {name!r} is {shown}, which is no amount: give a number above 0"
                )
        try:
            check_strategy(self.strategy)
        except BadRequest as error:
            raise self._wrong(f"strategy: {error}") from error
        if isinstance(self.validator, str):
            self._set(validator=self._callable("validator", self.validator))
        if self.validator is not None and not callable(
            getattr(self.validator, "model_validate", self.validator)
        ):
            raise self._wrong("validator= takes a callable or a pydantic model")
        self._set(retry=self._policy(), timeout=self._limit(), cache=self._kept())
        rows = isinstance(self.batch, int) and not isinstance(self.batch, bool) and self.batch > 0
        if not (rows or self.batch in (None, "auto")):
            raise self._wrong(f"batch={self.batch!r} is no number of rows: give one, or 'auto'")

    def _check_kinds(self) -> None:
        if self.model is not None and not isinstance(self.model, (str, ModelSpec)):
            raise self._wrong(
                f"model={one_line(repr(self.model), 80)} is neither an id nor a ModelSpec{self._meant()}"
            )
        for item in ("function", "inputs", "when"):
            self._set(**{item: self._callable(item, getattr(self, item))})
        self._set(combine=self._combination())
        if isinstance(self.combine, Aggregator) and self.inputs is None:
            try:
                self.combine.check(self.after)
            except BadRequest as error:
                raise self._wrong(f"combine: {error}") from error
        self._check_choice()
        if self.kind != "function" and self.batched:
            raise self._wrong("batched= is for functions")
        if self.kind not in ("function", "combine") and self.resources:
            raise self._wrong("resources= is for functions: a model's recipe says what it needs")
        if self.kind == "combine" and self.parameters:
            raise self._wrong("an aggregator takes no parameters=: give them to it when it is made")
        if self.kind == "pipeline":
            from altlas_flow.pipeline.pipeline import as_pipeline

            made = as_pipeline(self.pipeline)
            if made is None:
                raise self._wrong(f"pipeline={one_line(repr(self.pipeline), 80)} is no Pipeline")
            self._set(pipeline=made)
            for item in OF_WORK:
                if getattr(self, item) not in (None, False, {}):
                    raise self._wrong(f"{item}= is for the stages of the pipeline in it: give it to them")

    def _check_choice(self) -> None:
        if not isinstance(self.choose, Mapping) or (self.choose and self.task is None):
            raise self._wrong("choose= is a mapping, and for a stage with task=")
        if self.task is None:
            return
        options: dict[str, Any] = dict(self.choose)
        explain, context = options.pop(EXPLAIN, False), options.pop("context", None)
        embed = options.pop("embed", None)
        if unknown := sorted(set(options) - CHOOSE):
            known = ", ".join(sorted({*CHOOSE, EXPLAIN}))
            raise self._wrong(f"choose has {unknown[0]!r}, which is no option of a choice: there are {known}")
        if not isinstance(explain, (bool, str)):
            raise self._wrong(f"choose: explain={explain!r} is neither True nor False")
        if not (embed is None or isinstance(embed, (str, ModelSpec))):
            raise self._wrong(f"choose: embed={one_line(repr(embed), 60)} is neither an id nor a ModelSpec")
        if isinstance(context, str):
            context = self._callable("choose", context)
        if not (context is None or callable(context) or isinstance(context, Mapping)):
            raise self._wrong("choose: context is a mapping, or a function of the row that gives one")
        try:
            task_of(self.task)
            language_asked(options.pop("language", False))
            wanted(**options)
            known_features(None if callable(context) else context)
        except AltlasError as error:
            raise self._wrong(str(error)) from error
        given = {**self.choose, "context": context} if context is not None else dict(self.choose)
        self._set(choose=given)

    def _meant(self) -> str:
        """Which keyword what was given as a model belongs to, where one can tell."""
        from altlas_flow.pipeline.pipeline import as_pipeline

        given: Any = self.model
        if as_pipeline(given) is not None:
            return ": give it as pipeline="
        if isinstance(given, (Aggregator, Stacking)) or any(given is made for made in MAKERS):
            return ": give it as combine="
        return ": give it as function=" if callable(given) else ""

    def _callable(self, item: str, value: Any) -> Any:
        if isinstance(value, str):
            try:
                value = import_object(value)
            except SpecError as error:
                raise self._wrong(f"{item}: {error}") from error
        if value is not None and not callable(value):
            raise self._wrong(f"{item}={one_line(repr(value), 80)} is no function")
        return value

    def _combination(self) -> Any:
        """An aggregator, or a function of the outputs by stage."""
        given = self.combine
        if isinstance(given, str) and ":" in given:
            return self._callable("combine", given)
        if isinstance(given, (str, Stacking)) or any(given is made for made in MAKERS):
            try:
                given = aggregator_of(given)
            except BadRequest as error:
                raise self._wrong(str(error)) from error
        if given is not None and not callable(getattr(given, "combine", given)):
            raise self._wrong(
                "combine= takes an aggregator, such as af.vote(), the name of a strategy, or a function"
            )
        return given

    def _policy(self) -> RetryPolicy | None:
        if self.retry is None or isinstance(self.retry, RetryPolicy):
            return self.retry
        if isinstance(self.retry, bool) or not isinstance(self.retry, int) or self.retry < 1:
            raise self._wrong(f"retry={self.retry!r} is neither a number of tries nor a RetryPolicy")
        try:
            return RetryPolicy(tries=self.retry, on=("Exception",))
        except BadRequest as error:
            raise self._wrong(f"retry: {error}") from error

    def _limit(self) -> float | None:
        try:
            return None if self.timeout is None else seconds(self.timeout)
        except ValueError as error:
            raise self._wrong(f'timeout={self.timeout!r}: {error}: give seconds, or "300ms"') from error

    def _kept(self) -> bool | str:
        if isinstance(self.cache, bool):
            return self.cache
        if isinstance(self.cache, (str, os.PathLike)) and os.fspath(self.cache):
            return os.path.abspath(os.path.expanduser(os.fspath(self.cache)))
        raise self._wrong(f"cache={self.cache!r} is neither True, False nor a folder")

    def _set(self, **values: Any) -> None:
        for item, value in values.items():
            object.__setattr__(self, item, value)

    def _wrong(self, text: str) -> PipelineError:
        return PipelineError(f"stage {self.name!r}: {text}")

    def __repr__(self) -> str:
        what = getattr(self, self.kind)
        shown = what if isinstance(what, str) else getattr(what, "__name__", None) or str(what)
        return f"<Stage {self.name}: {self.kind} {shown}, after {', '.join(self.after)}>"
