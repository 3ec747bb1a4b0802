"""The texts of a benchmark: any Parquet, CSV or JSONL file, sampled with a seed, the same for all."""

from __future__ import annotations

import ast
import glob
import math
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path


class BadTexts(ValueError):
    """The texts cannot be read; the text says what to do."""


def read(path: str, column: str) -> list[str]:
    """The non-null strings of one column.

    Parameters
    ----------
    path : str
        A file, a folder of Parquet files, or a glob; ``.parquet``, ``.csv``, ``.jsonl`` or ``.json`` (lines).
    column : str

    Raises
    ------
    BadTexts
    """
    files = sorted(glob.glob(path))
    if len(files) == 1 and Path(files[0]).is_dir():
        files = sorted(str(p) for p in Path(files[0]).glob("*.parquet"))
    if not files:
        raise BadTexts(f"no file at {path!r}: give a Parquet, CSV or JSONL file, a folder or a glob")
    texts: list[str] = []
    for file in files:
        texts += [text for text in _column(file, column) if isinstance(text, str)]
    if not texts:
        raise BadTexts(f"column {column!r} of {path!r} holds no strings")
    return texts


def sample(texts: list[str], rows: int, seed: int) -> list[str]:
    """`rows` of the texts, without replacement and in random order; all of them where there are fewer."""
    return random.Random(seed).sample(texts, min(rows, len(texts)))


def docstrings(rows: int, seed: int) -> list[str]:
    """Docstrings of the installed modules, read and not imported: real texts where none are given."""
    folder = Path(sysconfig.get_paths()["purelib"])
    files = sorted(folder.rglob("*.py"))
    random.Random(seed).shuffle(files)
    found: dict[str, None] = {}
    for file in files:
        for text in _docstrings(file):
            found.setdefault(text)
        # some more than asked for, so that a sample is not the docstrings of a few modules
        if len(found) >= 4 * rows:
            break
    return list(found)


def write(texts: list[str], folder: Path, column: str, files: int) -> None:
    """Write texts with an ``id`` (their position) as `files` Parquet files of about equal size."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    size = math.ceil(len(texts) / files)
    for number, start in enumerate(range(0, len(texts), size)):
        part = texts[start : start + size]
        table = pa.table({"id": pa.array(range(start, start + len(part)), pa.int64()), column: part})
        pq.write_table(table, folder / f"texts-{number:03d}.parquet")


def _column(file: str, column: str) -> list[object]:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    suffix = Path(file).suffix.lower()
    try:
        if suffix == ".parquet":
            return list(pq.read_table(file, columns=[column]).column(column).to_pylist())
        if suffix == ".csv":
            return list(pd.read_csv(file, usecols=[column], dtype={column: "string"})[column].dropna())
        if suffix in (".jsonl", ".json", ".ndjson"):
            return list(pd.read_json(file, lines=True)[column])
    except (KeyError, OSError, ValueError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadTexts(f"cannot read column {column!r} of {file!r}: {reason}") from error
    raise BadTexts(f"{file!r}: the name should end in .parquet, .csv or .jsonl")


def _docstrings(file: Path) -> Iterator[str]:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        # a file of another Python, or a template: there are thousands more
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text and len(text) >= 20:
                yield text
