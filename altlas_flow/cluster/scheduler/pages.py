"""The page on Dask's dashboard: its routes, its place in the menu, and the clock that counts for it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from tornado.web import RequestHandler

from altlas_flow.cluster.scheduler.overview import Overview
from altlas_flow.cluster.secure import listens_on_loopback

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

logger = logging.getLogger(__name__)

#: Where the page is, below the dashboard's own prefix; its panes are beside it.
PAGE, PANE = "altlas", "individual-altlas-"
#: Seconds between two looks at the counters, where somebody sees the page, and where nobody does.
FINE, COARSE = 0.5, 10.0
#: Seconds by which the time of day has to be another one to count as set.
SET = 1.0
#: Seconds after which it is asked anew what came of choices, while somebody looks; that JSON waits for it.
ASK, WAIT = 10.0, 2.0


class Pages:
    """Puts the page in place, and keeps time for it.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    overview : Overview
    report : callable
        ``await report(task)``: what came of the choices of a task, model by model.
    guard : callable
        ``guard(what, function, *args)`` calls the function; it counts and logs what that raises.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        overview: Overview,
        report: Callable[[str], Any],
        guard: Callable[..., None],
    ) -> None:
        self.scheduler, self.overview, self._report, self._guard = scheduler, overview, report, guard
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None
        self._looked, self._asked = False, float("-inf")
        self._fresh: asyncio.Task[None] | None = None
        self._shown: Any = None
        self._ahead = 0.0  # of the monotonic clock, by the time of day; the same for all points of a line
        self._closed = False
        self._app: Any = None
        self._tick()

    # -- the clock -----------------------------------------------------------------------------------

    def _tick(self) -> None:
        if self._closed:
            return
        self._guard("counting", self.overview.take, fine=self._looked)
        self._timer = self._loop.call_later(FINE if self._looked else COARSE, self._tick)

    def _began(self) -> None:
        """Somebody looks."""
        self._looked = True
        if self._timer is not None:
            self._timer.cancel()
        self._tick()
        if self._asking is None:
            self._asking = self._loop.create_task(self._ask())

    def _ended(self) -> None:
        """Nobody does any more."""
        self._looked = False
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    async def _ask(self) -> None:
        """Ask what came of choices, again and again."""
        while True:
            await self._ask_once()
            await asyncio.sleep(ASK)

    async def _ask_once(self) -> None:
        """Ask what came of choices: it is kept by another program."""
        for task in self.overview.choices.tasks:
            try:
                rows = await self._report(task)
                self.overview.choices.told(task, rows, time.monotonic())
            except Exception as error:
                # what was learned cannot be asked for now; the shares are counted all the same
                logger.info("the page does not know what came of %s: %s", task, error)
        self._asked = time.monotonic()

    async def now(self) -> dict[str, Any]:
        """What the page shows, also where nobody looks at it: for programs."""
        if time.monotonic() - self._asked > ASK:
            if self._fresh is None or self._fresh.done():
                self._fresh = self._loop.create_task(self._ask_once())
            await asyncio.wait({self._fresh}, timeout=WAIT)  # after that it is as it was known
        return self.overview.now()

    def show(self) -> Any:
        """What the panels show: made once a tick, however many look."""
        from altlas_flow.dashboard.panels import Shown

        now = time.monotonic()
        if self._shown is None or now - self._shown.monotonic >= 0.8 * FINE:
            overview, ahead = self.overview, time.time() - now
            if abs(ahead - self._ahead) > SET:
                self._ahead = ahead
            self._shown = Shown(overview.now(), overview.timeline, overview.choices, now, self._ahead)
        return self._shown

    # -- its place -----------------------------------------------------------------------------------

    def attach(self) -> bool:
        """Put the page beside those of Dask; whether this scheduler has any."""
        first = _bokeh_of(self.scheduler)
        if first is None:
            return False
        from distributed.dashboard.components.scheduler import env
        from distributed.dashboard.core import BokehApplication
        from distributed.dashboard.scheduler import template_variables
        from tornado.ioloop import IOLoop

        from altlas_flow.dashboard.page import Looking, page, pane, template
        from altlas_flow.dashboard.panels import PANELS

        looking = self.looking = Looking(self.show, self._began, self._ended)
        variables = template_variables(self.scheduler)
        names = [kind.name for kind in PANELS]
        whole = env.from_string(template())
        applications = {
            f"/{PAGE}": lambda scheduler, extra, doc: page(looking, whole, {**extra, "panels": names}, doc)
        }
        for kind in PANELS:
            applications[f"/{PANE}{kind.name}"] = partial(_pane, pane, kind, looking)
        app = self._app = BokehApplication(
            applications, self.scheduler, prefix=first.prefix, template_variables=variables
        )
        self.scheduler.http_application.add_application(app)
        app.initialize(IOLoop.current())
        app.start()
        prefix = (first.prefix or "").rstrip("/")
        self.scheduler.http_application.add_handlers(
            r".*$",
            [
                (rf"{prefix}/{PAGE}/json", _Json, {"now": self.now}),
                (rf"{prefix}/individual-plots\.json", _Plots, {"scheduler": self.scheduler}),
            ],
        )
        if PAGE not in variables["pages"]:
            variables["pages"].append(PAGE)
            variables["plots"] += [
                {"url": f"{PANE}{kind.name}", "name": f"altlas_flow: {kind.title}"} for kind in PANELS
            ]
        at = where(self.scheduler)
        alone = listens_on_loopback(at.rpartition(":")[0])
        reached = "by this machine only" if alone else "by others, too"
        logger.info("a page of altlas_flow is at %s%s/%s, reached %s", at, prefix, PAGE, reached)
        return True

    @property
    def attached(self) -> bool:
        """Whether the page is there."""
        return self._app is not None

    def close(self) -> None:
        """Stop counting."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._ended()
        if self._fresh is not None:
            self._fresh.cancel()
        if self._app is not None:
            self._guard("closing the page", self._app.stop)


def where(scheduler: Any) -> str:
    """Where a scheduler's dashboard listens, as ``host:port``; empty where it has none."""
    if _bokeh_of(scheduler) is None:
        return ""
    return f"{scheduler.http_server.address}:{scheduler.http_server.port}"


def _bokeh_of(scheduler: Any) -> Any:
    """Dask's own application of Bokeh; None where it has none, as with ``--no-dashboard``."""
    try:
        from bokeh.server.tornado import BokehTornado
    except ImportError:
        return None
    applications = getattr(getattr(scheduler, "http_application", None), "applications", ())
    return next((app for app in applications if isinstance(app, BokehTornado)), None)


def _pane(pane: Any, kind: Any, looking: Any, scheduler: Any, extra: Any, doc: Any) -> None:
    pane(kind, looking, doc)


class _Json(RequestHandler):
    """What the page shows, as JSON."""

    def initialize(self, now: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self.now = now

    async def get(self) -> None:
        from altlas_flow.dashboard.page import as_json

        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.finish(as_json(await self.now()))


class _Plots(RequestHandler):
    """What JupyterLab's extension lists: Dask's own panes, and ours, which are of another application."""

    def initialize(self, scheduler: Any) -> None:
        self.scheduler = scheduler

    def get(self) -> None:
        from bokeh.server.tornado import BokehTornado

        found = {}
        for app in self.scheduler.http_application.applications:
            if isinstance(app, BokehTornado):
                for path in sorted(app.app_paths):
                    if path.lstrip("/").startswith("individual-"):
                        found[path.strip("/").replace("-", " ").title()] = path
        found["Individual Cluster Map"] = "/statics/individual-cluster-map.html"
        self.write(found)
