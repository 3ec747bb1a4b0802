"""Where predictions run: the part of the scheduler plugin that knows nodes, and sends work to them.

A task's life here: first seen (`waiting`), placed (restricted to one node), or parked where nobody
can do it now; on its node; over, or lost with its node (`losses.py`).
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from distributed.core import Status

from altlas_flow.cluster.keys import ANNOTATION, DIGITS, is_envelope, is_passage, model_of
from altlas_flow.cluster.scheduler.assignment import Assignment
from altlas_flow.cluster.scheduler.lingering import Lingering
from altlas_flow.cluster.scheduler.losses import NOWHERE, Losses
from altlas_flow.errors import AltlasError, ModelLoadError, NoEligibleNode, located
from altlas_flow.placement.decide import Choice, decide
from altlas_flow.placement.health import Health
from altlas_flow.placement.latency import Latency, Times
from altlas_flow.placement.node import Asked, Needs, Node, refusal
from altlas_flow.placement.roster import Roster
from altlas_flow.placement.strategies import STRATEGIES, Memory, Strategy, least_loaded

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

    from altlas_flow.models.spec import ModelSpec

logger = logging.getLogger(__name__)

#: Seconds that a row is thought to take where nobody knows.
UNKNOWN_SECONDS = 0.01
#: Nodes that left of late, and are remembered: work may wait for one such as they were.
GONE = 1000


class Placer:
    """Places the tasks that predict.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    patience : float
        Seconds that a task waits for a node which can do it, where there is or was one.
    join_timeout : float
        The same where there never was one.
    default : str
        Strategy of what names none.
    seed : int
    fault : callable
        Called with a text where something of ours went wrong; it must not raise.
    heard_out : callable
        ``await heard_out(address)``: until all that the host of a lost worker had said is heard.
    let_go : callable
        Called with the key of an envelope that nobody wanted any more, and that has run to its end now.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        patience: float,
        join_timeout: float,
        default: str,
        seed: int,
        fault: Callable[[str], None],
        heard_out: Callable[[str], Awaitable[None]],
        let_go: Callable[[Any], None] = lambda key: None,
    ) -> None:
        self.scheduler, self.patience, self.join_timeout = scheduler, patience, join_timeout
        self.loop = asyncio.get_running_loop()
        self.roster, self.health = Roster(), Health()
        self.memory = Memory(random.Random(seed))
        self.strategies: dict[str, Strategy] = dict(STRATEGIES)
        self.default, self.fault = default, fault
        self.needs: dict[str, Needs] = {}  # by the digits that keys carry
        self.ids: dict[str, str] = {}
        self.names: dict[str, str] = {}  # of nodes: name -> address
        self.assignments: dict[Any, Assignment] = {}
        self.on: dict[str, set[Any]] = {}  # address -> keys
        self.parked: dict[Any, asyncio.TimerHandle] = {}  # tasks that nobody can do now
        self.gone: deque[tuple[float, Node]] = deque(maxlen=GONE)  # nodes that left, and when
        self._emptied: dict[str, asyncio.Event] = {}  # somebody waits until nothing is there any more
        self.losses = Losses(scheduler, self.fail, heard_out, self.place_if_ready)
        self.lingering = Lingering(self.losses, self._release, let_go)

    def note(self, model: ModelSpec, memory: int = 0) -> None:
        """Keep what a key's digits stand for."""
        digits = model.fingerprint[:DIGITS]
        self.needs[digits] = Needs.of(model.resources, model.labels, memory)
        self.ids[digits] = model.id

    def came(self, ws: WorkerState, said: Mapping[str, Any]) -> None:
        """A host says that it is there."""
        self.names[str(ws.name)] = ws.address
        self.roster.add(
            Node(
                address=ws.address,
                name=str(ws.name),
                slots=int(said["slots"]),
                resources=dict(said["resources"]),
                labels=dict(said.get("labels") or {}),
                memory=said.get("memory"),
                available=ws.status == Status.running,
                said={name: said[name] for name in ("hostname", "gpus", "versions") if name in said},
            )
        )
        self.unpark()

    def status(self, address: str) -> None:
        """A worker's status may have changed."""
        node, ws = self.roster.get(address), self.scheduler.workers.get(address)
        if ws is not None and ws.status in (Status.closing, Status.closing_gracefully):
            self.losses.leaving.add(address)
        elif ws is not None:
            self.losses.leaving.discard(address)  # it was to be retired, and stays
        if node is None or ws is None:
            return
        was = node.available
        self._set_available(node, ws.status == Status.running, f"it is {ws.status.name}: it takes no work")
        if node.available and not was:
            self.unpark()

    def left(self, address: str) -> None:
        """A worker is gone, and its host with it."""
        node = self.roster.get(address)
        if node is not None:
            self.gone.append((self.loop.time(), node))
            self.roster.remove(address)
            if self.names.get(node.name) == address:
                del self.names[node.name]
        self.health.forget(address)
        self.memory.forget(address)
        self._settle(address, gone=True)
        self.lingering.forget(address)
        self.on.pop(address, None)
        self._empty(address)
        self.losses.left(address)

    async def emptied(self, address: str) -> None:
        """Wait until nothing is under way on a node, or it is gone."""
        while self.on.get(address):
            event = self._emptied.setdefault(address, asyncio.Event())
            await event.wait()

    def _empty(self, address: str) -> None:
        if (event := self._emptied.pop(address, None)) is not None:
            event.set()

    def began(self, address: str, slot: str, runs: Iterable[tuple[Any, list[int] | None]]) -> None:
        """A batch of that slot is about to run; what the slot ran before is over."""
        now = [(key, members) for key, members in runs]
        solo = any(key in self.assignments and self.assignments[key].said.get("solo") for key, _ in now)
        node, time = self.roster.get(address), self.loop.time()
        if node is not None:
            self.lingering.batch_over(node, slot, time)
            self.lingering.began(node, slot, now, self.assignments)
            node.busy[slot] = time
        self.losses.began(address, slot, now, solo=solo)
        self._settle(address)
        for key, members in now:
            assignment = self.assignments.get(key)
            if assignment is not None and assignment.address in (address, None):
                assignment.begun.update(assignment.members if members is None else members)

    def idle(self, address: str, slot: str) -> None:
        """A batch is over that held what nobody wanted any more."""
        if (node := self.roster.get(address)) is not None:
            self.lingering.batch_over(node, slot, self.loop.time())
        self.losses.idle(address, slot)
        self._settle(address)

    def done(
        self,
        address: str,
        key: Any,
        rows: int,
        seconds: float | None,
        faults: int,
        *,
        took: float | None = None,
        lingers: bool = False,
    ) -> None:
        """A task has its answers: what its rows took, whether the node failed, and how long it was there.

        Or it was given up; where it `lingers`, the batch that it is in runs on.
        """
        node, now = self.roster.get(address), self.loop.time()
        if node is None:
            return
        if not lingers:
            self.losses.done(address, key)
            self._settle(address)
        model = model_of(key)
        node.served += rows
        node.failures += faults
        if model is not None and rows and took is not None:
            node.times.setdefault(model, Times()).observe(took, rows)
        if faults:
            was = self.health.aside(address, now)
            self.health.failed(address, now)
            if not was and self.health.aside(address, now):
                logger.warning("node %s is set aside: its requests failed again and again", node.name)
            return
        if not rows or seconds is None:
            return  # nothing ran: it says nothing of the node
        self.health.succeeded(address)
        if model is not None:
            node.latency.setdefault(model, Latency()).observe(seconds / rows, now)

    # -- tasks --------------------------------------------------------------------------------

    def follow(self, key: Any, model: str, start: str, finish: str) -> None:
        """A task that predicts has changed its state."""
        ts = self.scheduler.tasks[key]
        if finish == "waiting":
            assignment = self.assignments.get(key)
            if assignment is None:
                said = (ts.annotations or {}).get(ANNOTATION) or {}
                assignment = Assignment(
                    key, model, self.loop.time(), said, rows=max(1, int(said.get("rows", 1)))
                )
                self.assignments[key] = assignment
            lost, name = (
                assignment.address or (assignment.name if assignment.answered else None),
                assignment.name,
            )
            self._release(assignment)
            if (is_envelope(key) or is_passage(key)) and (assignment.lost or lost is not None):
                self.losses.lose(ts, assignment, lost, name)
            else:
                self.place_if_ready(ts)
        elif finish == "memory" and is_envelope(key) and key in self.assignments:
            self._release(self.assignments[key])
            self.assignments[key].answered = True  # its answers may still be lost before they are fetched
        elif finish in ("memory", "erred", "forgotten"):
            assignment = self.assignments.get(key)
            if assignment is not None:
                self._try_no_more(assignment)
                if finish == "forgotten" and is_envelope(key):
                    self.losses.forgotten(assignment)
            self._over(key)
        elif start == "no-worker":
            self._unpark(key)

    def _try_no_more(self, assignment: Assignment) -> None:
        """A trial is over. Where its outcome said nothing of the node, another one may try it."""
        if assignment.trial is not None:
            self.health.released(assignment.trial)
            assignment.trial = None

    def _release(self, assignment: Assignment) -> None:
        """Count a task out of the node where it was placed."""
        address, assignment.address = assignment.address, None
        if address is None:
            return
        here = self.on.get(address, set())
        here.discard(assignment.key)
        if not here:
            self._empty(address)
        node = self.roster.get(address)
        if node is not None:
            node.end(assignment.rows, assignment.seconds)
            self.roster.moved(address)

    def _over(self, key: Any) -> None:
        self._unpark(key)
        assignment = self.assignments.pop(key, None)
        if assignment is None:
            return
        node = self.roster.get(assignment.address) if assignment.address is not None else None
        if node is not None and node.available and self.losses.runs(node.address, key):
            self.lingering.keep(assignment)
        else:
            self._release(assignment)

    def _settle(self, address: str, *, gone: bool = False) -> None:
        """Count out what nobody wanted any more, and is over on a node now."""
        if (node := self.roster.get(address)) is not None:
            for slot in [slot for slot in node.busy if not self.losses.is_busy(address, slot)]:
                del node.busy[slot]
        if self.lingering:
            self.lingering.settle(address, gone=gone)

    def _unpark(self, key: Any) -> None:
        timer = self.parked.pop(key, None)
        if timer is not None:
            timer.cancel()

    def place_if_ready(self, ts: TaskState) -> bool:
        """Restrict a task whose inputs are all there to the node that shall do it; whether there is one."""
        assignment = self.assignments.get(ts.key)
        if ts.waiting_on or assignment is None:
            return False
        if assignment.lost:
            self.losses.hold(ts, assignment)
            return False
        if assignment.address is not None and self.scheduler.workers.get(assignment.address) is None:
            self._release(assignment)
        asked = self._asked(ts, assignment)
        self._try_no_more(assignment)  # a second look at the same task
        if self.losses.loads.deaths(assignment.model, asked.now):
            self._park(ts, asked)
            return False
        apart = self._apart(assignment)
        if apart is not None:
            asked.exclude |= {apart}
        choice, used, notes = self._decide(asked, assignment)
        # where nobody else can, those that are excluded come back in
        while choice is not None and (choice.node.address == apart or not self._is_there(choice.node)):
            if choice.trial:
                self.health.released(choice.node.address)
            if choice.node.address == apart:
                choice = None
                break
            choice, used, notes = self._decide(asked, assignment)
        if choice is None:
            self._park(ts, asked)
            return False
        node = choice.node
        self._release(assignment)  # a second look at the same task
        self.scheduler.set_restrictions({ts.key: [node.address]})
        assignment.address, assignment.name = node.address, node.name
        assignment.begun, assignment.answered = set(), False
        assignment.trial = node.address if choice.trial else None
        assignment.seconds = assignment.rows * self._seconds(asked, node)
        # it counts from here: its siblings are placed before any of them counts as processing
        node.begin(assignment.rows, assignment.seconds, asked.now)
        self.roster.moved(node.address)
        self.on.setdefault(node.address, set()).add(ts.key)
        said = assignment.because(choice, used, notes, asked.now)
        ts.annotations = {**(ts.annotations or {}), ANNOTATION: said}
        return True

    def _apart(self, assignment: Assignment) -> str | None:
        """Address of the node of the first try, where this is the second; None where that is nowhere now."""
        apart = assignment.said.get("apart")
        first = self.assignments.get(apart) if apart is not None else None
        name = str(apart) if first is None else first.name
        address = first.address if first is not None and first.address else self.names.get(name)
        if address is not None and (node := self.roster.get(address)) is not None:
            assignment.apart = node.name
        return address

    def _is_there(self, node: Node) -> bool:
        """Whether a node is still what its record says: Dask moves a lost worker's tasks before it tells."""
        ws = self.scheduler.workers.get(node.address)
        if ws is not None and ws.status == Status.running:
            return True
        self._set_available(node, False, "it is gone" if ws is None else f"it is {ws.status.name}")
        return False

    def _set_available(self, node: Node, available: bool, why: str) -> None:
        if node.available != available:
            node.available, node.absence = available, "" if available else why
            self.roster.changed(node.address)

    def _asked(self, ts: TaskState, assignment: Assignment) -> Asked:
        needs = self.needs.get(assignment.model) or Needs.of({}, {}, 0)
        tried = (self.names.get(name) for name in assignment.said.get("exclude") or ())
        exclude = frozenset(address for address in tried if address is not None)
        return assignment.asks(ts, needs, exclude, float(self.scheduler.bandwidth), self.loop.time())

    def _decide(self, asked: Asked, assignment: Assignment) -> tuple[Choice | None, str, list[str]]:
        name = str(assignment.said.get("strategy") or self.default)
        strategy = self.strategies.get(name)
        try:
            if strategy is None:
                raise LookupError(f"no strategy {name!r} is known here")
            return decide(asked, strategy, self.roster, self.health, self.memory), name.partition("#")[0], []
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            # a user's strategy may fail with anything, and must cost neither an answer nor the scheduler
            short, why = name.partition("#")[0], located(error)
            self.fault(f"strategy {short} failed ({why}): LEAST_LOADED is used in its place")
            note = f"strategy {short} failed ({why}): LEAST_LOADED was used"
            return decide(asked, least_loaded, self.roster, self.health, self.memory), "LEAST_LOADED", [note]

    def _seconds(self, asked: Asked, node: Node) -> float:
        """Seconds that a row is expected to take there."""
        known = node.latency.get(asked.model)
        return known.mean if known is not None and known.count else UNKNOWN_SECONDS

    # -- what nobody can do now ---------------------------------------------------------------

    def _park(self, ts: TaskState, asked: Asked) -> None:
        self.scheduler.set_restrictions({ts.key: [NOWHERE]})
        if ts.key not in self.parked:
            # not at once even where nobody will come: a task cannot be failed within its own transition
            # and what is the second try of something is not waited for
            hopeless = "apart" in self.assignments[ts.key].said or self.losses.loads.deaths(
                asked.model, asked.now
            )
            delay = 0.0 if hopeless else self.patience if self._may_come(asked.needs) else self.join_timeout
            self.parked[ts.key] = self.loop.call_later(delay, self._give_up, ts.key)

    def _may_come(self, needs: Needs) -> bool:
        """Whether a node that could is paused, was there a moment ago, or none has come yet."""
        while self.gone and self.gone[0][0] < self.loop.time() - self.patience:
            self.gone.popleft()
        known = [*self.roster, *(node for _, node in self.gone)]
        return not known or any(
            refusal(needs, replace(node, available=True, barred="")) is None for node in known
        )

    def _give_up(self, key: Any) -> None:
        """End a parked task with an error that says why nobody can do it."""
        ts = self.scheduler.tasks.get(key)
        if self.parked.pop(key, None) is None or ts is None or ts.state != "no-worker":
            return
        model = model_of(key) or ""
        if kills := self.losses.loads.deaths(model, self.loop.time()):
            why = f"{kills} workers died while they loaded it: see their logs and their memory"
            self.fail(key, ModelLoadError(self.ids.get(model, model), "every node", why))
            return
        reasons = self.roster.reasons(self.needs.get(model) or Needs.of({}, {}, 0))
        if key in self.assignments and (apart := self.assignments[key].apart):
            reasons[apart] = "its first try is there"
        self.fail(key, NoEligibleNode(self.ids.get(model, model), reasons))

    def unpark(self) -> None:
        """A node came, or works again: place what waited for one."""
        for key in list(self.parked):
            ts = self.scheduler.tasks.get(key)
            if ts is not None and ts.state == "no-worker" and self.place_if_ready(ts):
                self.scheduler.transitions({key: "processing"}, stimulus_id=f"altlas-host-came-{key}")

    def fail(self, key: Any, error: AltlasError) -> None:
        """End a task with an error."""
        stimulus = f"altlas-fail-{key}"
        recommendations = self.scheduler.transition(
            key, "erred", exception=pickle.dumps(error), cause=key, stimulus_id=stimulus
        )
        self.scheduler.transitions(recommendations, stimulus_id=stimulus)

    def silent(self, ws: WorkerState) -> int:
        """A worker is silent: it gets nothing more, and its work moves; how many tasks."""
        node = self.roster.get(ws.address)
        if node is not None:
            self._set_available(node, False, "it is silent: it may be stopped, or its event loop blocked")
        self._settle(ws.address, gone=True)
        return self.losses.silent(ws, self.assignments)
