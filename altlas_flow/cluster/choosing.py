"""Choosing among the models of a task: on what has been learned until a moment ago, with no trip."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from altlas_flow.cluster.client.lines import refusal_told
from altlas_flow.cluster.keys import TAUGHT
from altlas_flow.errors import (
    AltlasError,
    DeadlineExceeded,
    InvalidAnswer,
    ModelLoadError,
    PredictError,
    SelectionError,
)
from altlas_flow.learning.lessons import TOLD, Lesson, chose
from altlas_flow.records import AdvancedModelSelectionStrategy, Decision
from altlas_flow.selection import wire
from altlas_flow.selection.chooser import Chooser
from altlas_flow.selection.features import Known
from altlas_flow.selection.goal import Goal
from altlas_flow.selection.snapshot import Snapshot

logger = logging.getLogger(__name__)

#: Seconds after which what has been learned is asked for again, while it is used.
FRESH = 0.5
#: Seconds after which it is too old to be chosen by: it is waited for.
STALE = 1.0
#: Seconds after the last choice at which a task is not asked about any more.
IDLE = 30.0
#: Seconds that the scheduler gets for that in the background.
REFRESH_LIMIT = 10.0
#: Seconds for which lessons are gathered, and how many of them make a message.
SOON, BATCH = 0.05, 2000
#: Ways to choose (task, goal, strategy, exploration) that are kept, and decisions whose chooser is known.
WAYS, OPEN = 200, 100_000

#: Errors that say something of the model; the others are of requests, of the cluster, or of nobody.
_ITS_OWN = (PredictError, ModelLoadError, InvalidAnswer, DeadlineExceeded)
#: Said of a model that serves the task, and is none of those that may answer here.
_NOT_HERE = "it is none of those that this pipeline was made for"
_BY_SPECIALITY = (AdvancedModelSelectionStrategy.SPECIALIZED, AdvancedModelSelectionStrategy.HYBRID)


@dataclass
class Learned:
    """What is known here of one task."""

    snapshot: Snapshot
    models: Mapping[str, Sequence[str]]  # those that serve it now: their specialities
    costs: Mapping[str, float | None]
    refused: Mapping[str, str]
    asked: float  # when
    used: float = 0.0
    excluded: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        gone = {
            name: "it does not serve the task now" for name in self.snapshot.arms if name not in self.models
        }
        self.excluded = {**gone, **self.refused}


@dataclass(frozen=True)
class Choice:
    """A decision that is not used yet."""

    decision: Decision
    chooser: Chooser
    snapshot: Snapshot
    features: Known
    lesson: Lesson


class Line(Protocol):
    """How one who chooses reaches the scheduler: a client, or a worker on behalf of a pipeline.

    Attributes
    ----------
    loop : asyncio.AbstractEventLoop
        Of the connection.
    thread : int
        Of that event loop: what runs there must not wait.
    """

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def thread(self) -> int | None: ...
    @property
    def closed(self) -> bool:
        """Whether nobody can be asked any more."""

    def clock(self) -> float:
        """Seconds of any beginning."""

    def tell(self, message: dict[str, Any]) -> None:
        """Send by the stream; on the event loop."""

    def ask(self, operation: str, **arguments: Any) -> Any:
        """Ask, and wait; errors that come back are raised."""

    def asking(self, operation: str, **arguments: Any) -> Awaitable[Any]:
        """Ask; on the event loop. An error that comes back is in the answer."""


class Choosing:
    """Decides for one client, or on one worker; any thread may call it.

    Parameters
    ----------
    line : Line
    seed : int, optional
        Of the draws; by default by chance.
    clock : callable
        Seconds since the epoch.
    quiet : bool
        Leave it to others to say that what is learned is not kept.
    """

    def __init__(
        self,
        line: Line,
        *,
        seed: int | None = None,
        clock: Callable[[], float] = time.time,
        quiet: bool = False,
    ) -> None:
        self._line, self._clock = line, clock
        self._rng = np.random.default_rng(seed)
        self._lock = threading.Lock()  # held for a decision: a millisecond or two
        # each held while a task is asked for, which nobody needs to do twice
        self._asking: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._failed: dict[str, tuple[float, AltlasError]] = {}  # by task: when asking failed, and why
        self._learned: dict[str, Learned] = {}
        self._refreshing: dict[str, asyncio.Task[None] | None] = {}
        self._choosers: dict[Any, Chooser] = {}
        self._open: dict[str, Chooser] = {}
        self._lessons: list[Lesson] = []
        self.under_way: Counter[str] = Counter()  # by task: requests that have no answer yet
        self._said = quiet

    def choose(
        self,
        task: str,
        features: Known,
        goal: Goal,
        strategy: AdvancedModelSelectionStrategy,
        *,
        explore: float,
        id: str,
        top: int = 1,
        subtype: str | None = None,
        among: Collection[str] | None = None,
    ) -> Choice:
        """Choose a model; nothing follows from it before `use`.

        Parameters
        ----------
        task : str
        features : Known
        goal : Goal
        strategy : AdvancedModelSelectionStrategy
        explore : float
        id : str
            Of the decision.
        top : int
            Models that are named at most.
        subtype : str, optional
            What kind of the task it is: models with that speciality are made for it.
        among : collection of str, optional
            Models that can answer here; by default all that serve the task.

        Raises
        ------
        NothingServes, NoModelFits, FeatureError, SelectionError, ClusterLost
        """
        with refusal_told(task, id):
            learned = self._known(task)
        learned.snapshot.columns.check(features)
        fitting = (
            [name for name, specialities in learned.models.items() if subtype in specialities]
            if subtype is not None and strategy in _BY_SPECIALITY
            else ()
        )
        excluded = learned.excluded
        if among is not None:
            excluded = {name: _NOT_HERE for name in learned.models if name not in among} | dict(excluded)
        with self._lock, refusal_told(task, id):
            chooser = self._chooser(task, goal, strategy, explore)
            decision = chooser.choose(
                learned.snapshot, features, top=top, id=id, excluded=excluded, specialists=fitting
            )
        lesson = chose(decision, goal.aims, features)
        return Choice(decision, chooser, learned.snapshot, features, lesson)

    def use(self, choice: Choice) -> None:
        """A decision is used: it counts for the budget, and is told, so that it can be learned from."""
        decision = choice.decision
        with self._lock:
            choice.chooser.note(choice.snapshot, decision)
            self._open[decision.id] = choice.chooser
            while len(self._open) > OPEN:
                del self._open[next(iter(self._open))]
        self._tell(choice.lesson)

    def count(self, task: str, change: int) -> None:
        """A request for a task begins, or has ended."""
        with self._lock:
            self.under_way[task] += change

    def models(self, task: str) -> list[str]:
        """Those that serve a task now.

        Raises
        ------
        NothingServes, SelectionError, ClusterLost
        """
        return list(self._known(task).models)

    def made(self, id: str) -> bool:
        """Whether a decision of that id was made here, and not long ago."""
        return id in self._open

    def told(self, id: str, values: Mapping[str, float]) -> bool:
        """What came of a decision; False where it was not made here, or long ago."""
        with self._lock:
            chooser = self._open.get(id)
            if chooser is None:
                return False
            chooser.ended(id, latency=values.get("latency"), cost=values.get("cost"))
        self._tell((TOLD, id, dict(values)))
        return True

    def ended(
        self, id: str, task: str, model: str, *, latency: float | None = None, error: Exception | None = None
    ) -> None:
        """What came of a decision by itself: how long it took, or its error.

        Parameters
        ----------
        id, task, model : str
            Of the decision.
        latency : float, optional
            Seconds.
        error : Exception, optional
            One that says nothing of the model (of the request, of the cluster) is not told.
        """
        if error is not None and not isinstance(error, _ITS_OWN):
            return
        values = {"failed": float(error is not None)}
        if latency is not None and (error is None or isinstance(error, DeadlineExceeded)):
            values["latency"] = latency  # what fails soon is not quick
        learned = self._learned.get(task)
        cost = None if learned is None else learned.costs.get(model)
        if cost is not None:
            values["cost"] = cost
        if not self.told(id, values):
            self._tell((TOLD, id, values))  # another worker has decided

    def report(self, task: str, by: str | None = None) -> list[dict[str, Any]]:
        """Of each model of a task, and of each slice of a feature, what came of it."""
        return list(self._ask_after("altlas_learned", task=task, by=by))

    def course(self, task: str, windows: int) -> dict[str, Any]:
        """Which models of a task were chosen over time."""
        return dict(self._ask_after("altlas_course", task=task, windows=windows))

    def decisions(self, task: str) -> list[Any]:
        """The log of a task."""
        return list(self._ask_after("altlas_decisions", task=task))

    def feedback(self, outcomes: Sequence[tuple[str, Mapping[str, float]]]) -> list[str]:
        """What came of decisions, whoever made them; ids of those that are not known."""
        elsewhere = [(id, dict(values)) for id, values in outcomes if not self.told(id, values)]
        if not elsewhere:
            return []
        return list(self._ask("altlas_feedback", outcomes=elsewhere))

    # -- outcomes --------------------------------------------------------------------------------

    def _tell(self, lesson: Lesson) -> None:
        with self._lock:
            self._lessons.append(lesson)
            first = len(self._lessons) == 1
        if first:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody can be told any more
                self._line.loop.call_soon_threadsafe(self._line.loop.call_later, SOON, self.flush, "")

    def hurry(self) -> None:
        """Send what was gathered before whatever is sent from now on; from any thread."""
        with contextlib.suppress(RuntimeError):  # as above
            self._line.loop.call_soon_threadsafe(self.flush)

    def flush(self, mark: str = "") -> None:
        """Send what was gathered; on the line's event loop. A mark says where that ends."""
        with self._lock:
            lessons, self._lessons = self._lessons, []
        for start in range(0, len(lessons), BATCH):
            self._line.tell({"op": TAUGHT, "lessons": lessons[start : start + BATCH]})
        if mark:
            self._line.tell({"op": TAUGHT, "lessons": [], "mark": mark})

    def close(self) -> None:
        """Tell what is left, and ask no more; on the line's event loop."""
        self.flush()
        for task in list(self._refreshing.values()):
            if task is not None:
                task.cancel()

    # -- what has been learned -------------------------------------------------------------------

    def _known(self, task: str) -> Learned:
        clock = self._line.clock
        now, learned = clock(), self._learned.get(task)
        if learned is None or now - learned.asked > STALE:
            learned = self._asked(task, learned, now)
        learned.used = now
        if now - learned.asked > FRESH:
            self._refresh_soon(task)
        return learned

    def _asked(self, task: str, learned: Learned | None, now: float) -> Learned:
        """What the scheduler says, unless somebody else has just asked it."""
        if threading.get_ident() == self._line.thread:
            if learned is not None:
                return learned  # somewhat old: waiting here would end all that is under way
            raise SelectionError(
                "choosing for the first time waits for the scheduler, and the client's own event loop must "
                "not wait: use asyncio.to_thread"
            )
        with self._asking[task]:
            clock, learned = self._line.clock, self._learned.get(task)
            if learned is not None and clock() - learned.asked <= STALE:
                return learned
            when, why = self._failed.get(task, (-math.inf, None))
            if why is not None and when >= now:  # whoever asks in vain asks for all that wait
                raise why.with_traceback(None)
            asked = clock()
            try:
                version = learned.snapshot.version if learned is not None else -1
                return self._take(task, self._ask("altlas_choices", task=task, version=version), asked)
            except AltlasError as error:
                self._failed[task] = clock(), error
                while len(self._failed) > WAYS:
                    del self._failed[next(iter(self._failed))]
                raise

    def _take(self, task: str, answer: Mapping[str, Any], asked: float) -> Learned:
        old = self._learned.get(task)
        if answer["state"] is not None:
            snapshot = wire.from_bytes(answer["state"])
        elif old is not None:
            snapshot = old.snapshot
        else:
            raise SelectionError(f"nothing was said of the task {task!r}: try again")
        used = old.used if old is not None else asked
        found = Learned(snapshot, answer["models"], answer["costs"], answer["refused"], asked, used)
        self._learned[task] = found
        if not answer["kept"] and not self._said:
            self._said = True
            logger.warning(
                "what is learned of models lasts as long as the scheduler: set altlas.history to keep it"
            )
        return found

    def _refresh_soon(self, task: str) -> None:
        with self._lock:
            if task in self._refreshing:
                return
            self._refreshing[task] = None

        def begin() -> None:
            self._refreshing[task] = self._line.loop.create_task(self._refresh(task))

        self._line.loop.call_soon_threadsafe(begin)

    async def _refresh(self, task: str) -> None:
        """Ask again, on the line's event loop, for as long as the task is used."""
        clock = self._line.clock
        try:
            while (learned := self._learned[task]).used > clock() - IDLE and not self._line.closed:
                asked = clock()
                asking = self._line.asking("altlas_choices", task=task, version=learned.snapshot.version)
                answer = await asyncio.wait_for(asking, REFRESH_LIMIT)
                if answer.get("error") is not None:
                    return  # whoever chooses next asks, and is told
                self._take(task, answer["result"], asked)
                await asyncio.sleep(FRESH)
        except (OSError, TimeoutError):
            return  # as above
        except Exception:
            # whoever chooses next waits for the scheduler, and is told what is wrong
            logger.exception("what was learned of %r could not be asked for", task)
        finally:
            with self._lock:
                self._refreshing.pop(task, None)

    def _ask(self, operation: str, **arguments: Any) -> Any:
        return self._line.ask(operation, **arguments)["result"]

    def _ask_after(self, operation: str, **arguments: Any) -> Any:
        """Ask for what is known once all that was told here until now has arrived."""
        mark = uuid.uuid4().hex
        with contextlib.suppress(RuntimeError):  # the loop is closed: asking says so
            self._line.loop.call_soon_threadsafe(self.flush, mark)
        return self._ask(operation, after=mark, **arguments)

    def _chooser(
        self, task: str, goal: Goal, strategy: AdvancedModelSelectionStrategy, explore: float
    ) -> Chooser:
        key = (task, goal, strategy, explore)
        found = self._choosers.get(key)
        if found is None:
            found = self._choosers[key] = Chooser(task, goal, strategy, explore, self._rng, self._clock)
            while len(self._choosers) > WAYS:
                del self._choosers[next(iter(self._choosers))]
        return found
