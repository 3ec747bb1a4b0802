"""`Asking`: the part of a `Flow` that asks several models at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from altlas_flow.aggregation.choosing import aggregator_of
from altlas_flow.aggregation.collecting import prefer
from altlas_flow.cluster.client.handle import Handle
from altlas_flow.cluster.client.transport import Transport
from altlas_flow.errors import BadRequest, ClusterLost, Overloaded, names, one_line
from altlas_flow.models.runtimes import runtime_class
from altlas_flow.models.spec import ModelSpec
from altlas_flow.parallel.fanout import FanOut
from altlas_flow.parallel.referee import Referee
from altlas_flow.parallel.responses import Responses
from altlas_flow.records import InferenceRequest, ResultAggregationStrategy, RetryPolicy
from altlas_flow.records.request import limit_of
from altlas_flow.selection.wanted import options_of
from altlas_flow.settings import Settings

if TYPE_CHECKING:
    from altlas_flow.cluster.choosing import Choice


class Asking(ABC):
    """Asks several models at once; a `Flow` is one."""

    _transport: Transport
    _settings: Settings
    _referee: Referee

    @abstractmethod
    def _find(self, model: str | ModelSpec) -> ModelSpec:
        """The spec that is meant."""

    @abstractmethod
    def _check_open(self) -> None:
        """Raise `ConnectError` where the flow is closed."""

    @abstractmethod
    def submit(self, model: Any, inputs: Any = None, **options: Any) -> Handle:
        """Ask for one prediction."""

    @abstractmethod
    def _together(
        self, task: str, inputs: Any, choose: Mapping[str, Any], within: float | None
    ) -> tuple[tuple[str, ...], Choice]:
        """Models to ask at once for a task, the chosen one first."""

    @abstractmethod
    def _decided(self, handle: Handle, choice: Choice) -> Handle:
        """A request whose model was chosen."""

    @property
    def default_aggregation(self) -> ResultAggregationStrategy:
        """How answers of several models are combined where nobody says how, as the settings had it."""
        return ResultAggregationStrategy(self._settings.default_aggregation_strategy)

    def ask(
        self, models: Iterable[str | ModelSpec] | None = None, inputs: Any = None, **options: Any
    ) -> Responses:
        """Ask several models the same, and wait for the verdict.

        Takes what `fan_out` takes, and is the same as ``fan_out(...).result()``; interrupted, it gives up
        what is under way.

        Returns
        -------
        Responses
            A sequence of the responses, with ``.outputs`` (the verdict), ``.missing`` and ``.agreement``.

        Raises
        ------
        NoQuorum
            Where too few models answered; with the answers that there are, as ``.responses``.
        Uncombinable
            Where answers do not go together.
        AggregationFailed
            Where an aggregator, or a function that was given to one, raises.
        UnknownModel, ParameterError, BadRequest, ClusterLost
        """
        asked = self.fan_out(models, inputs, **options)
        try:
            return asked.result()
        except BaseException:
            asked.cancel()
            raise

    def fan_out(
        self,
        models: Iterable[str | ModelSpec] | None = None,
        inputs: Any = None,
        *,
        task: str | None = None,
        choose: Mapping[str, Any] | None = None,
        combine: Any = None,
        early_stopping: bool = True,
        deadline: float | str | timedelta | None = None,
        parameters: Mapping[str, Any] | None = None,
        strategy: Any = None,
        priority: int = 0,
        retry: RetryPolicy | None = None,
        validator: Any = None,
        idempotent: bool = True,
        hedge: bool = False,
        **more: Any,
    ) -> FanOut:
        """Ask several models the same; does not wait.

        An error of one model costs the others nothing. What is wrong with the question itself (a model that
        nobody knows, a parameter that one of them does not take) is raised before any of them is asked.

        Parameters
        ----------
        models : list of str or ModelSpec
            Each once; their order decides between equals.
        inputs : Any
            One input, or a list of them, whose answers are combined row by row. Or an `InferenceRequest`: it
            says all but `models`, `combine`, `early_stopping` and `strategy`; its ``model_id`` is not looked
            at, and the tasks are named after it: ``<request_id>-<model>``.
        task, choose : str and mapping, optional
            In the place of `models`: one of those that serve the task is chosen, as by `select`, and beside
            it those that are worth it: as long as the quality that one more is expected to add, where those
            before it fail or are late, is worth what it costs. By default the first of them that answers
            counts, in the order of their choice. A request says the task itself, as its ``task_type``. Beside
            `models` they are parameters of the prediction.
        combine : Aggregator, ResultAggregationStrategy, str or callable, optional
            Such as ``af.vote()``, ``"MAJORITY_VOTE"``, or a function of the outputs by model; by default the
            setting ``altlas.default-aggregation-strategy``.
        early_stopping : bool
            Whether models are given up whose answers cannot change the verdict any more; their slots are
            free as soon as what runs can be stopped.
        deadline : float, str or timedelta, optional
            Seconds from now, or ``"300ms"``: what has been answered by then is combined, and ``.missing``
            names the rest.
        parameters : mapping, optional
            Of the prediction, for all models. Under the id of one of the models: a mapping of more, for that
            one alone.
        strategy, priority, retry, validator, idempotent, hedge
            See `submit`; for each of the models.
        **more
            Of the prediction, for all models.

        Returns
        -------
        FanOut
            Blocking (``.result()``) and awaitable.

        Raises
        ------
        UnknownModel, ParameterError, BadRequest, ClusterLost
        """
        self._check_open()
        choice: Choice | None = None
        if models is None:
            asked = inputs if isinstance(inputs, InferenceRequest) else None
            task = asked.task_type if asked is not None and task is None else task
            if task is None:
                raise BadRequest("no models are named: give a list of them, or task= to have some chosen")
            given_inputs, within = (inputs, deadline) if asked is None else (asked.inputs, asked.deadline)
            models, choice = self._together(task, given_inputs, options_of(choose), limit_of(within))
            combine = prefer() if combine is None else combine
        else:  # then they are parameters of the prediction, as with `submit`
            more |= {name: value for name, value in (("task", task), ("choose", choose)) if value is not None}
        aggregator = aggregator_of(combine, self.default_aggregation)
        if not isinstance(early_stopping, bool):
            raise BadRequest(f"early_stopping={early_stopping!r} is neither True nor False: give one")
        named = _listed(models)
        ids = [model.id if isinstance(model, ModelSpec) else model for model in named]
        request = inputs if isinstance(inputs, InferenceRequest) else None
        options: dict[str, Any] = {
            "priority": priority,
            "deadline": deadline,
            "retry": retry,
            "validator": validator,
            "idempotent": idempotent,
            "hedge": hedge,
        }
        if request is not None:
            given = (priority, deadline, retry, validator, parameters, idempotent, hedge, more)
            if given != (0, None, None, None, None, True, False, {}):
                raise BadRequest("a request says all but models, combine and strategy: leave the rest out")
            shared: Any = request.parameters
            rows = request.inputs
        else:
            if parameters is not None and not isinstance(parameters, Mapping):
                raise BadRequest(f"parameters={parameters!r} is no mapping: give names and values")
            shared, rows = {**(parameters or {}), **more}, inputs
        tally = aggregator.begin(ids, len(rows) if isinstance(rows, list) else None)
        specs = [self._find(model) for model in named]
        _refuse_strangers(shared, specs)
        each = [_parameters(shared, name, ids) for name in ids]
        for spec, own in zip(specs, each, strict=True):
            # all of them, before one is sent
            self._transport.lane(spec, own)
        fanout = FanOut(self._transport, self._referee, tally, early=early_stopping)
        self._referee.enter(fanout)
        handles: list[Handle] = []
        try:
            for spec, own in zip(specs, each, strict=True):
                handles.append(self._send(spec.id, own, request, inputs, strategy, options))
        except BaseException:
            for handle in handles:
                handle.cancel()
            self._referee.leave(fanout)
            raise
        if choice is not None and handles[0]._error is None:  # not refused at once: then it was never used
            self._decided(handles[0], choice)
        fanout.watch(handles)
        return fanout

    def _send(
        self,
        model: str,
        parameters: dict[str, Any],
        request: InferenceRequest | None,
        inputs: Any,
        strategy: Any,
        options: Mapping[str, Any],
    ) -> Handle:
        """Ask one of them; that there is no room for it is its own outcome."""
        name = "" if request is None else f"{request.request_id}-{model}"
        try:
            if request is None:
                return self.submit(model, inputs, strategy=strategy, parameters=parameters, **options)
            fields = {"model_id": model, "request_id": name, "parameters": parameters}
            return self.submit(request.model_copy(update=fields), strategy=strategy)
        except (Overloaded, ClusterLost) as error:
            return self._transport.refused(name, model, error)


def _listed(models: Any) -> Sequence[str | ModelSpec]:
    if isinstance(models, (str, ModelSpec, Mapping)) or not isinstance(models, Iterable):
        raise BadRequest(f"models={models!r} is no list of models: give their ids, or ModelSpecs")
    named = list(models)
    for model in named:
        if not isinstance(model, (str, ModelSpec)):
            raise BadRequest(f"a {type(model).__name__} is no model: give ids, or ModelSpecs")
    return named


def _refuse_strangers(shared: Mapping[str, Any], specs: Sequence[ModelSpec]) -> None:
    """Refuse parameters for a model that is not asked; what may be a parameter's own mapping is none.

    What a function takes is known only where it runs: where one is asked, only ids that are nearly right are
    refused.

    Raises
    ------
    BadRequest
    """
    ids = [spec.id for spec in specs]
    known = [_taken(spec) for spec in specs]
    anything = any(taken is None for taken in known)
    for name, value in shared.items():
        if name in ids or not isinstance(value, Mapping):
            continue
        near = get_close_matches(name, ids, 1, cutoff=0.75)
        if any(taken is not None and name in taken for taken in known) or (anything and not near):
            continue
        hint = f"did you mean {near[0]!r}?" if near else f"those are {names(ids)}"
        raise BadRequest(f"parameters= are given for {one_line(repr(name), 60)}, which is not asked: {hint}")


def _taken(spec: ModelSpec) -> frozenset[str] | None:
    """Names of the parameters that a model takes, as far as its runtime tells before it is loaded."""
    tell = getattr(runtime_class(spec.runtime)(spec), "parameter_names", None)
    return None if tell is None else tell()


def _parameters(shared: Mapping[str, Any], name: str, ids: Sequence[str]) -> dict[str, Any]:
    """Those of one model: what is for all, and what stands under its id."""
    own = shared.get(name)
    common = {key: value for key, value in shared.items() if not (key in ids and isinstance(value, Mapping))}
    return {**common, **own} if isinstance(own, Mapping) else common
