"""`Course`: which models were chosen over time, as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from altlas_flow.records.table import plain

if TYPE_CHECKING:
    import pandas as pd

#: Colours of models, which differ also to eyes that see few (Okabe and Ito, 2008).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#7f7f7f")
#: Pixels: of the plot, around it, and of a line of the legend.
WIDTH, HEIGHT, MARGIN, LINE = 560.0, 200.0, 48.0, 18.0
#: Characters of a model's name in the legend; the whole is in its tooltip.
NAME = 48


@dataclass(frozen=True)
class Course:
    """How the models of a task were chosen over its latest decisions; shows itself in notebooks.

    Attributes
    ----------
    task : str
    models : tuple of str
    first : tuple of int
        Of each window the number of its first decision.
    counts : tuple of tuple of int
        Of each window how often each model was chosen.
    """

    task: str
    models: tuple[str, ...]
    first: tuple[int, ...]
    counts: tuple[tuple[int, ...], ...]

    @property
    def frame(self) -> pd.DataFrame:
        """Shares, a row a window and a column a model."""
        import pandas as pd

        rows = [[count / max(1, sum(window)) for count in window] for window in self.counts]
        return pd.DataFrame(
            rows, columns=list(self.models), index=pd.Index(self.first, name="decision"), dtype="float64"
        )

    def svg(self) -> str:
        """Shares of the models, one above the other, from the oldest window to the newest."""
        low = MARGIN + HEIGHT + 2 * MARGIN
        height = low + LINE * len(self.models)
        said = f"choices of {plain(self.task)} over time"
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(said)}" '
            f'width="{WIDTH + 2 * MARGIN:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {WIDTH + 2 * MARGIN:.0f} {height:.0f}" font-size="12" fill="currentColor" '
            'style="font-family:system-ui,-apple-system,sans-serif">',
            f"<title>{escape(said)}</title>",
        ]
        if self.counts:
            parts += self._areas()
        else:
            text = f"no decision of {plain(self.task)} yet: flow.submit(task=...) makes one"
            parts.append(f'<text x="{MARGIN}" y="{MARGIN}">{escape(text)}</text>')
        for at, model in enumerate(self.models):
            y, name = low + LINE * at, plain(model)
            shown = name if len(name) <= NAME else f"{name[: NAME - 1]}…"
            share = sum(window[at] for window in self.counts) / max(1, sum(map(sum, self.counts)))
            parts.append(
                f'<rect x="{MARGIN}" y="{y - 10:.0f}" width="12" height="12" fill="{_colour(at)}"/>'
                f'<text x="{MARGIN + 18}" y="{y:.0f}">{escape(shown)} {share:.0%}'
                f"<title>{escape(name)}</title></text>"
            )
        return "\n".join([*parts, "</svg>"])

    def _areas(self) -> list[str]:
        wide, bottom = WIDTH / len(self.counts), MARGIN + HEIGHT
        tops = [bottom] * len(self.counts)
        parts = []
        for at in range(len(self.models)):
            for window, counts in enumerate(self.counts):
                high = HEIGHT * counts[at] / max(1, sum(counts))
                if high > 0:
                    tops[window] -= high
                    parts.append(
                        f'<rect x="{MARGIN + wide * window:.2f}" y="{tops[window]:.2f}" width="{wide:.2f}" '
                        f'height="{high:.2f}" fill="{_colour(at)}"/>'
                    )
        last = self.first[-1] + sum(self.counts[-1])
        parts += [
            f'<text x="{MARGIN - 6}" y="{y:.0f}" text-anchor="end">{text}</text>'
            for y, text in ((MARGIN + 8, "100%"), (bottom, "0%"))
        ]
        parts += [
            f'<text x="{MARGIN}" y="{bottom + 18:.0f}">decision {self.first[0] + 1:,}</text>',
            f'<text x="{MARGIN + WIDTH}" y="{bottom + 18:.0f}" text-anchor="end">{last:,}</text>',
        ]
        return parts

    def _repr_html_(self) -> str:
        return f'<div style="overflow-x:auto">{self.svg()}</div>'

    def __repr__(self) -> str:
        return f"<Course {self.task}: {len(self.models)} models, {sum(map(sum, self.counts)):,} decisions>"


def _colour(at: int) -> str:
    return COLOURS[at % len(COLOURS)]
