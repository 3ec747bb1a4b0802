"""A digest of what a Python callable does, the same in every interpreter."""

from __future__ import annotations

import dis
import enum
import functools
import sys
import threading
import types
import typing
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from altlas_flow.models.content import Content, Out, package_of, pickled, text
from altlas_flow.models.origin import (
    found_by_name,
    is_library_class,
    is_library_code,
    is_library_module,
    is_named_in_library,
)

#: Objects that answer nothing: which one of its type it is does not matter.
_IDLE = (type(threading.Lock()), type(threading.RLock()), threading.local, weakref.ReferenceType)
_DISPATCHED = functools.singledispatch(lambda _: None).__code__  # type: ignore[attr-defined]
#: What describes a field of a pydantic model, and what pydantic works out as it goes.
_UNREAD = {
    "title",
    "description",
    "examples",
    "deprecated",
    "repr",
    "json_schema_extra",
    "field_title_generator",
}


def digest_callable(function: Any) -> str:
    """Digest of a callable: its byte code, constants, defaults, closure, and the globals that it uses.

    File names and line numbers are left out, so that a notebook cell run again in another session is
    the same function; a helper of the person's own that changed is a change, wherever it is called,
    through its module, too.
    What an installed library or Python itself brings is known by its name alone: its insides are
    many, and may change while it runs. A module that a function imports as it runs is known by its name.

    Parameters
    ----------
    function : callable
        A function, a method, a `functools.partial`, or an object that can be called.

    Returns
    -------
    str
        64 hexadecimal digits; others each time where something in it cannot be told from others of its
        type, such as a generator.
    """
    # a digest of what was encoded, so that a scalar has 64 digits, too
    return _Digest().of(function)


