"""Jobs: how far runs over rows are."""

from __future__ import annotations

from html import escape
from typing import Any

from altlas_flow.dashboard.panels.base import (
    Cell,
    HtmlPanel,
    Shown,
    bar,
    count,
    dotted,
    empty,
    heading,
    rate,
    seconds,
    short,
    table,
)


class JobsPanel(HtmlPanel):
    """Rows done, rate and time left of each job."""

    name, title, every = "jobs", "Jobs", 2

    def html(self, shown: Shown) -> str:
        """A line of each job; those that run first."""
        jobs = shown.now["jobs"]
        if not jobs:
            return heading(self.title) + empty(
                'No job yet: flow.run("rows/*.parquet", "model", input="text", to="folder/") begins one.'
            )
        running = sum(job["state"] == "running" for job in jobs)
        rows = [
            [
                Cell(escape(short(job["model"])), f"{job['model']}, into {job['output']}"),
                dotted(job["state"], job["state"]),
                _done(job),
                rate(job["rows_per_s"]),
                seconds(job["left"]),
                f"{job['dead']:,}",
            ]
            for job in jobs
        ]
        columns = ["Model", "State", "Rows", "#rows/s", "#left", "#dead"]
        return heading(self.title, f"{running} running") + table(columns, rows, label="jobs")


def _done(job: dict[str, Any]) -> Cell:
    if job["total"] is None:
        return Cell(f"{job['done']:,}")
    said = f"{job['done']:,} of {job['total']:,}"
    shown = bar(job["done"], job["total"], f"{count(job['done'])} of {count(job['total'])}")
    return Cell(shown.html, said)
