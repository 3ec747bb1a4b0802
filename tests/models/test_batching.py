"""Batches: every row gets its own outcome, in its own place."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from altlas_flow.errors import PredictError, kinds_of
from altlas_flow.models.batching import Work, cut, execute
from altlas_flow.models.runtimes.base import Prepared


class Engine:
    """A runtime that doubles numbers, fails on negative ones, and has room for so many rows."""

    def __init__(self, room: int = 10**9) -> None:
        self.room, self.batches = room, []

    def predict(self, items: Sequence[int], parameters: Mapping[str, Any]) -> list[int]:
        self.batches.append(list(items))
        if len(items) > self.room:
            raise MemoryError("full")
        if any(item < 0 for item in items):
            raise ValueError("negative")
        return [2 * item for item in items]


def run(engine: Any, works: list[Work], budget: int) -> list[int]:
    shrunk: list[int] = []
    while waiting := [work for work in works if work.waiting]:
        execute(engine, cut(waiting, budget), model="m", out_of_memory=shrunk.append)
    return shrunk


@given(st.lists(st.tuples(st.integers(-3, 100), st.integers(1, 300)), max_size=60), st.integers(1, 2000))
def test_answers_stand_where_their_rows_stood(rows: list[tuple[int, int]], budget: int) -> None:
    items = [value for value, _ in rows]
    work = Work(Prepared(items, np.array([cost for _, cost in rows], np.int64)), {})
    run(Engine(), [work], budget)
    assert work.done.is_set()
    assert set(work.result.errors) == {i for i, value in enumerate(items) if value < 0}
    for i, value in enumerate(items):
        assert value < 0 or work.result.outputs[i] == 2 * value
    assert work.result.tokens == sum(cost for _, cost in rows)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 2000))
def test_a_batch_fits_its_budget_or_is_one_row(costs: list[int], budget: int) -> None:
    work = Work(Prepared(list(range(len(costs))), np.array(costs, np.int64)), {})
    taken = []
    while work.waiting:
        batch = cut([work], budget)
        assert batch.rows == 1 or batch.rows * batch.width <= budget
        taken += [row for _, row in batch.rows_of_works()]
    assert sorted(taken) == list(range(len(costs)))


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 2000))
def test_without_padding_a_batch_holds_as_many_tokens_as_its_budget(costs: list[int], budget: int) -> None:
    work = Work(Prepared(list(range(len(costs))), np.array(costs, np.int64)), {})
    taken = []
    while work.waiting:
        batch = cut([work], budget, pads=False)
        assert batch.rows == 1 or batch.tokens <= budget
        assert not work.waiting or batch.tokens + work.next_cost() > budget
        taken += [row for _, row in batch.rows_of_works()]
    assert sorted(taken) == list(range(len(costs)))


@given(st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=6), min_size=2, max_size=6))
def test_merged_rows_never_exceed_the_budget(calls: list[list[int]]) -> None:
    works = [Work(Prepared(costs, np.array(costs, np.int64)), {}) for costs in calls]
    while waiting := [work for work in works if work.waiting]:
        batch = cut(waiting, 1024)
        assert batch.rows == 1 or batch.rows * batch.width <= 1024


def test_rows_of_several_calls_share_a_batch() -> None:
    engine = Engine()
    works = [Work(Prepared([i], None), {}) for i in range(5)]
    run(engine, works, 8)
    assert engine.batches == [[0, 1, 2, 3, 4]]
    assert [work.result.outputs for work in works] == [[0], [2], [4], [6], [8]]


def test_urgent_rows_do_not_wait_for_patient_ones_to_fill_their_batch() -> None:
    engine = Engine()
    urgent, patient = Work(Prepared([1], None), {}, priority=10), Work(Prepared([2, 3], None), {})
    batch = cut([urgent, patient], 100)
    execute(engine, batch, model="m")
    assert engine.batches == [[1]]
    assert patient.waiting == 2


def test_a_fixed_number_of_rows_is_obeyed() -> None:
    engine = Engine()
    work = Work(Prepared(list(range(10)), None), {}, rows_limit=4)
    run(engine, [work], 4)
    assert [len(batch) for batch in engine.batches] == [4, 4, 2]


def test_out_of_memory_halves_the_batch_and_no_row_is_lost() -> None:
    engine = Engine(room=3)
    work = Work(Prepared(list(range(16)), None), {})
    shrunk = run(engine, [work], 16)
    assert not work.result.errors
    assert work.result.outputs == [2 * i for i in range(16)]
    assert shrunk[0] == 16 and min(shrunk) >= 4


def test_a_row_that_fits_no_memory_alone_is_its_own_fault() -> None:
    engine = Engine(room=0)
    work = Work(Prepared([1, 2], None), {})
    run(engine, [work], 2)
    assert all(isinstance(error, MemoryError) for error in work.result.errors.values())
    assert set(work.result.errors) == {0, 1}


@pytest.mark.parametrize("count", [lambda rows: 1, lambda rows: rows // 2, lambda rows: 2 * rows - 1])
def test_a_wrong_number_of_answers_is_an_error_of_all_rows(count: Callable[[int], int]) -> None:
    class Short(Engine):
        def predict(self, items: Sequence[int], parameters: Mapping[str, Any]) -> list[int]:
            return [1] * count(len(items))

    work = Work(Prepared([1, 2, 3, 4], None), {})
    run(Short(), [work], 8)
    # alone each row might have got its one answer, and a wrong one
    assert {str(error) for error in work.result.errors.values()} == {
        f"{count(4)} answers for 4 inputs: give one for each"
    }
    assert set(work.result.errors) == {0, 1, 2, 3}


def test_a_row_that_the_model_leaves_out_fails_alone() -> None:
    class Picky(Engine):
        def predict(self, items: Sequence[int], parameters: Mapping[str, Any]) -> list[int]:
            return [item for item in items if item != 3]

    for rows in ([1, 2, 3, 4], [3, 1, 2]):
        work = Work(Prepared(rows, None), {})
        run(Picky(), [work], 8)
        assert set(work.result.errors) == {rows.index(3)}
        assert [answer for at, answer in enumerate(work.result.outputs) if rows[at] != 3] == [
            row for row in rows if row != 3
        ]


class PanicException(BaseException):
    """As libraries written in Rust raise it."""


@pytest.mark.parametrize("kind", [SystemExit, PanicException, asyncio.CancelledError, GeneratorExit])
def test_a_row_that_raises_anything_at_all_fails_alone(kind: type[BaseException]) -> None:
    class Ends(Engine):
        def predict(self, items: Sequence[int], parameters: Mapping[str, Any]) -> list[int]:
            if 3 in items:
                raise kind("a panic")
            return list(items)

    works = [Work(Prepared(rows, None), {}) for rows in ([1, 2, 3], [4, 5])]
    run(Ends(), works, 8)
    assert works[0].result.outputs[:2] == [1, 2]
    assert works[1].result.outputs == [4, 5] and not works[1].result.errors
    (error,) = works[0].result.errors.values()
    # an ordinary error, so that it ends nothing on its way, which still says what it was
    assert isinstance(error, PredictError)
    assert kind.__name__ in str(error) and kind.__name__ in kinds_of(error)


def test_a_model_that_counts_wrong_and_then_panics_ends_its_rows_with_errors() -> None:
    class Worse(Engine):
        def predict(self, items: Sequence[int], parameters: Mapping[str, Any]) -> list[int]:
            self.batches.append(list(items))
            if len(self.batches) > 1:
                raise PanicException
            return [0]

    work = Work(Prepared([1, 2, 3], None), {})
    run(Worse(), [work], 8)
    assert set(work.result.errors) == {0, 1, 2}


def test_ctrl_c_is_of_whoever_waits_in_the_main_thread() -> None:
    class Interrupted(Engine):
        def predict(self, items: Sequence[int], parameters: Mapping[str, Any]) -> list[int]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(), [Work(Prepared([1, 2], None), {})], 8)


def test_a_row_whose_error_cannot_say_what_it_is_fails_alone() -> None:
    class MuteError(RuntimeError):
        def __str__(self) -> str:
            return str(self.args[5])

    class Raises(Engine):
        def predict(self, items: Sequence[int], parameters: Mapping[str, Any]) -> list[int]:
            if 3 in items:
                raise MuteError("hm")
            return list(items)

    work = Work(Prepared([1, 2, 3, 4], None), {})
    run(Raises(), [work], 8)
    assert {row: type(error) for row, error in work.result.errors.items()} == {2: MuteError}
    assert [work.result.outputs[row] for row in (0, 1, 3)] == [1, 2, 4]


def test_arrays_of_answers_become_one_array() -> None:
    class Embeds(Engine):
        def predict(self, items: Sequence[int], parameters: Mapping[str, Any]) -> Any:
            return np.array([[item, item] for item in items], np.float32)

    work = Work(Prepared(list(range(9)), np.arange(1, 10)), {})
    run(Embeds(), [work], 10)
    assert isinstance(work.result.outputs, np.ndarray)
    assert work.result.outputs[:, 0].tolist() == list(range(9))


def test_two_slots_may_hold_batches_of_one_call() -> None:
    work = Work(Prepared(list(range(1000)), None), {})
    batches = [cut([work], 10) for _ in range(100)]
    threads = [threading.Thread(target=lambda b=batch: execute(Engine(), b, model="m")) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert work.done.wait(1)
    assert work.result.outputs == [2 * i for i in range(1000)]
    assert work.result.batches == 100


class Writer:
    """A runtime that writes into its items, then fails on bad ones."""

    def __init__(self, **said: Any) -> None:
        self.__dict__.update(said)

    def predict(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Any]:
        for item in items:
            item["n"][0] += 1
        if any(item["bad"] for item in items):
            raise ValueError("bad")
        return [int(item["n"][0]) for item in items]


@pytest.mark.parametrize("wrap", [list, np.array], ids=["list", "array"])
@pytest.mark.parametrize("calls", [1, 4])
def test_halves_begin_with_what_the_whole_batch_got(calls: int, wrap: Callable[[list[int]], Any]) -> None:
    rows = [{"n": wrap([0]), "bad": at == 5} for at in range(8)]
    size = len(rows) // calls
    works = [Work(Prepared(rows[at : at + size]), {}) for at in range(0, 8, size)]
    run(Writer(), works, 100)
    outputs = [output for work in works for output in work.result.outputs]
    assert [one for at, one in enumerate(outputs) if at != 5] == [1] * 7
    assert [len(work.result.errors) for work in works] == ([1] if calls == 1 else [0, 0, 1, 0])
    assert all(row["n"][0] == 0 for row in rows)


def test_a_runtime_that_does_not_write_gets_the_items_themselves() -> None:
    rows = [{"n": [0], "bad": False}]
    run(Writer(writes=False), [Work(Prepared(rows), {})], 100)
    assert rows[0]["n"] == [1]


def test_answers_of_one_object_are_apart_and_not_what_the_function_kept() -> None:
    kept: dict[str, Any] = {"n": [0]}

    class Same(Engine):
        def predict(self, items: Sequence[int], parameters: Mapping[str, Any]) -> list[Any]:
            kept["n"][0] += 1
            return [kept] * len(items)

    works = [Work(Prepared([0, 0]), {}) for _ in range(2)]
    for work in works:
        run(Same(), [work], 100)
    (first, second), (third, _) = (work.result.outputs for work in works)
    assert first == second == {"n": [1]} and third == {"n": [2]}
    first["n"].append("x")
    assert second == {"n": [1]} and kept == {"n": [2]}
