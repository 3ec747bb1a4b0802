"""What becomes of a request whose try failed: tried again elsewhere, or ended. Pure."""

from __future__ import annotations

from enum import Enum

from altlas_flow.errors import AltlasError, HostClosed, InvalidAnswer, NodeLost
from altlas_flow.records import RetryPolicy

#: Workers that may die of one request.
DEATHS = 3
#: Moves from workers that died after which a request counts as having begun, whatever was heard of it.
UNHEARD = 9
#: Moves that use up no try: from nodes that closed, or died while the request merely waited.
MOVES = 20


class Fate(Enum):
    """What is next for a request."""

    MOVE = "it had not begun: elsewhere, as if nothing had happened"
    RETRY = "another try, elsewhere"
    END = "its error is final"


def decide(
    error: Exception,
    *,
    faulty: bool,
    began: bool,
    ever: bool = False,
    tries: int,
    deaths: int,
    moves: int,
    idempotent: bool,
    policy: RetryPolicy,
    limit: int,
) -> Fate:
    """The fate of a request after a try that failed.

    Parameters
    ----------
    error : Exception
    faulty : bool
        Whether the node is at fault.
    began : bool
        Whether the request was running, as far as is known, and may be what ended it.
    ever : bool
        Whether it had begun at all, and may be done.
    tries, deaths, moves : int
        This try included; deaths of workers under it; moves so far.
    idempotent : bool
        Whether it may be run twice.
    policy : RetryPolicy
    limit : int
        Tries, where the policy does not say.
    """
    gone = isinstance(error, (HostClosed, NodeLost))
    if isinstance(error, NodeLost) and error.cause != "left" and moves >= UNHEARD:
        began = True  # too often to be chance: the worker's word that it began may have been lost
    late = isinstance(error, NodeLost) and error.cause == "silent"  # it may still run there
    if not idempotent and (began or ever or late):
        return Fate.END  # it may have had its effect
    if isinstance(error, NodeLost) and error.cause != "left" and deaths >= DEATHS:
        return Fate.END
    if gone and not began:
        return Fate.MOVE if moves < MOVES else Fate.END
    if isinstance(error, HostClosed) or (isinstance(error, NodeLost) and error.cause == "left"):
        return Fate.MOVE if moves < MOVES else Fate.END
    again = faulty or isinstance(error, InvalidAnswer) or named(policy, error)
    return Fate.RETRY if again and tries < (policy.tries or limit) else Fate.END


def named(policy: RetryPolicy, error: Exception) -> bool:
    """Whether the policy names this error, or what caused it."""
    kinds = set(error.kinds) if isinstance(error, AltlasError) else set()
    return policy.names(error) or bool(kinds.intersection(policy.on))
