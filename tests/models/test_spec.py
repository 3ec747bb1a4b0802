"""Laws of `ModelSpec`, its fingerprint, and the digest of callables."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest

from altlas_flow.errors import SpecError
from altlas_flow.models.digest import digest_callable
from altlas_flow.models.spec import ModelSpec

FULL: dict[str, Any] = {
    "id": "m",
    "runtime": "torch",
    "source": "weights.safetensors",
    "task": "anything",
    "entry": "package.module:Class",
    "options": {"sizes": (8, 16), "nested": {"deep": {"er": 1.5}}, "count": np.int64(3)},
    "parameters": {"top": 3},
    "outputs": {"label": "string"},
    "batch": 16,
    "resources": {"GPU": 1},
    "memory": "2 GB",
    "allow": ("pickle",),
}


def factor(rows: list[int]) -> list[int]:
    return [row * 2 for row in rows]


@pytest.mark.parametrize("fields", [{"id": "m", "source": "a/b"}, FULL, {"id": "m", "source": factor}])
def test_a_spec_is_the_same_after_json_and_after_pickle(fields: dict[str, Any]) -> None:
    spec = ModelSpec(**fields)
    for _ in range(2):  # before and after the fingerprint was computed
        for other in (
            ModelSpec.model_validate_json(spec.model_dump_json()),
            ModelSpec(**json.loads(spec.model_dump_json())),
            pickle.loads(pickle.dumps(spec)),
            copy.deepcopy(spec),
            spec.model_copy(),
        ):
            assert other == spec
            assert hash(other) == hash(spec)
            assert other.fingerprint == spec.fingerprint


def test_a_callable_survives_the_way_through_json() -> None:
    number = 3
    spec = ModelSpec(id="m", source=lambda rows: [row * number for row in rows])
    again = ModelSpec.model_validate_json(spec.model_dump_json())
    assert again.callable()([1, 2]) == [3, 6]
    assert again.source == spec.source


def test_a_spec_cannot_be_changed_not_even_in_its_depth() -> None:
    spec = ModelSpec(**FULL)
    changes = [
        lambda: setattr(spec, "id", "other"),
        lambda: spec.options.update(a=1),
        lambda: spec.options["nested"]["deep"].__setitem__("er", 2),
        lambda: spec.parameters.pop("top"),
        lambda: spec.resources.setdefault("CPU", 1),
        lambda: spec.outputs.clear(),  # type: ignore[union-attr]
    ]
    before = spec.model_dump_json()
    for change in changes:
        with pytest.raises((TypeError, ValueError)):
            change()
    assert spec.model_dump_json() == before


def test_a_spec_keeps_nothing_of_what_it_was_given() -> None:
    options: dict[str, Any] = {"nested": {"a": [1]}}
    spec = ModelSpec(id="m", source="a/b", options=options)
    options["nested"]["a"].append(2)
    assert spec.options == {"nested": {"a": [1]}}


def test_a_copy_with_another_source_has_another_fingerprint(tmp_path: Path) -> None:
    spec = ModelSpec(id="m", source="a/b")
    before = spec.fingerprint
    assert spec.model_copy(update={"source": "c/d"}).fingerprint != before
    with pytest.raises(SpecError, match="batch"):
        spec.model_copy(update={"batch": 0})


@pytest.mark.parametrize(
    "change",
    [
        {"source": "other"},
        {"task": "text-classification"},
        {"revision": "v2"},
        {"options": {"max_length": 3}},
        {"parameters": {"normalize": False}},
        {"resources": {"GPU": 1}},
        {"allow": ("pickle",)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_decides_the_answer_changes_the_fingerprint(change: dict[str, Any]) -> None:
    base = {"id": "m", "source": "a/b"}
    assert ModelSpec(**{**base, **change}).fingerprint != ModelSpec(**base).fingerprint


def test_what_does_not_decide_the_answer_does_not() -> None:
    one = ModelSpec(id="m", source="a/b", options={"a": 1, "b": 2})
    other = ModelSpec(id="n", source="a/b", options={"b": 2, "a": 1}, memory=5, batch=7)
    assert one.fingerprint == other.fingerprint


def test_code_without_a_digest_is_told_apart() -> None:
    one, other = (ModelSpec(id="m", runtime="function", source="<f>", code=code) for code in ("YQ==", "Yg=="))
    assert one.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"source": "a"}, "id"),
        ({"id": "", "source": "a"}, "id"),
        ({"id": "m", "source": "a", "colour": 1}, "colour is no field: use one of"),
        ({"id": "m", "sorce": "a"}, r"model 'm': sorce is no field: did you mean source\?"),
        ({"id": "m", "source": "a", "labels": "home"}, "labels is 'home': .*: give values by name"),
        ({"id": "m", "runtime": "torch"}, "source is missing: give a folder"),
        ({"id": "m", "source": "a", "batch": 0}, "batch"),
        ({"id": "m", "source": "a", "memory": "much"}, "memory"),
        ({"id": "m", "source": "a", "resources": {"GPU": 0}}, "resource"),
        ({"id": "m", "source": "a", "allow": ("everything",)}, "allow"),
        ({"id": "m", "source": "a", "runtime": "torch"}, "entry"),
        ({"id": "m", "source": "a", "runtime": "function"}, "callable"),
        ({"id": "m", "source": "a", "options": {"x": {"y": object()}}}, r"options\.x\.y is .*JSON"),
        ({"id": "m", "source": "a", "options": {"x": float("nan")}}, "JSON"),
        ({"id": "m", "source": "a", "parameters": {3: 4}}, "parameters"),
        ({"id": "m", "source": factor, "runtime": "torch", "entry": "a:b"}, "function"),
        ({"id": "m", "source": partial(factor, Lock())}, "cannot be sent"),
    ],
)
def test_a_wrong_field_is_named_in_one_line(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(SpecError, match=text) as caught:
        ModelSpec(**fields)
    assert "\n" not in str(caught.value)


def test_a_relative_folder_is_resolved_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    assert ModelSpec(id="m", source="model").resolved().source == str(tmp_path / "model")
    assert ModelSpec(id="m", source="./none").resolved().source == str(tmp_path / "none")
    assert ModelSpec(id="m", source="some/hub-name").resolved().source == "some/hub-name"
    with pytest.raises(SpecError, match="no path"):
        ModelSpec(id="m", source="n" * 5000).resolved()
    torch = ModelSpec(id="m", runtime="torch", entry="a:b", source="none.safetensors")
    assert torch.resolved().source == str(tmp_path / "none.safetensors")
    assert ModelSpec(id="m", source=tmp_path / "model").source == str(tmp_path / "model")


def test_importing_the_model_layer_loads_nothing_heavy() -> None:
    code = (
        "import sys, altlas_flow.models.spec, altlas_flow.models.catalog, altlas_flow.models.runtimes\n"
        "import altlas_flow.models.runtimes.transformers, altlas_flow.models.runtimes.torch\n"
        "print({'torch', 'transformers', 'pandas', 'pyarrow'} & set(sys.modules))"
    )
    assert run(code) == "set()"


# --- digest_callable ---------------------------------------------------------------------------------

CELL = """
import numpy as np, json
from functools import lru_cache, partial
from json import dumps
SCALE = {scale}
class Base:
    shift = 1
