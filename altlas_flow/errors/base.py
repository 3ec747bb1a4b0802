"""`AltlasError`, from which all come, and how any error is described."""

from __future__ import annotations

import sysconfig
from functools import cache
from pathlib import Path

from altlas_flow.errors.words import one_line, text_of


class AltlasError(Exception):
    """Base of all errors of altlas_flow; its text is one line.

    Attributes
    ----------
    tries : int
        How often the request was tried; 0 where the error is not of a request that was sent.
    nodes : tuple of str
        The nodes that it was tried on, in order.
    root_cause : str
        What began it, in one line; empty where there is nothing beyond the error itself.
    kinds : tuple of str
        Names of the types of what caused it on a worker: the errors themselves do not travel.
    """

    tries: int = 0
    nodes: tuple[str, ...] = ()
    root_cause: str = ""
    kinds: tuple[str, ...] = ()

    def __str__(self) -> str:
        return one_line(self.text(), 2000)

    def text(self) -> str:
        """What `str` makes one line of."""
        return text_of(self.args[0]) if self.args else type(self).__name__


class SettingsError(AltlasError):
    """A setting has a value that cannot be used."""


def describe(error: BaseException) -> str:
    """One line that names the error's type and its text, for logs and dead letters."""
    if isinstance(error, AltlasError):
        return text_of(error)
    kind, text = type(error).__name__, one_line(error)
    return kind if text in ("", kind) else f"{kind}: {text}"


def located(error: BaseException) -> str:
    """As `describe`, with the line of the user's own code that raised it, where there is one."""
    trace, found = error.__traceback__, ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith(("<frozen", *_installed())):
            found = f" ({Path(code.co_filename).name}:{trace.tb_lineno}, in {code.co_name})"
        trace = trace.tb_next
    return describe(error) + found


@cache
def _installed() -> tuple[str, ...]:
    """Where code lies that is not the user's own: this package, others, Python's."""
    folders = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    return (str(Path(__file__).parent.parent), *(str(Path(folder)) for folder in folders))
