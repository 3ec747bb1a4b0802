"""The panels of the page, from left to right what an operator asks; each is a pane by itself, too."""

from __future__ import annotations

from altlas_flow.dashboard.panels.base import Panel, Shown
from altlas_flow.dashboard.panels.faults import Faults
from altlas_flow.dashboard.panels.jobs import JobsPanel
from altlas_flow.dashboard.panels.nodes import Nodes
from altlas_flow.dashboard.panels.places import Places
from altlas_flow.dashboard.panels.selection import Selection
from altlas_flow.dashboard.panels.speed import Speed

#: In the order of the page.
PANELS: tuple[type[Panel], ...] = (Nodes, Speed, Places, Selection, Faults, JobsPanel)

__all__ = ["PANELS", "Faults", "JobsPanel", "Nodes", "Panel", "Places", "Selection", "Shown", "Speed"]
