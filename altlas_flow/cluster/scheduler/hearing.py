"""Hearing: what hosts say, each on a connection of its own (see `words.py`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from distributed.comm.core import Comm

from altlas_flow.cluster.keys import model_of
from altlas_flow.cluster.scheduler.lessor import Lessor
from altlas_flow.cluster.scheduler.losses import HEARD_LIMIT
from altlas_flow.cluster.scheduler.placer import Placer

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

#: Operation on a client's stream: members of an envelope have begun to run.
BEGAN = "altlas-began"
#: The same: what there is of an answer beyond what was said of it before.
PIECE = "altlas-piece"
#: Seconds after which a client is told that its requests run.
TELL = 0.02


class Hearing:
    """Hears hosts, and passes on what they say.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    guard : callable
        ``guard(what, function, *args, **kwargs)`` calls the function; it counts what that raises.
    predicted : callable
        Called with the digits of a model, rows that it has predicted, and their seconds.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        guard: Callable[..., None],
        predicted: Callable[[str, int, float | None], None] = lambda model, rows, seconds: None,
    ) -> None:
        self.scheduler, self._guard, self._predicted = scheduler, guard, predicted
        self.loop = asyncio.get_running_loop()
        self._heard: dict[str, asyncio.Event] = {}  # set where a host will say no more

    def begin(self, placer: Placer, lessor: Lessor) -> None:
        """Whom to tell."""
        self.placer, self.lessor = placer, lessor

    def left(self, address: str) -> None:
        """A worker is gone."""
        self.loop.call_later(2 * HEARD_LIMIT, self._forget, address, self._heard.get(address))

    def _forget(self, address: str, heard: object) -> None:
        if self._heard.get(address) is heard:  # else a new worker has the address
            self._heard.pop(address, None)

    async def listen(self, comm: Comm, address: str) -> None:
        """Hear what one host says, for as long as it lives."""
        over = self._heard[address] = asyncio.Event()
        try:
            while True:
                for word in await comm.read():
                    self._guard("a word", self._hear, address, **word)
        except OSError:
            return  # CommClosedError is one: it has gone
        finally:
            over.set()

    async def heard_out(self, address: str) -> None:
        """Wait until a host that is gone has been heard to the end."""
        heard = self._heard.get(address)
        if heard is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(heard.wait(), HEARD_LIMIT)

    def _hear(self, address: str, word: str, **said: Any) -> None:
        placer = self.placer
        if word == "begin":
            placer.began(address, said["slot"], said["runs"])
            for key, members in said["runs"]:
                # what is quick is over by then, and needs no message
                self.loop.call_later(TELL, self._tell_begun, key, members, address)
        elif word == "done":
            placer.done(
                address,
                said["key"],
                said["rows"],
                said["seconds"],
                said["faults"],
                took=said.get("took"),
                lingers=said["lingers"],
            )
            model = model_of(said["key"])
            if model is not None:
                self._predicted(model, int(said["rows"]), said["seconds"])
        elif word == "piece":
            self._pass_on(address, **said)
        elif word == "idle":
            placer.idle(address, said["slot"])
        elif word == "opening":
            placer.losses.opening(address, said["key"], said["begins"])
        elif word == "loading":
            placer.losses.loading(address, said["model"], said["begins"])
        elif word == "model":
            placer.losses.loaded(address, said["model"], said["bytes"])
            placer.roster.loaded(address, said["model"], said["bytes"])

    def _tell_begun(self, key: Any, members: list[int] | None, address: str) -> None:
        """Tell the owner of an envelope that members of it run."""
        node = self.placer.roster.get(address)
        name = node.name if node is not None else "?"
        self._tell_owner(key, {"op": BEGAN, "key": key, "requests": members, "node": name})

    def _pass_on(self, address: str, key: Any, **piece: Any) -> None:
        """Tell the owner of an envelope what there is already of an answer to one of its requests."""
        assignment = self.placer.assignments.get(key)
        if assignment is not None and assignment.address == address:  # no worker speaks for another
            self._tell_owner(key, {"op": PIECE, "key": key, **piece})

    def _tell_owner(self, key: Any, message: dict[str, Any]) -> None:
        owner = self.lessor.envelopes.get(key)
        comm = self.scheduler.client_comms.get(owner[1]) if owner is not None else None
        if comm is not None and not comm.closed():
            comm.send(message)
