"""Files that inputs name: from allowed folders only, read whole, and never waited for."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from dask.utils import format_bytes

from altlas_flow.errors import AltlasError, FileRefused, SourceError, names, one_line
from altlas_flow.models.runtimes import runtime_class
from altlas_flow.models.spec import ModelSpec
from altlas_flow.records import File
from altlas_flow.records.file import checked_path
from altlas_flow.settings import Settings

#: Types of inputs that hold nothing else.
_PLAIN = frozenset({str, bytes, int, float, bool, type(None)})


def takes_paths(spec: ModelSpec) -> bool:
    """Whether a plain text, as an input of the model, is the path of a file."""
    return spec.task in getattr(runtime_class(spec.runtime), "path_tasks", ())


def names_files(spec: ModelSpec, inputs: Any) -> bool:
    """Whether `read_inputs` would look for files; quick, for an event loop may ask."""
    return _named(inputs if type(inputs) is list else [inputs], takes_paths(spec))


def read_inputs(spec: ModelSpec, inputs: Any, settings: Settings) -> Any:
    """A request's inputs with the files that they name as bytes; `File.on_worker` stays what it is.

    Parameters
    ----------
    spec : ModelSpec
    inputs : Any
        One input, or a list of them. A file is named by a `File`, alone or as a value of a record or tuple,
        and by a plain text where the model's task takes paths.
    settings : Settings
        Which folders are allowed, and how large a file may be.

    Raises
    ------
    FileRefused, SourceError
    """
    many = type(inputs) is list
    items, paths = inputs if many else [inputs], takes_paths(spec)
    if not _named(items, paths):
        return inputs

    def read(file: File) -> Any:
        return file if file.on_worker else read_file(file.path, settings)

    found = [_filled(item, paths, read) for item in items]
    return found if many else found[0]


def read_rows(spec: ModelSpec, rows: Sequence[Any]) -> tuple[Sequence[Any], dict[int, Exception]]:
    """As `read_inputs`, where the model runs: all files are read, and one that is not is its row's fault.

    What is allowed is this program's own setting.

    Returns
    -------
    rows : sequence
    faults : dict of int to Exception
        By position; None stands there.
    """
    paths = takes_paths(spec)
    if not isinstance(rows, (list, tuple)) or not _named(rows, paths):
        return rows, {}
    settings, found, faults = Settings.current(), list(rows), dict[int, Exception]()
    for at, row in enumerate(rows):
        try:
            found[at] = _filled(row, paths, lambda file: read_file(file.path, settings))
        except AltlasError as error:
            found[at], faults[at] = None, error
    return found, faults


def _named(items: Sequence[Any], paths: bool) -> bool:
    # types are looked at once: there are few of them, and many items
    kinds = set(map(type, items))
    if kinds <= _PLAIN:
        return paths and str in kinds
    if any(issubclass(kind, (File, str, os.PathLike) if paths else File) for kind in kinds):
        return True
    held = tuple(kind for kind in kinds if issubclass(kind, (Mapping, tuple)))
    inside = chain.from_iterable(_values(item) for item in items if isinstance(item, held))
    return bool(held) and any(issubclass(kind, File) for kind in set(map(type, inside)))


def _values(item: Any) -> Any:
    return item.values() if isinstance(item, Mapping) else item


def _filled(item: Any, paths: bool, read: Callable[[File], Any]) -> Any:
    """An input with what its files hold."""
    if paths and isinstance(item, (str, os.PathLike)):
        return read(File(os.fspath(item)))
    if isinstance(item, File):
        return read(item)
    if isinstance(item, (Mapping, tuple)) and any(isinstance(value, File) for value in _values(item)):
        if isinstance(item, Mapping):
            return {key: read(value) if isinstance(value, File) else value for key, value in item.items()}
        return tuple(read(value) if isinstance(value, File) else value for value in item)
    return item


def read_file(path: str, settings: Settings) -> bytes:
    """The bytes of a file in an allowed folder.

    Parameters
    ----------
    path : str
    settings : Settings

    Raises
    ------
    FileRefused
        Where it is in none of the allowed folders once symbolic links are followed, is no regular file, or
        is too large.
    SourceError
        Where it is missing, or cannot be read.
    """
    shown = one_line(repr(path), 200)
    try:
        real = Path(os.path.realpath(Path(checked_path(path)).expanduser()))
        folder = _allowed(real, settings.allowed_folders)
        if real in map(_real, settings.allowed_folders):
            _check_regular(os.stat(real).st_mode, shown)
        if folder is None:
            allowed = names([repr(str(one)) for one in map(_real, settings.allowed_folders)])
            raise FileRefused(
                f"{shown} is in no folder that is read from here (allowed: {allowed}): move it there, or "
                "add its folder to altlas.allowed-folders"
            )
        _check_regular(os.stat(real).st_mode, shown)
        with _opened(folder, real.relative_to(folder)) as file:
            return _content(file, shown, settings.largest_file)
    except (OSError, RuntimeError) as error:
        # a home of nobody, a loop of links, a name too long, missing rights
        why = getattr(error, "strerror", None) or one_line(error)
        raise SourceError(f"{shown} cannot be read here: {why}: check the path and its rights") from error


def _allowed(real: Path, folders: Sequence[str]) -> Path | None:
    """The allowed folder, links followed, that a path lies in."""
    for name in folders:
        folder = _real(name)
        if folder in real.parents:
            return folder
    return None


def _real(name: str) -> Path:
    """Where a folder of the setting is, links followed."""
    return Path(os.path.realpath(Path(name).expanduser()))


def _check_regular(mode: int, shown: str) -> None:
    # before it is opened: to open a device may do something
    if not stat.S_ISREG(mode):
        if stat.S_ISDIR(mode):
            raise FileRefused(f"{shown} is a folder: name a file in it")
        raise FileRefused(f"{shown} is a pipe, a socket or a device: give a regular file")


@contextmanager
def _opened(folder: Path, inside: Path) -> Iterator[int]:
    """A descriptor of a file, reached from its folder without any link.

    Whoever puts a link in the place of what has been looked at gains nothing by it.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(folder, flags | os.O_DIRECTORY)
    try:
        for at, part in enumerate(inside.parts, 1):
            # nothing waits for the other end of a pipe
            last = os.O_NONBLOCK if at == len(inside.parts) else os.O_DIRECTORY
            found = os.open(part, flags | last, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = found
        yield descriptor
    finally:
        os.close(descriptor)


def _content(descriptor: int, shown: str, largest: int) -> bytes:
    state = os.fstat(descriptor)
    _check_regular(state.st_mode, shown)
    with open(descriptor, "rb", closefd=False) as file:
        # what it says of its size may change, or be untrue, as in /proc
        content = b"" if state.st_size > largest else file.read(largest + 1)
    size = max(state.st_size, len(content))
    if size > largest:
        raise FileRefused(
            f"{shown} has {'more than ' * (size == len(content))}{format_bytes(size)}, and at most "
            f"{format_bytes(largest)} are read: raise altlas.largest-file, or cut it"
        )
    return content
