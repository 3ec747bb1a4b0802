"""Laws of digests: what does something else has another one, and what does the same has the same."""

from __future__ import annotations

import functools
import importlib
import json
import math
import operator
import subprocess
import sys
import threading
import types
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Optional

import cloudpickle
import numpy as np
import pandas as pd
import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, field_validator, validate_call

from altlas_flow.models.digest import digest_callable
from altlas_flow.pipeline.step import validator_digest


def base(row: float) -> float:
    return row


def by_wraps(number: float) -> Any:
    @functools.wraps(math.sqrt)
    def inner(row: float) -> float:
        return math.sqrt(row) * number

    return inner


class Times:
    def __init__(self, function: Any, number: Any) -> None:
        functools.update_wrapper(self, function)
        self.function, self.number = function, number

    def __call__(self, row: float) -> float:
        return self.function(row) * self.number

    def method(self, row: float) -> float:
        return row


class Slots:
    __slots__ = ("number",)

    def __init__(self, number: Any) -> None:
        self.number = number


def by_class(number: Any) -> Any:
    class Made:
        @staticmethod
        def static(row: Any) -> Any:
            return row, number

    return Made


def by_wrapped_class(number: Any) -> Any:
    @functools.wraps(OrderedDict, updated=())
    class Wrapper:
        def value(self) -> Any:
            return number

    return Wrapper


def by_dispatch(number: Any) -> Any:
    @functools.singledispatch
    def found(row: Any) -> Any:
        return row

    @found.register
    def _(row: int) -> Any:
        return row + number

    return found


def by_attribute(number: Any) -> Any:
    def function(row: Any) -> Any:
        return row * function.number  # type: ignore[attr-defined]

    function.number = number  # type: ignore[attr-defined]
    return function


def by_library(number: Any) -> Any:
    import contextlib

    @contextlib.contextmanager
    def function(row: Any) -> Any:
        yield row * number

    return function


def by_annotation(number: Any) -> Any:
    def function(row: int) -> int:
        return row

    function.__annotations__ = {"row": Annotated[int, Field(gt=number)]}
    return validate_call(function)


class Text(str):
    note: Any


def by_subclass(number: Any) -> Any:
    found = Text("text")
    found.note = number
    return found


def closed(value: Any) -> Any:
    return lambda rows: [value for _ in rows]


FACTORIES = [
    by_wraps,
    functools.partial(Times, base),
    lambda number: Times(base, number).method,
    lambda number: functools.wraps(base)(functools.partial(base, number)),
    lambda number: functools.lru_cache(closed(number)),
    by_class,
    by_wrapped_class,
    lambda number: by_class(number).static,
    lambda number: staticmethod(closed(number)),
    lambda number: property(None, None, closed(number)),
    by_dispatch,
    by_attribute,
    by_library,
    by_annotation,
    by_subclass,
    Slots,
    lambda number: operator.itemgetter(number),
    lambda number: np.vectorize(closed(number)),
    lambda number: functools.partialmethod(base, number),
    lambda number: functools.cached_property(closed(number)),
    lambda number: TypeAdapter(Annotated[int, Field(gt=number)]),
    lambda number: [1, number].index,
    lambda number: types.MappingProxyType({"a": number}),
    lambda number: OrderedDict(a=number),
    lambda number: pd.Series([1, number]),
    lambda number: np.random.default_rng(number),
]


@pytest.mark.parametrize("make", FACTORIES, ids=range(len(FACTORIES)))
def test_whatever_holds_another_value_has_another_digest(make: Any) -> None:
    two, again, three = make(2), make(2), make(3)
    assert digest_callable(two) == digest_callable(again) != digest_callable(three)
    assert digest_callable(closed(two)) == digest_callable(closed(again)) != digest_callable(closed(three))
    assert digest_callable(Times(base, two)) != digest_callable(Times(base, three))


