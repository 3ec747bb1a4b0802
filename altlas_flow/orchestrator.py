"""The awaited face of altlas_flow: a `DistributedModelOrchestrator` over one `Flow`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from altlas_flow.awaited import AwaitedOperations, asked_of, prepare
from altlas_flow.choices import Selected
from altlas_flow.cluster.client.handle import Handle, Handles
from altlas_flow.errors import AltlasError, BadRequest, ConnectError
from altlas_flow.flow import Flow, connect
from altlas_flow.models.spec import ModelSpec
from altlas_flow.records import InferenceRequest, ResultAggregationStrategy
from altlas_flow.records.request import seconds

if TYPE_CHECKING:
    from altlas_flow.parallel.fanout import FanOut
    from altlas_flow.parallel.responses import Responses
    from altlas_flow.records import (
        AdvancedModelSelectionStrategy,
        DistributionStrategy,
        InferenceResponse,
    )

_Step = Literal["start", "stop"]


#: Requests that are sent in one go of the event loop.
SLICE = 100


class DistributedModelOrchestrator(AwaitedOperations):
    """Requests over a cluster, awaited from any event loop; started by the first of its methods.

    Parameters
    ----------
    address : str, path, Client or Cluster, optional
        See `altlas_flow.connect`; without it an embedded cluster is started.
    flow : Flow, optional
        One that is there already; `stop` leaves it open.
    **connect_options
        Of `altlas_flow.connect`.

    Raises
    ------
    ConnectError
        Where both a flow and something to connect to are given.
    """

    def __init__(self, address: Any = None, *, flow: Flow | None = None, **connect_options: Any) -> None:
        if flow is not None and (address is not None or connect_options):
            raise ConnectError("an orchestrator takes a flow, or what to connect to: give one of them")
        self._address, self._given, self._options = address, flow, connect_options
        # guards the two below; held for moments only, also by event loops
        self._lock = threading.Lock()
        self._flow: Flow | None = None
        self._step: tuple[_Step, Future[Flow | None]] | None = None

    @property
    def flow(self) -> Flow:
        """The flow that requests go through.

        Raises
        ------
        ConnectError
            Where the orchestrator is not started, or was stopped.
        """
        flow = self._flow
        if flow is None or not _is_open(flow):
            raise ConnectError("the orchestrator is not started: await orchestrator.start() first")
        return flow

    async def start(self) -> None:
        """Connect, or start the embedded cluster. Once, however many await it at the same time.

        Raises
        ------
        ConnectError, VersionMismatch, ModelConflict
        """
        await self._started()

    async def stop(self) -> None:
        """Close the flow where `start` made it; may be awaited twice, and started again."""
        await self._reach("stop")

    async def __aenter__(self) -> DistributedModelOrchestrator:
        await self.start()
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.stop()

    async def run_distributed_inference(
        self,
        request: InferenceRequest,
        strategy: DistributionStrategy | str | Callable[..., Any] | None = None,
    ) -> InferenceResponse:
        """Answer one request.

        Parameters
        ----------
        request : InferenceRequest
        strategy : DistributionStrategy, str or callable, optional
            How the node is chosen; by default the request's own.

        Raises
        ------
        AltlasError
            What the request ended with, with its tries, nodes and root cause.
        """
        if not isinstance(request, InferenceRequest):
            raise BadRequest(f"a {type(request).__name__} is no request: give an InferenceRequest")
        flow = await self._started()
        missing = await prepare(flow, [request])
        for error in missing.values():
            raise error
        if flow.names_files(request):
            request = await asyncio.to_thread(flow.with_files, request)
        return await flow.submit(request, strategy=strategy)

    async def run_distributed_batch_inference(
        self, requests: Iterable[InferenceRequest], *, raise_on_error: bool = False
    ) -> list[InferenceResponse]:
        """Answer many requests, of any models.

        Parameters
        ----------
        requests : iterable of InferenceRequest
        raise_on_error : bool
            Raise the first error; else a response has it as its ``error``.

        Returns
        -------
        list of InferenceResponse
            In the order of `requests`.
        """
        if not isinstance(requests, Iterable) or isinstance(requests, (InferenceRequest, str, Mapping)):
            raise BadRequest("run_distributed_batch_inference needs a list of InferenceRequest")
        flow = await self._started()
        asked = list(requests)
        missing = await prepare(flow, asked)
        handles: list[Handle] = []
        for start in range(0, len(asked), SLICE):
            for request in asked[start : start + SLICE]:
                error = missing.get(asked_of(request))
                if error is None and isinstance(request, InferenceRequest) and flow.names_files(request):
                    try:
                        request = await asyncio.to_thread(flow.with_files, request)
                    except AltlasError as refused:
                        error = refused
                handles += [flow.refuse(request, error)] if error else flow.submit_many([request])
            await asyncio.sleep(0)  # thousands of requests must not hold up the loop
        return await Handles(handles, raise_on_error=raise_on_error)

    async def run_distributed_parallel_inference(
        self,
        request: InferenceRequest,
        model_ids: Sequence[str],
        aggregation_strategy: ResultAggregationStrategy | str | Any = None,
    ) -> Responses:
        """Ask several models the same.

        Parameters
        ----------
        request : InferenceRequest
            Its ``model_id`` is not looked at; its ``deadline`` is that of each model, and what has been
            answered by then is combined.
        model_ids : list of str
            Each once; their order decides between equals.
        aggregation_strategy : ResultAggregationStrategy, str, Aggregator or callable, optional
            By default the setting ``altlas.default-aggregation-strategy``.

        Returns
        -------
        Responses
            A sequence of the responses, in that order, with ``.outputs`` (the verdict), ``.missing`` and
            ``.agreement``. An error of one model is in ``.missing``.

        Raises
        ------
        NoQuorum, Uncombinable, AggregationFailed
            Where there is no verdict; with the answers that there are, as ``.responses``.
        UnknownModel, ParameterError, BadRequest
        """
        return await self._ask(request, model_ids, combine=aggregation_strategy)

    async def _ask(
        self, request: InferenceRequest, model_ids: Sequence[str] | None, **options: Any
    ) -> Responses:
        if not isinstance(request, InferenceRequest):
            raise BadRequest(f"a {type(request).__name__} is no request: give an InferenceRequest")
        if model_ids is None:
            if request.task_type is None:
                raise BadRequest("no models are named: give model_ids, or a request with task_type")
            flow = await self._started()
            await asyncio.to_thread(flow.prepare_task, request.task_type)
            return await self._verdict(flow.fan_out(None, request, **options))
        if isinstance(model_ids, (str, Mapping)) or not isinstance(model_ids, Iterable):
            raise BadRequest(f"model_ids={model_ids!r} is no list: give the ids of models")
        models = list(model_ids)
        flow = await self._started()
        for model in models:
            if isinstance(model, (str, ModelSpec)) and not flow.is_prepared(model):
                await asyncio.to_thread(flow.prepare, model)
        return await self._verdict(flow.fan_out(models, request, **options))

    async def _verdict(self, asked: FanOut) -> Responses:
        try:
            return await asked
        except asyncio.CancelledError:
            asked.cancel()  # nobody else knows of it
            raise

    async def run_distributed_pipeline_inference(
        self,
        requests: Sequence[InferenceRequest],
        dependencies: Sequence[Sequence[int]],
        *,
        raise_on_error: bool = True,
    ) -> list[InferenceResponse]:
        """Answer requests that depend on each other, as one graph.

        Parameters
        ----------
        requests : sequence of InferenceRequest
            Empty inputs are filled from what they depend on; others may refer to it: ``"{0.outputs}"``.
        dependencies : sequence of sequences of int
            For each request the indices of those that it depends on.
        raise_on_error : bool
            Raise the first failure; else it is in its response, and in those of the requests after it.

        Returns
        -------
        list of InferenceResponse
            In the order of `requests`.

        Raises
        ------
        StageFailed
            Its ``stage`` is the index as text, its ``responses`` are those of all requests.
        BadRequest, PipelineError, UnknownModel
        """
        flow = await self._started()
        # models may have to be looked up, and inputs read
        handle = await asyncio.to_thread(flow.submit_pipeline, requests, dependencies)
        return await handle.wait(raise_on_error=raise_on_error)

    async def _started(self) -> Flow:
        while True:
            flow = self._flow
            if flow is not None and _is_open(flow):
                return flow
            await self._reach("start")

    async def _reach(self, goal: _Step) -> None:
        """Take a step, or wait for whoever takes it; what the step raises is raised to all who wait."""
        while (taken := self._take(goal)) is not None:
            step, done = taken
            await _wait(done)
            if step == goal:
                done.result()
                return

    def _take(self, goal: _Step) -> tuple[_Step, Future[Flow | None]] | None:
        """The step under way, begun here where there was none; None where the goal is reached."""
        with self._lock:
            if self._step is None:
                if (self._flow is not None and _is_open(self._flow)) == (goal == "start"):
                    return None
                self._step = (goal, Future())
                # no pool: it would be used up by those who wait, and hold up the end of the event loop
                threading.Thread(
                    target=self._do, args=self._step, name=f"orchestrator-{goal}", daemon=True
                ).start()
            return self._step

    def _do(self, step: _Step, done: Future[Flow | None]) -> None:
        with self._lock:
            flow, self._flow = self._flow, None
        made, failure = None, None
        try:
            if step == "start":
                made = self._connect()
            elif flow is not None and flow is not self._given:
                flow.close()
        except BaseException as error:
            # raised again in those who wait
            failure = error
        with self._lock:
            self._flow, self._step = made, None
        if failure is None:
            done.set_result(made)
        else:
            done.set_exception(failure)

    def _connect(self) -> Flow:
        if self._given is None:
            return connect(self._address, **self._options)
        _ = self._given.client  # says what to do where it is closed
        return self._given

    def __repr__(self) -> str:
        flow = self._flow
        return f"<{type(self).__name__}: {'not started' if flow is None else repr(flow)}>"


class EnhancedModelOrchestrator(DistributedModelOrchestrator):
    """A `DistributedModelOrchestrator` that also races models, and chooses among them."""

    async def select_models_advanced(
        self,
        task_type: str,
        strategy: AdvancedModelSelectionStrategy | str = "HYBRID",
        context: Mapping[str, Any] | None = None,
        top_k: int = 1,
        **options: Any,
    ) -> Selected:
        """Choose models for a task.

        Parameters
        ----------
        task_type : str
        strategy : AdvancedModelSelectionStrategy or str
        context : mapping, optional
            What is known of the input.
        top_k : int
            Models at most.
        **options
            Those of `Flow.select`.

        Returns
        -------
        Selected
            A list of ids, the first of which was drawn, with ``.decision``.

        Raises
        ------
        NothingServes, NoModelFits, FeatureError, SelectionError
        """
        flow = await self._started()
        options = {"strategy": strategy, "context": context, "top_k": top_k, **options}
        return Selected(await asyncio.to_thread(flow.select, task_type, **options))

    async def run_optimized_parallel_inference(
        self,
        request: InferenceRequest,
        model_ids: Sequence[str] | None = None,
        timeout: float | str | timedelta | None = None,
        early_stopping: bool = True,
    ) -> Responses:
        """Ask several models the same, and wait no longer than needed.

        Parameters
        ----------
        request : InferenceRequest
        model_ids : list of str
            Each once; their order decides between equals. Without them the request names a ``task_type``:
            one of the models that serve it is chosen, as by `select_models_advanced`, and beside it those
            that are worth it: as long as what one more is expected to add, where those before it fail or are
            late, is worth what it costs.
        timeout : float, str or timedelta, optional
            Seconds, or ``"300ms"``: what has been answered by then is combined. The request's own deadline
            holds as well, where it is sooner.
        early_stopping : bool
            With it, models are given up as soon as they cannot change the verdict, which is that of the
            setting ``altlas.default-aggregation-strategy``. ALL_RESPONSES would never stop before the last;
            where it is set, the models race: the first answer counts (FIRST_RESPONSE). Of models that were
            chosen, the first in the order of their choice that answers counts. Without it, all are waited
            for, and the setting's strategy combines them.

        Returns
        -------
        Responses
            As of `run_distributed_parallel_inference`.

        Raises
        ------
        NoQuorum
            Where nobody has answered in time.
        Uncombinable, UnknownModel, ParameterError, BadRequest
        """
        if not isinstance(early_stopping, bool):
            raise BadRequest(f"early_stopping={early_stopping!r} is neither True nor False: give one")
        if timeout is not None and isinstance(request, InferenceRequest):
            try:
                within = seconds(timeout)
            except ValueError as error:
                raise BadRequest(f'timeout={timeout!r}: {error}: give seconds above 0, or "300ms"') from error
            if request.deadline is None or within < request.deadline:
                request = request.model_copy(update={"deadline": within})
        combine: ResultAggregationStrategy | None = (await self._started()).default_aggregation
        if early_stopping and combine == ResultAggregationStrategy.ALL_RESPONSES:
            combine = None if model_ids is None else ResultAggregationStrategy.FIRST_RESPONSE
        return await self._ask(request, model_ids, combine=combine, early_stopping=early_stopping)


def _is_open(flow: Flow) -> bool:
    try:
        _ = flow.client
    except ConnectError:
        return False
    return True


async def _wait(done: Future[Any]) -> None:
    """Until `done`, whatever came of it. Giving up leaves it to those who still wait."""
    loop, seen = asyncio.get_running_loop(), asyncio.Event()

    def tell(_: Future[Any]) -> None:
        with suppress(RuntimeError):  # the loop that waited is closed
            loop.call_soon_threadsafe(seen.set)

    done.add_done_callback(tell)
    await seen.wait()


_shared: EnhancedModelOrchestrator | None = None
_shared_lock = threading.Lock()


def get_enhanced_orchestrator() -> EnhancedModelOrchestrator:
    """The orchestrator of this process: always the same one, on an embedded cluster of its own."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = EnhancedModelOrchestrator()
        return _shared


def get_distributed_model_orchestrator() -> DistributedModelOrchestrator:
    """The same as `get_enhanced_orchestrator`."""
    return get_enhanced_orchestrator()


def get_distributed_orchestrator() -> DistributedModelOrchestrator:
    """The same as `get_enhanced_orchestrator`."""
    return get_enhanced_orchestrator()
