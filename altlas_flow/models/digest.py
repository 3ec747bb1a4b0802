"""A digest of what a Python callable does, the same in every interpreter."""

from __future__ import annotations

import dis
import functools
import hashlib
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from typing import Any

_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def digest_callable(function: Any) -> str:
    """Digest of a callable: its byte code, constants, defaults, closure, and the globals that it uses.

    File names and line numbers are left out, so that a notebook cell run again in another session is
    the same function; a helper of the person's own that changed is a change, wherever it is called.
    What an installed library or Python itself brings is known by its name alone: its insides are
    many, and may change while it runs.

    Parameters
    ----------
    function : callable
        A function, a method, a `functools.partial`, or an object that can be called.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    digest = _Digest()
    digest.feed(function)
    return digest.hash.hexdigest()


class _Digest:
    """The walk over what a callable is made of; each object is visited once."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self._seen: dict[int, tuple[int, Any]] = {}

    def _text(self, *parts: object) -> None:
        self.hash.update(":".join(map(str, parts)).encode("utf-8", "surrogatepass") + b";")

    def _is_new(self, value: Any) -> bool:
        """Whether `value` is met first; where not, its number takes its place (it may hold itself)."""
        if id(value) in self._seen:
            self._text("seen", self._seen[id(value)][0])
            return False
        # the object is kept: another one could get the id of a temporary
        self._seen[id(value)] = (len(self._seen), value)
        return True

    def feed(self, value: Any) -> None:
        """Take in one object, and what it is made of."""
        if value is None or isinstance(value, (str, bytes, int, float, complex)):
            self._text(type(value).__name__, repr(value))
        elif isinstance(value, types.ModuleType):
            self._text("module", value.__name__)
        elif isinstance(value, types.CodeType):
            self._code(value)
        elif not self._is_new(value):
            return
        elif isinstance(value, (list, tuple)):
            self._all(type(value).__name__, value)
        elif isinstance(value, (set, frozenset)):
            self._all(type(value).__name__, sorted(value, key=repr))
        elif type(value) in (dict, types.MappingProxyType):
            self._mapping(value)
        elif isinstance(value, types.MethodType):
            self._all("method", [value.__func__, value.__self__])
        elif isinstance(value, functools.partial):
            self._all("partial", [value.func, value.args, value.keywords])
        elif isinstance(value, (staticmethod, classmethod)):
            self._all(type(value).__name__, [value.__func__])
        elif isinstance(value, property):
            self._all("property", [value.fget, value.fset])
        elif isinstance(value, (type, types.FunctionType)) or hasattr(value, "__wrapped__"):
            self._defined(value)
        elif callable(getattr(type(value), "digest_parts", None)):
            # an object of ours, or of a class that derives from one of ours: what decides what it does
            kind = type(value)
            ours = kind.__module__.partition(".")[0] == __name__.partition(".")[0]
            self._all("parts", [kind.__qualname__ if ours else kind, value.digest_parts()])
        elif _is_library(type(value)):
            from dask.base import tokenize

            self._text(type(value).__qualname__, tokenize(value))
        else:
            state = {**_slots(value), **getattr(value, "__dict__", {})}
            self._all("object", [type(value), state])

    def _all(self, kind: str, values: Any) -> None:
        self._text(kind, len(values))
        for value in values:
            self.feed(value)

    def _mapping(self, value: Mapping[Any, Any]) -> None:
        self._text("mapping", len(value))
        for key in sorted(value, key=repr):
            self.feed(key)
            self.feed(value[key])

    def _defined(self, value: Any) -> None:
        """A function, a class, or a function in a wrapper such as that of `functools.cache`."""
        if _is_library(value):
            self._text("library", value.__module__, getattr(value, "__qualname__", ""))
        elif isinstance(value, type):
            self._all("class", [base for base in value.__bases__ if base is not object])
            self._mapping({name: part for name, part in vars(value).items() if _is_body(name, part)})
        elif isinstance(value, types.FunctionType):
            self._all("function", [value.__code__, value.__defaults__, value.__kwdefaults__])
            self._mapping(_used(value))
        else:
            self.feed(value.__wrapped__)

    def _code(self, code: types.CodeType) -> None:
        self._text("code", code.co_code.hex(), code.co_names, code.co_varnames, code.co_flags)
        self._all("constants", code.co_consts)


def _is_library(value: Any) -> bool:
    """Whether a class or a function comes with Python or an installed package."""
    name = getattr(value, "__module__", None)
    if name in (None, "__main__", "__mp_main__"):
        return False
    if name.partition(".")[0] in sys.stdlib_module_names:
        return True
    # a module that cannot be found was sent by value, or written to on the fly: it is the person's own
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and file.startswith(_LIBRARIES)


def _is_body(name: str, part: object) -> bool:
    """Whether an entry of a class is something that the person wrote."""
    generated = ("__module__", "__qualname__", "__dict__", "__weakref__", "__doc__", "__firstlineno__")
    described = (types.GetSetDescriptorType, types.MemberDescriptorType)
    return name not in generated and not name.startswith("_abc_") and not isinstance(part, described)


def _slots(value: object) -> dict[str, Any]:
    """What an object holds in slots."""
    found: dict[str, Any] = {}
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                found[name] = getattr(value, name)
    return found


def _globals_read(code: types.CodeType) -> Iterator[str]:
    """Names of the globals that code reads, inner functions and comprehensions included."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals_read(constant)


def _used(function: types.FunctionType) -> dict[str, Any]:
    """Closure and globals that a function uses, by name; builtins are known by their names."""
    spaces = function.__globals__
    found = {name: spaces[name] for name in _globals_read(function.__code__) if name in spaces}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            # not filled yet: a name that is bound after the function was made
            continue
    return found
