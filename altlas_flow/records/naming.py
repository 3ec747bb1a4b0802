"""Callables by name: ``"package.module:name"``, and whether a name leads back to its callable."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from types import MethodType
from typing import Any

from altlas_flow.errors import BadRequest, one_line

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_name(text: str) -> bool:
    """Whether `text` reads ``package.module:name``."""
    return _NAME.fullmatch(text) is not None


def name_of(value: Any, place: str) -> str:
    """The name under which another process finds the callable `value`.

    Raises
    ------
    BadRequest
        Where there is none: a lambda, a function in a function, in a notebook or a script.
    """
    module = getattr(value, "__module__", None)
    name = f"{module}:{getattr(value, '__qualname__', None)}"
    if module != "__main__" and is_name(name):
        found = _find(name)
        # each look at a method makes another one
        if found is value or (isinstance(found, MethodType) and found == value):
            return name
    raise BadRequest(
        f"{place} is {one_line(repr(value), 60)}, which another process cannot import: "
        "move it to a module and name it as 'package.module:name'"
    )


def _find(name: str) -> Any:
    module, _, path = name.partition(":")
    try:
        found: Any = sys.modules.get(module) or import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    return found
