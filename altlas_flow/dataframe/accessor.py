"""``frame.altlas``: models over the frame at hand, on the flow that was connected last; pandas and dask."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from importlib import import_module
from threading import Thread
from typing import Any, Protocol

from altlas_flow.errors import ConnectError


class Mapper(Protocol):
    """What the accessor needs of a flow."""

    @property
    def closed(self) -> bool:
        """Whether it can be used no more."""

    @property
    def map(self) -> Callable[..., Any]:
        """Adds the answers of a model to a frame."""

    @property
    def run(self) -> Callable[..., Any]:
        """The same, checkpointed, into a folder."""


#: Flows, the last connected last; whoever lets go of one need not say so here.
_flows: list[weakref.ref[Any]] = []


class Altlas:
    """Models over a DataFrame, as ``frame.altlas``; there once a flow was connected.

    Examples
    --------
    >>> flow = connect()                                                              # doctest: +SKIP
    >>> frame.altlas.map("minilm", input="text", output="embedding")                  # doctest: +SKIP
    """

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    def map(self, model: Any = None, **options: Any) -> Any:
        """Add the answers of a model or a pipeline: `altlas_flow.Flow.map` of the flow connected last.

        Raises
        ------
        ConnectError
            Where no flow is open.
        """
        return last_flow().map(self._frame, model, **options)

    def run(self, model: Any = None, **options: Any) -> Any:
        """Write the answers into a folder, checkpointed: `altlas_flow.Flow.run` of the flow connected last.

        Raises
        ------
        ConnectError
            Where no flow is open.
        """
        return last_flow().run(self._frame, model, **options)

    def __repr__(self) -> str:
        columns = ", ".join(map(str, list(self._frame.columns)[:8]))
        return f"<altlas: .map(model, input=...) and .run(model, input=..., to=...) over {columns}>"


def last_flow() -> Mapper:
    """The flow that was connected last, of those that are open.

    Raises
    ------
    ConnectError
        Where none is.
    """
    for there in reversed(_flows):
        flow: Mapper | None = there()
        if flow is not None and not flow.closed:
            return flow
    raise ConnectError(
        "no flow is open: connect one first, and keep it, as with flow = altlas_flow.connect()"
    )


def begin() -> Thread:
    """Begin to load what `offer` needs: while workers start, there is time for it."""

    def load() -> None:
        # whoever cannot import it hears that from `offer`
        with contextlib.suppress(Exception):
            import_module("dask.dataframe")

    loading = Thread(target=load, name="altlas-frames", daemon=True)
    loading.start()
    return loading


def offer(flow: Mapper) -> None:
    """Have frames use a flow, from now on."""
    import pandas as pd
    from dask.dataframe import DataFrame
    from dask.dataframe.extensions import register_dataframe_accessor

    _flows[:] = [one for one in _flows if one() is not None]
    _flows.append(weakref.ref(flow))
    if not hasattr(pd.DataFrame, "altlas"):
        pd.api.extensions.register_dataframe_accessor("altlas")(Altlas)
    if not hasattr(DataFrame, "altlas"):
        register_dataframe_accessor("altlas")(Altlas)
