"""Leases: clients that send without asking never overfill the slots, and nobody starves."""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from altlas_flow.placement.leases import TURN, Lease, Leases

#: Seconds after which a client that should speak is silent.
PATIENCE = 10.0

# ---------------------------------------------------------------- clients and messages on their way


@dataclass
class Client:
    """A client with both directions of its stream: it sends what its last lease allows."""

    name: str
    lease: Lease = field(default_factory=lambda: Lease(0, 0))
    held: int = 0
    flying: int = 0  # as it sees it
    up: deque = field(default_factory=deque)
    down: deque = field(default_factory=deque)

    def send(self) -> None:
        while self.held and self.flying < self.lease.count:
            self.held -= 1
            self.flying += 1
            self.up.append("sent")

    def report(self) -> None:
        self.up.append((self.held, self.lease.version))

    def take(self) -> None:
        """Read one message."""
        if self.down:
            message = self.down.popleft()
            if message == "ended":
                self.flying -= 1
            else:
                self.lease = message
                self.report()

    @property
    def reach(self) -> int:
        """The most that it may have in flight, by what it has and what is on its way to it."""
        leases = [each.count for each in self.down if each != "ended"]
        # what has ended is in flight no more, though it has not heard of that yet
        flying = self.flying - self.down.count("ended")
        return max(self.lease.count, flying, *leases)


class World:
    """Clients, the scheduler's view of them, and messages that take their time."""

    def __init__(self, capacity: int, patience: float = inf) -> None:
        self.leases, self.now = Leases(capacity, patience), 0.0
        self.clients: dict[str, Client] = {}
        self.running: Counter[str] = Counter()  # seen by the scheduler, and not ended
        self.old: Counter[str] = Counter()  # of those, what a client sent in an earlier life
        self.bound = capacity

    @property
    def reach(self) -> int:
        return sum(client.reach for client in self.clients.values()) + self.old.total()

    def join(self, name: str) -> None:
        if name not in self.clients:
            self.clients[name] = Client(name)
            self.leases.join(name)

    def leave(self, name: str) -> None:
        if name in self.clients:
            while self.clients[name].up:
                self.see(name)
            del self.clients[name]
            self.old[name] = self.running[name]
            self.leases.leave(name)

    def see(self, name: str) -> None:
        """The scheduler reads one message."""
        client = self.clients.get(name)
        if client is not None and client.up:
            message = client.up.popleft()
            if message == "sent":
                self.running[name] += 1
                self.leases.sent(name)
            else:
                self.leases.report(name, *message)

    def end(self, name: str) -> None:
        """Something that runs ends; what is older does so first."""
        if self.running[name]:
            self.running[name] -= 1
            self.leases.ended(name)
            if self.old[name]:
                self.old[name] -= 1
            else:
                self.clients[name].down.append("ended")

    def rebalance(self, later: float = 0.0) -> None:
        self.now += later
        for name, lease in self.leases.rebalance(self.now).items():
            self.clients[name].down.append(lease)

    def resize(self, capacity: int) -> None:
        # the scheduler goes by what it knows: messages may still be on their way
        self.bound = max(capacity, self.reach, self.leases.exposed)
        self.leases.capacity = capacity

    def settle(self) -> None:
        """All messages arrive; nothing ends."""
        for _ in range(100):
            before = {name: self.leases.lease(name) for name in self.clients}
            for client in self.clients.values():
                client.report()  # they do so all the time
            self.rebalance()
            for name, client in self.clients.items():
                client.send()
                while client.down or client.up:
                    client.take()
                    client.send()
                    client.report()
                    while client.up:
                        self.see(name)
            if before == {name: self.leases.lease(name) for name in self.clients}:
                return
        raise AssertionError("leases go to and fro")

    def shares(self) -> list[int]:
        return [client.lease.count for client in self.clients.values()]


NAMES = list("abc")
names = st.sampled_from(NAMES)


