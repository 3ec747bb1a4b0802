"""An order in which everything comes after what it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from altlas_flow.errors import PipelineError


def in_order(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Names, each after those that it needs; otherwise as they were given.

    Raises
    ------
    PipelineError
        Where some need each other; its text names them.

    Examples
    --------
    >>> in_order({"ask": ["read", "embed"], "read": [], "embed": ["read"]})
    ['read', 'embed', 'ask']
    """
    place = {name: at for at, name in enumerate(needs)}
    sorter = TopologicalSorter(needs)
    try:
        sorter.prepare()
    except CycleError as error:
        circle = list(error.args[1])[::-1]
        raise PipelineError(
            f"stages wait for each other: {' -> '.join(circle)}: take one of these dependencies away"
        ) from error
    found: list[str] = []
    while sorter.is_active():
        for name in sorted(sorter.get_ready(), key=place.__getitem__):
            found.append(name)
            sorter.done(name)
    return found
