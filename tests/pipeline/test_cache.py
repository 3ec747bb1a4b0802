"""Answers that are kept: what they count for, and that they come back as what they were."""

from __future__ import annotations

import enum
import gc
import json
import tracemalloc
from collections import OrderedDict, namedtuple
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import altlas_flow as af
from altlas_flow.pipeline.cache import ABSENT, Cache, Folder, Memory
from altlas_flow.records.jsonable import same
from tests.ids import spoken

pytestmark = pytest.mark.timeout(60)

KEY = "ab" * 32
MIB = 2**20


class Box:
    """An answer of a type of the user's own."""

    def __init__(self, held):
        self.held = held

    def __eq__(self, other):
        return type(other) is Box and same(self.held, other.held)


class Colour(enum.IntEnum):
    RED = 1


class Word(str):
    __slots__ = ()


class Marked(np.ndarray):
    pass


Point = namedtuple("Point", "x y")


def alike(left, right):
    """Whether two values are equal, and of the same types all through."""
    if type(left) is not type(right):
        return False
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(alike, left, right))
    if isinstance(left, dict):
        return alike(list(left), list(right)) and alike(list(left.values()), list(right.values()))
    return same(left, right)


@pytest.mark.parametrize(
    "make",
    [
        lambda at: Box(bytes(MIB)),
        lambda at: {"held": Box(bytearray(MIB))},
        lambda at: np.array([str(at) * MIB, None], dtype=object)[:1],
        lambda at: np.zeros(MIB, np.uint8),
        lambda at: np.zeros((2, MIB))[:, :65_536][:1].view(np.uint8)[:, : MIB // 2],
        lambda at: pa.table({"a": np.zeros(MIB, np.uint8)}),
        lambda at: [bytes(MIB // 16)] * 16,
    ],
    ids=["object", "nested", "objects", "array", "view", "table", "shared"],
)
def test_memory_counts_what_it_holds(make):
    room = 8 * MIB
    memory = Memory(room)
    tracemalloc.start()
    try:
        for at in range(40):
            memory.put(str(at), make(at))
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    kept = [at for at in range(40) if memory.get(str(at)) is not ABSENT]
    assert kept and kept == list(range(kept[0], 40))
    assert held < 1.1 * room


def test_memory_counts_its_small_answers_too():
    room = MIB
    memory = Memory(room)
    tracemalloc.start()
    try:
        for at in range(8_000):
            memory.put(f"{at:064d}", at / 3)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert memory.get(f"{7_999:064d}") == 7_999 / 3 and memory.get(f"{0:064d}") is ABSENT
    assert held < 1.1 * room


ANSWERS = [
    None,
    True,
    -0.0,
    "text",
    b"bytes",
    (1, 2),
    [(1, "a"), [2, ("b",)]],
    {"a": (1,), "b": [b"x"]},
    {1: (2,), None: 3, (4, 5): [6]},
    {"$tuple": [1]},
    (),
    bytearray(b"raw"),
    Colour.RED,
    {"a": Colour.RED},
    {Colour.RED: 1},
    Word("w"),
    Path("a"),
    Point(1, 2),
    OrderedDict(a=1),
    np.arange(6.0).reshape(2, 3),
    np.float32(1.5),
    np.str_("x"),
    [np.int64(3), {"a": np.array(["x", "yz"])}],
    np.array(2),
    np.arange(3).view(Marked),
    np.array(["a", None], dtype=object),
    pa.array([1, None]),
    Box([1, (2,)]),
    {1, 2},
    af.File("/a/clip.wav"),
]


@pytest.mark.parametrize("answer", ANSWERS, ids=spoken)
def test_an_answer_that_is_kept_is_of_the_types_that_it_was(tmp_path, answer):
    folder, room = str(tmp_path), 10_000
    Cache(Memory(room), Folder(folder)).put(KEY, answer)
    on_disk = Cache(Memory(room), Folder(folder)).get(KEY)
    assert on_disk is ABSENT or alike(on_disk, answer)
    cache = Cache(Memory(room), None)
    cache.put(KEY, answer)
    assert alike(cache.get(KEY), answer)


@pytest.mark.parametrize(
    "answer", [(1, 2), {"a": [(1, b"x")]}, {(1, 2): 3}, [np.float32(1), {"$tuple": ()}]], ids=spoken
)
def test_tuples_are_kept_on_disk_as_tuples(tmp_path, answer):
    Folder(str(tmp_path)).put(KEY, answer)
    assert alike(Folder(str(tmp_path)).get(KEY), answer)


PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5), st.binary()
)
NESTED = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(PLAIN, st.sampled_from(["$tuple", "$dict", "$pairs"])), inner, max_size=3),
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(NESTED)
def test_what_is_nested_comes_back_from_disk_as_it_was(tmp_path_factory, answer):
    folder = Folder(str(tmp_path_factory.getbasetemp() / "nested"))
    key = f"{json.dumps(repr(answer)).encode().hex():0>64}"[-64:]
    folder.put(key, answer)
    for file in Path(folder._path).rglob(f"{key[2:]}.json"):
        assert alike(folder.get(key), answer)
        file.unlink()
        return
    raise AssertionError("it was not kept")


def test_whoever_gets_an_answer_may_write_into_it():
    cache = Cache(Memory(), None)
    given_in, array = [1, [2]], np.arange(3)
    for key, answer in (("a", given_in), ("b", array)):
        cache.put(key, answer)
        answer[0] = 7
        cache.get(key)[1] = 9
    assert cache.get("a") == [1, [2]]
    assert cache.get("b").tolist() == [0, 1, 2]
