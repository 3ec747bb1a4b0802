"""What the scheduler makes of what clients tell of their tasks: no more than is asked for, and in steps."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest

from altlas_flow.cluster.scheduler import questions, tasks
from altlas_flow.cluster.scheduler.tasks import PAGE, Tasks
from altlas_flow.errors import BadRequest, UnknownTask
from altlas_flow.history.parts import Part

NOBODY = SimpleNamespace(extra_info={})


class Client:
    """A stream to a client that answers at once what it is given, in parts; or does not answer."""

    def __init__(self, name, answers=None):
        self.name, self.answers = name, answers
        self.tasks = None

    def send(self, message):
        for part in self.answers or ():
            self.tasks.told(self.name, message["ask"], part)


def made(*clients, over=()):
    """Tasks of these clients, some of which are over."""
    scheduler = SimpleNamespace(client_comms={client.name: client for client in clients})
    unusual = SimpleNamespace(ended=lambda *_: (), left=lambda *_: None)
    found = Tasks(scheduler, None, None, unusual, None)
    for client in clients:
        client.tasks = found
        found.clients.add(client.name)
    for client, columns in over:
        found.over(client, [columns])
    return found


def ended(*names, status="completed", **more):
    count = len(names)
    ago = {"submitted": [3.0] * count, "started": [2.0] * count, "ended": 1.0, "tries": 1, "error": None}
    return {"model": "m", "node": "a", "status": status, "ids": list(names)} | ago | more


def live(*names, ago=1.0, status="pending", more=False):
    """An answer: tasks of one moment."""
    count = len(names)
    columns = [list(names), ["m"] * count, [status] * count, [ago] * count]
    return [more, *columns, [None] * count, [None] * count, [0] * count]


def ids(told):
    return [row[0] for page in told["pages"] for row in json.loads(page)]


@pytest.mark.asyncio
async def test_of_what_is_over_no_more_is_written_down_than_is_asked_for(monkeypatch):
    looked = []
    row = Part.row
    monkeypatch.setattr(Part, "row", lambda part, at: looked.append(at) or row(part, at))
    over = [("c", ended(*(f"t{n}-{i}" for i in range(100)))) for n in range(50)]
    found = made(over=[*over, ("c", ended("bad", status="error"))])
    assert ids(await found.known(NOBODY, "completed", 3)) == ["t49-99", "t49-98", "t49-97"]
    assert len(looked) == 3
    looked.clear()
    assert ids(await found.known(NOBODY, "ERROR", 3)) == ["bad"]
    assert len(looked) == 1  # other parts were passed over by their status


@pytest.mark.asyncio
async def test_the_loop_goes_on_between_pages():
    found = made(over=[("c", ended(*(f"t{i}" for i in range(9 * PAGE))))])
    asked = asyncio.create_task(found.known(NOBODY, None, 10 * PAGE))
    turns = 0
    while not asked.done():
        await asyncio.sleep(0)
        turns += 1
    assert len(ids(asked.result())) == 9 * PAGE and turns > 9


@pytest.mark.asyncio
async def test_what_several_clients_say_in_parts_is_one_list_the_latest_first():
    one = Client("one", [live("c", ago=1.0, more=True), live("a", ago=5.0)])
    two = Client("two", [live("b", ago=3.0, status="running")])
    found = made(one, two, over=[("one", ended("z"))])
    assert ids(await found.known(NOBODY)) == ["c", "b", "a", "z"]
    assert ids(await found.known(NOBODY, "running")) == ["b"]
    assert ids(await found.known(NOBODY, None, 2)) == ["c", "b"]


@pytest.mark.asyncio
async def test_a_task_that_ends_while_others_answer_is_listed_once(monkeypatch):
    one, two = Client("one", [live("a", "b")]), Client("two")
    found = made(one, two)
    asked = asyncio.create_task(found.known(NOBODY))
    await asyncio.sleep(0)
    found.over("one", [ended("a")])
    found.told("two", 1, live())
    assert ids(await asked) == ["b", "a"]


@pytest.mark.asyncio
async def test_what_a_client_garbles_keeps_nobody_from_the_rest():
    one = Client("one", [live("a")])
    found = made(one, over=[("two", ended("z"))])
    found._recent.append(Part("two", 0.0, ended("y", "x", submitted=["yesterday"])))
    assert ids(await found.known(NOBODY)) == ["a", "z"]
    asked = asyncio.create_task(found.get(NOBODY, "b"))
    one.answers = []
    await asyncio.sleep(0)
    with pytest.raises((ValueError, KeyError)):
        found.told("one", 2, live("b", status="asleep"))
    with pytest.raises(UnknownTask):
        await asyncio.wait_for(asked, 1.0)


@pytest.mark.asyncio
async def test_of_one_id_that_under_way_is_meant_and_the_asking_clients_own_first():
    one, two = Client("one", [live("same", ago=1.0)]), Client("two", [live("same", ago=2.0)])
    found = made(one, two, over=[("one", ended("same"))])
    assert (await found.get(NOBODY, "same", "two"))[2:4] == ("two", "pending")
    assert (await found.get(NOBODY, "same", "one"))[2:4] == ("one", "pending")
    one.answers = two.answers = [live()]
    assert (await found.get(NOBODY, "same", "two"))[2:4] == ("one", "completed")


@pytest.mark.asyncio
async def test_silent_clients_are_counted_where_a_task_is_not_found(monkeypatch):
    monkeypatch.setattr(tasks, "ASK_LIMIT", 0.01)
    one, silent = Client("one", [live("a")]), Client("two")
    found = made(one, silent)
    assert (await asyncio.wait_for(found.get(NOBODY, "a", "one"), 1.0))[0] == "a"
    one.answers = [live()]
    with pytest.raises(UnknownTask, match="1 client did not answer"):
        await found.get(NOBODY, "b", "one")


@pytest.mark.asyncio
async def test_a_client_that_goes_is_not_waited_for():
    found = made(Client("one"))
    asked = asyncio.create_task(found.known(NOBODY))
    await asyncio.sleep(0)
    found.left("one")
    assert await asyncio.wait_for(asked, 1.0) == {"pages": [], "silent": 0}


@pytest.mark.asyncio
@pytest.mark.parametrize("count", [0, -5, "x", True, 1.5, None])
async def test_a_count_is_a_whole_number_of_at_least_1(count):
    with pytest.raises(BadRequest, match="whole number"):
        await made().known(NOBODY, None, count)


@pytest.mark.asyncio
async def test_no_more_are_listed_than_the_most(monkeypatch):
    monkeypatch.setattr(tasks, "MOST", 3)
    found = made(over=[("c", ended(*"abcdef"))])
    assert ids(await found.known(NOBODY, None, 10**9)) == ["f", "e", "d"]
    assert questions.MOST == 100_000
