"""Frames: how the scheduler's process and the keeper of the history speak with each other over pipes.

A message is a tuple of plain data, as `marshal` has it: that costs half of what pickle does, and makes
nothing but plain data again. Both ends are always the same Python.

=============================================  ====================================================
to the keeper
=============================================  ====================================================
``(AGAIN, number, rows)``                      first: parts up to that number are sent a second
                                               time; they have so many rows
``(PARTS, number, [part, ...])``               write these; each by itself, as `pack_part` has it
``(ASK, number, name, arguments)``             a question, see `keeper.QUESTIONS`
``(CLOSE,)``                                   write what waits, and end
=============================================  ====================================================

=============================================  ====================================================
from the keeper
=============================================  ====================================================
``(OPENED, rescued, fault)``                   the file is open, or cannot be
``(KEPT, number, written, dropped)``           all up to that number is settled; rows since the last
``(FAULT, text)``                              what went wrong, and is tried again or left out
``(ANSWER, number, value)``                    to a question
``(REFUSED, number, text)``                    the question cannot be answered
=============================================  ====================================================
"""

from __future__ import annotations

import marshal
from collections.abc import Iterator
from typing import Any

from altlas_flow.history.parts import Part

AGAIN, PARTS, ASK, CLOSE = "again", "parts", "ask", "close"
OPENED, KEPT, FAULT, ANSWER, REFUSED = "opened", "kept", "fault", "answer", "refused"
#: Bytes in front of each message: its length.
HEADER = 8
#: Bytes that are read at a time.
CHUNK = 1 << 20

Message = tuple[Any, ...]


def pack(message: Message) -> bytes:
    """A message as bytes."""
    data = marshal.dumps(message)
    return len(data).to_bytes(HEADER, "little") + data


def pack_part(part: Part) -> bytes:
    """A part as bytes; raises ValueError where it has anything but plain data."""
    return marshal.dumps((part.client, part.at, dict(part.columns)))


def unpack_part(data: bytes) -> Part:
    """The part again."""
    return Part(*marshal.loads(data))


class Unpacker:
    """Makes messages of bytes as they come."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """All messages that are whole now."""
        self._data += data
        start = 0
        while len(self._data) - start >= HEADER:
            begin = start + HEADER
            end = begin + int.from_bytes(self._data[start:begin], "little")
            if len(self._data) < end:
                break
            yield marshal.loads(self._data[begin:end])
            start = end
        del self._data[:start]
