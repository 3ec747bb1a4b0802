"""What went wrong? Requests that failed, the newest first, each with its trace."""

from __future__ import annotations

import time
from html import escape
from typing import Any

from bokeh.models import CustomJS

from altlas_flow.dashboard.counts import likeness
from altlas_flow.dashboard.panels.base import Cell, HtmlPanel, Shown, empty, heading, table

#: Lines that are shown; the history has all requests. Of them, of jobs and of dead letters each, at most.
SHOWN, KEPT = 40, 10
#: Rows that are named of dead letters that say the same, beside the newest.
ROWS = 5
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
        dead = _dead(now["jobs"])
        parts = [f"{count:,} {kind}" for kind, count in kinds[:KINDS]]
        parts += (
            [f"{sum(count for _, count in kinds[KINDS:]):,} of other kinds"] if len(kinds) > KINDS else []
        )
        parts += [f"{retries:,} tried again"] if retries else []
        parts += [f"{dead:,} dead letters"] if dead else []
        head = heading(self.title, " · ".join(parts))
        ended = [job for job in now["jobs"] if job["error"]]
        wrong = [(job["at"], _ended(job)) for job in ended[:KEPT]]
        wrong += [(of[0]["at"], _put_aside(of)) for of in _put_aside_alike(now["letters"])[:KEPT]]
        # failures that follow one another quickly leave room for jobs
        wrong += [(one["at"], _told(one)) for one in now["faults"][: SHOWN - len(wrong)]]
        if not wrong:
            return head + empty(
                "Nothing has failed. Requests and jobs that do, and dead letters of jobs, are here."
            )
        rows = [[_clock(at), Cell(html)] for at, html in sorted(wrong, key=lambda one: -one[0])]
        when = f"When, {time.strftime('%Z')}"
        return head + table([when, "*What, and its trace"], rows, label="failures")


def _told(fault: dict[str, Any]) -> str:
    tries = f" after {fault['tries']} tries" if fault["tries"] > 1 else ""
    lines = [f"request {fault['task']} of {fault['client']}{tries}", *fault["trace"]]
    if (many := fault["alike"]) > 1:
        lines.insert(0, f"{many:,} requests failed so; the latest:")
    where = f"{fault['model']} on {fault['node']}" if fault["node"] else fault["model"]
    where += f", {many:,} times" if many > 1 else ""
    key = " ".join(likeness(fault))
    return _folded(fault["kind"], where, key, fault["error"], "\n".join(lines))


def _ended(job: dict[str, Any]) -> str:
    where = f"{job['model']}, a job"
    inside = f"into {job['output']}, after {job['done']:,} rows, by {job['client']}"
    return _folded("failed", where, job["id"], job["error"], inside)


def _dead(jobs: list[dict[str, Any]]) -> int:
    """Dead letters there are: a folder that is gone on with has them once.

    A job that is done has counted all of them; one that is not may have put aside more since, or know
    of none yet.
    """
    folders: dict[str, list[dict[str, Any]]] = {}
    for job in sorted(jobs, key=lambda job: -job["at"]):
        folders.setdefault(job["output"] or job["id"], []).append(job)
    there = 0
    for some in folders.values():
        done = next((at for at, job in enumerate(some) if job["state"] == "done"), len(some))
        there += max(job["dead"] for job in some[: done + 1])
    return there


def _put_aside_alike(letters: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Dead letters, those of one folder that say the same together; the newest first."""
    found: dict[Any, list[dict[str, Any]]] = {}
    for letter in letters:
        found.setdefault(_letter_key(letter), []).append(letter)
    return list(found.values())


def _letter_key(letter: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(letter[name]) for name in ("output", "model", "stage", "kind", "error"))


def _put_aside(letters: list[dict[str, Any]]) -> str:
    letter = letters[0]
    where = f"{letter['model']}, a dead letter" + (f" of stage {letter['stage']}" if letter["stage"] else "")
    on = f" on node {letter['node']}" if letter["node"] else ""
    inside = f"row {letter['row']}, put aside{on}\nsee {letter['output']}/_dead_letters"
    if others := [row for row in dict.fromkeys(one["row"] for one in letters) if row != letter["row"]]:
        inside += f"\nthe same befell other rows, such as {', '.join(others[:ROWS])}"
        where += ", and others"
    return _folded(letter["kind"], where, " ".join(_letter_key(letter)), letter["error"], inside)


def _folded(kind: str, where: str, key: str, error: str, inside: str) -> str:
    head = f"<b>{escape(kind)}</b> <span class='small'>{escape(where)}</span>"
    opened = f"<details data-key='{escape(key)}'>"
    return f"{head}{opened}<summary>{escape(error)}</summary><pre>{escape(inside)}</pre></details>"


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))
