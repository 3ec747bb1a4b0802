"""The shape of the package: what imports what, how fast, and what every error has in common."""

from __future__ import annotations

import importlib
import inspect
import json
import pickle
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

import altlas_flow
from altlas_flow import errors

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "transformers", "pandas")
#: Seconds that `import altlas_flow` may take beyond `import distributed`.
IMPORT_LIMIT = 0.3


def fresh(code: str) -> str:
    """What `code` prints in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_takes_little_beyond_distributed():
    # The best of several: what else the machine does can only add.
    code = (
        "import time, distributed; start = time.perf_counter();"
        "import altlas_flow; print(time.perf_counter() - start)"
    )
    assert min(float(fresh(code)) for _ in range(5)) <= IMPORT_LIMIT


@pytest.mark.parametrize(
    "module",
    [
        "altlas_flow",
        "altlas_flow.cluster.scheduler.control",
        "altlas_flow.cluster.worker.plugin",
        "altlas_flow.cli",
    ],
)
def test_neither_client_nor_scheduler_side_load_what_is_heavy(module):
    code = f"import sys, json, {module}; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    assert json.loads(fresh(code)) == []


def test_all_public_names_are_sorted_and_importable():
    names = altlas_flow.__all__
    assert list(names) == sorted(set(names))
    for name in names:
        assert getattr(altlas_flow, name) is not None
    assert set(names) <= set(dir(altlas_flow))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = altlas_flow.no_such_name


def test_every_module_of_the_package_can_be_imported():
    package = ROOT / "altlas_flow"
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(ROOT).with_suffix("")
        parts = relative.parts[:-1] if relative.name == "__init__" else relative.parts
        if relative.name != "__main__":
            importlib.import_module(".".join(parts))


def test_every_entry_point_loads_and_the_group_for_dask_has_its_name():
    given = [
        point for point in distribution("altlas-flow").entry_points if point.value.startswith("altlas_flow.")
    ]
    assert {"console_scripts", "dask_cli", "altlas_flow.runtimes"} == {point.group for point in given}
    for point in given:
        loaded = point.load()
        if point.group == "dask_cli":
            # Dask goes by the command's own name, not by that of the entry point
            assert (type(loaded).__name__, loaded.name) == ("Group", point.name)


def test_imports_go_down_the_layers_only():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as run; run()",
            "--no-logo",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def samples() -> list[errors.AltlasError]:
    """One of each error, with text that has line breaks in it."""
    special = {
        errors.UnknownModel: ("minilm", ("a", "b")),
        errors.ModelConflict: ("minilm",),
        errors.ModelLoadError: ("minilm", "tcp://127.0.0.1:1", "no\nfile"),
        errors.PredictError: ("minilm", "bad\ninput"),
        errors.MissingColumn: ("text", ("a", "b")),
        errors.BadRow: ("part.0:3", "predict", "minilm", "bad\nrow"),
        errors.NodeLost: ("gpu-1", "died", (0, 3), (0, 1, 3)),
        errors.NoEligibleNode: ("minilm", {"node": "no\nGPU"}),
        errors.NoModelFits: ("summarise", {"large": "too\nslow"}),
        errors.NothingServes: ("sumarise", ("summarise", "a\ntask")),
        errors.NoQuorum: (1, 2, {"minilm": "no\ntime"}),
        errors.Uncombinable: (("minilm", "bge"), "text\nand a number"),
        errors.NodeFault: ("gpu-1", "out of\nmemory"),
        errors.StageFailed: ("hear", "no\nsound"),
        errors.TargetUnreachable: ("quality", 0.95, 0.9),
        errors.AggregationFailed: ("vote(key=)", "KeyError:\n'label'"),
    }
    classes = [
        value
        for _, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, errors.AltlasError)
    ]
    assert set(special) <= set(classes)
    return [kind(*special.get(kind, (f"{kind.__name__}\nhappened",))) for kind in classes]


@pytest.mark.parametrize("error", samples(), ids=lambda error: type(error).__name__)
def test_every_error_pickles_and_is_one_line(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert again.args == error.args
    assert vars(again) == vars(error)
    assert str(again) == str(error)
    assert str(error)
    assert "\n" not in str(error)
    assert isinstance(error, errors.AltlasError)


def test_the_tree_at_the_top_of_the_errors_names_each_of_them():
    for error in samples():
        assert type(error).__name__ in (errors.__doc__ or "")


def test_no_module_has_grown_out_of_one_sitting():
    for path in sorted((ROOT / "altlas_flow").rglob("*.py")):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 450, f"{path.relative_to(ROOT)} has {lines} lines: split it"