class _Digest(Content):
    """The walk over what a callable is made of."""

    def __init__(self) -> None:
        super().__init__(lambda kind: "")

    def of(self, value: Any) -> str:
        return self._node(None, None, lambda _, out: out(self.encode(value)))[1:].hex()

    def kind(self, kind: type) -> bytes:
        return self.encode(kind)

    def instance(self, value: Any, out: Out) -> None:
        for kinds, make in _MAKERS:
            if isinstance(value, kinds):
                make(self, value, out)
                return
        if typing.get_origin(value) is not None:
            out(b"generic" + self.encode(typing.get_origin(value)))
            metadata = getattr(value, "__metadata__", None) or ()
            self.many((*typing.get_args(value), *metadata), out)
        elif callable(getattr(type(value), "digest_parts", None)):
            # an object of ours, or of a class that derives from one of ours: what decides what it does
            out(b"parts" + self.encode(type(value)) + self.encode(value.digest_parts()))
        elif package_of(type(value)) == "pydantic" and self._pydantic(value, out):
            pass
        else:
            self._object(value, out)

    # ---- functions

    def _function(self, value: types.FunctionType, out: Out) -> None:
        code, name = value.__code__, value.__code__.co_qualname
        if code is _DISPATCHED:
            registry = value.registry  # type: ignore[attr-defined]
            self.unordered(registry.items(), out)
            return
        library = is_library_code(code)
        if (library or code.co_filename.startswith("<")) and is_named_in_library(value):
            out(b"library" + text(value.__module__) + text(value.__qualname__))
            return
        if library:
            # its names may be those of what it wraps
            out(b"library" + text(str(value.__globals__.get("__name__"))) + text(name))
            if "<" not in name:
                return
        out(b"function" + self.encode(code))
        self.many((value.__defaults__, value.__kwdefaults__), out)
        self.state(type(value), value.__dict__, out)
        names = frozenset(_names(code))
        used = {} if library else _globals_used(value)
        for one, held in sorted({**used, **_closure(value)}.items()):
            out(text(one) + self._read(held, names))
        out(b".")

    def _read(self, value: Any, names: frozenset[str]) -> bytes:
        """What code reads by a name; of a module of the person's own, the attributes that it reads."""
        if not isinstance(value, types.ModuleType) or is_library_module(value.__name__):
            return self.encode(value)

        def make(module: types.ModuleType, out: Out) -> None:
            out(b"module" + text(module.__name__))
            there = vars(module)
            for name in sorted(names):
                if name in there and not name.startswith("__"):
                    out(text(name) + self._read(there[name], names))

        return self._node(("module", id(value), names), value, make)

    def _code(self, code: types.CodeType, out: Out) -> None:
        out(b"code" + self.encode(code.co_code) + self.encode(code.co_exceptiontable))
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        self.many((counts, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars), out)
        self.many(code.co_consts, out)

    def _bound(self, value: types.MethodType, out: Out) -> None:
        out(b"method")
        self.many((value.__func__, value.__self__), out)

    def _descriptor(self, value: Any, out: Out) -> None:
        out(b"descriptor" + text(type(value).__name__) + self.encode(value.__func__))

    def _property(self, value: property, out: Out) -> None:
        out(b"property" + self.encode(type(value)))
        self.many((value.fget, value.fset, value.fdel, getattr(value, "__dict__", None)), out)

    # ---- classes

    def _class(self, value: type, out: Out) -> None:
        if is_library_class(value):
            out(b"library" + text(value.__module__) + text(value.__qualname__))
            return
        out(b"class" + text(value.__name__))
        self.many((type(value), *value.__bases__), out)
        held: Mapping[str, Any] = vars(value)
        if "__pydantic_fields__" in held:
            self._model(value, out)
            held = {name: part for name, part in held.items() if not name.startswith("__pydantic_")}
        if issubclass(value, enum.Enum):
            members = value.__members__
            out(self.encode([(name, member._value_) for name, member in members.items()]))
            held = {name: part for name, part in held.items() if name not in members and name[:1] != "_"}
        for name in sorted(name for name, part in held.items() if _is_body(name, part)):
            out(text(name) + self.encode(held[name]))
        out(b".")

    def _model(self, value: Any, out: Out) -> None:
        """A model of pydantic, which fills caches of its own as it is used: its settings and its rules."""
        if not value.__dict__.get("__pydantic_complete__", True) and hasattr(value, "model_rebuild"):
            # names that could not be found yet
            value.model_rebuild(raise_errors=False)
        held = value.__dict__
        config = held.get("model_config", held.get("__pydantic_config__"))
        out(b"model")
        self.state(type(value), dict(config or {}), out)
        self.many((part for pair in held["__pydantic_fields__"].items() for part in pair), out)
        rules = held.get("__pydantic_decorators__")
        for kind in sorted(getattr(type(rules), "__dataclass_fields__", ())):
            group = getattr(rules, kind)
            if not isinstance(group, Mapping):
                continue
            out(text(kind))
            for name, rule in group.items():
                function = getattr(rule.func, "__func__", rule.func)
                self.many((name, rule.cls_var_name, function, rule.shim, rule.info), out)

    def _pydantic(self, value: Any, out: Out) -> bool:
        """Other objects of pydantic; where it is none of these, nothing."""
        name = type(value).__name__
        if name == "FieldInfo":
            slots = {one: getattr(value, one) for one in value.__slots__ if hasattr(value, one)}
            state = {one: part for one, part in slots.items() if one[0] != "_" and one not in _UNREAD}
            out(b"field")
            self.state(type(value), state, out)
        elif name == "TypeAdapter":
            out(b"adapter")
            self.many((value._type, value._config), out)
        elif name == "ValidateCallWrapper":
            out(b"checked")
            notes = getattr(value.function, "__annotations__", None)
            self.many((value.function, notes, value.validate_return, value.config_wrapper.config_dict), out)
        else:
            return False
        return True

    # ---- objects

    def _variable(self, value: Any, out: Out) -> None:
        out(b"variable" + text(value.__name__))
        self.many((getattr(value, "__bound__", None), getattr(value, "__constraints__", None)), out)

    def _supertype(self, value: Any, out: Out) -> None:
        out(b"newtype" + text(value.__name__) + self.encode(value.__supertype__))

    def _subset(self, value: Any, out: Out) -> None:
        out(b"subset" + self.encode(type(value)))
        self.unordered(value, out)
        self.state(type(value), _attributes(value), out)

    def _idle(self, value: Any, out: Out) -> None:
        out(b"idle" + self.encode(type(value)))
        self.state(type(value), {} if isinstance(value, weakref.ReferenceType) else _attributes(value), out)

    def _member(self, value: enum.Enum, out: Out) -> None:
        out(b"enum" + self.encode(type(value)) + self.encode(value._name_) + self.encode(value._value_))

    def _object(self, value: Any, out: Out) -> None:
        try:
            parts = pickled(value)
        except Exception:
            # objects refuse to be pickled with any error: what can be seen of it has to do
            state = _attributes(value)
            out(b"unpickled" + self.encode(type(value)))
            self.state(type(value), state, out)
            if not state:
                out(uuid.uuid4().bytes)
            return
        if isinstance(parts, str):
            module = getattr(value, "__module__", None) or _module_of(type(value), parts, value)
            out(b"named" + self.encode(type(value)) + text(str(module)) + text(parts))
            if found_by_name(str(module), parts) is not value:
                out(uuid.uuid4().bytes)
            return
        out(self.encode(parts[0]))
        self.reduced(value, parts, out)