class Interleavings(RuleBasedStateMachine):
    """Any order in which clients send, messages arrive, work ends, and nodes come and go."""

    patience = inf

    @initialize(capacity=st.integers(1, 6), there=st.sets(names))
    def begin(self, capacity, there):
        self.world = World(capacity, self.patience)
        for name in sorted(there):
            self.world.join(name)

    @rule(name=names)
    def join(self, name):
        self.world.join(name)

    @rule(name=names)
    def leave(self, name):
        self.world.leave(name)

    @rule(name=names, more=st.integers(1, 9))
    def hold(self, name, more):
        if name in self.world.clients:
            self.world.clients[name].held += more
            self.world.clients[name].report()

    @rule(name=names)
    def send(self, name):
        if name in self.world.clients:
            self.world.clients[name].send()

    @rule(name=names, messages=st.integers(1, 5))
    def take(self, name, messages):
        for _ in range(messages):
            if name in self.world.clients:
                self.world.clients[name].take()

    @rule(name=names, messages=st.integers(1, 5))
    def see(self, name, messages):
        for _ in range(messages):
            self.world.see(name)

    @rule(name=names)
    def end(self, name):
        self.world.end(name)

    @rule(later=st.sampled_from([0.0, 0.2, 1.0]))
    def rebalance(self, later):
        self.world.rebalance(later)

    @rule(capacity=st.integers(0, 12))
    def resize(self, capacity):
        self.world.resize(capacity)

    @invariant()
    def no_more_is_in_flight_than_there_is_room(self):
        world = self.world
        reach = world.reach
        world.bound = max(world.leases.capacity, min(world.bound, max(reach, world.leases.exposed)))
        assert reach <= world.bound
        # what the scheduler takes for used is never less than what may be
        assert reach <= world.leases.exposed

    @invariant()
    def nothing_is_negative(self):
        assert all(self.world.leases.lease(name).count >= 0 for name in NAMES)
        assert self.world.leases.exposed >= 0

    def teardown(self):
        if hasattr(self, "world"):
            self.come_to_rest()

    def come_to_rest(self):
        """When all messages have arrived and all work has ended, everything is there to be shared."""
        world = self.world
        for client in world.clients.values():
            client.held = 0
        for _ in range(3):
            world.settle()
            for name in NAMES:
                while world.running[name]:
                    world.end(name)
        world.settle()
        capacity = world.leases.capacity
        assert world.leases.exposed == (sum(world.shares()))
        assert sum(world.shares()) == (capacity if world.clients else 0)


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)


class Silences(Interleavings):
    """The same where messages take longer than anybody waits for: all is well again when they arrive."""

    patience = PATIENCE

    @rule(later=st.sampled_from([PATIENCE / 2, 2 * PATIENCE]))
    def time_passes(self, later):
        self.world.rebalance(later)

    @rule(name=names)
    def speak(self, name):
        if name in self.world.clients:
            self.world.clients[name].report()

    def no_more_is_in_flight_than_there_is_room(self):
        """Not so: who was stopped may act on an old lease when it goes on."""
        assert sum(self.world.leases.lease(name).count for name in NAMES) <= self.world.bound


TestSilences = Silences.TestCase
TestSilences.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)


# ---------------------------------------------------------------- who gets how much


def world_of(capacity: int, *held: int, patience: float = inf) -> World:
    world = World(capacity, patience)
    for name, count in zip("abcdefghijklmnopqrstuvwxyz", held, strict=False):
        world.join(name)
        world.clients[name].held = count
        world.clients[name].report()
        world.see(name)
    world.settle()
    return world


@given(st.integers(0, 50))
def test_one_client_alone_has_everything(capacity):
    assert world_of(capacity, 0).shares() == [capacity]
    assert world_of(capacity, 99).shares() == [capacity]


def test_a_second_client_gets_its_share_as_soon_as_the_first_has_taken_over_its_lease():
    leases = Leases(4)
    leases.join("first")
    assert leases.rebalance(0.0)["first"].count == 4
    leases.join("second")
    less = leases.rebalance(0.1)
    assert {name: lease.count for name, lease in less.items()} == {"first": 2}
    assert leases.rebalance(0.2) == {}
    leases.report("first", 0, less["first"].version)
    assert {name: lease.count for name, lease in leases.rebalance(0.3).items()} == {"second": 2}


def test_a_client_that_does_not_take_over_its_lease_is_not_waited_for_for_ever():
    leases = Leases(2, patience=10.0)
    for name in ("first", "second"):
        leases.join(name)
    leases.rebalance(0.0)
    for name in ("first", "second"):
        leases.report(name, 0, leases.lease(name).version)
    leases.join("third")
    leases.report("third", 1, 0)
    assert [leases.lease(name).count for name in ("first", "second")] == [1, 1]
    assert "third" not in leases.rebalance(1.0)  # the others may still act on theirs: they are stopped
    assert "third" not in leases.rebalance(1.1)
    assert "third" not in leases.rebalance(11.0)
    leases.report("third", 1, 0)
    assert leases.rebalance(11.2)["third"].count == 2
    assert leases.exposed <= 2


def stopped_while_one_works(capacity: int, stopped: int) -> World:
    """Clients with a backlog, of which all but the first have said nothing for as long as one waits."""
    world = world_of(capacity, *[10**6] * (1 + stopped), patience=PATIENCE)
    for _ in range(12):
        world.now += 1.0
        worker = world.clients["a"]
        for name in world.clients:
            world.end(name)
        worker.report()
        while worker.up:
            world.see("a")
        world.rebalance()
        while worker.down:
            worker.take()
            worker.send()
        while worker.up:
            world.see("a")
        world.rebalance()
    return world


