"""The docstring search: what it gathers, that nothing is done twice, and what it answers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import altlas_flow as af
from altlas_flow.errors import OutputNotWritable, SourceError, StageFailed
from pipelines import docsearch, docstrings
from pipelines.docstrings import gather, read_docstrings

ROOT = Path(__file__).resolve().parents[2]

SOURCE = '''
"""The module."""
import does_not_exist

class Outer:
    """A class."""

    class Inner:
        """A class in a class."""

    async def method(self):
        """A method.

            Indented.
        """
        def local():
            """Within a function: it has no name to be found by."""

if True:
    def chosen():
        """Depends."""
else:
    def other():
        """Depends the other way."""

try:
    pass
except ImportError:
    def fallback():
        """A fallback."""

def silent():
    return "not a docstring"

def empty():
    """  """
'''


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A small site-packages folder."""
    root = tmp_path / "site-packages"
    files = {
        "alpha/__init__.py": '"""Alpha joins tables."""\n',
        "alpha/core.py": '"""Shared text."""\n'
        'def _hidden():\n    """Hidden."""\ndef shown():\n    """Shown."""\n',
        "alpha/tests/test_core.py": '"""A test."""\n',
        "alpha/conftest.py": '"""Fixtures."""\n',
        "alpha/broken.py": "def (:\n",
        "alpha/nul.py": "x = '\0'\n",
        "alpha/escapes.py": '"""An invalid escape: \\d."""\n',
        "alpha/surrogate.py": '"""A lone \\ud800 surrogate."""\n',
        "alpha/not-a-module.py": '"""A script."""\n',
        "alpha/data.txt": '"""No source."""\n',
        "alpha-1.0.dist-info/x.py": '"""Metadata."""\n',
        "beta.py": '"""Shared text."""\ndef only():\n    """Only in beta."""\n',
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (root / "alpha" / "dangling.py").symlink_to(root / "nowhere.py")
    return root


def test_modules_classes_methods_and_functions_are_read_under_their_qualified_names():
    found = list(read_docstrings(SOURCE.encode(), "pkg.mod", "pkg/mod.py"))
    assert [(doc.name, doc.kind) for doc in found] == [
        ("pkg.mod", "module"),
        ("pkg.mod.Outer", "class"),
        ("pkg.mod.Outer.Inner", "class"),
        ("pkg.mod.Outer.method", "function"),
        ("pkg.mod.chosen", "function"),
        ("pkg.mod.other", "function"),
        ("pkg.mod.fallback", "function"),
    ]
    assert found[3].text == "A method.\n\nIndented."
    assert SOURCE.splitlines()[found[3].line - 1].strip() == "async def method(self):"


def test_what_is_gathered_is_each_text_once_from_sources_that_parse(installed):
    table = gather([installed])
    assert table.schema == docstrings.SCHEMA
    assert table.column("name").to_pylist() == [
        "alpha",
        "alpha.core",
        "alpha.core._hidden",
        "alpha.core.shown",
        "alpha.escapes",
        "alpha.surrogate",
        "beta.only",
    ]
    assert table.column("file").to_pylist()[-1] == "beta.py"
    assert table.column("text").to_pylist()[5] == "A lone ? surrogate."
    assert gather([installed]).equals(table)
    assert gather([installed], packages=["beta"]).column("name").to_pylist() == ["beta", "beta.only"]


def test_a_limit_takes_public_names_first_and_spreads_them(installed):
    assert gather([installed], limit=6).column("name").to_pylist() == [
        "alpha",
        "alpha.core",
        "alpha.core.shown",
        "alpha.escapes",
        "alpha.surrogate",
        "beta.only",
    ]
    assert gather([installed], limit=3).column("name").to_pylist() == [
        "alpha",
        "alpha.core.shown",
        "alpha.surrogate",
    ]
    assert gather([installed], limit=100).num_rows == 7


def test_no_docstrings_is_an_error(installed, tmp_path):
    with pytest.raises(SourceError, match="no docstrings found in gamma"):
        gather([installed], packages=["gamma"])
    with pytest.raises(SourceError, match="the installed packages"):
        gather([tmp_path])


def test_only_installed_packages_are_looked_at(installed, tmp_path):
    paths = [str(tmp_path), "", str(installed), str(tmp_path / "no" / "site-packages")]
    assert docstrings.site_packages(paths) == [installed]
    assert docstrings.site_packages()


def test_files_that_would_be_the_same_keep_their_time_of_change(installed, tmp_path):
    folder = tmp_path / "out"
    paths = docsearch.write_input(gather([installed]), folder)
    assert [path.name for path in paths] == ["alpha.parquet", "beta.parquet"]
    before = {path: path.stat().st_mtime_ns for path in paths}
    (installed / "beta.py").write_text('"""Changed."""\n')
    docsearch.write_input(gather([installed]), folder)
    after = {path: path.stat().st_mtime_ns for path in paths}
    assert after[paths[0]] == before[paths[0]]
    assert after[paths[1]] != before[paths[1]]
    docsearch.write_input(gather([installed], packages=["alpha"]), folder)
    assert [path.name for path in folder.iterdir()] == ["alpha.parquet"]


def test_a_folder_that_cannot_be_written_is_an_error_that_says_what_to_do(installed, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputNotWritable, match="choose another folder with --to"):
        docsearch.write_input(gather([installed]), tmp_path / "file" / "below")


def embedded_by_hand(folder: Path, texts: list[str]) -> Path:
    """What `embed` writes, made without a cluster."""
    vectors = np.asarray(docsearch.model_spec("minilm").load().predict(texts), dtype=np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    rows = range(len(texts))
    table = pa.table(
        {
            "name": [f"package.f{row}" for row in rows],
            "kind": ["function"] * len(texts),
            "file": ["package.py"] * len(texts),
            "line": pa.array(rows, pa.int32()),
            "text": texts,
            "embedding": lists,
        }
    )
    (folder / "embedded").mkdir(parents=True)
    # two parts, so that the order over parts counts too
    pq.write_table(table[:2], folder / "embedded" / "part-0.parquet")
    pq.write_table(table[2:], folder / "embedded" / "part-1.parquet")
    (folder / "embedded" / "_manifest").write_text("{}\n")
    (folder / "_model.json").write_text('{"model": "minilm"}')
    return folder / "embedded"


TEXTS = [
    "Merge two DataFrames on a key.\n\nLike a database join.",
    "Compute the sine.",
    "Open a [file].",
    "Sort rows.",
]


def test_the_nearest_come_first_with_their_first_lines(flow, tmp_path):
    embedded = embedded_by_hand(tmp_path, TEXTS)
    joins, trigonometry = docsearch.search(
        flow, ["join tables", "Compute the sine."], embedded, docsearch.model_spec("minilm"), top=3
    )
    assert (joins[0].name, joins[0].summary) == ("package.f0", "Merge two DataFrames on a key.")
    assert len(joins) == 3
    assert [hit.score for hit in joins] == sorted((hit.score for hit in joins), reverse=True)
    assert trigonometry[0].name == "package.f1"
    assert trigonometry[0].score == pytest.approx(1, abs=1e-5)


def test_rows_pass_through_the_stages_and_have_the_vectors_that_the_model_gives(flow, tmp_path):
    texts = [*TEXTS, "Merge two\n\n   DataFrames\ton a key.\n\nLike a database join.  "]
    source = tmp_path / "docstrings"
    source.mkdir()
    pq.write_table(pa.table({"text": texts}), source / "package.parquet")
    spec = docsearch.model_spec("minilm")
    summary = docsearch.embed(flow, source, tmp_path / "embedded", spec)
    assert [(stage.name, stage.rows) for stage in summary.stages.stages] == [
        ("read", 5),
        ("embed", 5),
        ("index", 5),
    ]
    column = pq.read_table(tmp_path / "embedded").column("embedding")
    assert column.type == pa.list_(pa.float32(), 384)
    found = np.asarray(column.to_pylist())
    assert np.allclose(found, spec.load().predict(texts), atol=1e-5)
    assert np.allclose(found[0], found[4], atol=1e-5), "how a text is laid out changes nothing"


def test_what_is_indexed_has_length_1_and_nothing_stays_nothing():
    long, none = docsearch.unit([np.array([3.0, 4.0]), np.zeros(2)])
    assert long.tolist() == pytest.approx([0.6, 0.8]) and none.tolist() == [0, 0]
    assert long.dtype == np.float32


def test_vectors_of_another_model_are_told_apart_in_one_line(flow, tmp_path):
    embedded = embedded_by_hand(tmp_path, TEXTS)
    spec = af.ModelSpec(id="three-numbers", source=lambda rows: np.ones((len(rows), 3), np.float32))
    with pytest.raises(StageFailed, match=r"stage 'search' failed: .* 384 numbers, but the model makes 3"):
        docsearch.search(flow, ["anything"], embedded, spec)


def test_show_prints_both_pipelines():
    done = invoke("--show")
    assert done.exit_code == 0
    first, second = done.output.split("flowchart LR")[1:]
    assert [re.findall(r'"(\w+)<br/>', chart) for chart in (first, second)] == [
        ["read", "embed", "index"],
        ["read", "embed", "search"],
    ]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(docsearch.main, arguments, catch_exceptions=False)


def test_a_query_searches_what_is_there(tmp_path):
    embedded_by_hand(tmp_path, TEXTS)
    done = CliRunner().invoke(
        docsearch.main, ["--to", str(tmp_path), "--query", "open a document", "--top", "2"]
    )
    assert done.exit_code == 0, done.output
    assert "package.f2" in done.output.split("what it says")[1].splitlines()[1]
    assert "Open a [file]." in done.output


def test_a_query_where_nothing_is_embedded_is_one_line_and_exit_code_2(tmp_path):
    for given in ([], ["--model", "minilm"]):
        done = invoke("--to", str(tmp_path), "--query", "anything", *given)
        assert done.exit_code == 2
        assert done.output.startswith("Error: nothing is embedded in ")
        assert "without --query" in done.output
        assert len(done.output.splitlines()) == 1


@pytest.mark.long
def test_it_runs_as_a_file_and_gathers_the_same_twice(tmp_path):
    command = [sys.executable, str(ROOT / "pipelines" / "docsearch.py"), "--gather-only", "--limit", "50"]
    seen = []
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        assert "50 docstrings in docsearch/docstrings" in done.stdout
        seen.append({path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")})
    assert set(seen[0]) == {f"{package}.parquet" for package in docsearch.SLICE_PACKAGES}
    assert seen[0] == seen[1]


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_second_run_embeds_nothing_again_and_a_query_answers(tmp_path):
    parts = []
    for _ in range(2):
        done = invoke("--to", str(tmp_path), "--limit", "24", "--workers", "2")
        assert done.exit_code == 0, done.output
        assert "24 docstrings" in done.output
        # what the stages took, where there was anything to do
        assert ("pipeline docsearch: 24 rows in " in done.output) == (not parts)
        for question in docsearch.EXAMPLES:
            assert question in done.output
        parts.append({path.name: path.stat().st_mtime_ns for path in (tmp_path / "embedded").glob("part-*")})
    assert parts[0] == parts[1]
    assert parts[0]
    assert pq.read_table(tmp_path / "embedded").num_rows == 24
    done = invoke("--to", str(tmp_path), "--query", "read a file", "--top", "4")
    assert done.exit_code == 0, done.output
    assert len(re.findall(r"^-?\d\.\d{3}  ", done.output, re.MULTILINE)) == 4
