"""Ask three classifiers of handwritten digits alone, together, and one after the other.

::

    python pipelines/digits_vote.py                      # a minute on 2 cores
    python pipelines/digits_vote.py --plot cascade.html
    python pipelines/digits_vote.py --rows 50000 --workers 4

Three differently built classifiers are trained here on scikit-learn's handwritten digits (1,797 images of
8 x 8 pixels). A half of them is for training; a quarter for the weights, the stacking and the cascade's
threshold; and what is told is told of the last quarter, which nothing has seen.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

import altlas_flow as af
from altlas_flow.aggregation import label_of
from altlas_flow.errors import AltlasError, OutputNotWritable, SpecError

if TYPE_CHECKING:
    from altlas_flow import Cascade, Flow, ModelSpec, Pipeline

#: Images that the rates are taken over: those of the test, again and again.
ROWS = 10_000
#: Shares of large calls that the cascade is tried with.
SHARES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
#: What the small model of the cascade is, and the large one.
SMALL, LARGE = "bayes", "forest"


@dataclass(frozen=True)
class Part:
    """Images and what they show.

    Attributes
    ----------
    pixels : numpy.ndarray of shape (images, 64)
        From 0 to 16.
    labels : list of int
    """

    pixels: np.ndarray
    labels: list[int]

    def frame(self, rows: int | None = None) -> pd.DataFrame:
        """The images as a column of lists; so many, again and again, where `rows` is given."""
        at = np.arange(len(self.labels) if rows is None else rows) % len(self.labels)
        return pd.DataFrame({"pixels": self.pixels[at].tolist()})

    def accuracy(self, labels: Sequence[Any]) -> float:
        """The share of labels that are right."""
        return float(np.mean([one == truth for one, truth in zip(labels, self.labels, strict=True)]))


@dataclass(frozen=True)
class Digits:
    """The images in three parts, with as many of each digit in each."""

    train: Part
    calibrate: Part
    test: Part


def load(seed: int = 0, limit: int | None = None) -> Digits:
    """Load the images, and deal them out: a half, a quarter, a quarter.

    Parameters
    ----------
    seed : int
    limit : int, optional
        Images in all.

    Raises
    ------
    SpecError
        Where scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise SpecError("this needs scikit-learn and skops: pip install 'altlas-flow[sklearn]'") from error
    pixels, labels = load_digits(return_X_y=True)
    if limit is not None and limit < len(labels):
        pixels, _, labels, _ = train_test_split(
            pixels, labels, train_size=limit, stratify=labels, random_state=seed
        )
    train, rest, known, others = train_test_split(
        pixels, labels, test_size=0.5, stratify=labels, random_state=seed
    )
    halves = train_test_split(rest, others, test_size=0.5, stratify=others, random_state=seed)
    calibrate, test, first, second = halves
    return Digits(
        *(Part(part, found.tolist()) for part, found in ((train, known), (calibrate, first), (test, second)))
    )


def train(part: Part, folder: Path, seed: int = 0) -> dict[str, ModelSpec]:
    """Fit three classifiers that are built differently, and save them.

    Parameters
    ----------
    part : Part
    folder : Path
        For a skops file each.
    seed : int

    Returns
    -------
    dict of str to ModelSpec
        They answer with the probabilities of the digits.
    """
    from sklearn.decomposition import PCA
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from skops.io import dump

    recipes = {
        "bayes": make_pipeline(PCA(20, random_state=seed), GaussianNB()),
        "linear": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, random_state=seed)),
        "forest": RandomForestClassifier(100, random_state=seed),
    }
    specs = {}
    for name, recipe in recipes.items():
        file = folder / f"{name}.skops"
        dump(recipe.fit(part.pixels, part.labels), file)
        specs[name] = af.ModelSpec(
            id=name,
            runtime="sklearn",
            source=str(file),
            # what trees are made of is compiled; the file was written here
            options={"trusted": ["sklearn.tree._tree.Tree"]} if name == "forest" else {},
            parameters={"output": "probabilities"},
        )
    return specs


