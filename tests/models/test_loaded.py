"""A model without a cluster: the same batching, within memory."""

from __future__ import annotations

import numpy as np
import pytest

from altlas_flow.errors import BadRow, InputError, ModelLoadError, ParameterError, SpecError
from altlas_flow.models.loaded import LoadedModel
from altlas_flow.models.memory import used_memory
from altlas_flow.models.spec import ModelSpec


def test_answers_come_in_order_and_a_bad_row_is_named() -> None:
    def half(rows: list[float]) -> list[float]:
        return [10 / row for row in rows]

    with ModelSpec(id="half", source=half).load() as model:
        assert model.predict([1, 2, 5]) == [10, 5, 2]
        with pytest.raises(BadRow, match=r"row 1 .*ZeroDivisionError"):
            model.predict([1, 0, 5])
        for one in ("abc", b"abc", {"a": 1}):
            with pytest.raises(InputError, match="put it into a list"):
                model.predict(one)


def test_a_batch_that_would_not_fit_into_memory_is_not_tried() -> None:
    largest = [0]

    def hungry(rows: list[int]) -> list[int]:
        largest[0] = max(largest[0], len(rows))
        block = np.ones(len(rows) * 2**20, np.uint8)  # a MiB a row, touched
        return [int(block[0]) + row for row in rows]

    globals()["_hungry"] = hungry
    spec = ModelSpec(id="hungry", runtime="function", source=f"{__name__}:_hungry")
    limit = int((used_memory() + 200 * 2**20) / 0.7)
    model = LoadedModel(spec, memory_limit=limit)
    assert model.predict(list(range(5000))) == list(range(1, 5001))
    assert 8 <= largest[0] < 512, "rows of a MiB each, and 200 MiB to go"


@pytest.mark.long
def test_out_of_memory_with_a_fixed_number_of_rows_leaves_the_search_alone() -> None:
    def small(rows: list[int]) -> list[int]:
        if len(rows) > 2:
            raise MemoryError
        return rows

    model = LoadedModel(ModelSpec(id="small", source=small))
    assert model.predict(list(range(20)), batch=8) == list(range(20))
    work = model.work([1], {})
    assert model.search(work).largest == 65_536
    assert model.predict(list(range(50))) == list(range(50))
    assert model.search(work).largest <= 4


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"runtime": "nope", "source": "x"}, SpecError, "no runtime 'nope'"),
        ({"runtime": "function", "source": "no_such_module:f"}, SpecError, "no_such_module"),
        ({"source": "/no/such/folder", "task": "feature-extraction"}, ModelLoadError, "/no/such/folder"),
    ],
)
def test_what_cannot_be_loaded_says_why(fields: dict[str, str], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ModelSpec(id="m", **fields).load()


def test_unknown_parameters_are_refused() -> None:
    def warm(rows: list[str], temperature: float = 1.0) -> list[str]:
        return rows

    with ModelSpec(id="warm", source=warm).load() as model:
        for name, hint in (
            ("nope", "remove it"),
            ("temprature", r"mean temperature=\?"),
            ("dedline", "deadline="),
        ):
            with pytest.raises(ParameterError, match=hint):
                model.predict(["a"], parameters={name: 1})
