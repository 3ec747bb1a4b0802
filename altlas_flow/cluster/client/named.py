"""The name by which the scheduler knows a strategy, and which names there are."""

from __future__ import annotations

import contextlib
import hashlib
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any

from altlas_flow.errors import BadRequest, describe, names, one_line
from altlas_flow.records import DistributionStrategy

#: Entry points that give strategies by name; the scheduler imports them.
STRATEGY_GROUP = "altlas_flow.strategies"


def check_strategy(strategy: Any) -> None:
    """Refuse what can be no strategy, and the name of one that is neither built in nor installed here.

    Nothing is imported. The scheduler may have others installed; whoever writes them down for it needs them
    here as well.

    Raises
    ------
    BadRequest
    """
    if strategy is None or (callable(strategy) and not isinstance(strategy, str)):
        return
    if isinstance(strategy, str):
        with contextlib.suppress(ValueError):
            DistributionStrategy(strategy)
            return
        installed = {point.name for point in entry_points(group=STRATEGY_GROUP)}
        if strategy in installed:
            return
        known = [*DistributionStrategy, *sorted(installed)]
        near = get_close_matches(strategy.strip().upper().replace("-", "_"), known, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {names(known)}"
        raise BadRequest(f"{one_line(repr(strategy), 60)} is the name of none: {hint}")
    raise BadRequest(
        f"{one_line(repr(strategy), 60)} is none: give a name, a DistributionStrategy or a function"
    )


def named_strategy(strategy: Any, default: str) -> tuple[str, bytes | None]:
    """The name by which the scheduler knows a strategy; and its code, where it is the user's own.

    Raises
    ------
    BadRequest
        Where it is none, or cannot be sent.
    """
    if strategy is None:
        return default, None
    if isinstance(strategy, str):
        with contextlib.suppress(ValueError):
            return str(DistributionStrategy(strategy).value), None
        return one_line(strategy, 200), None
    if not callable(strategy):
        raise BadRequest(f"strategy={strategy!r} is none: give a name, a DistributionStrategy or a function")
    import cloudpickle

    try:
        code: bytes = cloudpickle.dumps(strategy)
    except Exception as error:
        # whatever a closure holds may refuse to be pickled, with any error
        raise BadRequest(f"the strategy cannot be sent to the scheduler: {describe(error)}") from error
    name = getattr(strategy, "__name__", type(strategy).__name__)
    return f"{name}#{hashlib.sha256(code).hexdigest()[:16]}", code
