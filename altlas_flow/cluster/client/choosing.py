"""Choosing as a client does it: on what has been learned until a moment ago, with no trip."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from altlas_flow.cluster.client.handle import CANCELLED, Handle
from altlas_flow.cluster.connect import call_control
from altlas_flow.cluster.scheduler.learning import TAUGHT
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

if TYPE_CHECKING:
    from altlas_flow.cluster.client.transport import Transport

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
    lesson: Lesson


class Choosing:
    """Decides for one client; any thread may call it.

    Parameters
    ----------
    transport : Transport
    seed : int, optional
        Of the draws; by default by chance.
    clock : callable
        Seconds since the epoch.
    """

    def __init__(
        self, transport: Transport, *, seed: int | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._transport, self._clock = transport, clock
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
        self._said = False

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

        Raises
        ------
        NothingServes, NoModelFits, FeatureError, SelectionError, ClusterLost
        """
        learned = self._known(task)
        learned.snapshot.columns.check(features)
        fitting = (
            [name for name, specialities in learned.models.items() if subtype in specialities]
            if subtype is not None and strategy in _BY_SPECIALITY
            else ()
        )
        with self._lock:
            chooser = self._chooser(task, goal, strategy, explore)
            decision = chooser.choose(
                learned.snapshot, features, top=top, id=id, excluded=learned.excluded, specialists=fitting
            )
        return Choice(decision, chooser, learned.snapshot, chose(decision, goal.aims, features))

    def use(self, choice: Choice) -> None:
        """A decision is used: it counts for the budget, and is told, so that it can be learned from."""
        decision = choice.decision
        with self._lock:
            choice.chooser.note(choice.snapshot, decision)
            self._open[decision.id] = choice.chooser
            while len(self._open) > OPEN:
                del self._open[next(iter(self._open))]
        self._tell(choice.lesson)

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

    def follow(self, handle: Handle, decision: Decision) -> None:
        """Tell what comes of a request whose model was chosen."""
        ended = partial(self._ended, handle, decision)
        if not self._transport.when_over(handle, ended):
            ended()

    def report(self, task: str) -> list[dict[str, Any]]:
        """Of each model of a task, what came of it."""
        return list(self._ask("altlas_learned", task=task))

    def decisions(self, task: str) -> list[Any]:
        """The log of a task."""
        return list(self._ask("altlas_decisions", task=task))

    def feedback(self, outcomes: Sequence[tuple[str, Mapping[str, float]]]) -> list[str]:
        """What came of decisions, whoever made them; ids of those that are not known."""
        elsewhere = [(id, dict(values)) for id, values in outcomes if not self.told(id, values)]
        if not elsewhere:
            return []
        return list(self._ask("altlas_feedback", outcomes=elsewhere))

    # -- outcomes --------------------------------------------------------------------------------

    def _ended(self, handle: Handle, decision: Decision) -> None:
        error, values = handle._error, dict[str, float]()
        if handle._final == CANCELLED or not (error is None or isinstance(error, _ITS_OWN)):
            return  # that says nothing of the model
        if error is not None:
            values["failed"] = 1.0
        if error is None or isinstance(error, DeadlineExceeded):  # what fails soon is not quick
            values["latency"] = handle._ended - handle._submitted
        learned = self._learned.get(decision.task)
        cost = None if learned is None else learned.costs.get(decision.model)
        if cost is not None:
            values["cost"] = cost
        self.told(decision.id, values)

    def _tell(self, lesson: Lesson) -> None:
        with self._lock:
            self._lessons.append(lesson)
            first = len(self._lessons) == 1
        if first:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody can be told any more
                self._transport.loop.call_soon_threadsafe(self._transport.loop.call_later, SOON, self.flush)

    def flush(self) -> None:
        """Send what was gathered; on the client's event loop."""
        with self._lock:
            lessons, self._lessons = self._lessons, []
        for start in range(0, len(lessons), BATCH):
            self._transport.tell({"op": TAUGHT, "lessons": lessons[start : start + BATCH]})

    def close(self) -> None:
        """Tell what is left, and ask no more; on the client's event loop."""
        self.flush()
        for task in list(self._refreshing.values()):
            if task is not None:
                task.cancel()

    # -- what has been learned -------------------------------------------------------------------

    def _known(self, task: str) -> Learned:
        clock = self._transport.clock
        now, learned = clock(), self._learned.get(task)
        if learned is None or now - learned.asked > STALE:
            learned = self._asked(task, learned, now)
        learned.used = now
        if now - learned.asked > FRESH:
            self._refresh_soon(task)
        return learned

    def _asked(self, task: str, learned: Learned | None, now: float) -> Learned:
        """What the scheduler says, unless somebody else has just asked it."""
        if threading.get_ident() == self._transport.thread:
            if learned is not None:
                return learned  # somewhat old: waiting here would end all that is under way
            raise SelectionError(
                "choosing for the first time waits for the scheduler, and the client's own event loop must "
                "not wait: use asyncio.to_thread"
            )
        with self._asking[task]:
            clock, learned = self._transport.clock, self._learned.get(task)
            if learned is not None and clock() - learned.asked <= STALE:
                return learned
            when, why = self._failed.get(task, (-math.inf, None))
            if why is not None and when > now - FRESH:  # whoever asks in vain asks for all that wait
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
            self._refreshing[task] = self._transport.loop.create_task(self._refresh(task))

        self._transport.loop.call_soon_threadsafe(begin)

    async def _refresh(self, task: str) -> None:
        """Ask again, on the client's event loop, for as long as the task is used."""
        clock = self._transport.clock
        try:
            while (learned := self._learned[task]).used > clock() - IDLE and not self._transport.closed:
                asked = clock()
                handler = getattr(self._transport.client.scheduler, "altlas_choices")  # noqa: B009
                asking = handler(task=task, version=learned.snapshot.version)
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
        return call_control(self._transport.client, operation, **arguments)["result"]

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