def test_a_wrapper_is_neither_what_it_wraps_nor_another_one() -> None:
    @functools.wraps(math.sqrt)
    def clipped(row: float) -> float:
        return max(100.0, row)

    found = [math.sqrt, by_wraps(2), clipped, base, Times(base, 2), functools.lru_cache(base)]
    assert len(set(map(digest_callable, found))) == len(found)


def test_functions_of_libraries_differ() -> None:
    import scipy.special

    found = [np.add, np.subtract, np.sum, np.mean, np.sin, scipy.special.expit, scipy.special.logit]
    found += [len, max, str.upper, str.lower, "a".join, "b".join, math.sin, json.dumps, json.loads, pd.concat]
    first = list(map(digest_callable, found))
    assert len(set(first)) == len(found)
    assert list(map(digest_callable, found)) == first


ARRAYS = [
    np.array(["a-b", "c"], object),
    np.array(["a", "b-c"], object),
    np.array([["a"], ["b-c"]], object),
    ["a-b", "c"],
    ["a", "b-c"],
    ("a", "b-c"),
    ["a,b", "c"],
    [["a"], "b-c"],
    pd.Series(["a-b", "c"]),
    pd.Series(["a", "b-c"]),
    pd.Series(["a", "b-c"], dtype=object),
    pd.Series(["a", "b-c"], dtype="category"),
    pd.Series(["a", "b-c"], name="n"),
    pd.Series(["a", "b-c"], index=[1, 2]),
    pd.DataFrame({"a": ["a-b", "c"]}),
    pd.DataFrame({"a": ["a", "b-c"]}),
    pd.DataFrame({"b": ["a", "b-c"]}),
    pd.DataFrame({"a": [1, 2], "b": [3, 4]}),
    pd.DataFrame({"b": [3, 4], "a": [1, 2]}),
    pd.DataFrame({"a": [1, 2], "b": [3.0, 4.0]}),
    pd.Index(["a-b", "c"]),
    pd.Index(["a", "b-c"]),
    pd.MultiIndex.from_tuples([("a", 1), ("b", 2)]),
    pd.MultiIndex.from_tuples([("a", 1), ("b", 3)]),
    pd.date_range("2020-01-01", periods=2),
    pd.date_range("2020-01-01", periods=2, tz="UTC"),
    pd.Timestamp("2020-01-01"),
    pd.NaT,
    pd.NA,
    {"x": 1, "y": 2},
    {"y": 2, "x": 1},
    {"in": {"x": 1, "y": 2}},
    {"in": {"y": 2, "x": 1}},
    {"x", "y"},
    frozenset({"x", "y"}),
    np.arange(6).reshape(2, 3),
    np.asfortranarray(np.arange(6).reshape(2, 3)),
    np.arange(6).reshape(3, 2),
    np.arange(6.0).reshape(3, 2),
    np.arange(6, dtype=">i8").reshape(3, 2),
    np.ma.masked_array([1, 2], [True, False]),
    np.ma.masked_array([1, 2], [False, False]),
    np.array([1, 2]),
    np.array(["2020", "2021"], "M8[Y]"),
    np.array([(1, 2.0)], [("a", int), ("b", float)]),
    np.array(1),
    np.int64(1),
    np.float64(1),
    1,
    1.0,
    True,
    "1",
    b"1",
    0.0,
    -0.0,
    [1],
    [1.0],
    [True],
    [],
    (),
    {},
    None,
    [None],
    10**5000,
    [10**5000],
    1 + 0j,
    OrderedDict(x=1, y=2),
    Path("a"),
    "a",
]


def test_no_two_values_have_one_digest() -> None:
    from altlas_flow.pipeline.cache import key_of

    digests = [digest_callable(value) for value in ARRAYS]
    keys = [key_of("f", {}, value) for value in ARRAYS]
    assert None not in keys
    for found in (digests, keys, [digest_callable(closed(value)) for value in ARRAYS]):
        alike = [(ARRAYS[i], ARRAYS[j]) for i in range(len(found)) for j in range(i) if found[i] == found[j]]
        assert not alike
    copies = cloudpickle.loads(cloudpickle.dumps(ARRAYS))
    assert [digest_callable(value) for value in copies] == digests
    assert [key_of("f", {}, value) for value in copies] == keys


