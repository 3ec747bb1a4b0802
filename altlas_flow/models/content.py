"""Values as bytes: other ones for other values, and the same for equal ones in every interpreter."""

from __future__ import annotations

import copyreg
import dataclasses
import enum
import hashlib
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np

from altlas_flow.models.frozen import FrozenDict

#: Takes in what a node is made of.
Out: TypeAlias = Callable[[Any], object]

#: Types of values whose pickled form is their content, by module and name: none has to be imported.
_PLAIN = {
    *(("datetime", name) for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(("builtins", name) for name in ("range", "slice", "bytearray", "complex")),
    *(("collections", name) for name in ("OrderedDict", "Counter", "deque")),
    *(("pathlib", name) for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")),
    ("decimal", "Decimal"),
    ("fractions", "Fraction"),
    ("uuid", "UUID"),
    ("zoneinfo", "ZoneInfo"),
}
#: The same of pandas: its scalars.
_PANDAS = {"Timestamp", "Timedelta", "Period", "Interval", "NaTType", "NAType"}


class NotEncodable(TypeError):
    """Nothing tells a value from others of its type."""


class Content:
    """A walk over values, which gives each its bytes: a scalar as it is, all else as a digest.

    What holds itself is told by how far up it is met again, and what is equal has the same bytes wherever
    it stands, whether or not it is one object: no address goes in.

    Parameters
    ----------
    kinds : callable
        Names a class of the person's own.
    """

    def __init__(self, kinds: Callable[[type], str]) -> None:
        self._kinds = kinds
        self._closed: dict[Any, bytes] = {}
        # entered, and either still walked or part of a circle that is: their numbers
        self._open: dict[Any, int] = {}
        self._kept: list[Any] = []  # the id of a temporary could become another one's
        self._at, self._low = -1, 0

    def encode(self, value: Any) -> bytes:
        """The bytes of a value; none of them begin another's.

        Raises
        ------
        NotEncodable
        """
        kind = type(value)
        scalar = _SCALARS.get(kind)
        if scalar is not None:
            return scalar(value)
        make = _CONTAINERS.get(kind)
        return self._node(id(value), value, partial(make, self) if make is not None else self._other)

    def _node(self, key: Any, value: Any, make: Callable[[Any, Out], object]) -> bytes:
        """A digest of what `make` gives; the walk is Tarjan's, so that circles end and take no longer."""
        known = self._closed.get(key)
        if known is not None:
            return known
        number = self._open.get(key)
        if number is not None:
            self._low = min(self._low, number)
            return b"@%d;" % (self._at - number)
        self._kept.append(value)
        number, above, low = len(self._open), self._at, self._low
        self._open[key] = self._at = self._low = number
        made = hashlib.sha256()
        make(value, made.update)
        digest = b"#" + made.digest()
        if self._low == number:
            # nothing in it leads above it
            while len(self._open) > number:
                self._open.popitem()
            self._closed[key] = digest
        self._at, self._low = above, min(low, self._low)
        return digest

    def unordered(self, values: Iterable[Any], out: Out) -> None:
        """Values whose order means nothing: each as if it were met first."""
        found = []
        for value in values:
            closed, opened = len(self._closed), len(self._open)
            found.append(self.encode(value))
            while len(self._closed) > closed:
                self._closed.popitem()
            while len(self._open) > opened:
                self._open.popitem()
        found.sort()
        out(b"%d:" % len(found))
        for one in found:
            out(one)

    def _other(self, value: Any, out: Out) -> None:
        """What is neither a scalar nor one of Python's containers."""
        if not self.array(value, out) and not self.frame(value, out):
            self.instance(value, out)

    def instance(self, value: Any, out: Out) -> None:
        """Objects whose fields tell them from others."""
        kind = type(value)
        known = (
            dataclasses.is_dataclass(kind)
            or hasattr(kind, "__pydantic_fields__")
            or (isinstance(value, tuple) and hasattr(kind, "_fields"))
        )
        if isinstance(value, enum.Enum):
            out(b"enum" + self.kind(kind) + self.encode(value.name) + self.encode(value.value))
        elif known or _is_plain(kind):
            self.reduced(value, pickled(value), out)
        else:
            raise NotEncodable(f"a {kind.__module__}.{kind.__qualname__}")

    def kind(self, kind: type) -> bytes:
        """The bytes of a class."""
        name = f"{kind.__module__}.{kind.__qualname__}"
        return b"type" + text(name) + text("" if _is_plain(kind) else self._kinds(kind))

    def reduced(self, value: Any, parts: Any, out: Out) -> None:
        """An object by what is pickled of it."""
        kind = type(value)
        out(b"object" + self.kind(kind))
        if isinstance(parts, str):
            out(text(parts))
            return
        _, args, state, items, pairs = (*parts, None, None, None)[:5]
        self.many((one for one in args if one is not kind), out)
        self.state(kind, state, out)
        self.many(items or (), out)
        self.many((part for pair in pairs or () for part in pair), out)

    def state(self, kind: type, state: Any, out: Out) -> None:
        """Attributes by name: they may have been set in any order, and some are computed as they are read."""
        if type(state) is not dict or not all(type(name) is str for name in state):
            out(self.encode(state))
            return
        out(b"state")
        for name in sorted(state):
            if name == "__module__" or isinstance(getattr(kind, name, None), cached_property):
                continue
            out(text(name))
            if name == "__dict__":
                self.state(kind, state[name], out)  # pydantic's
            else:
                out(self.encode(state[name]))
        out(b".")

    def many(self, values: Iterable[Any], out: Out) -> None:
        """Values in their order."""
        found = [self.encode(value) for value in values]
        out(b"%d:" % len(found))
        for one in found:
            out(one)

    # ---- containers

    def _sequence(self, value: Any, out: Out) -> None:
        out(b"list" if type(value) is list else b"tuple")
        kinds = set(map(type, value))
        if kinds == {str}:
            # most values that are long
            out(b"str" + ",".join(map(str, map(len, value))).encode() + b";")
            out("".join(value).encode("utf-8", "surrogatepass"))
        elif kinds == {float}:
            out(b"float" + np.array(value, "<f8").tobytes())
        elif kinds == {int}:
            try:
                out(b"int" + ",".join(map(repr, value)).encode())
            except ValueError:  # Python writes none of more than 4,300 digits
                out(b"hex" + b",".join(map(b"%x".__mod__, value)))
        else:
            self.many(value, out)

    def _set(self, value: Any, out: Out) -> None:
        out(b"set" if type(value) is set else b"frozenset")
        self.unordered(value, out)

    def _mapping(self, value: Mapping[Any, Any], out: Out) -> None:
        out(b"dict%d:" % len(value))
        for key, item in value.items():
            out(self.encode(key))
            out(self.encode(item))

    # ---- arrays and frames

    def array(self, value: Any, out: Out) -> bool:
        """Arrays, tensors and their scalars; where it is none of these, nothing."""
        kind = type(value)
        if isinstance(value, np.generic) and kind.__module__ == "numpy":
            if value.dtype.hasobject or value.dtype.names:
                return False
            out(b"number" + text(value.dtype.str) + value.tobytes())
        elif kind in (np.ndarray, np.memmap):
            self._ndarray(value, out)
        elif kind is np.ma.MaskedArray:
            out(b"masked")
            self.many((value.data, np.ma.getmaskarray(value), value.fill_value), out)
        elif package_of(kind) == "torch" and _is_tensor(value):
            out(
                b"tensor"
                + text(f"{kind.__qualname__} {value.dtype} {value.device.type} {value.requires_grad}")
            )
            plain = value.detach().cpu().contiguous()
            out(text(str(tuple(plain.shape))))
            out(plain.reshape(-1).view(sys.modules["torch"].uint8).numpy())
        else:
            return False
        return True

    def _ndarray(self, value: Any, out: Out) -> None:
        dtype = value.dtype
        if dtype.kind in "biufc" and value.flags.c_contiguous:
            # most arrays
            out(b"numbers" + text(dtype.str) + text(str(value.shape)))
            out(value)
            return
        # functions may read an array as it lies in memory, so that this is a part of what it is
        axes = tuple(range(value.ndim))
        if not value.flags.c_contiguous:
            axes = tuple(sorted(axes, key=lambda axis: (value.shape[axis] != 1) * -abs(value.strides[axis])))
        out(b"array" + text(dtype.str if dtype.names is None else repr(dtype)))
        out(text(f"{value.shape} {axes}"))
        if dtype.hasobject or dtype.names is not None or dtype.kind == "T":
            self.many(value.transpose(axes).ravel().tolist(), out)
        else:
            flat = np.ascontiguousarray(value.transpose(axes)).reshape(-1)
            out(flat.view(np.uint8) if flat.nbytes else b"")

    def frame(self, value: Any, out: Out) -> bool:
        """What pandas has: columns, indexes and tables; where it is none of these, nothing."""
        pandas = sys.modules.get("pandas")
        kind = type(value)
        if pandas is None or package_of(kind) != "pandas":
            return False
        if kind is pandas.DataFrame:
            out(b"frame")
            columns = [column.array for _, column in value.items()]
            self.many((value.index, value.columns, columns, value.attrs), out)
        elif kind is pandas.Series:
            out(b"series")
            self.many((value.index, value.name, value.array, value.attrs), out)
        elif kind is pandas.RangeIndex:
            out(b"range")
            self.many((value.name, value.start, value.stop, value.step), out)
        elif kind is pandas.MultiIndex:
            out(b"levels")
            self.many((list(value.names), list(value.levels), [*map(np.asarray, value.codes)]), out)
        elif isinstance(value, pandas.Index):
            out(b"index" + text(kind.__name__) + text(str(getattr(value, "freqstr", None))))
            self.many((value.name, value.array), out)
        elif isinstance(value, pandas.Categorical):
            out(b"categories" + self.encode(value.ordered))
            self.many((value.categories, np.asarray(value.codes)), out)
        elif isinstance(value, pandas.api.extensions.ExtensionArray):
            out(b"column" + text(kind.__name__) + text(repr(value.dtype)))
            plain = isinstance(value, pandas.arrays.NumpyExtensionArray) or isinstance(value.dtype, np.dtype)
            self.many((np.asarray(value) if plain else list(value),), out)
        else:
            return False
        return True


def text(value: str) -> bytes:
    """A text, after its length."""
    data = value.encode("utf-8", "surrogatepass")
    return b"s%d:" % len(data) + data


def pickled(value: Any) -> Any:
    """What pickle would write of an object."""
    how = copyreg.dispatch_table.get(type(value))
    return value.__reduce_ex__(4) if how is None else how(value)


def package_of(kind: type) -> str:
    """The package that a class says it is from; some of compiled modules do not say it as a text."""
    return str(kind.__module__).partition(".")[0]


def _is_plain(kind: type) -> bool:
    if package_of(kind) == "pandas":
        return kind.__name__ in _PANDAS
    return (kind.__module__, kind.__qualname__) in _PLAIN


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return (
        torch is not None
        and type(value) in (torch.Tensor, torch.nn.Parameter)
        and value.layout == torch.strided
        and not value.is_quantized
        and value.device.type != "meta"
    )


_SCALARS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"n",
    bool: lambda value: b"T" if value else b"F",
    str: text,
    bytes: lambda value: b"b%d:" % len(value) + value,
    # in base 16, which has no limit
    int: lambda value: b"i%x;" % value,
    float: lambda value: b"d" + struct.pack("<d", value),
    type(Ellipsis): lambda _: b"e",
    type(NotImplemented): lambda _: b"N",
}
_CONTAINERS: dict[type, Callable[[Content, Any, Out], None]] = {
    list: Content._sequence,
    tuple: Content._sequence,
    set: Content._set,
    frozenset: Content._set,
    dict: Content._mapping,
    FrozenDict: Content._mapping,
}