@given(st.integers(1, 6), st.integers(1, 6))
def test_clients_that_stand_still_with_a_backlog_get_no_turn_beside_one_that_works(capacity, stopped):
    world = stopped_while_one_works(capacity, stopped)
    granted = {name: world.leases.lease(name).count for name in world.clients}
    assert granted.pop("a") == capacity
    assert set(granted.values()) == {0}
    assert world.leases.exposed == capacity


def test_a_client_that_stood_still_has_its_share_as_soon_as_it_reports():
    world = stopped_while_one_works(4, 1)
    for _ in range(6):
        for name in world.clients:
            world.end(name)
        world.settle()
    assert world.shares() == [2, 2]


def test_what_a_client_that_stands_still_has_in_flight_keeps_its_room():
    leases = Leases(4, PATIENCE)
    for name in ("works", "stopped"):
        leases.join(name)
        leases.rebalance(0.0)
        leases.report(name, 9, leases.lease(name).version)
    leases.report("works", 9, leases.rebalance(0.0)["works"].version)
    leases.rebalance(0.0)
    for _ in range(2):
        leases.sent("stopped")
    for now in range(1, 20):
        leases.report("works", 9, leases.lease("works").version)
        leases.rebalance(float(now))
    assert leases.lease("stopped").count == 0
    assert leases.lease("works").count == 2
    leases.ended("stopped")
    leases.rebalance(20.0)
    assert leases.lease("works").count == 3


def test_an_idle_client_keeps_its_place_however_long_it_says_nothing():
    leases = Leases(4, PATIENCE)
    for name in ("works", "idle"):
        leases.join(name)
        leases.rebalance(0.0)
    for now in range(60):
        for name in ("works", "idle"):  # both take over what they are told of
            if now < 3 or name == "works":
                leases.report(name, 9 * (name == "works"), leases.lease(name).version)
        leases.rebalance(float(now))
    assert [leases.lease(name).count for name in ("works", "idle")] == [3, 1]
    leases.sent("idle")  # it has not reported yet that it has something to do
    leases.rebalance(60.0)
    assert leases.lease("idle").count >= 1


def test_an_idle_client_that_stands_still_is_not_waited_for_again_and_again():
    leases = Leases(2, PATIENCE)
    for name in ("works", "stopped"):
        leases.join(name)
        leases.rebalance(0.0)
    for name in ("works", "stopped"):
        leases.report(name, 0, leases.lease(name).version)
        leases.rebalance(0.0)
    assert [leases.lease(name).count for name in ("works", "stopped")] == [1, 1]
    leases.join("late")  # there is not room for one each any more
    counts = []
    for now in range(40):
        busy = now % 4 < 3
        for name in ("works", "late"):
            leases.report(name, 9 * busy * (name == "works"), leases.lease(name).version)
        leases.rebalance(float(now))
        counts.append(leases.lease("stopped").count)
    assert counts[-20:] == [0] * 20


def test_a_client_that_comes_back_gets_a_lease_that_replaces_the_one_it_had():
    leases = Leases(4)
    leases.join("first")
    had = leases.rebalance(0.0)["first"]
    leases.leave("first")
    assert not leases.knows("first")
    leases.rejoin("first")
    leases.report("first", 3, had.version)
    leases.rebalance(0.1)
    assert leases.lease("first").version > had.version
    assert leases.lease("first").count == 4


def test_what_is_in_flight_keeps_its_room_until_it_ends():
    leases = Leases(4)
    leases.join("first")
    leases.rebalance(0.0)
    for _ in range(4):
        leases.sent("first")
    leases.join("second")
    leases.report("first", 9, leases.rebalance(0.1)["first"].version)
    assert leases.rebalance(0.2) == {}
    leases.ended("first")
    assert leases.rebalance(0.3) == {"second": leases.lease("second")}
    assert leases.lease("second").count == 1
    leases.leave("first")
    assert leases.rebalance(0.4) == {}  # three of it are still there, and one is granted
    leases.ended("first")
    leases.rebalance(0.5)
    assert leases.lease("second").count == 2


