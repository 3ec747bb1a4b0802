"""What the README and the pages beside it show works.

- The ```python blocks are run in their order, as one script, in an empty folder.
- After it, in the same folder, each command line of ```console and ```bash blocks that begins with
  ``altlas-flow`` or ``dask altlas`` is run. In ```console blocks only what follows a ``$`` is a command.
- Commands that begin with ``make`` or ``python pipelines/`` take long and are not run: their targets
  and options must exist.

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
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    pytest.param("docs/composition.md", marks=pytest.mark.long),
    pytest.param("docs/dashboard.md", marks=pytest.mark.long),
    pytest.param("docs/models.md", marks=pytest.mark.long),
    pytest.param("docs/selection.md", marks=pytest.mark.long),
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


@pytest.fixture(scope="module", params=PAGES)
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
    assert parts
    script = folder / "page.py"
    script.write_text("\n".join(parts), encoding="utf-8")
    execute([sys.executable, script.name], folder)
    for command, block in commands_of(blocks):
        if is_ours(command) and not block.skipped:
            execute(["bash", "-c", f"set -euo pipefail\n{command}"], folder)


def test_python_blocks_that_are_not_run_compile(blocks):
    for block in python_of(blocks):
        compile(block.body, "a page", "exec")


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
