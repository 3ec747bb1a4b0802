"""The page, and its panels as panes of their own: documents of Bokeh, made anew for whoever looks."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from importlib.resources import files

from bokeh.document import Document
from bokeh.events import ClientReconnected, ConnectionLost, DocumentReady
from bokeh.models import CustomJS

from altlas_flow.dashboard.panels import PANELS, Panel, Shown

logger = logging.getLogger(__name__)

#: Milliseconds between two ticks.
TICK = 500
#: Of the page, in the menu.
TITLE = "altlas_flow"
#: Colours of texts and of lines on a dark page, and what has them.
_DARK = {"text": "#b5b8bd", "line": "#3a3c40"}
_PAINT = """
const dark = matchMedia("(prefers-color-scheme: dark)")
const paint = () => {
  const text = dark.matches ? colours.text : "#555555"
  const line = dark.matches ? colours.line : "#d8d8d8"
  models.forEach((model, at) => {
    const kind = kinds[at]
    if (kind == "axis") model.setv({axis_label_text_color: text, major_label_text_color: text,
                                    axis_line_color: line, major_tick_line_color: line})
    else if (kind == "grid") model.setv({grid_line_color: line})
    else if (kind == "bar") model.setv({title_text_color: text, major_label_text_color: text})
  })
}
paint()
dark.addEventListener("change", paint)
"""


#: A page whose scheduler is gone must not look as if all were well.
_LOST = """
if (document.getElementById("altlas-lost") == null) {
  const said = document.createElement("p")
  said.id = "altlas-lost"
  said.setAttribute("role", "alert")
  said.textContent = `The scheduler does not answer since ${new Date().toLocaleTimeString()}: `
    + "what is shown is what was then. Reload the page once it runs again."
  Object.assign(said.style, {position: "fixed", left: 0, right: 0, bottom: 0, margin: 0, padding: "10px 16px",
    background: "#d55e00", color: "white", font: "14px Helvetica, Arial, sans-serif", zIndex: 1000})
  document.body.append(said)
}
"""
_FOUND = "document.getElementById('altlas-lost')?.remove()"

#: A pane by itself has the ground that its texts are made for.
_PANE = """
{% block postamble %}
<style>@media (prefers-color-scheme: dark) { html, body { background: #1b1c1e; } }</style>
{% endblock %}
"""


class Looking:
    """Keeps count of those who look, and says what they see.

    Parameters
    ----------
    show : callable
        Gives what is now; called at most once a tick, however many look.
    began, ended : callable
        Called when the first one looks, and when nobody does any more.
    """

    def __init__(
        self,
        show: Callable[[], Shown],
        began: Callable[[], None] = lambda: None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.show, self._began, self._ended = show, began, ended
        self.count = 0
        self.faults = 0  # of panels

    def open(self, doc: Document, panels: Sequence[Panel]) -> None:
        """Show panels in a document for as long as somebody has it open."""
        self.count += 1
        if self.count == 1:
            self._began()
        doc.on_session_destroyed(self._left)
        tick = _Ticks(self, panels)
        tick()
        doc.add_periodic_callback(tick, TICK)
        themed = [pair for panel in panels for pair in panel.themed]
        callback = CustomJS(
            args={
                "models": [model for model, _ in themed],
                "kinds": [kind for _, kind in themed],
                "colours": _DARK,
            },
            code=_PAINT,
        )
        doc.js_on_event(DocumentReady, callback)
        doc.js_on_event(ConnectionLost, CustomJS(code=_LOST))
        doc.js_on_event(ClientReconnected, CustomJS(code=_FOUND))

    def _left(self, context: object) -> None:
        self.count -= 1
        if not self.count:
            self._ended()


class _Ticks:
    """Updates the panels of one document; a panel that fails says so, and the others go on."""

    def __init__(self, looking: Looking, panels: Sequence[Panel]) -> None:
        self._looking, self._panels, self._ticks = looking, panels, 0

    def __call__(self) -> None:
        due = [panel for panel in self._panels if self._ticks % panel.every == 0]
        self._ticks += 1
        try:
            shown = self._looking.show()
        except Exception:
            self._failed(self._panels)
            return
        for panel in due:
            try:
                panel.update(shown)
            except Exception:
                self._failed([panel])

    def _failed(self, panels: Sequence[Panel]) -> None:
        # the scheduler goes on whatever a page does; its log says what
        self._looking.faults += 1
        if self._looking.faults == 1:
            logger.exception("the page cannot show %s", ", ".join(panel.name for panel in panels))
        for panel in panels:
            panel.failed("This cannot be shown now: the scheduler's log says why.")


def page(looking: Looking, template: object, variables: dict[str, object], doc: Document) -> None:
    """All panels."""
    panels = [kind() for kind in PANELS]
    for panel in panels:
        doc.add_root(panel.root)
    doc.title = f"Dask: {TITLE}"
    doc.template = template  # type: ignore[assignment]
    doc.template_variables.update(variables)
    looking.open(doc, panels)


def pane(kind: type[Panel], looking: Looking, doc: Document) -> None:
    """One panel by itself, as JupyterLab's extension shows it."""
    panel = kind()
    doc.add_root(panel.root)
    doc.template = _PANE  # type: ignore[assignment]
    doc.title = f"Dask: {TITLE} {kind.name}"
    looking.open(doc, [panel])


def template() -> str:
    """The page's own template, which goes into that of Dask's pages."""
    return files("altlas_flow.dashboard").joinpath("page.html").read_text(encoding="utf-8")


def as_json(now: object) -> str:
    """What is shown, for programs; no HTML page takes it for a part of itself."""
    text = json.dumps(now, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
