"""Notices what is not as it was: workers refused again and again, clients that behave other than before."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

#: Refused joins from one address within so many seconds that are worth a warning.
REFUSALS, WITHIN = 5, 60.0
#: Seconds of one look at a client.
WINDOW = 10.0
#: Looks that make a past to compare with.
PAST = 6
#: Of an old look, what still counts at the next one.
MEMORY = 0.9
#: Standard deviations from its own past that are far.
FAR = 6.0
#: Below so many requests in a window nothing is said.
FEW = 20
#: Seconds between two warnings of the same kind about the same one.
QUIET = 300.0


@dataclass(slots=True)
class _Past:
    """Mean and variance of what was seen, recent looks first."""

    looks: int = 0
    mean: float = 0.0
    variance: float = 0.0

    def distance(self, value: float, least: float) -> float:
        """Standard deviations between `value` and the past; `least`: what one of them is at least."""
        return abs(value - self.mean) / max(math.sqrt(self.variance), least)

    def observe(self, value: float) -> None:
        if not self.looks:
            self.mean = value
        step = value - self.mean
        weight = max(1 - MEMORY, 1 / (self.looks + 1))
        self.mean += weight * step
        self.variance = (1 - weight) * (self.variance + weight * step * step)
        self.looks += 1


@dataclass(slots=True)
class _Client:
    since: float
    requests: int = 0
    errors: int = 0
    rate: _Past = field(default_factory=_Past)
    share: _Past = field(default_factory=_Past)


class Unusual:
    """Decides what deserves a warning; told the time with each call."""

    def __init__(self) -> None:
        self._refused: dict[str, deque[float]] = {}
        self._clients: dict[str, _Client] = {}
        self._warned: dict[tuple[str, str], float] = {}

    def refused(self, peer: str, now: float) -> str | None:
        """A worker from an address was refused."""
        times = self._refused.setdefault(peer, deque(maxlen=REFUSALS))
        times.append(now)
        if len(times) == REFUSALS and now - times[0] <= WITHIN and self._may_say("refused", peer, now):
            return f"{REFUSALS} joins from {peer} were refused within {now - times[0]:.0f} s"
        return None

    def ended(self, client: str, requests: int, errors: int, now: float) -> list[str]:
        """So many requests of a client are over, so many of them with an error: what is unusual about it.

        Looked at by the window: a rate is compared by its logarithm, since clients differ by magnitudes.
        """
        known = self._clients.setdefault(client, _Client(now))
        said: list[str] = []
        if now - known.since >= WINDOW:
            said = self._look(client, known, now)
        known.requests += requests
        known.errors += errors
        return said

    def left(self, client: str) -> None:
        """A client is gone."""
        self._clients.pop(client, None)

    def _look(self, client: str, known: _Client, now: float) -> list[str]:
        count, errors, seconds = known.requests, known.errors, now - known.since
        known.since, known.requests, known.errors = now, 0, 0
        if not count:
            return []
        said = []
        rate, share = count / seconds, errors / count
        if count >= FEW and known.rate.looks >= PAST:
            if known.rate.distance(math.log(rate), 0.25) > FAR and self._may_say("rate", client, now):
                usual = math.exp(known.rate.mean)
                said.append(
                    f"client {client} sends {rate:.1f} requests a second, and used to send {usual:.1f}"
                )
            if known.share.distance(share, 0.03) > FAR and self._may_say("errors", client, now):
                usual = known.share.mean
                said.append(f"of client {client}'s requests {share:.0%} fail, and {usual:.0%} used to")
        known.rate.observe(math.log(rate))
        known.share.observe(share)
        return said

    def _may_say(self, kind: str, who: str, now: float) -> bool:
        if now - self._warned.get((kind, who), -math.inf) < QUIET:
            return False
        self._warned = {key: at for key, at in self._warned.items() if now - at < QUIET}
        self._warned[kind, who] = now
        return True
