"""Choosing as a client does it: on what has been learned until a moment ago, with no trip."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from altlas_flow.cluster.client.handle import CANCELLED, ERROR, Handle
from altlas_flow.cluster.connect import call_control
from altlas_flow.cluster.scheduler.learning import TAUGHT
from altlas_flow.errors import BadRequest, ClusterError, InputError, Overloaded
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
#: Seconds for which lessons are gathered.
SOON = 0.05
#: Ways to choose (task, goal, strategy, exploration) that are kept, and decisions whose chooser is known.
WAYS, OPEN = 200, 100_000

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
        self._asking = threading.Lock()  # held while a task is asked for, which nobody needs to do twice
        self._learned: dict[str, Learned] = {}
        self._refreshing: set[str] = set()
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
        top: int = 1,
        id: str | None = None,
        subtype: str | None = None,
        record: bool = True,
    ) -> Decision:
        """Choose a model.

        Parameters
        ----------
        task : str
        features : Known
        goal : Goal
        strategy : AdvancedModelSelectionStrategy
        explore : float
        top : int
            Models that are named at most.
        id : str, optional
            Of the decision.
        subtype : str, optional
            What kind of the task it is: models with that speciality are made for it.
        record : bool
            Whether it is told, so that it can be learned from.

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
            if record:
                self._open[decision.id] = chooser
            while len(self._open) > OPEN:
                del self._open[next(iter(self._open))]
        if record:
            self._tell(chose(decision, goal.aims, features))
        return decision

    def models(self, task: str) -> list[str]:
        """Those that serve a task now.

        Raises
        ------
        NothingServes, SelectionError, ClusterLost
        """
        return list(self._known(task).models)

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
        final, error = handle._final, handle._error
        if final == CANCELLED or isinstance(error, (BadRequest, InputError, ClusterError, Overloaded)):
            return  # that says nothing of the model
        values = {"latency": handle._ended - handle._submitted}
        learned = self._learned.get(decision.task)
        cost = None if learned is None else learned.costs.get(decision.model)
        if cost is not None:
            values["cost"] = cost
        if final == ERROR:
            values["failed"] = 1.0
        self.told(decision.id, values)

    def _tell(self, lesson: Lesson) -> None:
        with self._lock:
            self._lessons.append(lesson)
            first = len(self._lessons) == 1
        if first:
            self._transport.loop.call_soon_threadsafe(self._transport.loop.call_later, SOON, self.flush)

    def flush(self) -> None:
        """Send what was gathered; on the client's event loop."""
        with self._lock:
            lessons, self._lessons = self._lessons, []
        if lessons:
            self._transport.tell({"op": TAUGHT, "lessons": lessons})

    # -- what has been learned -------------------------------------------------------------------

    def _known(self, task: str) -> Learned:
        now = self._transport.clock()
        learned = self._learned.get(task)
        if learned is None or now - learned.asked > STALE:
            with self._asking:
                learned = self._learned.get(task)
                if learned is None or self._transport.clock() - learned.asked > STALE:
                    version = learned.snapshot.version if learned is not None else -1
                    answer = self._ask("altlas_choices", task=task, version=version)
                    learned = self._take(task, answer, now)
        learned.used = now
        if now - learned.asked > FRESH:
            self._refresh_soon(task)
        return learned

    def _take(self, task: str, answer: Mapping[str, Any], asked: float) -> Learned:
        old = self._learned.get(task)
        if answer["state"] is not None:
            snapshot = wire.from_bytes(answer["state"])
        else:
            assert old is not None
            snapshot = old.snapshot
        found = Learned(
            snapshot,
            answer["models"],
            answer["costs"],
            answer["refused"],
            asked,
            old.used if old is not None else asked,
        )
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
            self._refreshing.add(task)
        self._transport.loop.call_soon_threadsafe(self._transport.start, self._refresh(task))

    async def _refresh(self, task: str) -> None:
        """Ask again, on the client's event loop, for as long as the task is used."""
        import asyncio

        clock = self._transport.clock
        try:
            while (learned := self._learned[task]).used > clock() - IDLE and not self._transport.closed:
                asked = clock()
                handler = getattr(self._transport.client.scheduler, "altlas_choices")  # noqa: B009
                answer = await asyncio.wait_for(
                    handler(task=task, version=learned.snapshot.version), timeout=10 * STALE
                )
                if answer.get("error") is not None:
                    return  # whoever chooses next asks, and is told
                self._take(task, answer["result"], asked)
                await asyncio.sleep(FRESH)
        except (OSError, TimeoutError):
            return  # as above
        finally:
            with self._lock:
                self._refreshing.discard(task)

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
