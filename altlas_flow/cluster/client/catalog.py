"""The catalog as a client sees it: ids to specs, kept by the scheduler plugin, the same for all clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from distributed import Client

from altlas_flow.cluster.connect import call_control
from altlas_flow.cluster.scheduler.catalog import CATALOG_TOPIC
from altlas_flow.errors import SpecError, UnknownModel
from altlas_flow.models.catalog import builtin_models
from altlas_flow.models.memory import estimate
from altlas_flow.models.runtimes import runtime_class
from altlas_flow.models.spec import ModelSpec

_listeners: WeakKeyDictionary[Client, WeakSet[Catalog]] = WeakKeyDictionary()


def _replaced(listeners: WeakSet[Catalog], event: tuple[float, Any]) -> None:
    for catalog in list(listeners):
        catalog.replaced(event[1])


class Catalog:
    """Registers and finds models.

    Parameters
    ----------
    client : callable
        Gives the `distributed.Client`; raises where it is closed.
    """

    def __init__(self, client: Callable[[], Client]) -> None:
        self._client = client
        self._specs: dict[str, ModelSpec] = {}  # so that a known id costs no trip
        self._changes: dict[str, int] = {}  # of each id: the change of the catalog as of which it is known
        self._lock = Lock()  # events come on the client's own thread
        self._passed: dict[str, str] = {}  # by calls of this client: id -> fingerprint
        listeners = _listeners.setdefault(client(), WeakSet())
        listeners.add(self)
        # Dask keeps one handler for each topic of a client, and flows may share one
        client().subscribe_topic(CATALOG_TOPIC, partial(_replaced, listeners))

    def register(self, spec: ModelSpec, *, replace: bool = False) -> ModelSpec:
        """Put a model into the catalog; the spec with its source resolved.

        Raises
        ------
        SpecError, ModelConflict
        """
        if not isinstance(spec, ModelSpec):
            raise SpecError(f"a {type(spec).__name__} is no model: register a ModelSpec")
        runtime_class(spec.runtime)
        resolved = spec.resolved()
        answer = call_control(
            self._client(),
            "altlas_register",
            spec=resolved.model_dump_json(),
            replace=replace,
            memory=estimate(resolved),
        )
        self._note(resolved, answer["change"])
        return resolved

    def models(self) -> dict[str, ModelSpec]:
        """What is registered, and what is built in: id -> spec."""
        return self._ask()[0]

    def _ask(self) -> tuple[dict[str, ModelSpec], int]:
        """The models, and the change of the catalog as of which they are."""
        answer = call_control(self._client(), "altlas_models")
        registered = {name: ModelSpec.model_validate_json(text) for name, text in answer["models"].items()}
        for spec in registered.values():
            self._note(spec, answer["change"])
        return {**builtin_models(), **registered}, answer["change"]

    def _note(self, spec: ModelSpec, change: int) -> None:
        """Know a spec from here on, unless what was heard since it was asked for is newer."""
        with self._lock:
            if change >= self._changes.get(spec.id, 0):
                self._specs[spec.id], self._changes[spec.id] = spec, change

    def find(self, model: str | ModelSpec) -> ModelSpec:
        """The spec that is meant; one that was given is registered on the way, where its id is free.

        Raises
        ------
        UnknownModel, ModelConflict, SpecError
        """
        if isinstance(model, ModelSpec):
            resolved = model.resolved()
            known = self._specs.get(model.id)
            if known is not None and known.fingerprint == resolved.fingerprint:
                return resolved
            # a function of a notebook is changed and run again: it takes its own place, but nobody else's
            mine = known is not None and known.fingerprint == self._passed.get(model.id)
            registered = self.register(model, replace=mine and model.code is not None)
            self._passed[model.id] = registered.fingerprint
            return registered
        given: Any = model
        if not isinstance(given, str):
            hint = "ModelSpec(id=..., source=the function)" if callable(given) else "a ModelSpec"
            if any(kind.__module__.partition(".")[0] == "sklearn" for kind in type(given).__mro__):
                hint = "write it with skops.io.dump, and give ModelSpec(id=..., source=the file)"
            raise SpecError(f"a {type(given).__name__} is no model: give an id, or {hint}")
        known = self._specs.get(model)
        if known is not None:
            return known
        found, change = self._ask()
        if model not in found:
            raise UnknownModel(model, found)
        # what is built in stays out of the cluster's catalog: its id is free for the user's own
        self._note(found[model], change)
        return found[model]

    def known(self, model: str | ModelSpec | None) -> ModelSpec | None:
        """The spec that `find` would give with no trip, or None."""
        name = model.id if isinstance(model, ModelSpec) else model
        return self._specs.get(name) if name is not None else None

    def replaced(self, message: Mapping[str, Any]) -> None:
        """Somebody has put another recipe in the place of this id: ask again."""
        name, change = message["id"], message["change"]
        with self._lock:
            if change <= self._changes.get(name, 0):
                return  # what is known came later
            self._changes[name] = change
            known = self._specs.get(name)
            if known is not None and known.fingerprint != message["fingerprint"]:
                del self._specs[name]