def _module_of(kind: type, name: str, value: Any) -> str | None:
    """Where an object stands that does not say so."""
    first = (package_of(kind), "scipy")  # which makes NumPy's ufuncs
    named = sorted(
        filter(is_library_module, sys.modules), key=lambda one: (one.partition(".")[0] not in first, one)
    )
    return next((one for one in named if vars(sys.modules[one]).get(name) is value), None)


def _is_body(name: str, part: object) -> bool:
    """Whether an entry of a class is something that the person wrote."""
    generated = {
        *("__module__", "__qualname__", "__dict__", "__weakref__", "__doc__", "__signature__"),
        *("__firstlineno__", "__static_attributes__", "__annotations_cache__"),
    }
    described = (types.GetSetDescriptorType, types.MemberDescriptorType)
    return name not in generated and not name.startswith("_abc_") and not isinstance(part, described)


def _attributes(value: object) -> dict[str, Any]:
    """What an object holds in its dict and in slots."""
    found: dict[str, Any] = {}
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                found[name] = getattr(value, name)
    return {**found, **getattr(value, "__dict__", {})}


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Code with its inner functions and comprehensions."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _names(code: types.CodeType) -> Iterator[str]:
    for one in _codes(code):
        yield from one.co_names


@functools.lru_cache(1024)
def _globals_read(code: types.CodeType) -> frozenset[str]:
    """Names of the globals that code reads."""
    return frozenset(
        str(instruction.argval)
        for one in _codes(code)
        for instruction in dis.get_instructions(one)
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    )


def _globals_used(function: types.FunctionType) -> dict[str, Any]:
    """Globals that a function uses; builtins are known by their names."""
    spaces = function.__globals__
    return {name: spaces[name] for name in _globals_read(function.__code__) if name in spaces}


def _closure(function: types.FunctionType) -> dict[str, Any]:
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            # not filled yet: a name that is bound after the function was made
            continue
    return found


#: How objects that are not known by their pickled form are walked; the first that fits.
_MAKERS: list[tuple[Any, Callable[[_Digest, Any, Out], object]]] = [
    (types.FunctionType, _Digest._function),
    (type, _Digest._class),
    (types.ModuleType, lambda _, value, out: out(b"module" + text(value.__name__))),
    (types.CodeType, _Digest._code),
    (types.MethodType, _Digest._bound),
    # a cache does not change what is answered
    (functools._lru_cache_wrapper, lambda walk, value, out: out(b"cached" + walk.encode(value.__wrapped__))),
    ((staticmethod, classmethod), _Digest._descriptor),
    (property, _Digest._property),
    (types.MappingProxyType, lambda walk, value, out: out(b"proxy" + walk.encode(dict(value)))),
    (types.CellType, lambda walk, value, out: out(b"cell" + walk.encode(value.cell_contents))),
    ((typing.TypeVar, typing.ParamSpec), _Digest._variable),
    (typing.NewType, _Digest._supertype),
    (typing.ForwardRef, lambda _, value, out: out(b"forward" + text(value.__forward_arg__))),
    (enum.Enum, _Digest._member),
    ((set, frozenset), _Digest._subset),
    (_IDLE, _Digest._idle),
]
