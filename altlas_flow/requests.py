"""`Requests`: the part of a `Flow` that asks for single predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, overload

from altlas_flow.choices import Choices
from altlas_flow.cluster.client.catalog import Catalog
from altlas_flow.cluster.client.handle import Handle, Handles
from altlas_flow.cluster.client.hedging import Hedges
from altlas_flow.cluster.client.transport import Transport
from altlas_flow.errors import AltlasError, BadRequest, ClusterLost, Overloaded, SourceError, SpecError
from altlas_flow.models.files import names_files, read_inputs
from altlas_flow.models.spec import ModelSpec, import_object
from altlas_flow.pipeline.handle import PipelineHandle, PipelineHandles
from altlas_flow.pipeline.pipeline import Pipeline, as_pipeline
from altlas_flow.pipelines import Pipelines
from altlas_flow.records import InferenceRequest, RetryPolicy
from altlas_flow.records.request import limit_of
from altlas_flow.selection.wanted import OF_CHOICE, options_of

if TYPE_CHECKING:
    from altlas_flow.cluster.choosing import Choice
    from altlas_flow.pipeline.handle import PipelineHandle


class Requests(Pipelines, Choices):
    """Sends requests; a `Flow` is one."""

    _transport: Transport
    _catalog: Catalog
    _fitted: set[str]

    @overload
    def submit(self, model: Pipeline, inputs: Any = None, **options: Any) -> PipelineHandle: ...

    @overload
    def submit(
        self, model: str | ModelSpec | InferenceRequest | None = None, inputs: Any = None, **options: Any
    ) -> Handle: ...

    def submit(
        self,
        model: Any = None,
        inputs: Any = None,
        *,
        task: str | None = None,
        choose: Mapping[str, Any] | None = None,
        strategy: Any = None,
        priority: int = 0,
        deadline: float | str | timedelta | None = None,
        retry: RetryPolicy | None = None,
        validator: Any = None,
        idempotent: bool = True,
        hedge: bool = False,
        parameters: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Handle | PipelineHandle:
        """Ask for one prediction.

        Never waits, but for files that inputs name, and for the scheduler where models of a `task` are chosen
        among for the first time: what cannot leave at once waits in the handle.

        Parameters
        ----------
        model : str, ModelSpec, InferenceRequest or Pipeline
            A request says all the rest itself, but for `strategy`. A pipeline takes `priority`, `deadline`
            and ``keep=``, the stages (True: all) whose outputs are wanted beside its own; its handle gives
            a `PipelineResult`.
        inputs : Any
            One input, or a list of them. A `File` is read here, unless it is ``on_worker``; for tasks on
            sounds and images a plain text is the path of one.
        task : str, optional
            In the place of `model`: one of those that serve it is chosen, as by `select`; the handle has the
            ``decision``, whose id is that of the request.
        choose : mapping, optional
            With `task`: what `select` takes beside the inputs, such as ``{"context": {"language": "en"}}``.
        strategy : str, DistributionStrategy or callable, optional
            Which node shall do it; by default the setting ``altlas.default-distribution-strategy``. A
            callable ``(request, nodes) -> ranked nodes`` runs on the scheduler.
        priority : int
            Of what waits, higher goes first.
        deadline : float, str or timedelta, optional
            Seconds from now, or ``"300ms"``; later than that it ends with `DeadlineExceeded`.
        retry : RetryPolicy, optional
            Tries, and what is tried again beside faults of the node.
        validator : callable or pydantic model, optional
            An answer that it refuses (False, or an error) is a failed try.
        idempotent : bool
            Whether it may run twice; otherwise a worker that dies with it ends it.
        hedge : bool
            Send it to a second node, too, where it takes longer than 95 of 100 requests to its model; the
            first answer counts. At most ``altlas.hedge-share`` of such requests are sent twice.
        parameters : mapping, optional
            Of the prediction, where one is named like an argument of this method.
        **more
            Of the prediction.

        Returns
        -------
        Handle or PipelineHandle
            Blocking (``.result()``) and awaitable.

        Raises
        ------
        UnknownModel, ParameterError, BadRequest, FileRefused, SourceError, Overloaded, ClusterLost
        """
        self._check_open()
        choice: Choice | None = None
        if model is not None:
            # a model may have parameters of these names
            more |= {name: value for name, value in (("task", task), ("choose", choose)) if value is not None}
        elif task is not None:
            if meant := sorted(OF_CHOICE & set(more)):
                raise BadRequest(f"{meant[0]}= is of the choice: give choose={{{meant[0]!r}: ...}}")
            choice = self._choose(task, inputs, **options_of(choose))
            model = choice.decision.model
        else:
            raise SpecError("a NoneType is no model: give an id or a ModelSpec, or task= to have one chosen")
        if (pipeline := as_pipeline(model)) is not None:
            if (strategy, retry, validator, parameters) != (None, None, None, None):
                raise BadRequest(
                    f"pipeline {pipeline.id!r}: strategy, retry, validator, parameters are for its stages: "
                    "give them to Stage(...)"
                )
            if hedge or not idempotent:
                raise BadRequest(
                    f"pipeline {pipeline.id!r}: hedge and idempotent=False are for single requests: what a "
                    "worker took along is made anew"
                )
            within = limit_of(deadline)
            return self._ask_pipeline(pipeline, inputs, priority=priority, deadline=within, **more)
        if isinstance(model, InferenceRequest):
            given = (inputs, priority, deadline, retry, validator, parameters, idempotent, hedge, more)
            if given != (None, 0, None, None, None, None, True, False, {}):
                raise BadRequest("a request says all but the strategy itself: leave the other arguments out")
            return self._submit(model, strategy)
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise BadRequest(f"retry={retry!r} is no policy: give RetryPolicy(tries=...)")
        if not isinstance(idempotent, bool):
            raise BadRequest(f"idempotent={idempotent!r} is neither True nor False: give one")
        if not isinstance(hedge, bool):
            raise BadRequest(f"hedge={hedge!r} is neither True nor False: give one")
        if parameters is not None and not isinstance(parameters, Mapping):
            raise BadRequest(f"parameters={parameters!r} is no mapping: give names and values")
        within = limit_of(deadline)
        spec = self._find(model)
        lane = self._transport.lane(
            spec,
            {**(parameters or {}), **more},
            strategy=strategy,
            priority=priority,
            validator=_named(validator),
            idempotent=idempotent,
        )
        given = read_inputs(spec, inputs, self._transport.settings)
        handle = self._transport.submit(
            lane,
            given,
            request_id=None if choice is None else choice.decision.id,
            deadline=within,
            retry=retry,
            idempotent=idempotent,
            hedge=hedge,
        )
        return handle if choice is None else self._decided(handle, choice)

    @overload
    def submit_many(
        self, requests: Pipeline, inputs: Iterable[Any] | None = None, **options: Any
    ) -> PipelineHandles: ...

    @overload
    def submit_many(
        self,
        requests: Iterable[InferenceRequest] | str | ModelSpec,
        inputs: Iterable[Any] | None = None,
        **options: Any,
    ) -> Handles: ...

    def submit_many(
        self,
        requests: Any,
        inputs: Iterable[Any] | None = None,
        *,
        raise_on_error: bool = False,
        **options: Any,
    ) -> Handles | PipelineHandles:
        """Ask for many predictions, of one model or pipeline, or of several models.

        Parameters
        ----------
        requests : iterable of InferenceRequest, a model or a pipeline
        inputs : iterable, optional
            With a model or a pipeline: one request for each.
        raise_on_error : bool
            Raise the first error, in order; by default each is in its response.
        **options
            With a model, those of `submit`.

        Returns
        -------
        Handles or PipelineHandles
            A sequence of handles; ``.result()``, or awaited: responses in the order of the requests. One that
            fails does not fail the others.
        """
        self._check_open()
        given: Any = requests
        if (pipeline := as_pipeline(requests)) is not None:
            if inputs is None or isinstance(inputs, (str, bytes)) or not isinstance(inputs, Iterable):
                raise BadRequest("submit_many(pipeline, inputs) needs a list of inputs, one for each request")
            asked_all = [self.submit(pipeline, item, **options) for item in inputs]
            return PipelineHandles(asked_all, raise_on_error=raise_on_error)
        if isinstance(requests, (str, ModelSpec)):
            if inputs is None or isinstance(inputs, (str, bytes)) or not isinstance(inputs, Iterable):
                raise BadRequest("submit_many(model, inputs) needs a list of inputs, one for each request")
            handles = self._submit_all(requests, list(inputs), options)
        elif options or inputs is not None:
            raise BadRequest("inputs= and options are for submit_many(model, inputs): requests say it all")
        elif isinstance(given, (InferenceRequest, Mapping)) or not isinstance(given, Iterable):
            raise BadRequest("submit_many needs a list of InferenceRequest, or a model and a list of inputs")
        else:
            # a list first: an iterator that fails half-way has sent nothing
            asked = list(given)
            for request in asked:
                if not isinstance(request, InferenceRequest):
                    raise BadRequest(
                        f"a {type(request).__name__} is no request: give InferenceRequests, or a model "
                        "and a list of inputs"
                    )
            handles = [self._submit_or_fail(request) for request in asked]
        return Handles(handles, raise_on_error=raise_on_error)

    @property
    def hedges(self) -> Hedges:
        """How much was hedged so far: ``(requests, sent, won)``.

        Requests with ``hedge=True``, second tries of them that left, and those of these that answered first;
        over all flows of this Dask client.
        """
        return self._transport.hedges

    def prepare(self, model: str | ModelSpec) -> None:
        """Look a model up, so that `submit` makes no trip for it; an event loop does it in a thread.

        Raises
        ------
        UnknownModel, ModelConflict, SpecError
        """
        self._find(model)

    def is_prepared(self, model: str | ModelSpec | None) -> bool:
        """Whether `submit` would make no trip for a model."""
        spec = self._catalog.known(model)
        return spec is not None and spec.fingerprint in self._fitted

    def names_files(self, request: InferenceRequest) -> bool:
        """Whether `submit` would read files for a request whose model is known here; quick."""
        spec = self._catalog.known(request.model_id)
        return spec is not None and names_files(spec, request.inputs)

    def with_files(self, request: InferenceRequest) -> InferenceRequest:
        """The request with the files that it names as bytes; an event loop does it in a thread.

        Raises
        ------
        UnknownModel, FileRefused, SourceError
        """
        if request.model_id is None:
            return request  # `submit` says what is wrong with it
        inputs = read_inputs(self._find(request.model_id), request.inputs, self._transport.settings)
        return request.model_copy(update={"inputs": inputs})

    def refuse(self, request: InferenceRequest, error: AltlasError) -> Handle:
        """The handle of a request that is over already, with that error."""
        name = getattr(request, "model_id", None) or "?"
        return self._transport.refused(getattr(request, "request_id", ""), name, error)

    def _submit_or_fail(self, request: InferenceRequest) -> Handle:
        """As `_submit`; an error of the request becomes its outcome."""
        try:
            return self._submit(request)
        except AltlasError as error:
            return self.refuse(request, error)

    def _submit_all(
        self, model: str | ModelSpec, inputs: Sequence[Any], options: Mapping[str, Any]
    ) -> list[Handle]:
        """One request for each input. What is wrong with all is raised; then none has been sent."""
        handles: list[Handle] = []
        for item in inputs:
            try:
                handles.append(self.submit(model, item, **options))
            except (Overloaded, ClusterLost, SourceError) as error:
                name = model.id if isinstance(model, ModelSpec) else model
                handles.append(self._transport.refused("", name, error))
        return handles

    def _submit(self, request: InferenceRequest, strategy: Any = None) -> Handle:
        choice, model = None, request.model_id
        if model is None:
            if request.task_type is None:
                raise BadRequest(f"request {request.request_id} names no model: give model_id, or task_type")
            choice = self._choose(request.task_type, request.inputs, request_id=request.request_id)
            model = choice.decision.model
        spec = self._find(model)
        lane = self._transport.lane(
            spec,
            request.parameters,
            strategy=strategy or request.strategy,
            priority=request.priority,
            validator=_named(request.validator),
            idempotent=request.idempotent,
        )
        handle = self._transport.submit(
            lane,
            read_inputs(spec, request.inputs, self._transport.settings),
            request_id=request.request_id,
            deadline=request.deadline,
            retry=request.retry,
            idempotent=request.idempotent,
            hedge=request.hedge,
            metadata=request.metadata,
        )
        return handle if choice is None else self._decided(handle, choice)


def _named(validator: Any) -> Any:
    """A validator that was named, imported."""
    return import_object(validator) if isinstance(validator, str) else validator
