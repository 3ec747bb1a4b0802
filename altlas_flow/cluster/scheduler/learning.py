"""Learning on behalf of all clients: hands what they tell to the program that learns, and gives snapshots."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import shutil
import tempfile
from collections import defaultdict, deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from altlas_flow.cluster.scheduler.catalog import SharedCatalog
from altlas_flow.cluster.scheduler.placer import Placer
from altlas_flow.errors import NothingServes, SelectionError, describe
from altlas_flow.history import frames
from altlas_flow.history.child import Child
from altlas_flow.history.frames import Message
from altlas_flow.learning.program import LESSONS, SETTLED, SNAPSHOT
from altlas_flow.models.catalog import builtin_models
from altlas_flow.models.spec import ModelSpec
from altlas_flow.placement.node import Needs

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

logger = logging.getLogger(__name__)

#: Seconds that the program gets to answer.
ANSWER_LIMIT = 30.0
#: Seconds for which a question waits for what its client told before, and marks of that that are known.
TOLD_LIMIT, MARKS = 5.0, 10_000
#: Seconds after which a program that ended is started again.
AGAIN = 2.0
#: Seconds that it gets to keep what waits where the scheduler closes.
CLOSE_LIMIT = 30.0
#: Bytes of lessons that wait for the program at most: beyond that clients are faster than anything learns.
WAITING = 256 << 20
_PROGRAM = "altlas_flow.learning.program"


class Learning:
    """Lives on the scheduler's event loop; the program is started by the first who asks.

    It has the lessons that the program has not kept: one that is killed is started again, and gets those
    again.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    catalog : SharedCatalog
    placer : Placer
    history : path, optional
        The log lies beside it; without one, what is learned lasts as long as the scheduler.

    Attributes
    ----------
    dropped : int
        Lessons that were too many.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        catalog: SharedCatalog,
        placer: Placer,
        history: str | None,
    ) -> None:
        self.scheduler, self.catalog, self.placer = scheduler, catalog, placer
        self._history = history
        self.loop = asyncio.get_running_loop()
        self.dropped = 0
        self.fault = ""
        self._folder: Path | None = None  # where there is no history
        self._child: Child | None = None
        self._again: asyncio.TimerHandle | None = None
        self._closed = False
        self._numbers = itertools.count(1)
        self._unsettled: deque[tuple[int, bytes]] = deque()  # number, message
        self._waiting = 0
        self._marks: dict[str, asyncio.Event] = {}
        self._asked: dict[int, tuple[bytes, asyncio.Future[Any]]] = {}
        self._snapshots: dict[str, tuple[int, bytes]] = {}
        self._arms: dict[str, list[list[Any]]] = {}  # by task: what the program was told
        self._admitting: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    # -- what clients ask ----------------------------------------------------------------------

    async def choices(self, task: str, version: int = -1) -> dict[str, Any]:
        """What has been learned of a task, where that is another version, and which models serve it now.

        Raises
        ------
        NothingServes, SelectionError
        """
        models = self._serving(task)
        arms = [
            [name, *(spec.declared.get(key) for key in ("quality", "latency", "cost"))]
            for name, spec in models.items()
        ]
        self._start()
        async with self._admitting[task]:  # many may ask at the same time
            if self._arms.get(task) != arms:
                await self._ask("admit", task=task, arms=arms)  # its snapshot comes before the answer
                self._arms[task] = arms
        if task not in self._snapshots:
            raise SelectionError(f"no model can be chosen for {task!r} now: {self._why()}")
        found, data = self._snapshots[task]
        return {
            "version": found,
            "state": data if found != version else None,
            "models": {name: list(spec.specialities) for name, spec in models.items()},
            "costs": {name: spec.declared.get("cost") for name, spec in models.items()},
            "refused": {name: why for name, spec in models.items() if (why := self._refusal(spec))},
            "kept": self._history is not None,
        }

    async def feedback(self, outcomes: Sequence[Sequence[Any]]) -> list[str]:
        """Take what came of decisions; the ids of those that are not known."""
        self._start()
        return list(await self._ask("told", outcomes=[tuple(one) for one in outcomes]))

    async def report(self, task: str, by: str | None = None, after: str = "") -> list[dict[str, Any]]:
        """Of each model of a task, and of each slice of a feature, what came of it."""
        await self._arrived(after)
        self._serving(task)
        self._start()
        return list(await self._ask("report", task=task, by=by))

    async def course(self, task: str, windows: int, after: str = "") -> dict[str, Any]:
        """Which models of a task were chosen over time."""
        await self._arrived(after)
        self._serving(task)
        self._start()
        return dict(await self._ask("course", task=task, windows=windows))

    async def decisions(self, task: str, after: str = "") -> list[Any]:
        """The log of a task: lessons."""
        await self._arrived(after)
        self._start()
        return list(await self._ask("decisions", task=task))

    def taught(self, lessons: list[Any], mark: str = "", **kwargs: Any) -> None:
        """Lessons of a client, or of a worker; told by its stream. A mark comes after the last of them."""
        if mark:
            self._mark(mark).set()
        if self._closed or not lessons:
            return
        number = next(self._numbers)
        data = frames.pack((LESSONS, number, [tuple(lesson) for lesson in lessons]))
        if self._waiting + len(data) > WAITING:
            self.dropped += len(lessons)
            self._failed(f"{self.dropped} lessons were dropped: more wait than can be learned")
            return
        self._start()
        self._unsettled.append((number, data))
        self._waiting += len(data)
        self._give(data)

    async def _arrived(self, mark: str) -> None:
        """Wait for what the stream of a client has until its mark: what asks does not come by it."""
        if mark:
            with contextlib.suppress(TimeoutError):  # its stream is broken: what is known is told
                await asyncio.wait_for(self._mark(mark).wait(), TOLD_LIMIT)
            self._marks.pop(mark, None)

    def _mark(self, mark: str) -> asyncio.Event:
        event = self._marks.setdefault(mark, asyncio.Event())
        while len(self._marks) > MARKS:  # nobody asked, in the end
            del self._marks[next(iter(self._marks))]
        return event

    # -- models ----------------------------------------------------------------------------------

    def _serving(self, task: str) -> dict[str, ModelSpec]:
        known = {**builtin_models(), **self.catalog}
        models = {name: spec for name, spec in known.items() if task in spec.tasks}
        if not models:
            raise NothingServes(task, sorted({one for spec in known.values() for one in spec.tasks}))
        return models

    def _refusal(self, spec: ModelSpec) -> str:
        """Why no node can do a model; empty where one can, or where none has joined yet."""
        nodes = len(self.placer.roster)
        reasons = self.placer.roster.reasons(Needs.of(spec.resources, spec.labels, spec.memory or 0))
        if not nodes or len(reasons) < nodes:
            return ""
        return f"no node can do it ({next(iter(reasons.values()))})"

    # -- the program -----------------------------------------------------------------------------

    async def _ask(self, name: str, **arguments: Any) -> Any:
        number = next(self._numbers)
        data = frames.pack((frames.ASK, number, name, arguments))
        answer: asyncio.Future[Any] = self.loop.create_future()
        self._asked[number] = data, answer
        if self._child is not None:
            self._give(data)
        try:
            return await asyncio.wait_for(answer, ANSWER_LIMIT)
        except TimeoutError as late:
            raise SelectionError(f"what was learned cannot be asked for now: {self._why()}") from late
        finally:
            self._asked.pop(number, None)

    def _why(self) -> str:
        return self.fault or "the program that learns does not answer: see the scheduler's log, and try again"

    def _start(self) -> None:
        """Have the program run, but not one right after another that ended."""
        if self._closed:
            raise SelectionError("the scheduler is closing: connect to another one")
        if self._child is None and self._again is None:
            self._open()

    def _open(self) -> None:
        try:
            self._child = child = Child(self._path(), _PROGRAM)
        except OSError as error:
            self._failed(f"the program that learns cannot be started: {describe(error)}")
            self._again = self.loop.call_later(AGAIN, self._start_again)
            return
        self.loop.add_reader(child.replies, self._listen, child)
        for task, arms in self._arms.items():  # known already, but where nothing could be kept
            arguments = {"task": task, "arms": arms}
            self._give(frames.pack((frames.ASK, next(self._numbers), "admit", arguments)))
        for _, data in list(self._unsettled):
            self._give(data)
        for data, _ in list(self._asked.values()):
            self._give(data)

    def _path(self) -> str:
        if self._history is not None:
            return str(Path(self._history).absolute())
        self._folder = self._folder or Path(tempfile.mkdtemp(prefix="altlas-learning-"))
        return str(self._folder / "log")

    def _start_again(self) -> None:
        self._again = None
        if self._child is None and not self._closed:
            self._open()

    def _give(self, data: bytes) -> None:
        child = self._child
        if child is not None:
            child.send(data)
            if child.busy:
                self.loop.add_writer(child.requests, self._flush, child)

    def _flush(self, child: Child) -> None:
        child.flush()
        if not child.busy:
            self.loop.remove_writer(child.requests)

    def _listen(self, child: Child) -> None:
        messages = child.receive()
        for message in messages or ():
            self._told(message)
        if messages is None:
            self.loop.remove_reader(child.replies)
            self.loop.remove_writer(child.requests)
            self._child = None
            code = child.end()
            if not self._closed:
                self._failed(f"the program that learns ended with code {code}, and is started again")
                self._again = self.loop.call_later(AGAIN, self._start_again)

    def _told(self, message: Message) -> None:
        kind, *rest = message
        if kind == SETTLED:
            while self._unsettled and self._unsettled[0][0] <= rest[0]:
                self._waiting -= len(self._unsettled.popleft()[1])
        elif kind == SNAPSHOT:
            task, version, data = rest
            self._snapshots[task] = version, data
        elif kind in (frames.ANSWER, frames.REFUSED):
            number, value = rest
            _, answer = self._asked.get(number, (b"", None))
            if answer is not None and not answer.done():
                if kind == frames.ANSWER:
                    answer.set_result(value)
                else:
                    answer.set_exception(SelectionError(value))
        elif kind == frames.OPENED:
            for text in filter(None, rest):
                self._failed(text)
        else:
            self._failed(rest[0])

    def _failed(self, text: str) -> None:
        self.fault = text
        logger.warning("learning: %s", text)

    def close(self) -> None:
        """Have everything kept, and end the program; waits for it."""
        self._closed = True
        if self._again is not None:
            self._again.cancel()
        child, self._child = self._child, None
        try:
            if child is None and self._unsettled:  # it had ended, and was not started again yet
                child = Child(self._path(), _PROGRAM)
                for _, data in self._unsettled:
                    child.send(data)
            elif child is not None:
                with contextlib.suppress(Exception):  # the loop may be closed already
                    self.loop.remove_reader(child.replies)
                    self.loop.remove_writer(child.requests)
            if child is not None:
                child.finish(frames.pack((frames.CLOSE,)), CLOSE_LIMIT)
        except OSError as error:
            self._failed(f"{len(self._unsettled)} messages could not be kept: {describe(error)}")
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
