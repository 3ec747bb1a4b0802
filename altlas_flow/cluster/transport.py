"""Transport: requests become Dask futures, and their answers responses."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Generator, Mapping
from concurrent.futures import CancelledError
from concurrent.futures import Future as ConcurrentFuture
from copy import copy
from typing import Any

from distributed import Client, Future, Reschedule, get_worker, secede
from distributed.scheduler import KilledWorker

from altlas_flow.cluster.keys import predict_key
from altlas_flow.cluster.worker import current_host
from altlas_flow.errors import AltlasError, ClusterError, ClusterLost, HostClosed, PredictError, describe
from altlas_flow.models.spec import ModelSpec
from altlas_flow.records import InferenceResponse

#: Host priority of requests that somebody waits for; rows of a job have 0.
INTERACTIVE = 10


class Handle:
    """A request under way: blocking (`result`) and awaitable, from any event loop.

    Attributes
    ----------
    request_id : str
    future : distributed.Future
        Of the Dask task that carries the request.
    """

    def __init__(self, client: Client, future: Future[Any], request_id: str) -> None:
        self.future, self.request_id = future, request_id
        loop: asyncio.AbstractEventLoop = client.loop.asyncio_loop  # type: ignore[union-attr]
        self._answer: ConcurrentFuture[InferenceResponse] = asyncio.run_coroutine_threadsafe(
            _gather(client, future, request_id), loop
        )

    def result(self, timeout: float | None = None) -> InferenceResponse:
        """The answer; waits for it.

        Parameters
        ----------
        timeout : float, optional
            Seconds.

        Raises
        ------
        TimeoutError
            Where there is none by then.
        AltlasError
            What went wrong on the way.
        """
        return self._answer.result(timeout)

    def __await__(self) -> Generator[Any, None, InferenceResponse]:
        # shielded: whoever gives up waiting leaves the answer to those who still wait
        return asyncio.shield(asyncio.wrap_future(self._answer)).__await__()

    def __repr__(self) -> str:
        return f"<Handle {self.request_id}: {self.future.status}>"


async def _gather(client: Client, future: Future[Any], request_id: str) -> InferenceResponse:
    """The answer of a request, or a typed error; runs on the client's event loop."""
    try:
        response: InferenceResponse = await client._gather(future)
    except AltlasError as error:
        raise _let_go(error, future) from error.__cause__
    except KilledWorker as error:
        _let_go(error, future)
        raise ClusterError(
            f"request {request_id} was on {error.allowed_failures + 1} workers that died: look at their logs "
            "and memory; the input may kill the model"
        ) from error
    except (CancelledError, asyncio.CancelledError) as error:
        raise ClusterLost(
            f"request {request_id} was given up: the flow or its scheduler was closed; connect and ask again"
        ) from error
    except Exception as error:
        # whatever Dask itself raises on the way
        _let_go(error, future)
        raise ClusterError(f"request {request_id} failed on its way: {describe(error)}") from error
    return response


def _let_go(error: Exception, future: Future[Any]) -> Exception:
    """A copy of a task's error, where `error` itself must not be raised again.

    Dask's client keeps the error of a failed task for as long as a future of it lives. Once it was raised,
    its traceback holds the frames that it came through, and they hold the future: neither would ever go,
    and the scheduler would keep every failed request. So it forgets the frames of this process.
    """
    remote = getattr(future._state, "traceback", None)
    error.__traceback__ = remote
    return copy(error).with_traceback(remote)


def submit(client: Client, spec: ModelSpec, inputs: Any, parameters: Mapping[str, Any]) -> Handle:
    """Send one request.

    Parameters
    ----------
    client : distributed.Client
    spec : ModelSpec
    inputs : Any
        One input, or a list of them.
    parameters : mapping
    """
    request_id = uuid.uuid4().hex
    future = client.submit(
        answer,
        spec,
        inputs,
        dict(parameters),
        request_id,
        key=predict_key(spec.fingerprint, request_id),
        pure=False,
        priority=INTERACTIVE,
    )
    return Handle(client, future, request_id)


def answer(spec: ModelSpec, inputs: Any, parameters: dict[str, Any], request_id: str) -> InferenceResponse:
    """Predict one request; runs on a worker."""
    host, node = current_host(), str(get_worker().name)
    started = time.perf_counter()
    many = isinstance(inputs, list)
    # out of the worker's thread pool before any waiting: tasks that read and write need its threads
    secede()
    try:
        result = host.predict(spec, inputs if many else [inputs], parameters=parameters, priority=INTERACTIVE)
    except HostClosed as error:
        raise Reschedule() from error  # on another node, where this one is about to go
    for row in sorted(result.errors):
        raise PredictError(spec.id, describe(result.errors[row])) from result.errors[row]
    return InferenceResponse(
        request_id=request_id,
        model_id=spec.id,
        node_id=node,
        outputs=result.outputs if many else result.outputs[0],
        latency=time.perf_counter() - started,
        load_time=result.load_s,
    )
