"""`Showing`: what the scheduler plugin passes on to its counters and pages; nothing, where there are none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from altlas_flow.cluster.scheduler.dashboard import Gate
from altlas_flow.cluster.scheduler.overview import Overview
from altlas_flow.cluster.scheduler.pages import Pages, where
from altlas_flow.dashboard.metrics import Family, of_scheduler
from altlas_flow.dashboard.prometheus import expose
from altlas_flow.learning.lessons import CHOSE

if TYPE_CHECKING:
    from distributed.scheduler import WorkerState

    from altlas_flow.cluster.scheduler.control import ControlPlugin


class Showing:
    """Told what happens. What goes wrong here is counted and logged, and of no weight for what runs.

    Parameters
    ----------
    control : ControlPlugin
    guard : callable
        ``guard(what, function, *args, **kwargs)`` calls the function; it counts and logs what that raises.
    wanted : bool
        Whether anything is counted.
    """

    def __init__(self, control: ControlPlugin, guard: Callable[..., None], *, wanted: bool) -> None:
        self._control, self._guard = control, guard
        self.overview: Overview | None = None
        self.pages: Pages | None = None
        self._end: Callable[[], None] = lambda: None
        if wanted:
            self.overview = Overview(control)
            self.pages = Pages(control.scheduler, self.overview, control.learning.report, guard)
            guard("putting the page in place", self.pages.attach)
            self._end = expose("scheduler", self._families)

    @property
    def has_page(self) -> bool:
        """Whether there is a page on the dashboard."""
        return self.pages is not None and self.pages.attached

    @property
    def dashboard(self) -> str:
        """Where Dask's dashboard listens, as ``host:port``; empty where it has none."""
        return where(self._control.scheduler)

    @property
    def dashboard_locked(self) -> bool:
        """Whether the dashboard asks everybody for a token."""
        server = getattr(self._control.scheduler, "http_server", None)
        return isinstance(getattr(server, "request_callback", None), Gate)

    def _families(self) -> Iterable[Family]:
        assert self.overview is not None
        return of_scheduler(self.overview.counts, self.overview.now())

    def over(self, client: str, parts: Iterable[Mapping[str, Any]]) -> None:
        """Requests of a client are over."""
        if self.overview is not None:
            now = time.time()
            for part in parts:
                self._guard("counting requests", self.overview.counts.ended, part, client, now)

    def predicted(self, model: str, rows: int, seconds: float | None) -> None:
        """Rows of a model, by the digits of its fingerprint, were predicted."""
        if self.overview is not None:
            name = self._control.placer.ids.get(model, model)
            self._guard("counting rows", self.overview.counts.predicted, name, rows, seconds)

    def taught(self, lessons: Iterable[Sequence[Any]]) -> None:
        """Models were chosen, or something came of that."""
        if self.overview is not None:
            for lesson in lessons:
                if lesson[0] == CHOSE:
                    self._guard("counting choices", self.overview.counts.decided, lesson[1], lesson[4])

    def job(self, client: str, job: Mapping[str, Any], **kwargs: Any) -> None:
        """How far a job of a client is; told by its stream."""
        if self.overview is not None:
            now = time.monotonic(), time.time()
            self._guard("what was told of a job", self.overview.jobs.told, client, job, *now)

    def came(self, ws: WorkerState) -> None:
        """The host of a worker is there."""
        if self.overview is not None:
            self._guard("a host's coming", self.overview.came, ws)

    def left(self, address: str) -> None:
        """A worker is gone; called before its node is forgotten."""
        if self.overview is not None:
            self._guard("a worker's going", self.overview.left, address)

    def client_left(self, client: str) -> None:
        """A client is gone."""
        if self.overview is not None:
            self._guard("a client's going", self.overview.jobs.left, client)

    def close(self) -> None:
        """Show nothing any more."""
        self._end()
        if self.pages is not None:
            self._guard("closing the page", self.pages.close)
