"""Recorded outcomes of real models and algorithms, of which only the chosen one's is ever told.

A folder laid out like the project's data: ``aslib/*.parquet`` (a row an instance, ``performance:*`` a
column an
algorithm, ``feature:*`` what is known of the instance, maybe missing; ``maximize.json`` lists those where
more is
better) and ``routing_*/*.parquet`` (a row a prompt, ``*_correct`` a column a model, and one column with
an embedding).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq


class Told(RuntimeError):
    """A policy asked for a second outcome of one instance."""


@dataclass(frozen=True)
class Table:
    """Instances, what is known of each, and what each choice would give.

    Attributes
    ----------
    name : str
    choices : tuple of str
    contexts : list of dict
    outcomes : array, shape (n_instances, n_choices)
    """

    name: str
    choices: tuple[str, ...]
    contexts: list[dict[str, Any]]
    outcomes: Any


class Stream:
    """A table in an order by chance: tells contexts, and for each of them one outcome."""

    def __init__(self, table: Table, seed: int, most: int | None = None) -> None:
        self.table = table
        self.order = np.random.default_rng(seed).permutation(len(table.contexts))[:most]
        self.chosen = np.full(len(self.order), -1)

    def __len__(self) -> int:
        return len(self.order)

    def contexts(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The number of each instance, and what is known of it."""
        for number, place in enumerate(self.order):
            yield number, self.table.contexts[place]

    def outcome(self, number: int, choice: int) -> float:
        """What a choice gives; once for each instance."""
        if self.chosen[number] >= 0:
            raise Told(f"instance {number} has told its outcome")
        self.chosen[number] = choice
        return float(self.table.outcomes[self.order[number], choice])

    def got(self) -> Any:
        """What the choices gave, in their order. For the judge, after the stream."""
        return self.table.outcomes[self.order, self.chosen]

    def all(self) -> Any:
        """What every choice would have given. For the judge, after the stream."""
        return self.table.outcomes[self.order]


def scenarios(folder: Path) -> list[Table]:
    """The scenarios of algorithm selection: outcomes are costs, less is better."""
    listed = folder / "aslib" / "maximize.json"
    upwards = set(json.loads(listed.read_text())) if listed.is_file() else set()
    return [_scenario(path, path.stem in upwards) for path in sorted((folder / "aslib").glob("*.parquet"))]


def _scenario(path: Path, upwards: bool) -> Table:
    table = pq.read_table(path)
    columns = {
        name: table[name].to_numpy().astype(float)
        for name in table.column_names
        if name.startswith(("performance:", "feature:"))
    }
    outcomes = np.column_stack(
        [column for name, column in columns.items() if name.startswith("performance:")]
    )
    features = {
        name.partition(":")[2]: column for name, column in columns.items() if name.startswith("feature:")
    }
    contexts = [
        {name: (None if math.isnan(column[row]) else float(column[row])) for name, column in features.items()}
        for row in range(len(outcomes))
    ]
    choices = tuple(name.partition(":")[2] for name in columns if name.startswith("performance:"))
    # what is better when it is more, as how much of the best it lacks
    return Table(path.stem, choices, contexts, outcomes.max() - outcomes if upwards else outcomes)


def routings(folder: Path) -> list[Table]:
    """Prompts and whether each model answered them rightly; the models from the weakest to the strongest."""
    return [_routing(path) for path in sorted(folder.glob("routing_*/*.parquet"))]


def _routing(path: Path) -> Table:
    table = pq.read_table(path)
    names = [name for name in table.column_names if name.endswith("_correct")]
    outcomes = np.column_stack([table[name].to_numpy(zero_copy_only=False).astype(float) for name in names])
    order = np.argsort(outcomes.mean(axis=0))
    (vectors,) = (
        column for column in table.columns if str(column.type).startswith(("fixed_size_list", "list"))
    )
    embedded = np.asarray(vectors.combine_chunks().flatten().to_numpy(zero_copy_only=False), dtype=np.float32)
    embedded = embedded.reshape(len(outcomes), -1)
    contexts = [{"embedding": row} for row in embedded]
    choices = tuple(names[index].removesuffix("_correct") for index in order)
    return Table(path.stem, choices, contexts, outcomes[:, order])


def gap_closed(stream: Stream, begin: int) -> float:
    """Share that was closed of the gap between the best single choice, in hindsight, and the best of each.

    Of costs, from instance `begin` on.
    """
    every, got = stream.all()[begin:], stream.got()[begin:]
    single, oracle = every.mean(axis=0).min(), every.min(axis=1).mean()
    return float((single - got.mean()) / (single - oracle))


def apgr(scores: Any, weak: Any, strong: Any) -> float:
    """Area under the share of the quality gap recovered, over the share sent to the strong model."""
    order = np.argsort(-scores, kind="stable")
    weak, strong = weak[order], strong[order]
    sent = np.concatenate([[0.0], np.cumsum(strong)]) + weak.sum() - np.concatenate([[0.0], np.cumsum(weak)])
    recovered = (sent / len(weak) - weak.mean()) / (strong.mean() - weak.mean())
    return float(np.trapezoid(recovered, dx=1.0 / len(weak)))
