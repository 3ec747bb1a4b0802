"""What the README and the pages under docs/ show works: all of them, found in the tree.

- The ```python blocks are run in their order, as one script, in an empty folder.
- A ```text block right after one of them is what it prints: each line of it is looked for in what the script
  printed, in order. Any number or time stands for any other, and ``...`` for anything.
- After it, in the same folder, each command line of ```console and ```bash blocks that begins with
  ``altlas-flow`` or ``dask altlas`` is run. In ```console blocks only what follows a ``$`` is a command.
- Commands that begin with ``make`` or ``python pipelines/`` take long and are not run: their targets
  and options must exist.
- ```sh blocks are commands of others (pip, kubectl), and not looked at; ```toml and ```yaml are read.

Hidden comments on the line before a block say what it needs:

``<!-- files: reviews.parquet, more/*.csv -->``
    such files are there: 40 rows with the columns ``id`` (int), ``text`` (str) and ``stars`` (int);
    Parquet, CSV or JSONL by their suffix; a ``*`` makes two files of 20 rows.
``<!-- not run: reason -->``
    it needs what a test has not, such as a cluster elsewhere. Python is compiled all the same, and the
    options of a command must exist.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
#: Those that `make test` runs, too.
SHORT = ("README.md",)
#: Every page there is: a new one is run without being named here.
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
#: What a fence may begin with; ``{...}`` is for Sphinx.
LANGUAGES = (
    "python",
    "console",
    "bash",
    "text",
    "sh",
    "toml",
    "yaml",
    "dockerfile",
    "{eval-rst}",
    "{toctree}",
)
_BLOCK = re.compile(
    r"^(?:<!--(?P<note>[^\n]*?)-->\n)?```(?P<language>\w+)[^\n]*\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a Markdown text."""

    language: str
    body: str
    note: str = ""

    @property
    def skipped(self) -> bool:
        return self.note.startswith("not run:")

    @property
    def files(self) -> list[str]:
        named = self.note.removeprefix("files:") if self.note.startswith("files:") else ""
        return [name.strip() for name in named.split(",") if name.strip()]

    @property
    def commands(self) -> list[str]:
        """Its command lines, continued lines joined, comments left out."""
        lines = self.body.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line[1:] for line in lines if line.startswith("$")]
        return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def blocks_of(text: str) -> list[Block]:
    found = [
        Block(match["language"], match["body"], (match["note"] or "").strip())
        for match in _BLOCK.finditer(text)
    ]
    for block in found:
        assert not block.note or block.skipped or block.files, f"comment not understood: {block.note!r}"
    return found


def python_of(blocks: list[Block]) -> list[Block]:
    return [block for block in blocks if block.language == "python"]


def commands_of(blocks: list[Block]) -> list[tuple[str, Block]]:
    shells = [block for block in blocks if block.language in ("console", "bash")]
    return [(command, block) for block in shells for command in block.commands]


def is_ours(command: str) -> bool:
    return command.startswith(("altlas-flow", "dask altlas"))


def has_what_runs(page: str) -> bool:
    found = blocks_of((ROOT / page).read_text(encoding="utf-8"))
    ours = any(is_ours(command) and not block.skipped for command, block in commands_of(found))
    return ours or any(not block.skipped for block in python_of(found))


def param(page: str) -> object:
    """Pages that start a cluster take long."""
    marks = [pytest.mark.long] if page not in SHORT and has_what_runs(page) else []
    return pytest.param(page, marks=marks)


@pytest.fixture(scope="module", params=[param(page) for page in PAGES])
def blocks(request: pytest.FixtureRequest) -> list[Block]:
    page = ROOT / request.param
    assert page.is_file(), f"there is no {request.param}"
    return blocks_of(page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, blocks: list[Block]) -> Path:
    """A folder with the files that the blocks ask for, in which all of them run."""
    folder = tmp_path_factory.mktemp("page")
    for name in sorted({name for block in blocks for name in block.files}):
        write_files(folder, name)
    return folder


def write_files(folder: Path, name: str) -> None:
    rows = pd.DataFrame(
        {
            "id": range(40),
            "text": [f"The {word} arrived {count} days late." for count in range(10) for word in WORDS],
            "stars": [1 + row % 5 for row in range(40)],
        }
    )
    parts = [("0", rows[:20]), ("1", rows[20:])] if "*" in name else [("", rows)]
    for label, part in parts:
        path = folder / name.replace("*", label)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            part.to_parquet(path)
        elif path.suffix == ".csv":
            part.to_csv(path, index=False)
        elif path.suffix == ".jsonl":
            part.to_json(path, orient="records", lines=True)
        else:
            raise AssertionError(f"no such file can be made: {name}")


WORDS = ("parcel", "train", "letter", "answer")


def environment() -> dict[str, str]:
    """With the commands of this environment first."""
    bin_folder = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": bin_folder + os.pathsep + os.environ.get("PATH", "")}


def execute(command: list[str], folder: Path, timeout: float = 240) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def test_the_readme_has_blocks_of_both_kinds():
    check_kinds(blocks_of((ROOT / "README.md").read_text(encoding="utf-8")))


def check_kinds(blocks: list[Block]) -> None:
    assert [block for block in python_of(blocks) if not block.skipped], "no ```python block that runs"
    assert [c for c, block in commands_of(blocks) if is_ours(c) and not block.skipped], "no command that runs"


