"""Tokens into text while they come: whole characters only, and nothing beyond a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

#: What a tokenizer writes for a character of which bytes are missing.
BROKEN = "\N{REPLACEMENT CHARACTER}"


class Spelling:
    """The text of one row.

    All that `add` and `finish` give, put together, is the text: that of all its tokens, up to the first
    stop string.

    Parameters
    ----------
    decode : callable
        Tokens into text.
    stop : sequence of str

    Attributes
    ----------
    tokens : list of int
    stopped : bool
        Whether a stop string has come.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode, self._stop = decode, stop
        self.tokens: list[int] = []
        self.stopped = False
        self._text = ""
        self._given = 0  # characters
        # A token is spelled behind those before it: by itself it may lose its space, or be half a character.
        self._context = self._spelled = 0  # tokens

    @property
    def text(self) -> str:
        """What has been given so far."""
        return self._text[: self._given]

    def add(self, token: int) -> str:
        """Take a token; what may be given now, maybe nothing."""
        self.tokens.append(token)
        before = self._decode(self.tokens[self._context : self._spelled])
        now = self._decode(self.tokens[self._context :])
        if len(now) <= len(before) or now.endswith(BROKEN):
            return ""
        self._context, self._spelled = self._spelled, len(self.tokens)
        self._take(now[len(before) :])
        return self._give(len(self._text) - (0 if self.stopped else self._held()))

    def finish(self) -> str:
        """No more tokens come: the rest."""
        if not self.stopped:
            before = self._decode(self.tokens[self._context : self._spelled])
            self._take(self._decode(self.tokens[self._context :])[len(before) :])
        return self._give(len(self._text))

    def _take(self, piece: str) -> None:
        """Add to the text; cut it where a stop string begins."""
        longest = max(map(len, self._stop), default=1)
        start = max(0, len(self._text) - longest + 1)
        self._text += piece
        places = [at for stop in self._stop if (at := self._text.find(stop, start)) >= 0]
        if places:
            self.stopped, self._text = True, self._text[: min(places)]

    def _held(self) -> int:
        """Characters at the end that may begin a stop string."""
        most = max(map(len, self._stop), default=1) - 1
        tails = (self._text[-size:] for size in range(min(most, len(self._text)), 0, -1))
        return next((len(tail) for tail in tails if any(stop.startswith(tail) for stop in self._stop)), 0)

    def _give(self, end: int) -> str:
        piece = self._text[self._given : end]
        self._given += len(piece)
        return piece