class Model(Base):
    __slots__ = ("weights", "names")
    def __init__(self): self.weights, self.names = np.arange(3.0), {{"b", "a", "cc", "dd"}}
    def __call__(self, rows): return [helper(row) + self.shift for row in rows]
    @staticmethod
    def text(row): return dumps(row)
@lru_cache
def helper(row): return row * {inner}
def outer(rows, by=(1, {{"k": 2}})):
    def inside(row): return helper(row)
    return [inside(row) * SCALE + by[0] if row in {{"x", "y", "z"}} else json.loads("1") for row in rows]
def factory(number):
    return lambda rows: [row + number for row in rows]
class Plain:
    pass
item = Plain(); item.callback = outer
"""


def run(code: str, seed: str = "random") -> str:
    environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def digests(where: str = "cell", before: str = "", **values: int) -> list[str]:
    """Digests of the callables of `CELL`, run as a notebook cell in another interpreter."""
    cell = CELL.format(**{"scale": 2, "inner": 3, **values})
    code = (
        "import sys; from altlas_flow.models.digest import digest_callable as d\n"
        f"exec(compile({before + cell!r}, {where!r}, 'exec'))\n"
        "things = [outer, Model(), factory(3), partial(outer, by=2), helper, Model().__call__, Model.text]\n"
        "print(*map(d, things))\n"
        "from functools import reduce; print(d(lambda rows: item.callback(rows)))"
    )
    return run(code).split()


def test_the_same_cell_in_another_session_is_the_same_function() -> None:
    first = digests()
    assert len(set(first)) == len(first) == 8
    assert digests(where="/tmp/ipykernel_77/9.py", before="\n\n# a comment\n") == first


def test_a_changed_helper_or_global_is_a_change_wherever_it_is_read() -> None:
    first = digests()
    helper_changed = digests(inner=4)
    same = [one == other for one, other in zip(first, helper_changed, strict=True)]
    #      outer  Model() factory partial helper bound text  item
    assert same == [False, False, True, False, False, False, True, False]
    scale_changed = digests(scale=5)
    same = [one == other for one, other in zip(first, scale_changed, strict=True)]
    assert same == [False, True, True, False, True, True, True, False]


def test_defaults_and_closures_count() -> None:
    def make(number: int, by: int) -> Any:
        return lambda rows, by=by: [row + number + by for row in rows]

    assert digest_callable(make(1, 2)) == digest_callable(make(1, 2))
    assert digest_callable(make(1, 2)) != digest_callable(make(2, 2))
    assert digest_callable(make(1, 2)) != digest_callable(make(1, 3))


def test_what_an_installed_library_brings_is_known_by_its_name() -> None:
    import time

    from pandas import concat

    started = time.process_time()
    one = digest_callable(lambda rows: concat(rows))
    assert time.process_time() - started < 0.2
    assert digest_callable(lambda rows: concat(rows)) == one


def test_functions_that_call_themselves_or_each_other_end() -> None:
    def even(number: int) -> bool:
        return number == 0 or odd(number - 1)

    def odd(number: int) -> bool:
        return number != 0 and even(number - 1)

    assert digest_callable(even) != digest_callable(odd)
    assert digest_callable(len) != digest_callable(max)