def test_whether_equal_values_are_one_object_does_not_matter() -> None:
    one, other = ["x", 1, ("y",)], ["x", 1, ("y",)]
    assert digest_callable([one, one]) == digest_callable([one, other])
    assert digest_callable(closed((one, one))) == digest_callable(closed((one, other)))
    pair: Any = [1, None]
    for _ in range(60):
        pair = [pair, pair]  # 2 to the 60th leaves
    assert len(digest_callable(pair)) == 64


def test_values_that_hold_themselves_end() -> None:
    def ring(length: int) -> Any:
        found: list[Any] = []
        inner = found
        for _ in range(length):
            inner.append([])
            inner = inner[0]
        inner.append(found)
        return found

    assert digest_callable(ring(3)) == digest_callable(ring(3)) != digest_callable(ring(4))
    held, other = Slots(None), Slots(None)
    held.number, other.number = [held, other], [held, held]
    assert digest_callable(held) != digest_callable(other)


# ---- sets, addresses and hashes in other interpreters

PROGRAM = """
import sys, functools, threading, weakref, enum, re, logging
from dataclasses import dataclass, field
from typing import Annotated, Optional
import numpy as np
from pydantic import BaseModel, AfterValidator, field_validator, TypeAdapter, Field
from altlas_flow.models.digest import digest_callable as d
waste = [object() for _ in range(len(sys.argv[1]) * 1000)]
def check(value): return value
class Colour(enum.Enum):
    RED = "r"; BLUE = "b"
@dataclass(frozen=True)
class Point:
    x: int
    tags: frozenset = field(default_factory=frozenset)
class Inner(BaseModel):
    y: Annotated[int, AfterValidator(check)] = 3
class Model(BaseModel):
    x: Annotated[int, AfterValidator(check)]
    inner: Optional[Inner] = None
    many: list["Model"] = Field(default_factory=list)
    @field_validator("x")
    @classmethod
    def fine(cls, value): return check(value)
LOCK, LOG, WORDS, LOCAL = threading.RLock(), logging.getLogger("a"), re.compile("[ab]+"), threading.local()
points = {Point(i, frozenset({"a", "b", str(i)})) for i in range(9)}
functions = {check, len, Point, Colour.RED, (check, "a"), frozenset({check, print})}
@functools.singledispatch
def kinds(value): return value
@kinds.register
def _(value: int): return check(value)
@kinds.register
def _(value: str): return WORDS.match(value)
adapter = TypeAdapter(list[Model])
def uses(rows):
    with LOCK:
        LOG.info(rows); LOCAL.x = 1
        return kinds(rows), points, functions, Colour.BLUE, Model(x=1), adapter
class Ring:
    def one(self): return Ring, uses, self.two()
    def two(self): return Ring().one()
reference = weakref.ref(Ring)
print(*map(d, [uses, points, functions, Colour, Point, Model, kinds, adapter, Ring, Ring().one, Inner,
               np.vectorize(check), lambda: reference(), functools.cached_property(check)]))
"""


