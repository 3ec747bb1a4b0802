"""The shelf: models loaded once, kept within a memory budget, least recently used out first."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Any

from altlas_flow.errors import AltlasError, HostClosed, ModelLoadError, describe
from altlas_flow.logs import event, unchanged
from altlas_flow.models.loaded import LoadedModel
from altlas_flow.models.memory import estimate, release_memory
from altlas_flow.models.spec import ModelSpec
from altlas_flow.models.tallies import Tallies

logger = logging.getLogger(__name__)

#: Longest pause, in seconds, before a load that failed is tried again.
LONGEST_DELAY = 300.0


@dataclass
class Entry:
    """A model on the shelf, or on its way there."""

    spec: ModelSpec
    bytes: int
    model: LoadedModel | None = None
    error: AltlasError | None = None
    users: int = 0
    used: int = 0  # the shelf's counter at the last use


@dataclass
class Failure:
    """A load that failed, and when it may be tried again."""

    error: AltlasError
    delay: float
    until: float = field(default=0.0)


class Shelf:
    """Keeps loaded models.

    Parameters
    ----------
    load : callable
        ``load(spec) -> LoadedModel``.
    node : str
        The worker's name, for errors.
    budget : int, optional
        Bytes; by default no bound.
    load_timeout, retry_delay : float
        Seconds, see `ModelHost`.
    loading : callable
        Told the fingerprint of a model and True right before it is loaded, and False where that failed.
    changed : callable
        Told the fingerprint and the bytes of a model that was loaded, or None for one that went.
    clock : callable
        Monotonic seconds.
    """

    def __init__(
        self,
        load: Callable[[ModelSpec], LoadedModel],
        *,
        node: str = "this process",
        budget: int | None = None,
        load_timeout: float = 300.0,
        retry_delay: float = 1.0,
        loading: Callable[[str, bool], None] = lambda fingerprint, begins: None,
        changed: Callable[[str, int | None], None] = lambda fingerprint, size: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load, self.node, self.budget, self._clock = load, node, budget, clock
        self._tell, self._loading = changed, loading
        self.load_timeout, self.retry_delay = load_timeout, retry_delay
        self._entries: dict[str, Entry] = {}
        self._failures: dict[str, Failure] = {}
        self._changed = Condition()
        self._counter = itertools.count(1)
        self._closed = False
        self.loads = self.failed_loads = 0
        self.evictions = 0
        self.tallies = Tallies()

    @contextmanager
    def use(self, spec: ModelSpec) -> Iterator[tuple[LoadedModel, float]]:
        """Hold a model while it is used: loaded if need be, not evicted meanwhile.

        Yields
        ------
        (LoadedModel, float)
            The model, and the seconds of loading where this call caused it, else 0.

        Raises
        ------
        ModelLoadError, UnsafeModel, SpecError, HostClosed
        """
        entry, mine = self._hold(spec)
        try:
            model = self._await(entry)
            yield model, model.load_s if mine else 0.0
        finally:
            with self._changed:
                entry.users -= 1
                entry.used = next(self._counter)
                self._changed.notify_all()

    def has(self, spec: ModelSpec) -> bool:
        """Whether a model is there, ready to be used."""
        with self._changed:
            entry = self._entries.get(spec.fingerprint)
            return entry is not None and entry.model is not None

    def loaded(self) -> dict[str, dict[str, Any]]:
        """Models on the shelf by fingerprint: id, bytes, users."""
        with self._changed:
            return {
                key: {"id": entry.spec.id, "bytes": entry.bytes, "users": entry.users}
                for key, entry in self._entries.items()
                if entry.model is not None
            }

    def unload(self, fingerprint: str, timeout: float = 0.0) -> bool:
        """Take a model off the shelf once nobody uses it; whether it was taken within `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(
                lambda: (entry := self._entries.get(fingerprint)) is None or not entry.users, timeout
            )
            entry = self._entries.get(fingerprint)
            if entry is None or entry.users or entry.model is None:
                return False
            self._evict(entry)
        release_memory()
        return True

    def close(self) -> None:
        """Let go of every model; those that still load are let go when they are there."""
        with self._changed:
            self._closed = True
            for entry in list(self._entries.values()):
                if entry.model is not None:
                    self._evict(entry)
            self._changed.notify_all()
        release_memory()

    def _hold(self, spec: ModelSpec) -> tuple[Entry, bool]:
        """The entry with one more user; starts the one load of a model that is not there."""
        key = spec.fingerprint
        with self._changed:
            if self._closed:
                raise HostClosed(f"the worker {self.node} is shutting down: ask again")
            entry = self._entries.get(key)
            if entry is not None:
                entry.users += 1
                return entry, False
            failure = self._failures.get(key)
            if failure is not None and self._clock() < failure.until:
                raise type(failure.error)(*failure.error.args)
            entry = self._entries[key] = Entry(spec, 0, users=1)
        Thread(target=self._fill, args=(entry,), name=f"altlas-load-{spec.id}", daemon=True).start()
        return entry, True

    def _await(self, entry: Entry) -> LoadedModel:
        with self._changed:
            there = self._changed.wait_for(
                lambda: entry.model is not None or entry.error is not None or self._closed,
                2 * self.load_timeout,  # to get room, and to load
            )
            if entry.model is not None:
                return entry.model
            if entry.error is not None:
                raise type(entry.error)(*entry.error.args)
        if there:
            raise HostClosed(f"the worker {self.node} is shutting down: ask again")
        raise ModelLoadError(entry.spec.id, self.node, f"not loaded within {2 * self.load_timeout:.0f} s")

    def _fill(self, entry: Entry) -> None:
        """Load, in a thread of its own: a caller that gives up does not break it off."""
        spec, key = entry.spec, entry.spec.fingerprint
        try:
            self._reserve(entry, estimate(spec))
            self._loading(key, True)
            model = self._load(spec)
            # before anybody predicts with it: what kills this process next is not the loading
            self._loading(key, False)
            size = max(model.runtime.memory(), spec.memory or 0)
            with self._changed:
                self._put(entry, model, size)
        except BaseException as error:
            # whatever went wrong is told to all who wait, in one typed error
            known = isinstance(error, AltlasError)
            typed = error if known else ModelLoadError(spec.id, self.node, describe(error))
            assert isinstance(typed, AltlasError)
            # its traceback would keep the weights that were loaded so far
            typed = type(typed)(*typed.args)
            self._loading(key, False)
            with self._changed:
                self.failed_loads += 1
                self.tallies.add(spec.id, load_failures=1)
                past = self._failures.get(key)
                delay = min(past.delay * 2, LONGEST_DELAY) if past else self.retry_delay
                self._failures[key] = Failure(typed, delay, self._clock() + delay)
                entry.error = typed
                self._entries.pop(key, None)
                self._changed.notify_all()
            # the error as it is: who starts workers tells by it what their clients are told anyway
            unchanged(
                logger,
                logging.WARNING,
                "model load failed",
                "%s (tried again in %.0f s at the earliest)",
                typed,
                delay,
                model=spec.id,
                node=self.node,
                error=str(typed),
                again_in=delay,
            )
            release_memory()
        else:
            self._log("model loaded", "model %s was loaded on %s in %.3f s", spec, model.load_s, bytes=size)

    def _put(self, entry: Entry, model: LoadedModel, size: int) -> None:
        """A model is there from here on; called with the lock held."""
        self._tell(entry.spec.fingerprint, size)
        self.loads += 1
        self.tallies.add(entry.spec.id, loads=1)
        self._failures.pop(entry.spec.fingerprint, None)
        entry.bytes, entry.model, entry.used = size, model, next(self._counter)
        if self._closed:
            self._evict(entry)
        self._make_room(0, keep=entry)
        self._changed.notify_all()

    def _reserve(self, entry: Entry, size: int) -> None:
        """Book `size` bytes, evicting what nobody uses; wait for those in use."""
        if self.budget is None:
            return
        if size > self.budget:
            raise ModelLoadError(
                entry.spec.id,
                self.node,
                f"it takes {size / 2**20:.0f} MiB and the worker's budget for models is "
                f"{self.budget / 2**20:.0f} MiB: give workers more memory, or raise "
                "altlas.model-memory-fraction",
            )
        with self._changed:
            if not self._changed.wait_for(lambda: self._make_room(size, keep=entry), self.load_timeout):
                raise ModelLoadError(
                    entry.spec.id,
                    self.node,
                    f"no room: models in use hold the worker's budget of {self.budget / 2**20:.0f} MiB",
                )
            entry.bytes = size
        release_memory()

    def _make_room(self, size: int, *, keep: Entry) -> bool:
        """Evict the least recently used until `size` more bytes fit; never one in use."""
        if self.budget is None:
            return True
        while sum(entry.bytes for entry in self._entries.values()) + size > self.budget:
            idle = [
                e for e in self._entries.values() if e.model is not None and not e.users and e is not keep
            ]
            if not idle:
                return False
            self._evict(min(idle, key=lambda entry: entry.used))
        return True

    def _evict(self, entry: Entry) -> None:
        """Take an entry off the shelf and let go of its weights; called with the lock held."""
        self._entries.pop(entry.spec.fingerprint, None)
        if entry.model is not None:
            self.evictions += 1
            self.tallies.add(entry.spec.id, evictions=1)
            try:
                entry.model.unload()
            except Exception:
                # a fault of this model must not be that of the one which makes it go
                logger.exception("unloading model %r from %s failed", entry.spec.id, self.node)
            self._tell(entry.spec.fingerprint, None)
            self._log("model unloaded", "model %s was unloaded from %s", entry.spec, bytes=entry.bytes)

    def _log(self, name: str, text: str, spec: ModelSpec, *args: Any, **fields: Any) -> None:
        about = {"model": spec.id, "node": self.node, **fields}
        event(logger, logging.INFO, name, text, spec.id, self.node, *args, **about)
