"""The name by which the scheduler knows a strategy."""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any

from altlas_flow.errors import BadRequest, describe, one_line
from altlas_flow.records import DistributionStrategy


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
