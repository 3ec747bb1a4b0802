"""The life of a node: four words for what it is, and what may change them.

A node is ``ONLINE``, ``BUSY``, ``OFFLINE`` or ``ERROR``. The word follows from six facts, and the first
of these that holds decides:

1. it is not there (it has not joined yet, or has left): ``OFFLINE``;
2. an operator has set it ``OFFLINE``: that, until an operator sets it ``ONLINE``;
3. it is silent, for longer than the heartbeat timeout: ``OFFLINE``, until it speaks;
4. it is set aside, for failures in a row or by an operator: ``ERROR``, until a request succeeds there,
   or an operator sets it ``ONLINE``;
5. it is cordoned: ``BUSY``, until it is uncordoned;
6. all its slots are taken: ``BUSY``, until one is free.

Else it is ``ONLINE``. A fact that comes to hold while an earlier one does changes no word, and tells
when the earlier one is over: a node that was cordoned while it was silent is ``BUSY`` when it speaks.

What may change the word (each line: from, to, and the events that do):

========= ========= ====================================================================
ONLINE    BUSY      filled, cordoned
ONLINE    ERROR     set aside
ONLINE    OFFLINE   fell silent, left, set offline
BUSY      ONLINE    freed, uncordoned, set online
BUSY      ERROR     set aside
BUSY      OFFLINE   fell silent, left, set offline
ERROR     ONLINE    recovered, set online
ERROR     BUSY      recovered (and cordoned or full), set online (and full)
ERROR     OFFLINE   fell silent, left, set offline
OFFLINE   ONLINE    joined, spoke, set online
OFFLINE   BUSY      joined, spoke (and cordoned or full), set online (and full)
OFFLINE   ERROR     joined, spoke (and set aside)
========= ========= ====================================================================

New work goes to a node that is ``ONLINE``, or ``BUSY`` because its slots are taken: then it waits
there. None goes to one that is cordoned, ``OFFLINE`` or ``ERROR``. What runs on a node when it is
cordoned or set offline runs to its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from altlas_flow.records.node import NodeStatus


class Event(StrEnum):
    """What happens to a node."""

    JOINED = "joined"
    LEFT = "left"
    FELL_SILENT = "fell silent"
    SPOKE = "spoke"
    FILLED = "filled"
    FREED = "freed"
    CORDONED = "cordoned"
    UNCORDONED = "uncordoned"
    SET_ASIDE = "set aside"
    RECOVERED = "recovered"
    SET_OFFLINE = "set offline"
    SET_ONLINE = "set online"


_UP, _DOWN = NodeStatus.ONLINE, NodeStatus.OFFLINE
_BUSY, _ERROR = NodeStatus.BUSY, NodeStatus.ERROR
_GOES = frozenset({Event.FELL_SILENT, Event.LEFT, Event.SET_OFFLINE})

#: (from, to) -> the events that may do it.
CHANGES: dict[tuple[NodeStatus, NodeStatus], frozenset[Event]] = {
    (_UP, _BUSY): frozenset({Event.FILLED, Event.CORDONED}),
    (_UP, _ERROR): frozenset({Event.SET_ASIDE}),
    (_UP, _DOWN): _GOES,
    (_BUSY, _UP): frozenset({Event.FREED, Event.UNCORDONED, Event.SET_ONLINE}),
    (_BUSY, _ERROR): frozenset({Event.SET_ASIDE}),
    (_BUSY, _DOWN): _GOES,
    (_ERROR, _UP): frozenset({Event.RECOVERED, Event.SET_ONLINE}),
    (_ERROR, _BUSY): frozenset({Event.RECOVERED, Event.SET_ONLINE}),
    (_ERROR, _DOWN): _GOES,
    (_DOWN, _UP): frozenset({Event.JOINED, Event.SPOKE, Event.SET_ONLINE}),
    (_DOWN, _BUSY): frozenset({Event.JOINED, Event.SPOKE, Event.SET_ONLINE}),
    (_DOWN, _ERROR): frozenset({Event.JOINED, Event.SPOKE}),
}


@dataclass(slots=True)
class Life:
    """The six facts of one node, and the word that follows from them.

    Attributes
    ----------
    there : bool
        Whether its worker has joined.
    offline : bool
        Whether an operator has set it offline.
    silent, aside, cordoned, full : bool
        As at the top of this module.
    """

    there: bool = False
    offline: bool = False
    silent: bool = False
    aside: bool = False
    cordoned: bool = False
    full: bool = False

    @property
    def status(self) -> NodeStatus:
        """The word."""
        if not self.there or self.offline or self.silent:
            return NodeStatus.OFFLINE
        if self.aside:
            return NodeStatus.ERROR
        return NodeStatus.BUSY if self.cordoned or self.full else NodeStatus.ONLINE

    @property
    def takes_work(self) -> bool:
        """Whether new work goes there."""
        return self.there and not (self.offline or self.silent or self.aside or self.cordoned)

    def happens(self, event: Event) -> tuple[NodeStatus, NodeStatus]:
        """Take an event in; the word before and after it."""
        before = self.status
        match event:
            case Event.JOINED:
                # a new process: nothing is known against it, but what operators said holds
                self.there, self.silent, self.full = True, False, False
            case Event.LEFT:
                self.there = self.silent = self.full = self.aside = False
            case Event.FELL_SILENT | Event.SPOKE:
                self.silent = event is Event.FELL_SILENT
            case Event.FILLED | Event.FREED:
                self.full = event is Event.FILLED
            case Event.CORDONED | Event.UNCORDONED:
                self.cordoned = event is Event.CORDONED
            case Event.SET_ASIDE | Event.RECOVERED:
                self.aside = event is Event.SET_ASIDE
            case Event.SET_OFFLINE:
                self.offline = True
            case Event.SET_ONLINE:
                self.offline = self.cordoned = self.aside = False
        return before, self.status
