"""Runtimes, found by name through the entry points ``altlas_flow.runtimes``."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, cast

from altlas_flow.errors import SpecError, names

if TYPE_CHECKING:
    from altlas_flow.models.runtimes.base import Runtime

GROUP = "altlas_flow.runtimes"


def runtime_names() -> list[str]:
    """Names of the installed runtimes, sorted."""
    return sorted({point.name for point in entry_points(group=GROUP)})


@cache
def runtime_class(name: str) -> type[Runtime]:
    """The runtime of that name.

    Raises
    ------
    SpecError
        Where none of that name is installed.
    """
    points = entry_points(group=GROUP, name=name)
    if not points:
        raise SpecError(
            f"no runtime {name!r} is installed: choose one of {names(runtime_names())}, "
            f"or install a package with an entry point in {GROUP!r}"
        )
    return cast("type[Runtime]", next(iter(points)).load())
