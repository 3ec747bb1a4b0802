"""A runtime from another package: one file and one entry point."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from altlas_flow.errors import SpecError
from altlas_flow.models.runtimes import runtime_class, runtime_names
from altlas_flow.models.spec import ModelSpec

RUNTIME = """
from altlas_flow.models.runtimes.base import Prepared

class Reverser:
    known_parameters = frozenset()
    def __init__(self, spec, *, device="cpu"): self.spec = spec
    def check_parameters(self, parameters): assert not parameters
    def load(self): self.loaded = True
    def prepare(self, rows, parameters): return Prepared(list(rows))
    def predict(self, items, parameters): return [item[::-1] for item in items]
    def output_types(self): return None
    def unload(self): self.loaded = False
    def memory(self): return 1
"""


def test_another_package_brings_a_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reversing.py").write_text(RUNTIME)
    info = tmp_path / "reversing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: reversing\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[altlas_flow.runtimes]\nreverse = reversing:Reverser\n")
    with pytest.raises(SpecError, match="no runtime 'reverse'"):
        runtime_class("reverse")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    try:
        assert "reverse" in runtime_names()
        with ModelSpec(id="r", runtime="reverse", source="anything").load(device="cpu") as model:
            assert model.predict(["abc", "de"]) == ["cba", "ed"]
    finally:
        runtime_class.cache_clear()
