"""Gather docstrings from the sources of installed packages, with `ast`: nothing is imported."""

from __future__ import annotations

import ast
import inspect
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from altlas_flow.errors import SourceError

SCHEMA = pa.schema(
    {"name": pa.string(), "kind": pa.string(), "file": pa.string(), "line": pa.int32(), "text": pa.string()}
)
_SKIPPED_FOLDERS = frozenset({"test", "tests", "testing", "__pycache__"})


@dataclass(frozen=True)
class Docstring:
    """One docstring and where it stands.

    Attributes
    ----------
    name : str
        Qualified name, such as ``pandas.core.frame.DataFrame.merge``.
    kind : str
        ``module``, ``class`` or ``function``.
    file : str
        Relative to the folder that the package is installed in.
    line : int
        Where the module, class or function begins.
    text : str
        The docstring, without the indentation of its source.
    """

    name: str
    kind: str
    file: str
    line: int
    text: str


def site_packages(paths: Iterable[str] | None = None) -> list[Path]:
    """The folders that packages are installed in, of `paths` (by default ``sys.path``), in its order."""
    folders = [Path(path) for path in (sys.path if paths is None else paths)]
    return [path for path in folders if path.name in ("site-packages", "dist-packages") and path.is_dir()]


def read_docstrings(source: bytes, module: str, file: str) -> Iterator[Docstring]:
    """The docstrings of one module: its own, and those of its classes, methods and functions.

    What is defined within a function is left out: it has no name to be found by. A source that does
    not parse has none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's sources
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    yield from _of(tree, module, "module", file, 1)
    yield from _within(tree.body, module, file)


def _within(body: Iterable[ast.stmt], owner: str, file: str) -> Iterator[Docstring]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _of(node, f"{owner}.{node.name}", "function", file, node.lineno)
        elif isinstance(node, ast.ClassDef):
            name = f"{owner}.{node.name}"
            yield from _of(node, name, "class", file, node.lineno)
            yield from _within(node.body, name, file)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            # definitions that depend on a version or on what is installed
            yield from _within(node.body, owner, file)
            yield from _within(getattr(node, "orelse", []), owner, file)
            for handler in getattr(node, "handlers", []):
                yield from _within(handler.body, owner, file)


def _of(node: Any, name: str, kind: str, file: str, line: int) -> Iterator[Docstring]:
    text = ast.get_docstring(node, clean=False)
    if text is None:
        return
    # a lone surrogate is legal in a source, but not in UTF-8
    text = inspect.cleandoc(text).encode("utf-8", "replace").decode()
    if text.strip():
        yield Docstring(name, kind, file, line, text)


def _sources(root: Path, packages: Sequence[str] | None) -> Iterator[tuple[str, str, Path]]:
    """Module name, file relative to `root`, and path of each source, in a fixed order."""
    for top in sorted(root.iterdir()):
        name = top.stem if top.suffix == ".py" else top.name
        if not name.isidentifier() or name in _SKIPPED_FOLDERS or (packages and name not in packages):
            continue
        if top.is_file():
            if top.suffix == ".py":
                yield name, top.name, top
            continue
        for folder, subfolders, files in os.walk(top):
            subfolders[:] = sorted(
                sub for sub in subfolders if sub.isidentifier() and sub not in _SKIPPED_FOLDERS
            )
            for file in sorted(files):
                path = Path(folder, file)
                if path.suffix == ".py" and path.stem.isidentifier() and not _is_test(path.stem):
                    relative = path.relative_to(root)
                    parts = relative.with_suffix("").parts
                    yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), str(relative), path


def _is_test(module: str) -> bool:
    return module == "conftest" or module.startswith("test_")


def gather(
    folders: Iterable[Path] | None = None,
    *,
    packages: Sequence[str] | None = None,
    limit: int | None = None,
) -> pa.Table:
    """The docstrings of installed packages; the same sources give the same table.

    Parameters
    ----------
    folders : iterable of Path, optional
        Where packages are installed; by default the site-packages folders of ``sys.path``.
    packages : sequence of str, optional
        Top-level packages to read; by default all.
    limit : int, optional
        Rows to keep, spread evenly over what there is, public names before private ones.

    Returns
    -------
    pyarrow.Table
        Columns ``name``, ``kind``, ``file``, ``line`` and ``text``; each text once, under the first
        of its names.

    Raises
    ------
    SourceError
        Where there are none.
    """
    found: list[Docstring] = []
    texts: set[str] = set()
    for root in site_packages() if folders is None else folders:
        for module, file, path in _sources(root, packages):
            try:
                source = path.read_bytes()
            except OSError:
                continue  # a dangling link, or a file that this user may not read: no docstrings to be had
            for docstring in read_docstrings(source, module, file):
                if docstring.text not in texts:
                    texts.add(docstring.text)
                    found.append(docstring)
    if not found:
        wanted = ", ".join(packages) if packages else "the installed packages"
        raise SourceError(f"no docstrings found in {wanted}: install packages with their sources")
    if limit is not None and limit < len(found):
        found = _spread(found, limit)
    return pa.Table.from_pylist([vars(docstring) for docstring in found], schema=SCHEMA)


def _spread(found: Sequence[Docstring], limit: int) -> list[Docstring]:
    """`limit` of the docstrings, evenly spread, public names first; in the order that they had."""
    private = [any(part.startswith("_") for part in docstring.name.split(".")) for docstring in found]
    public = [position for position, hidden in enumerate(private) if not hidden]
    others = [position for position, hidden in enumerate(private) if hidden]
    kept = _even(public, limit)
    kept += _even(others, limit - len(kept))
    return [found[position] for position in sorted(kept)]


def _even(positions: Sequence[int], count: int) -> list[int]:
    if count >= len(positions):
        return list(positions)
    return [positions[step * len(positions) // count] for step in range(count)]
