"""Values that cannot change, and that JSON can hold."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Mapping
from typing import Any

from altlas_flow.errors import one_line


class FrozenDict(dict[str, Any]):
    """A dict that cannot be changed, as deep as it goes in dicts; a fingerprint rests on it."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a model spec cannot be changed: make another with spec.model_copy(update={...})")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)

    def __copy__(self) -> FrozenDict:
        return self

    def __deepcopy__(self, _: Any) -> FrozenDict:
        return self


def plain(value: Any, place: str) -> Any:
    """A copy of `value` that is the same after a JSON round trip.

    Raises
    ------
    ValueError
        Where it holds what JSON cannot.
    """
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()  # a NumPy scalar
    if isinstance(value, Mapping):
        if bad := [key for key in value if not isinstance(key, str)]:
            raise ValueError(f"{place}: {bad[0]!r} is no name: write it as text")
        return FrozenDict({key: plain(item, f"{place}.{key}") for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return [plain(item, place) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError(
        f"{place} is {one_line(repr(value), 60)}, which JSON cannot hold: "
        "use texts, finite numbers, lists and mappings"
    )


def frozen(values: Mapping[str, Any]) -> bytes:
    """Values by name as bytes: equal ones of the same types give the same bytes, in whatever order.

    Raises
    ------
    Exception
        Whatever a value that cannot be pickled raises.
    """
    if not values:
        return b""
    ordered = dict(sorted(values.items()))
    try:
        return pickle.dumps(ordered, protocol=5)
    except Exception:
        # functions and classes of a notebook go by value
        import cloudpickle

        return bytes(cloudpickle.dumps(ordered))


def thawed(data: bytes) -> dict[str, Any]:
    """A copy of what `frozen` was given, in this process."""
    return dict(pickle.loads(data)) if data else {}
