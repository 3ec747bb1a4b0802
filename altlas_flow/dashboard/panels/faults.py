"""What went wrong? Requests that failed, the newest first, each with its trace."""

from __future__ import annotations

import time
from html import escape
from typing import Any

from bokeh.models import CustomJS

from altlas_flow.dashboard.panels.base import Cell, HtmlPanel, Shown, empty, heading, table

#: Faults that are shown; the history has all of them.
SHOWN = 40
#: Kinds of errors that are named above.
KINDS = 6
#: Traces that somebody has opened stay open where the panel is drawn anew.
_STAY = """
const root = Bokeh.index.find_one(div)?.shadow_el
if (root == null) return
const open = root.opened ??= new Set()
if (!root.listens) {
  root.listens = true
  root.addEventListener("toggle", ({target}) =>
    target.open ? open.add(target.dataset.key) : open.delete(target.dataset.key), true)
}
requestAnimationFrame(() => {
  for (const one of root.querySelectorAll("details")) if (open.has(one.dataset.key)) one.open = true
})
"""


class Faults(HtmlPanel):
    """Errors by kind, retries, dead letters, and the latest failures."""

    name, title, every = "faults", "What went wrong?", 4

    def __init__(self) -> None:
        super().__init__()
        self.div.js_on_change("text", CustomJS(args={"div": self.div}, code=_STAY))

    def html(self, shown: Shown) -> str:
        """How much of what, then a line of each failure."""
        now = shown.now
        kinds = list(now["errors"].items())
        retries = sum(one["retries_total"] for one in now["models"])
        dead = sum(job["dead"] for job in now["jobs"])
        parts = [f"{count:,} {kind}" for kind, count in kinds[:KINDS]]
        parts += (
            [f"{sum(count for _, count in kinds[KINDS:]):,} of other kinds"] if len(kinds) > KINDS else []
        )
        parts += [f"{retries:,} tried again"] if retries else []
        parts += [f"{dead:,} dead letters"] if dead else []
        head = heading(self.title, " · ".join(parts))
        if not now["faults"]:
            text = "No request has failed. Those that do are here, with their traces."
            if dead:
                text = "No request has failed. Dead letters are in _dead_letters of each job's output."
            return head + empty(text)
        rows = [[_clock(fault["at"]), Cell(_told(fault))] for fault in now["faults"][:SHOWN]]
        return head + table(["When", "*What, and its trace"], rows, label="failures")


def _told(fault: dict[str, Any]) -> str:
    tries = f" after {fault['tries']} tries" if fault["tries"] > 1 else ""
    lines = [f"request {fault['task']} of {fault['client']}{tries}", *fault["trace"]]
    where = f"{fault['model']} on {fault['node']}" if fault["node"] else fault["model"]
    head = f"<b>{escape(fault['kind'])}</b> <span class='small'>{escape(where)}</span>"
    inside = escape("\n".join(lines))
    opened = f"<details data-key='{escape(fault['task'])}'>"
    return f"{head}{opened}<summary>{escape(fault['error'])}</summary><pre>{inside}</pre></details>"


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))
