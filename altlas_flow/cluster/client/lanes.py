"""What waits on the client: requests that may travel together, and how many of them leave at once."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from altlas_flow.errors import AltlasError, NodeLost
from altlas_flow.models.spec import ModelSpec

if TYPE_CHECKING:
    from distributed import Future

    from altlas_flow.cluster.client.handle import Handle
    from altlas_flow.cluster.worker.envelope import Answers

#: Seconds that sending an envelope and taking its answers costs; smaller ones than that are not worth it.
TRIP = 0.005
#: Bytes of inputs with which an envelope is full: the client's event loop stands still while it packs them.
FULL = 4e6
#: Weight of the newest observation of how long a row takes.
NEWEST = 0.3


@dataclass(eq=False)
class Lane:
    """Requests of one model, one set of parameters, one strategy, one priority: they may share an envelope.

    Attributes
    ----------
    pool : Pool, optional
        Of slots that can do it; None until the scheduler has told.
    exclude : frozenset of str
        Names of nodes that they failed on.
    solo : bool
        One at a time, and alone on its node: one of them may kill workers.
    apart : str, optional
        Its requests are second tries, which must not go where the first ones are: the name of that node, or
        the key of their envelope.
    """

    spec: ModelSpec
    parameters: Mapping[str, Any]
    strategy: str | None = None
    priority: int = 0
    validator: Any = None
    exclude: frozenset[str] = frozenset()
    solo: bool = False
    pool: Pool | None = None
    once: bool = False  # its requests must not run twice
    alone: bool = False  # one in an envelope
    careful: bool = False  # a worker has died under them: the next one says so before it opens them
    apart: str | None = None
    code: bytes | None = None  # of a strategy of the user's own
    refused: AltlasError | None = None  # why nothing of the kind can be sent
    pending: deque[Handle] = field(default_factory=deque)

    @property
    def urgency(self) -> tuple[int, bool, float]:
        """Greater goes first: the priority, then what is not sent yet at all, then who came first."""
        return self.priority, self.apart is None, -self.pending[0]._submitted

    def waiting(self) -> int:
        """How many wait; none where all that is here is over."""
        while self.pending and self.pending[0]._final is not None:
            self.pending.popleft()
        return len(self.pending)

    def take(self, rows: int) -> list[Handle]:
        """The next requests, of about so many rows together; at least one where one is wanted still."""
        taken: list[Handle] = []
        room = FULL
        while self.pending and rows > 0:
            handle = self.pending[0]
            if handle._final is None:
                if handle._ahead is None:
                    room -= handle._weight
                if room < 0 and taken:
                    break
                taken.append(handle)
                rows -= handle._rows
            self.pending.popleft()
            if taken and (self.solo or self.alone):
                break
        return taken


@dataclass(eq=False)
class Pool:
    """Slots that can do the same work, and the lease that this client has on them."""

    name: str
    count: int = 0
    version: int = 0
    taken_over: int = 0  # the last version that the scheduler may count on
    in_flight: int = 0
    lanes: set[Lane] = field(default_factory=set)

    @property
    def over(self) -> bool:
        """Whether more is in flight than the lease allows: it shrank, and cannot be relied on yet."""
        return self.in_flight > self.count

    @property
    def held(self) -> int:
        """Requests that wait for a free place."""
        return sum(lane.waiting() for lane in self.lanes)

    def next_lane(self) -> Lane | None:
        """The lane whose turn it is; empty ones are let go."""
        waiting = []
        for lane in list(self.lanes):
            if lane.waiting():
                waiting.append(lane)
            else:
                self.lanes.discard(lane)
        return max(waiting, key=lambda lane: lane.urgency) if waiting else None


@dataclass(eq=False)
class Flight:
    """An envelope on its way, and what came of it."""

    key: str
    lane: Lane
    pool: Pool
    handles: list[Handle]
    future: Future[Any]
    sent: float
    count: int = 0  # requests in it
    live: int = 0  # those that somebody still wants
    begun: set[int] | None = field(default_factory=set)  # None: all
    since: dict[int, float] = field(default_factory=dict)  # when members began, as far as that was told
    node: str = "?"  # where they run
    answers: Answers | None = None
    task: asyncio.Task[Any] | None = None  # that waits for it
    fallen: NodeLost | None = None  # why its answers will not come
    hedged: bool = False  # requests in it may be sent a second time
    overtaken: bool = False  # a second try of one of them was faster

    def has_begun(self, at: int) -> bool:
        """Whether its worker has said that the request at a position runs."""
        return self.begun is None or at in self.begun


class Pace:
    """How long a row of each model takes, as answers have told; decides how many leave together.

    Parameters
    ----------
    rows : int
        At most.
    seconds : float
        That an envelope should be predicted in about: it is what the next request may have to wait for,
        and what a slow node may keep from the others.
    """

    def __init__(self, rows: int, seconds: float) -> None:
        self.rows, self.seconds = rows, seconds
        self._known: dict[str, float] = {}
        self._together: dict[str, int] = {}  # where it is more than one

    def observe(self, model: str, rows: int, seconds: float, together: int = 1) -> None:
        """Rows of a model have taken so long, and so many of them make one batch that takes hardly longer."""
        if rows <= 0:
            return
        past = self._known.pop(model, None)
        value = seconds / rows
        self._known[model] = value if past is None else past + NEWEST * (value - past)
        if together > 1:
            self._together[model] = together
        while len(self._known) > 1000:
            del self._known[(oldest := next(iter(self._known)))]
            self._together.pop(oldest, None)

    def size(self, model: str, waiting: int, places: int) -> int:
        """Rows of the next envelope.

        Parameters
        ----------
        model : str
        waiting : int
            Requests that wait.
        places : int
            Envelopes that this client may have in flight.
        """
        each = self._known.get(model)
        if each is None:
            return 1  # the first ones tell
        each = max(each, 1e-9)
        # an even share, and half of that: the last ones are small, and all nodes end together
        share = math.ceil(waiting / max(1, 2 * places))
        worth, most = math.ceil(TRIP / each), math.ceil(self.seconds / each)
        if model in self._together:
            # a batch of few takes as long as one of many
            share, most = math.ceil(waiting / max(1, places)), max(most, self._together[model])
        return max(1, min(self.rows, most, max(share, worth)))