def pipelines(specs: Mapping[str, ModelSpec], part: Part) -> dict[str, Pipeline]:
    """Each model alone, and three ways to have all of them decide.

    Parameters
    ----------
    specs : mapping of str to ModelSpec
    part : Part
        What weights are told by, and the stacking is fitted on; not what the models were trained on.
    """
    known = {name: spec.load().predict(part.frame()["pixels"].tolist()) for name, spec in specs.items()}
    right = {name: part.accuracy([label_of(one) for one in known[name]]) for name in specs}
    stacking = af.Stacking().fit(known, part.labels)
    asked = [af.Stage(name, spec) for name, spec in specs.items()]
    found = {
        name: af.Pipeline([af.Stage("ask", spec), _label("ask")], id=name) for name, spec in specs.items()
    }
    for name, combine in (
        ("vote", af.vote(label_of)),
        ("weighted average", af.average(quality=right)),
        ("stacking", af.ensemble(stacking)),
    ):
        together = af.Stage("together", combine=combine, after=tuple(specs))
        found[name] = af.Pipeline([*asked, together, _label("together")], id=name)
    return found


def cascade_of(specs: Mapping[str, ModelSpec], part: Part) -> Cascade:
    """The small model, and where it is unsure the large one; calibrated on images that it has not seen."""
    made = af.cascade(specs[SMALL], specs[LARGE], explain=True, id="cascade")
    return made.calibrate(part.frame()["pixels"].tolist(), truths=part.labels, target=0.1)


def explained(cascade: Cascade) -> Pipeline:
    """The cascade's label, and who answered."""
    return af.Pipeline(
        [
            af.Stage("ask", pipeline=cascade.as_pipeline()),
            af.Stage("label", function=label_of, after="ask", inputs=itemgetter("answer")),
            af.Stage("answered_by", function=itemgetter("answered_by"), after="ask"),
        ],
        id=cascade.id,
        output=("label", "answered_by"),
    )


def _label(after: str) -> af.Stage:
    return af.Stage("label", function=label_of, after=after)


@dataclass(frozen=True)
class Line:
    """A line of the table.

    Attributes
    ----------
    how : str
    accuracy : float
        On the test's images.
    rate : float
        Images a second.
    """

    how: str
    accuracy: float
    rate: float


def measure(flow: Flow, how: str, pipeline: Pipeline, test: Part, rows: int) -> Line:
    """Ask a pipeline for the test's images, and for so many rows against the clock."""
    # several outputs are named by their stages already
    named: dict[str, Any] = {"output": "label"} if len(pipeline.output) == 1 else {}
    labels = flow.map(test.frame(), pipeline, input="pixels", **named)["label"]
    frame = test.frame(rows)
    started = time.perf_counter()
    flow.map(frame, pipeline, input="pixels", **named)
    return Line(how, test.accuracy(labels.tolist()), rows / (time.perf_counter() - started))


@dataclass(frozen=True)
class Try:
    """A cascade on the test's images.

    Attributes
    ----------
    wished, share : float
        Of large calls: at most on the images that it was calibrated on, and on those of the test.
    accuracy : float
    """

    wished: float
    share: float
    accuracy: float


def tries(flow: Flow, cascade: Cascade, test: Part, shares: Sequence[float] = SHARES) -> list[Try]:
    """The cascade's accuracy against its share of large calls, on the test's images."""
    found = []
    for wished in shares:
        answers = flow.map(test.frame(), explained(cascade.at(wished)), input="pixels")
        share = float((answers["answered_by"] == "large").mean())
        found.append(Try(wished, share, test.accuracy(answers["label"].tolist())))
    return found