@pytest.mark.timeout(300)
def test_python_blocks_and_commands_run(blocks, folder):
    parts = [block.body for block in python_of(blocks) if not block.skipped]
    if parts:
        script = folder / "page.py"
        script.write_text("\n".join(parts), encoding="utf-8")
        check_output(shown_by(blocks), execute([sys.executable, script.name], folder))
    for command, block in commands_of(blocks):
        if is_ours(command) and not block.skipped:
            execute(["bash", "-c", f"set -euo pipefail\n{command}"], folder)


def shown_by(blocks: list[Block]) -> list[str]:
    """Lines that the pages say are printed."""
    return [
        line
        for before, block in pairwise(blocks)
        if block.language == "text" and before.language == "python" and not before.skipped
        for line in block.body.splitlines()
        if line.strip()
    ]


def check_output(shown: list[str], printed: str) -> None:
    left = iter([plain(line) for line in printed.splitlines()])
    for line in shown:
        wanted = re.escape(plain(line)).replace(re.escape("..."), ".*")
        assert any(re.fullmatch(wanted, there) for there in left), f"not printed: {line}\n\n{printed[-3000:]}"


def plain(line: str) -> str:
    """A line with its blanks made one, and all numbers and times alike."""
    numbered = re.sub(r"(?<!\w)-?\d+(,\d{3})*(\.\d+)?(e[+-]?\d+)?\b", "0", " ".join(line.split()))
    return re.sub(r"\b0 (ms|µs|s|min)\b", "0 s", numbered)


def test_python_blocks_that_are_not_run_compile(blocks):
    for block in python_of(blocks):
        compile(block.body, "a page", "exec")


def test_files_that_are_shown_can_be_read(blocks):
    for block in blocks:
        if block.language == "toml":
            assert tomllib.loads(block.body)
        elif block.language == "yaml":
            assert list(yaml.safe_load_all(block.body))


def test_nothing_of_ours_is_in_blocks_that_are_not_looked_at(blocks):
    for block in blocks:
        if block.language == "sh":
            assert not re.search(r"^\s*(altlas-flow|dask altlas|python|make) ", block.body, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_of_a_kind_that_is_looked_at(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    opened = ""
    for number, line in enumerate(text.splitlines(), 1):
        if not re.match(r"\s*(```|~~~)", line):
            continue
        if opened:
            assert line == "```", f"{page}:{number}: a block of {opened} does not end before {line}"
            opened = ""
        else:
            opened = line.removeprefix("```").strip()
            assert opened in LANGUAGES, f"{page}:{number}: {line!r} is none of {LANGUAGES}"
    assert not opened


def test_all_pages_are_looked_at():
    assert {"README.md", "docs/index.md", "docs/howto/slurm.md", "docs/reference/index.md"} <= set(PAGES)
    assert set(SHORT) <= set(PAGES)
    assert len(PAGES) == 1 + len(list((ROOT / "docs").rglob("*.md")))


def test_options_of_commands_that_are_not_run_exist(blocks, folder):
    for command, block in commands_of(blocks):
        words = shlex.split(command, comments=True)
        if is_ours(command) and block.skipped:
            size = 3 if words[0] == "dask" else 2
            check_options(words, [*words[:size], "--help"], folder)
        elif words[0].endswith("python") and len(words) > 1 and words[1].startswith("pipelines/"):
            check_options(words, [sys.executable, str(ROOT / words[1]), "--help"], folder)
        elif words[0] == "make":
            for target in (word for word in words[1:] if "=" not in word):
                assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.MULTILINE), (
                    f"the Makefile has no target {target}"
                )


def check_options(words: list[str], show_help: list[str], folder: Path) -> None:
    text = execute(show_help, folder, timeout=60)
    known = set(re.findall(r"--[a-z][a-z-]*", text))
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in known, f"{shlex.join(words)}: there is no option {word}"


EXAMPLE = """
# Title

<!-- files: a.parquet, b/*.csv -->
```python
import altlas_flow
```

<!-- not run: needs a cluster -->
```bash
altlas-flow map --model minilm \\
    --input a.parquet
# a comment
```

```console
$ altlas-flow models
minilm
```
"""


def test_blocks_are_found_with_their_comments_and_commands():
    first, second, third = blocks_of(EXAMPLE)
    assert (first.language, first.files, first.skipped) == ("python", ["a.parquet", "b/*.csv"], False)
    assert [" ".join(command.split()) for command in second.commands] == [
        "altlas-flow map --model minilm --input a.parquet"
    ]
    assert second.skipped
    assert third.commands == ["altlas-flow models"]
    assert not third.skipped


def test_a_text_without_blocks_has_none_and_would_fail():
    with pytest.raises(AssertionError, match="no ```python block"):
        check_kinds(blocks_of("# Title\n\nText only.\n"))


def test_a_comment_that_is_not_understood_is_an_error():
    with pytest.raises(AssertionError, match="not understood"):
        blocks_of("<!-- skip -->\n```python\nprint(1)\n```\n")


def test_what_a_page_says_is_printed_has_to_be_printed():
    blocks = blocks_of(
        "```python\nprint(1)\n```\n\nIt prints\n\n```text\ntook 1.5 ms, ... rows\n\nend\n```\n"
    )
    assert shown_by(blocks) == ["took 1.5 ms, ... rows", "end"]
    check_output(shown_by(blocks), "first\ntook  12 ms, all 7 rows\nmore\nend\n")
    with pytest.raises(AssertionError, match="not printed: end"):
        check_output(shown_by(blocks), "end\ntook 12 ms, all 7 rows\n")