def test_digests_are_the_same_in_every_interpreter() -> None:
    found = []
    for waste in ("a", "a" * 77):
        environment = {"PYTHONHASHSEED": "random", "PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, waste],
            env=environment, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        found.append(done.stdout.split())
    assert found[0] == found[1]
    assert len(set(found[0])) == len(found[0])


def test_a_lock_has_a_digest_and_what_cannot_be_told_has_a_new_one_each_time() -> None:
    assert digest_callable(closed(threading.Lock())) == digest_callable(closed(threading.Lock()))
    made = np.frompyfunc(base, 1, 1)
    assert digest_callable(made) != digest_callable(np.frompyfunc(abs, 1, 1))


# ---- modules of the person's own


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(tmp_path))
    # what is written anew within a second, and as long, would be taken from its bytecode
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    package = tmp_path / "own_helpers"
    package.mkdir()
    (package / "__init__.py").write_text("from own_helpers import deep\nother = 1\n")

    def write(factor: int, unused: int = 0) -> Any:
        for name in [name for name in sys.modules if name.startswith("own_helpers")]:
            del sys.modules[name]
        (package / "deep.py").write_text(
            f"import own_helpers, json\nFACTOR = {factor}\ndef unused(x): return {unused}\n"
            "def scale(x): return json.loads(str(own_helpers.deep.FACTOR * x))\n"
        )
        importlib.invalidate_caches()
        return importlib.import_module("own_helpers")

    yield write
    for name in [name for name in sys.modules if name.startswith("own_helpers")]:
        del sys.modules[name]


def test_a_helper_that_is_called_through_its_module_counts(module: Any) -> None:
    def through(helpers: Any) -> Any:
        def whole(x: Any) -> Any:
            return [helpers.deep.scale(one) for one in x]

        return whole

    def of(**values: int) -> str:
        return digest_callable(through(module(**values)))

    first = of(factor=3)
    assert of(factor=3) == first
    assert of(factor=3, unused=55) == first
    assert of(factor=44) != first


# ---- validators


def made(config: Any = None, gt: int = 0, extra: int = 0) -> Any:
    class Inner(BaseModel):
        model_config = ConfigDict(**(config or {}))
        y: Annotated[int, Field(gt=gt)] = 5

    class Out(BaseModel):
        x: int
        inner: Optional[Inner] = None  # noqa: UP045

        @field_validator("x")
        @classmethod
        def check(cls, value: int) -> int:
            return value + extra

    return Out


def test_what_a_model_refuses_is_in_its_digest() -> None:
    found = [made(), made({"extra": "forbid"}), made(gt=1), made(extra=1), made({"strict": True})]
    digests = [validator_digest(one) for one in found]
    assert len(set(digests)) == len(found)
    for again in (
        [made(), made({"extra": "forbid"}), made(gt=1), made(extra=1), made({"strict": True})],
        cloudpickle.loads(cloudpickle.dumps(found)),
    ):
        assert [validator_digest(one) for one in again] == digests
    for one in found:
        one.model_validate({"x": 1, "inner": {"y": 9}})
        one.model_json_schema()
    assert [validator_digest(one) for one in found] == digests


def test_the_mode_of_a_rule_is_in_the_digest_of_a_model() -> None:
    def of(mode: Any, function: Any) -> Any:
        class Out(BaseModel):
            x: Annotated[int, AfterValidator(function)]

            @field_validator("x", mode=mode)
            @classmethod
            def check(cls, value: Any) -> Any:
                return value

        return Out

    found = [of("after", base), of("before", base), of("after", closed(1)), of("after", closed(2))]
    assert len({validator_digest(one) for one in found}) == len(found)
    assert validator_digest(of("after", closed(1))) == validator_digest(found[2])


@dataclass
class Record:
    a: Any
    b: Any = None


def test_records_and_models_are_asked_by_their_type_and_fields() -> None:
    from altlas_flow.pipeline.cache import key_of

    class Model(BaseModel):
        a: Any
        b: Any = None

    values = [Record("a-b", "c"), Record("a", "b-c"), Model(a="a-b", b="c"), Model(a="a", b="b-c")]
    assert len({key_of("f", {}, value) for value in values} - {None}) == 4
    assert key_of("f", {}, Record(1)) == key_of("f", {}, Record(1))
    assert key_of("f", {"b": 1, "a": 2}, 1) == key_of("f", {"a": 2, "b": 1}, 1)
    assert key_of("f", {}, object()) is key_of("f", {}, [threading.Lock()]) is None