def show(lines: Sequence[Line], found: Sequence[Try], console: Console) -> None:
    """Print the table, and the plot as bars."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("how", "accuracy", "rows/s"):
        table.add_column(name, justify="left" if name == "how" else "right")
    for line in lines:
        table.add_row(line.how, f"{line.accuracy:.1%}", f"{line.rate:,.0f}")
    console.print(table)
    bars = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("large calls wished", "on the test", "accuracy"):
        bars.add_column(name, justify="right")
    bars.add_column("")
    lowest = min(one.accuracy for one in found)
    widest = max(one.accuracy for one in found) - lowest
    for one in found:
        width = 1 + round(39 * (one.accuracy - lowest) / widest) if widest else 1
        bars.add_row(
            f"{one.wished:.0%}", f"{one.share:.1%}", f"{one.accuracy:.1%}", Text("█" * width, "cyan")
        )
    console.print(Text(f"\nThe cascade: {SMALL}, and where it is unsure {LARGE}", style="bold"))
    console.print(bars)


def plot(cascade: Cascade, found: Sequence[Try], file: Path) -> None:
    """Draw the cascade's accuracy against its share of large calls, as a page that needs no network.

    Raises
    ------
    OutputNotWritable
    """
    from bokeh.embed import file_html
    from bokeh.models import NumeralTickFormatter
    from bokeh.plotting import figure
    from bokeh.resources import INLINE

    drawn: Any = figure(
        title=f"{SMALL}, and where it is unsure {LARGE}",
        x_axis_label="share of calls of the large model",
        y_axis_label="accuracy",
        width=800,
        height=500,
    )
    shares = [point.share for point in cascade.curve]
    drawn.step(
        shares,
        [point.quality for point in cascade.curve],
        mode="after",
        color="#999999",
        legend_label="calibrated on",
    )
    drawn.line([one.share for one in found], [one.accuracy for one in found], color="#1f77b4")
    drawn.scatter(
        [one.share for one in found],
        [one.accuracy for one in found],
        size=8,
        color="#1f77b4",
        legend_label="test",
    )
    for axis in (drawn.xaxis, drawn.yaxis):
        axis.formatter = NumeralTickFormatter(format="0.0%")
    drawn.legend.location = "bottom_right"
    try:
        file.write_text(file_html(drawn, INLINE, title="A cascade"), encoding="utf-8")
    except OSError as error:
        raise OutputNotWritable(
            f"cannot write {file}: {error.strerror}: choose another file with --plot"
        ) from error


@click.command()
@click.option("--plot", "file", type=click.Path(dir_okay=False, path_type=Path), help="An HTML file.")
@click.option("--rows", type=click.IntRange(min=1), default=ROWS, show_default=True, help="For the rates.")
@click.option("--limit", type=click.IntRange(min=200), help="Images in all (default 1797).")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the training.")
@click.option("--workers", type=click.IntRange(min=1), help="Workers of the embedded cluster.")
@click.option("--debug", is_flag=True, help="Show where an error came from.")
def main(debug: bool, **given: Any) -> None:
    """Ask three classifiers of handwritten digits alone, together, and one after the other."""
    try:
        run(**given)
    except AltlasError as error:
        if debug:
            raise
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from error


def run(*, file: Path | None, rows: int, limit: int | None, seed: int, workers: int | None) -> None:
    """What the command does; its parameters are the command's options."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    digits = load(seed, limit)
    with tempfile.TemporaryDirectory(prefix="digits-") as folder:
        specs = train(digits.train, Path(folder), seed)
        asked = pipelines(specs, digits.calibrate)
        cascade = cascade_of(specs, digits.calibrate)
        asked["cascade, 10% large"] = explained(cascade)
        with af.connect(workers=workers, models=tuple(specs.values())) as flow:
            lines = [measure(flow, how, pipeline, digits.test, rows) for how, pipeline in asked.items()]
            found = tries(flow, cascade, digits.test)
    counts = [len(part.labels) for part in (digits.train, digits.calibrate, digits.test)]
    console.print("{:,} images for training, {:,} for calibration, {:,} for the test\n".format(*counts))
    show(lines, found, console)
    if file is not None:
        plot(cascade, found, file)
        console.print(f"\nThe plot: {file}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
