"""`Flow`: what people hold. It composes catalog, transport and the DataFrame layer over a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from distributed import Client
from distributed.deploy.cluster import Cluster

from altlas_flow.cluster.client.catalog import Catalog
from altlas_flow.cluster.client.registry import release, transport_for
from altlas_flow.cluster.connect import Connection, call_control, open_connection
from altlas_flow.dataframe.accessor import begin, offer
from altlas_flow.errors import BadRequest, ClusterError, ConnectError, one_line
from altlas_flow.models.spec import ModelSpec
from altlas_flow.operations import Operations
from altlas_flow.parallel.asking import Asking
from altlas_flow.parallel.referee import Referee
from altlas_flow.records.html import Link, facts
from altlas_flow.requests import Requests
from altlas_flow.settings import Settings
from altlas_flow.tracing import tracer_for

if TYPE_CHECKING:
    from altlas_flow.dataframe.job import Job
    from altlas_flow.dataframe.report import Plan, RunSummary
    from altlas_flow.dataframe.subject import Subject
    from altlas_flow.pipeline.pipeline import Pipeline

#: Seconds that the scheduler gets to say what is shown of a flow.
REPR_LIMIT = 3.0

InputArgument = str | Sequence[str] | Callable[[dict[str, Any]], Any]
JobKind = TypeVar("JobKind", bound="Job")


def connect(
    address: str | os.PathLike[str] | Client | Cluster | None = None,
    *,
    workers: int | None = None,
    threads_per_worker: int | None = None,
    memory_limit: int | str = "auto",
    models: Sequence[ModelSpec] | None = None,
) -> Flow:
    """Start an embedded cluster, or join one that runs.

    Parameters
    ----------
    address : str, path, Client or Cluster, optional
        ``tcp://host:8786``, a scheduler file, or what is there already. Without it workers are started
        on this machine, on loopback, as programs of their own that end with this process.
    workers, threads_per_worker : int, optional
        Of the embedded cluster; by default as many single-threaded workers as there are cores and
        memory for copies of `models`.
    memory_limit : int or str
        Of each embedded worker, weights included; by default its share of the machine's.
    models : sequence of ModelSpec, optional
        Registered at once.

    Returns
    -------
    Flow
        A context manager; closing it closes only what it started.

    Raises
    ------
    ConnectError, VersionMismatch, ModelConflict

    Examples
    --------
    >>> flow = connect()                                       # doctest: +SKIP
    >>> flow.submit("minilm", "hello").result().outputs        # doctest: +SKIP
    """
    loading = begin()
    flow = open_flow(
        address,
        workers=workers,
        threads_per_worker=threads_per_worker,
        memory_limit=memory_limit,
        models=models,
    )
    try:
        loading.join()
        offer(flow)
    except BaseException:
        flow.close()
        raise
    return flow


def open_flow(
    address: str | os.PathLike[str] | Client | Cluster | None = None,
    *,
    models: Sequence[ModelSpec] | None = None,
    **options: Any,
) -> Flow:
    """As `connect`, for what has no frames: pandas and dask.dataframe are not loaded for it.

    Parameters
    ----------
    address, models, **options
        See `connect`.
    """
    models = list(models or ())
    settings = Settings.current()
    tracer_for(settings.traces)  # what is missing is said before anything is started
    given = {"workers": None, "threads_per_worker": None, "memory_limit": "auto", **options}
    flow = Flow(open_connection(address, models=models, settings=settings, **given), settings)
    try:
        for spec in models:
            flow.register(spec)
    except BaseException:
        flow.close()
        raise
    return flow


class Flow(Requests, Asking, Operations):
    """Models over requests and DataFrames, on one Dask cluster. Made by `connect`.

    Attributes
    ----------
    client : distributed.Client
        Dask's own.
    """

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection, self._settings = connection, settings
        self._closed = False
        self._fitted: set[str] = set()  # fingerprints of models that embedded workers have room for
        self._transport = transport_for(connection.client, settings)
        self._referee = Referee()
        self._catalog = Catalog(lambda: self.client)
        self._begin_pipelines()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    @property
    def client(self) -> Client:
        """Dask's client.

        Raises
        ------
        ConnectError
            Where the flow is closed.
        """
        self._check_open()
        return self._connection.client

    def register(self, spec: ModelSpec, *, replace: bool = False) -> ModelSpec:
        """Put a model into the cluster's catalog, for all its clients.

        Parameters
        ----------
        spec : ModelSpec
            A relative source folder is made absolute here, and must exist on the workers.
        replace : bool
            Take the place of another recipe of that id.

        Raises
        ------
        ModelConflict
            Where the id is taken by another recipe.
        """
        if isinstance(spec, ModelSpec):
            self._connection.fit(spec.resolved())
        return self._catalog.register(spec, replace=replace)

    def _in_catalog(self, model: str | ModelSpec) -> str:
        return self.register(self._catalog.find(model)).id

    def models(self) -> dict[str, ModelSpec]:
        """The catalog of the cluster, and what is built in: id -> spec."""
        return self._catalog.models()

    def map(
        self,
        frame: Any,
        model: str | ModelSpec | Pipeline | None = None,
        *,
        input: InputArgument,
        task: str | None = None,
        choose: Mapping[str, Any] | None = None,
        output: str | None = None,
        on_error: Literal["raise", "collect"] = "raise",
        batch: Literal["auto"] | int | None = None,
        parameters: Mapping[str, Any] | None = None,
        part_rows: int | None = None,
        max_in_flight: int | None = None,
        progress: bool | None = None,
    ) -> Any:
        """Add the answers of a model or a pipeline to a frame.

        Parameters
        ----------
        frame : pandas.DataFrame or dask.dataframe.DataFrame
        model : str, ModelSpec or Pipeline
            Of a pipeline with several outputs each becomes a column.
        input : str, list of str, or callable
            A column; several, which the model gets as one record (a text model: joined by newlines);
            or a function of the row as a record.
        task, choose : str and mapping, optional
            In the place of `model`: for each row one of the models that serve the task is chosen, on the
            workers. `choose` is what `select` takes beside the inputs; ``context`` may be a function of the
            row. Columns ``model`` and ``decision_id`` say which answered, and how `feedback` calls it.
        output : str, optional
            Name of the added column; by default ``embedding``, ``label`` or ``prediction``.
        on_error : "raise" or "collect"
            The first bad row raises, or has null and its error in the column ``<output>_error``.
        batch : int or "auto", optional
            Rows a batch; a pipeline's stages say that for themselves.
        parameters : mapping, optional
            Of the prediction; as `batch`.
        part_rows : int, optional
            Rows of a piece; of frames of pandas only, as the next.
        max_in_flight : int, optional
            Pieces under way at once; by default a few for each slot.
        progress : bool, optional
            By default shown in terminals and notebooks, where it takes longer than a second; as `part_rows`.

        Returns
        -------
        pandas.DataFrame or dask.dataframe.DataFrame
            As it came: pandas at once, dask lazily. Embeddings are Arrow lists of fixed size.

        Raises
        ------
        MissingColumn, EmptyInput, BadRow, ModelLoadError, NoEligibleNode, PipelineError

        Notes
        -----
        Over a dask frame each stage of a pipeline goes where it can run, by the default strategy.
        """
        from altlas_flow.dataframe.mapping import Mapped

        if task is not None:
            model, output, batch, parameters = self._chooser(model, task, choose, output, batch, parameters)
        subject = self._subject(model, parameters, batch)
        options = {"part_rows": part_rows, "max_in_flight": max_in_flight}
        return self._job(Mapped, frame, subject, input, output, on_error=on_error, **options).map(
            progress=progress
        )

    def run(
        self,
        source: Any,
        model: str | ModelSpec | Pipeline | None = None,
        *,
        input: InputArgument,
        task: str | None = None,
        choose: Mapping[str, Any] | None = None,
        to: str | Path,
        output: str | None = None,
        on_error: Literal["raise", "collect"] = "collect",
        batch: Literal["auto"] | int | None = None,
        parameters: Mapping[str, Any] | None = None,
        part_rows: int | None = None,
        max_in_flight: int | None = None,
        progress: bool | None = None,
    ) -> RunSummary:
        """Run a model or a pipeline over a source into a folder of Parquet parts, each committed when done.

        Killed at any instant and started again, it does what is missing; nothing is done twice.

        Parameters
        ----------
        source : DataFrame of pandas or dask, path, glob, or list of paths
            Parquet, CSV or JSONL.
        model, input, task, choose, output, batch, parameters
            See `map`.
        to : path
            A folder that client and workers can reach. It holds ``part-*.parquet``; all else in it
            starts with an underscore, so that Parquet readers take the folder as it is.
        on_error : "collect" or "raise"
            Bad rows go to ``_dead_letters``, or the first one ends the job.
        part_rows : int, optional
            Rows of a part at most.
        max_in_flight : int, optional
            Parts under way at once, and with them what lies between the stages of a pipeline; by default a
            few for each slot.
        progress : bool, optional
            By default shown in terminals and notebooks.

        Returns
        -------
        RunSummary
            Prints as a table.

        Raises
        ------
        InputError, ModelError, OutputError, ClusterError
            What was committed before stays.
        """
        from altlas_flow.dataframe.job import Job

        if task is not None:
            model, output, batch, parameters = self._chooser(model, task, choose, output, batch, parameters)
        subject = self._subject(model, parameters, batch)
        options = {"part_rows": part_rows, "max_in_flight": max_in_flight}
        job = self._job(Job, source, subject, input, output, on_error=on_error, **options)
        return job.run(to, progress=progress)

    def plan(
        self,
        source: Any,
        model: str | ModelSpec | Pipeline | None = None,
        *,
        input: InputArgument,
        task: str | None = None,
        choose: Mapping[str, Any] | None = None,
        output: str | None = None,
        batch: Literal["auto"] | int | None = None,
        parameters: Mapping[str, Any] | None = None,
        rows: int = 200,
    ) -> Plan:
        """Predict a sample and tell what the whole would take, before a night's job is started.

        It is the model that is timed; where that takes next to nothing, reading and writing take longer.

        Parameters
        ----------
        source, model, input, task, choose, output, batch, parameters
            See `run`.
        rows : int
            Of the sample, taken evenly from the source.

        Returns
        -------
        Plan
            Expected time, rate and batch budget; prints as a table.
        """
        from altlas_flow.dataframe.job import Job
        from altlas_flow.dataframe.planning import plan

        if task is not None:
            model, output, batch, parameters = self._chooser(model, task, choose, output, batch, parameters)
        subject = self._subject(model, parameters, batch)
        return plan(self._job(Job, source, subject, input, output), rows)

    def close(self) -> None:
        """Close what this flow started, and nothing else; may be called twice."""
        if not self._closed:
            self._closed = True
            try:
                self._referee.close()
                release(self._transport)
            finally:  # interrupted, or not: nobody else has the workers, to close them
                self._connection.close()

    def _job(self, kind: type[JobKind], source: Any, subject: Subject, *args: Any, **options: Any) -> JobKind:
        return kind(self.client, self._settings, subject, source, *args, **options)

    def _chooser(
        self, model: Any, task: str, choose: Any, output: str | None, batch: Any, parameters: Any
    ) -> tuple[Pipeline, None, None, None]:
        """What chooses a model for each row, and takes all that was said of the model and its answers."""
        from altlas_flow.pipeline.pipeline import Pipeline
        from altlas_flow.pipeline.stage import EXPLAIN, Stage

        if model is not None:
            raise BadRequest("a model and task= were given: leave one of them out")
        if not isinstance(choose or {}, Mapping):
            raise BadRequest(f"choose={choose!r}: give a mapping of what select takes")
        how = {**(choose or {}), EXPLAIN: output or True}
        stage = Stage("answer", task=task, choose=how, batch=batch, parameters=parameters or {})
        return Pipeline([stage], id=str(task)[:100] or "task"), None, None, None

    def _subject(self, model: Any, parameters: Mapping[str, Any] | None, batch: Any) -> Subject:
        """What is run over rows."""
        from altlas_flow.dataframe.stages import PipelineSubject
        from altlas_flow.dataframe.subject import ModelSubject
        from altlas_flow.pipeline.pipeline import Pipeline

        self._check_open()
        if (made := getattr(model, "as_pipeline", None)) is not None:
            model = made()
        given = dict(parameters or {})
        if isinstance(model, Pipeline):
            return PipelineSubject(self.compile(model), given, batch)
        return ModelSubject(self._find(model), given, batch)

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectError("this flow is closed: make another with af.connect()")
        self._transport.check_process()

    def _find(self, model: str | ModelSpec) -> ModelSpec:
        """The spec that is meant, and workers large enough for it where they are ours."""
        spec = self._catalog.find(model)
        if spec.fingerprint not in self._fitted:
            self._connection.fit(spec)
            self._fitted.add(spec.fingerprint)
        return spec

    def __enter__(self) -> Flow:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._closed:
            return "<Flow: closed>"
        where = "embedded" if self._connection.embedded else self._connection.address
        try:
            # soon or not at all: a notebook shows it
            info = call_control(self.client, "altlas_info", limit=REPR_LIMIT)
        except (ClusterError, OSError):
            return f"<Flow: {where}, the scheduler does not answer>"
        count, silent, faults = len(info["hosts"]), len(info["silent"]), info["faults"]
        shown = f"{count} worker{'' if count == 1 else 's'}" + (f" ({silent} silent)" if silent else "")
        wrong = f", {faults} faults of placing, the last: {info['last_fault']}" if faults else ""
        board = f"dashboard at {self.client.dashboard_link}" if info["dashboard"] else "no dashboard"
        return f"<Flow: {where}, {shown}, {board}{wrong}>"

    def _repr_html_(self) -> str:
        """Where it is, and its nodes; everything is escaped."""
        if self._closed:
            return facts("Flow", [("state", "closed: make another with af.connect()")])
        try:
            info = call_control(self.client, "altlas_info", limit=REPR_LIMIT)
            models, nodes = self.models(), self.nodes()
        except (ClusterError, OSError) as error:
            return facts("Flow", [("state", one_line(error))])
        link = str(self.client.dashboard_link)
        pairs = [
            ("cluster", "embedded" if self._connection.embedded else self._connection.address),
            ("dashboard", Link(link) if info["dashboard"] else None),
            ("page", Link(f"{link.removesuffix('/status')}/altlas") if info["page"] else None),
            ("models", ", ".join(sorted(models))),
        ]
        return facts("Flow", pairs, nodes._repr_html_())
