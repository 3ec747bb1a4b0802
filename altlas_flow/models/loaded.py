"""`LoadedModel`: a runtime with its batch budget. The whole of what predicts, without a cluster."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from altlas_flow.errors import BadRow, InputError, ModelLoadError, SpecError, UnsafeModel, describe
from altlas_flow.models.batching import Batch, cut, execute, rows_limit
from altlas_flow.models.budget import BudgetSearch
from altlas_flow.models.files import read_rows
from altlas_flow.models.memory import peak_memory, reset_peak, used_memory
from altlas_flow.models.runtimes import runtime_class
from altlas_flow.models.work import Predictions, Work

if TYPE_CHECKING:
    from typing import Self

    import numpy as np
    import pyarrow as pa

    from altlas_flow.models.spec import ModelSpec
    from altlas_flow.models.watch import Watch

logger = logging.getLogger(__name__)

#: Of a process's memory limit, what a batch may bring it to: Dask pauses workers at 80%.
MEMORY_SHARE = 0.7
#: Seconds of a batch that is predicted step by step, beyond which no larger one is tried.
STEPS_LIMIT = 10.0


def search_for(device: str, *, tokens: bool, steps: bool = False) -> BudgetSearch:
    """The search for a batch budget: where it starts and what it may try.

    On a CPU the best budgets of small encoders lie between 512 and 2,048 tokens and differ by few
    percent; a GPU wants far more in one go. What answers step by step does one token of each row at a
    time: another row costs little but memory, and a batch takes as long as its longest text.
    """
    if not tokens:
        return BudgetSearch(start=8, smallest=1, largest=65_536, factor=4)
    if steps:
        start, largest = (16_384, 1 << 20) if device.startswith("cuda") else (4_096, 1 << 16)
        return BudgetSearch(start=start, smallest=256, largest=largest, longest_s=STEPS_LIMIT)
    if device.startswith("cuda"):
        return BudgetSearch(start=8_192, smallest=256, largest=1 << 20)
    return BudgetSearch(start=1_024, smallest=256, largest=16_384)


class LoadedModel:
    """A model in this process, ready to predict.

    Parameters
    ----------
    spec : ModelSpec
        With its source resolved.
    device : str, optional
        ``cpu`` or ``cuda``; by default what the spec says, and CUDA for ``auto`` where there is one.
    threads : int, optional
        Threads of a torch operation; by default torch's own choice.
    node : str
        Where this is, for errors.
    memory_limit : int, optional
        Bytes that this process may take; batches that would come near are not tried.

    Raises
    ------
    ModelLoadError, UnsafeModel, SpecError
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        device: str | None = None,
        threads: int | None = None,
        node: str = "this process",
        memory_limit: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.spec, self.node, self._clock = spec, node, clock
        self._memory_limit, self._appetite = memory_limit, 0.0  # bytes; bytes for a token or row
        self.device = device or choose_device(spec)
        started = clock()
        try:
            self.runtime = runtime_class(spec.runtime)(spec, device=self.device)
            self.runtime.load()
            self.runtime.check_parameters(spec.parameters)
        except (UnsafeModel, SpecError, ModelLoadError):
            raise
        except Exception as error:
            # an engine may fail with any error at all; its owner gets one that names the model
            raise ModelLoadError(spec.id, node, describe(error)) from error
        if threads is not None and (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(threads)
        self.load_s = clock() - started
        self._steps = hasattr(self.runtime, "predict_steps")
        # bytes that a token is known to take; a GPU that runs out says so, and its batches are halved
        on_gpu = self.device.startswith("cuda")
        self._token_bytes = 0 if on_gpu else int(getattr(self.runtime, "token_bytes", 0))
        self._base, self._taken = used_memory(), 0  # bytes without any batch; those of the largest so far
        self._lock = Lock()
        self._searches: dict[bool, BudgetSearch] = {}
        if spec.allow:
            logger.warning("model %r was loaded with %s allowed", spec.id, " and ".join(spec.allow))

    def parameters(self, given: Mapping[str, Any] | None) -> dict[str, Any]:
        """Parameters of a call: the spec's, overlaid with those given, all known to the runtime."""
        merged = {**self.spec.parameters, **(given or {})}
        self.runtime.check_parameters(merged)
        return merged

    def output_types(self, parameters: Mapping[str, Any] | None = None) -> dict[str, pa.DataType] | None:
        """Arrow types of answers with these parameters; None where only an answer can tell."""
        types_for = getattr(self.runtime, "types_for", None)
        if types_for is None:
            return self.runtime.output_types()
        found: dict[str, pa.DataType] | None = types_for(self.parameters(parameters))
        return found

    def work(
        self,
        rows: Sequence[Any],
        parameters: Mapping[str, Any],
        *,
        batch: Literal["auto"] | int | None = None,
        priority: int = 0,
        watch: Watch | None = None,
    ) -> Work:
        """Prepare rows (read files, tokenise texts, once) for batching."""
        rows, unread = read_rows(self.spec, rows)
        prepared = self.runtime.prepare(rows, parameters)
        prepared.faults.update(unread)  # they say why there was nothing
        limit = rows_limit(batch if batch is not None else self.spec.batch)
        return Work(prepared, parameters, rows_limit=limit, priority=priority, watch=watch)

    def search(self, work: Work) -> BudgetSearch:
        """The budget for works of this kind."""
        tokens = work.costs is not None
        if tokens not in self._searches:
            self._searches[tokens] = search_for(self.device, tokens=tokens, steps=self._steps)
        return self._searches[tokens]

    def cut(self, works: Sequence[Work]) -> Batch:
        """Take the next batch from what waits."""
        with self._lock:
            budget = works[0].rows_limit or self._ask(self.search(works[0]))
            return cut(works, budget, pads=getattr(self.runtime, "pads", True))

    def _ask(self, search: BudgetSearch) -> int:
        """The next budget; one that would not fit into memory, by what batches took, is given up."""
        budget = search.ask()
        if self._memory_limit and self._token_bytes and search is self._searches.get(True):
            return self._fitting(budget, search.smallest)
        while self._memory_limit and not search.settled and budget > search.smallest:
            if used_memory() + self._appetite * budget <= MEMORY_SHARE * self._memory_limit:
                break
            search.shrink(budget)
            budget = search.ask()
        return budget

    def _fitting(self, budget: int, smallest: int) -> int:
        """As many tokens of a budget as there is memory for, where it is known what one takes."""
        assert self._memory_limit is not None
        # what batches took may have stayed with the process, for the next one
        others = max(self._base, used_memory() - self._taken)
        room = int(MEMORY_SHARE * self._memory_limit - others) // self._token_bytes
        budget = max(smallest, min(budget, room))
        self._taken = max(self._taken, budget * self._token_bytes)
        return budget

    def execute(self, batch: Batch) -> float:
        """Predict a batch; seconds that it took."""
        first = batch.pieces[0][0]
        search = self.search(first)
        searching = first.rows_limit is None and not search.settled and batch.full  # else it tells nothing
        before = peak = 0
        if searching:
            reset_peak()
            before, peak = used_memory(), peak_memory()
        fixed = first.rows_limit is not None
        spent = execute(
            self.runtime,
            batch,
            model=self.spec.id,
            out_of_memory=self._ran_out(None if fixed else search),
            clock=self._clock,
        )
        if batch.full and spent.clean:
            with self._lock:
                search.tell(batch.budget, spent.cost, spent.seconds)
                if searching and (now := peak_memory()) > peak:
                    self._appetite = max(self._appetite, (now - before) / spent.cost)
        return spent.seconds

    def _ran_out(self, search: BudgetSearch | None) -> Callable[[int], None]:
        def halve(budget: int) -> None:
            logger.warning("model %r ran out of memory with a batch of %d: halved", self.spec.id, budget)
            if search is not None:  # a number of rows that was asked for stays what it is
                with self._lock:
                    search.shrink(budget)

        return halve

    def outcome(self, work: Work) -> Predictions:
        """What became of a finished work."""
        search = self.search(work)
        work.result.budget = work.rows_limit or search.value
        work.result.settled = work.rows_limit is not None or search.settled
        if self._steps and work.result.tokens:
            fits = search.value * len(work.items) // work.result.tokens
            work.result.together = max(1, work.rows_limit or fits)
        return work.result

    def predict(
        self,
        rows: Sequence[Any],
        *,
        batch: Literal["auto"] | int | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> np.ndarray | list[Any]:
        """Predict rows in this thread.

        Parameters
        ----------
        rows : sequence
            Texts, arrays, or what the function takes.
        batch : int or "auto", optional
            Rows a batch; by default what the spec says.
        parameters : mapping, optional
            Of this call, over those of the spec.

        Returns
        -------
        numpy.ndarray of shape (rows, ...) or list
            One answer for each row, in order.

        Raises
        ------
        BadRow
            For the first row that has no answer; its text names the row.
        InputError, ParameterError
        """
        if isinstance(rows, (str, bytes, Mapping)):
            raise InputError(
                f"predict takes a list of rows, and a {type(rows).__name__} is one: put it into a list"
            )
        work = self.work(list(rows), self.parameters(parameters), batch=batch)
        while work.waiting:
            self.execute(self.cut([work]))
        result = self.outcome(work)
        for row in sorted(result.errors):
            raise BadRow(str(row), "predict", self.spec.id, describe(result.errors[row])) from result.errors[
                row
            ]
        return result.outputs

    def unload(self) -> None:
        """Let go of the weights."""
        self.runtime.unload()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.unload()

    def __repr__(self) -> str:
        return f"<LoadedModel {self.spec.id} on {self.device}, {self.runtime.memory() / 2**20:.0f} MiB>"


def choose_device(spec: ModelSpec) -> str:
    """The spec's device; for ``auto`` CUDA where torch sees one."""
    if spec.device != "auto":
        return spec.device
    if spec.runtime in ("function", "sklearn"):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