@given(st.integers(1, 40), st.lists(st.sampled_from([0, 99]), min_size=1, max_size=12))
def test_those_with_something_to_do_share_evenly_and_idle_ones_keep_one(capacity, held):
    world = world_of(capacity, *held)
    # the first have taken what there was: it comes back as their work ends
    for _ in range(60):
        for name in world.clients:
            world.end(name)
        world.settle()
    busy = [client.lease.count for client in world.clients.values() if client.held or client.flying]
    idle = [client.lease.count for client in world.clients.values() if not (client.held or client.flying)]
    assert sum(busy) + sum(idle) <= capacity
    if busy and capacity >= len(busy):
        assert max(busy) - min(busy) <= 1
        assert min(busy) >= 1
    if capacity >= len(held):
        assert sum(busy) + sum(idle) == capacity
        assert idle == [1] * len(idle) or not busy


def test_nothing_is_taken_where_nobody_needs_it():
    world = world_of(8, 0, 0)
    assert world.shares() == [4, 4]
    for _ in range(20):  # requests one at a time: no lease goes to and fro for them
        client = world.clients["a"]
        client.held = 1
        client.send()
        client.report()
        world.see("a")
        world.see("a")
        assert world.leases.rebalance(world.now) == {}
        world.end("a")
        client.take()
        assert world.leases.rebalance(world.now) == {}


@settings(deadline=None, max_examples=25)
@given(
    capacity=st.integers(1, 4),
    clients=st.integers(2, 9),
    seconds=st.sampled_from([0.1, 0.3, 0.7, 3.0]),
    seed=st.integers(),
)
def test_nobody_starves_where_more_have_something_to_do_than_there_is_room(capacity, clients, seconds, seed):
    rng = random.Random(seed)
    world = world_of(capacity, *[10**6] * clients)
    ends: list[tuple[float, str]] = []
    seen: Counter[str] = Counter()
    done: Counter[str] = Counter()
    while world.now < 40 * max(TURN, seconds):
        for name in world.clients:
            for _ in range(world.running[name] - seen[name]):
                ends.append((world.now + seconds * rng.uniform(0.8, 1.2), name))
            seen[name] = world.running[name]
        for at, name in list(ends):
            if at <= world.now:
                ends.remove((at, name))
                world.end(name)
                seen[name] -= 1
                done[name] += 1
        world.now += 0.1
        world.settle()
        assert sum(world.running.values()) <= capacity
    assert set(done) == set(world.clients)
    if clients > capacity:
        assert min(done.values()) >= 0.6 * sum(done.values()) / clients


def test_a_turn_lasts_half_a_second():
    world = world_of(1, 10**6, 10**6)
    assert world.shares() == [1, 0]
    turns = []
    for _ in range(40):
        for name in world.clients:
            world.end(name)
        world.now += 0.1
        world.settle()
        turns.append(next(name for name in world.clients if world.running[name]))
    changes = [here for here in range(1, 40) if turns[here] != turns[here - 1]]
    assert len(changes) >= 4
    assert all(later - sooner >= 5 for sooner, later in pairwise(changes))


def test_a_report_of_another_scheduler_acknowledges_nothing():
    leases = Leases(4)
    leases.join("a")
    leases.rebalance(0.0)
    leases.join("b")
    leases.rebalance(0.0)
    leases.report("a", 0, 10**6)
    assert leases.rebalance(0.0) == {}


def test_taking_over_an_older_lease_gives_nothing_back():
    leases = Leases(4)
    leases.join("a")
    older = leases.rebalance(0.0)["a"]
    leases.join("b")
    newer = leases.rebalance(0.0)["a"]
    leases.report("a", 0, older.version)
    assert leases.rebalance(0.0) == {}
    leases.report("a", 0, newer.version)
    assert leases.rebalance(0.0)["b"].count == 2


def test_what_a_client_sent_before_it_left_and_came_back_keeps_its_room():
    leases = Leases(4)
    leases.join("a")
    leases.rebalance(0.0)
    for _ in range(3):
        leases.sent("a")
    leases.leave("a")
    leases.join("a")
    assert leases.rebalance(0.0)["a"].count == 1
    leases.sent("a")
    leases.ended("a")  # which one is not known
    assert leases.exposed == 4
    assert leases.rebalance(0.0) == {}
    leases.ended("a")
    assert leases.rebalance(0.0)["a"].count == 2


def test_what_strangers_say_changes_nothing():
    leases = Leases(4)
    leases.join("a")
    leases.rebalance(0.0)
    leases.report("stranger", -3, 7)
    leases.sent("stranger")
    leases.ended("stranger")
    leases.ended("a")
    leases.leave("stranger")
    assert leases.exposed == 4
    assert leases.rebalance(0.0) == {}


def test_joining_twice_changes_nothing():
    leases = Leases(4)
    for _ in range(2):
        leases.join("a")
        leases.rebalance(0.0)
    assert leases.lease("a").count == 4
    assert leases.lease("nobody") == Lease(0, 0)
    assert len(leases) == 1
