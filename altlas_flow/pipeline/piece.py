"""`Piece`: requests that travel together through a pipeline; each gets an outcome of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from altlas_flow.cluster.client.fate import DEATHS
from altlas_flow.cluster.client.posting import INTERACTIVE
from altlas_flow.cluster.packed import Packed
from altlas_flow.errors import AltlasError, BadRequest, ClusterError, ClusterLost, StageFailed, describe
from altlas_flow.models.copies import apart
from altlas_flow.pipeline.graph import Way
from altlas_flow.pipeline.handle import PipelineHandle
from altlas_flow.pipeline.passage import MOVES, Died, Passage, Unreadable
from altlas_flow.pipeline.result import PieceOutcome, PipelineResult
from altlas_flow.pipeline.rows import StageRows
from altlas_flow.pipeline.spans import rows_of

if TYPE_CHECKING:
    from altlas_flow.pipeline.sender import Lane, PipelineSender


class Piece:
    """Requests that travel together through a pipeline.

    Parameters
    ----------
    sender : PipelineSender
    lane : Lane
    handles : list of PipelineHandle
    """

    def __init__(self, sender: PipelineSender, lane: Lane, handles: list[PipelineHandle]) -> None:
        self.sender, self.lane, self.handles = sender, lane, handles
        self._wanted = set(handles)
        # as they are now: a request that ends meanwhile lets go of its inputs
        inputs = [handle._inputs for handle in handles]
        self._counts = [len(one) for one in inputs]
        rows = StageRows(apart([value for one in inputs for value in one]))
        way = Way(
            len(rows),
            INTERACTIVE + lane.priority,
            solo=handles[0]._alone,
            strategies=lane.strategies,
            kept=frozenset(lane.keep),
            traces=None if sender.transport.tracer is None else Packed.of(rows_of(handles, self._counts)),
        )
        self._passage = Passage(
            sender.client,
            sender.settings,
            lane.compiled,
            rows,
            way,
            lane.keep,
            several=len(handles) > 1,
            sent=sender.flush,
            let_go=sender.let_go,
        )
        self._task: asyncio.Task[Any] | None = None

    @property
    def futures(self) -> Mapping[str, Any]:
        """Dask's, by stage."""
        return self._passage.futures

    def left(self, handle: PipelineHandle) -> None:
        """A request is over for its owner; the last one takes the piece along."""
        self._wanted.discard(handle)
        if not self._wanted and self._task is not None:
            self._task.cancel()

    async def go(self) -> None:
        """Take the piece through, and give each request its outcome."""
        sender, lane = self.sender, self.lane
        self._task = asyncio.current_task()
        for handle in self.handles:
            handle._running, handle._piece, handle._left = True, self, sender.clock()
            if handle.done():  # before it could tell this piece
                handle._piece = None
                self._wanted.discard(handle)
        weight = sum(handle._weight for handle in self.handles)
        counts = self._counts
        try:
            # what may be what kills workers goes one at a time, or it would take the others of its kind along
            if not self._wanted:
                return
            async with sender.quarantine if self.handles[0]._alone else contextlib.nullcontext():
                rows = await self._passage.go(weight)
        except Died as died:
            self._again(died, counts)
        except Unreadable:
            for handle in self.handles:
                handle._single = True
            sender.back(lane, [handle for handle in self.handles if not handle.done()])
        except BadRequest as error:
            self._without_bad(error)
        except AltlasError as error:
            self._fail(error)
        except asyncio.CancelledError:
            if self._wanted:  # it is the loop that ends
                self._fail(ClusterLost("the Dask client was closed before the answer came: connect again"))
        except Exception as error:
            # whatever Dask itself raises on the way, also where inputs cannot be pickled
            self._fail(ClusterError(f"the pipeline could not be run: {describe(error)}"))
        else:
            self._deliver(rows, counts)
        finally:
            lane.in_flight -= 1
            sender.pump(lane)

    def _again(self, died: Died, counts: list[int]) -> None:
        """A worker died: what was running there goes on by itself, the others as if nothing had happened."""
        ran = set(died.rows)
        alone: list[PipelineHandle] = []
        others: list[PipelineHandle] = []
        start = 0
        for handle, count in zip(self.handles, counts, strict=True):
            running = not ran.isdisjoint(range(start, start + count))
            start += count
            if handle.done():
                continue
            handle._moves += 1
            if running and not died.error.beside:
                handle._deaths += 1
            if handle._deaths >= DEATHS or handle._moves > MOVES:
                error = StageFailed(died.stage, str(died.error))
                error.root_cause, error.nodes = died.error.cause, (died.error.node,)
                self.sender.end(handle, error)
            elif handle._deaths or handle._moves >= DEATHS:
                handle._alone = True
                alone.append(handle)
            else:
                others.append(handle)
        self.sender.back(self.lane, others + alone)

    def _without_bad(self, error: BadRequest) -> None:
        """Requests whose inputs cannot be pickled end; the others go again."""
        if len(self.handles) == 1:
            self._fail(error)
            return
        good: list[PipelineHandle] = []
        for handle in self.handles:
            try:
                Packed.of(handle._inputs)
            except Exception as fault:
                # an input may refuse to be pickled with any error
                text = f"request {handle.request_id}: its input cannot be sent to a worker: {describe(fault)}"
                self.sender.end(handle, BadRequest(text))
            else:
                good.append(handle)
        self.sender.back(self.lane, [handle for handle in good if not handle.done()])

    def _fail(self, error: AltlasError) -> None:
        for handle in self.handles:
            self.sender.end(handle, error)

    def _deliver(self, rows: Mapping[str, StageRows], counts: list[int]) -> None:
        now = self.sender.clock()
        piece = PieceOutcome(self.lane.compiled, rows)
        took = sum(note.seconds for note in piece.notes.values())
        self.sender.pace.observe(self.lane.name, sum(counts), took)
        start = 0
        for handle, count in zip(self.handles, counts, strict=True):
            at = range(start, start + count)
            start += count
            if not handle.done():
                # its own rows alone: the others of the piece must not live as long as they do
                own = {name: _part(one.outputs, at) for name, one in rows.items()}
                latency = now - handle._submitted
                result = PipelineResult(piece, handle.request_id, own, at, many=handle._many, latency=latency)
                self.sender.end(handle, result)


def _part(outputs: Any, at: range) -> Any:
    part = outputs[at.start : at.stop]
    return part.copy() if isinstance(part, np.ndarray) else part
