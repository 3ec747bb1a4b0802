"""What comes with Python or an installed package, and is known by its name alone."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
import types
from typing import Any

#: Bit of a class that was made as a program ran; the others are Python's own.
_HEAP = 1 << 9


def _folders() -> tuple[str, ...]:
    found = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    found |= {*site.getsitepackages(), site.getusersitepackages()}
    # this package is a library even where it is worked on
    found.add(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    found |= {os.path.realpath(folder) for folder in found}
    return tuple(folder.rstrip(os.sep) + os.sep for folder in found)


_LIBRARIES = _folders()


def is_library_module(name: str | None) -> bool:
    """Whether a module comes with Python or an installed package."""
    if name in (None, "__main__", "__mp_main__"):
        return False
    # a module that cannot be found was sent by value, or written to on the fly: it is the person's own
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is not None:
        return bool(file.startswith(_LIBRARIES))
    return name.partition(".")[0] in sys.stdlib_module_names


def is_library_code(code: types.CodeType) -> bool:
    """Whether a function's code was written in a library: its names may be copies of another one's."""
    return code.co_filename.startswith((*_LIBRARIES, "<frozen "))


def is_library_class(kind: type) -> bool:
    """Whether a class is a library's, and not one that took on its name."""
    return not kind.__flags__ & _HEAP or is_named_in_library(kind)


def is_named_in_library(value: Any) -> bool:
    """Whether an object is what its names say, in a module of a library."""
    module = getattr(value, "__module__", None)
    name = getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        return False
    return is_library_module(module) and found_by_name(module, name) is value


def found_by_name(module: str, name: str) -> Any:
    """What a dotted name stands for in a module that is loaded; None where it stands for nothing."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found
