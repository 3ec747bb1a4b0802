"""`File`: an input that is the content of a file."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from altlas_flow.errors import BadRequest, FileRefused, one_line

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class File:
    """Stands for the bytes of a file, as an input or as a value of an input that is a record.

    Only files in the folders of the setting ``altlas.allowed-folders`` are read: of the program that
    reads, after symbolic links are followed.

    Parameters
    ----------
    path : str or Path
        Relative ones are seen from the working directory of whoever reads.
    on_worker : bool
        Read it where the model runs, not here, so that the bytes need not travel.

    Raises
    ------
    BadRequest
        Where it is no path.
    FileRefused
        Where it is a URL, or no path can be like that.

    Examples
    --------
    >>> flow.submit("whisper", af.File("clip.wav"))                             # doctest: +SKIP
    >>> flow.submit("whisper", af.File("/mnt/clips/1.wav", on_worker=True))     # doctest: +SKIP
    """

    path: str
    on_worker: bool = False

    def __post_init__(self) -> None:
        path: Any = self.path  # whatever was given
        if not isinstance(path, (str, os.PathLike)) or self.on_worker not in (True, False):
            shown = one_line(f"File({path!r}, on_worker={self.on_worker!r})", 120)
            raise BadRequest(f"{shown} names no file: give a path, and on_worker=True or False")
        object.__setattr__(self, "path", checked_path(os.fspath(path)))


def checked_path(path: str | bytes) -> str:
    """A path that may be looked for.

    Raises
    ------
    FileRefused
    """
    if not isinstance(path, str) or not path or "\0" in path:
        raise FileRefused(f"{one_line(repr(path), 120)} cannot be a file's path: give one")
    if _URL.match(path):
        raise FileRefused(
            f"{one_line(repr(path), 120)} is a URL, and nothing is downloaded: save it as a file first, and "
            "give its path, or give its bytes"
        )
    return path
