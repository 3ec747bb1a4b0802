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
        wrong = [(fault["at"], _told(fault)) for fault in now["faults"][:SHOWN]]
        wrong += [(letter["at"], _put_aside(letter)) for letter in now["letters"][:SHOWN]]
        if not wrong:
            return head + empty("Nothing has failed. Requests that do, and dead letters of jobs, are here.")
        wrong = sorted(wrong, key=lambda one: -one[0])[:SHOWN]
        rows = [[_clock(at), Cell(html)] for at, html in wrong]
        return head + table(["When", "*What, and its trace"], rows, label="failures")


def _told(fault: dict[str, Any]) -> str:
    tries = f" after {fault['tries']} tries" if fault["tries"] > 1 else ""
    lines = [f"request {fault['task']} of {fault['client']}{tries}", *fault["trace"]]
    where = f"{fault['model']} on {fault['node']}" if fault["node"] else fault["model"]
    return _folded(fault["kind"], where, fault["task"], fault["error"], "\n".join(lines))


def _put_aside(letter: dict[str, Any]) -> str:
    where = f"{letter['model']}, a dead letter" + (f" of stage {letter['stage']}" if letter["stage"] else "")
    inside = f"row {letter['row']}, put aside on node {letter['node']}\nsee {letter['output']}/_dead_letters"
    return _folded(letter["kind"], where, f"{letter['output']} {letter['row']}", letter["error"], inside)


def _folded(kind: str, where: str, key: str, error: str, inside: str) -> str:
    head = f"<b>{escape(kind)}</b> <span class='small'>{escape(where)}</span>"
    opened = f"<details data-key='{escape(key)}'>"
    return f"{head}{opened}<summary>{escape(error)}</summary><pre>{escape(inside)}</pre></details>"


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))
