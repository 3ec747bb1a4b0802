"""The sections of the benchmark of choosing models: their metrics, their bars, how they are run."""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _outcomes, _promised, _routed
from benchmarks._findings import Findings
from benchmarks._passes import Ours, Plain, run
from benchmarks._report import OURS, Bar

#: Instances after which scores count, and the bars there.
EARLY, LATE = 1_500, 5_000
#: Of streams with fewer prompts than `LATE`.
SHORT = 500
CEILING, BEGIN = 0.5, 200
NEIGHBOURS, FOREST, PEERS = (
    "nearest neighbours, all labels",
    "forest, all labels, offline",
    "best of MABWiser",
)
#: The selector's own draws without a look at the input: what the guardrail has to be as good as.
NO_CONTEXT = "ours, ADAPTIVE (no context)"
CLOSED, AFTER, MEAN = "gap closed", f"gap closed after {BEGIN}", "mean gap closed"
BEYOND = "beyond the best rival"
SPENT = f"most spent after {BEGIN}, of the ceiling"

BARS: dict[str, tuple[Bar, ...]] = {
    "routing": (),
    "algorithms": (),
    "drift": (Bar("regret 300 decisions after a change, of the steady one", 1.2, at_most=True),),
    "promise": (Bar("late beyond the promised share, points", 1.0, at_most=True),),
    "cluster": (),
    "cost": (
        Bar("decision p99, 20 models, 64 features, ms", 1.0, at_most=True),
        Bar("decision p99, 20 models, 384 features, ms", 5.0, at_most=True),
        Bar("update, ms", 1.0, at_most=True),
        Bar("state, 20 models, 64 features, MB", 50.0, at_most=True),
    ),
}


def apgr_after(begin: int) -> str:
    """The metric of scores after so many decisions."""
    return f"APGR after {begin:,}"


def closed(name: str) -> str:
    """The metric of one scenario."""
    return f"{CLOSED}, {name}"


# ---------------------------------------------------------------- one pass each, in a process of its own


def routed(folder: Path, at: int, most: int | None, seed: int) -> dict[str, float]:
    """A stream of prompts under a ceiling of cost: APGR of the scores, what was spent, a peer."""
    table = _outcomes.routings(folder)[at]
    stream = _outcomes.Stream(table, seed, most)
    passed = run(stream, Ours(table.choices, seed, "quality", ceiling=CEILING * (len(table.choices) - 1)))
    every, scores = stream.all(), np.array(passed.scores)
    weak, strong = every[:, 0], every[:, -1]
    found = {}
    for begin in (SHORT, EARLY, LATE):
        if begin < len(stream) / 2:
            found[apgr_after(begin)] = _outcomes.apgr(scores[begin:], weak[begin:], strong[begin:])
            found[f"{NEIGHBOURS}: {apgr_after(begin)}"] = _neighbours(stream, begin)
    spent = np.cumsum(stream.chosen) / np.arange(1, len(stream) + 1) / (CEILING * (len(table.choices) - 1))
    found[SPENT] = float(spent[BEGIN:].max())
    found["quality"], found["quality by chance"] = float(stream.got().mean()), float(every.mean())
    found["decision p99"] = float(np.quantile(passed.decisions, 0.99))
    return found


def _neighbours(stream: Any, begin: int) -> float:
    """APGR of nearest neighbours that saw all outcomes of the first `begin` prompts."""
    vectors = np.array([context["embedding"] for _, context in stream.contexts()])
    every = stream.all()
    gain = every[:begin, -1] - every[:begin, 0]
    likeness = vectors[begin:] @ vectors[:begin].T
    count = max(10, int(2 * begin**0.5))
    near = np.argpartition(-likeness, count, axis=1)[:, :count]
    return _outcomes.apgr(gain[near].mean(axis=1), every[begin:, 0], every[begin:, -1])


def solved(folder: Path, at: int, policy: str, seed: int) -> dict[str, float]:
    """A stream of instances: the share of the gap that a policy closes."""
    table = _outcomes.scenarios(folder)[at]
    stream = _outcomes.Stream(table, seed)
    half = len(stream) // 2
    if policy == FOREST:
        return {CLOSED: _offline(stream, half)}
    if policy in (OURS, NO_CONTEXT):
        strategy = "HYBRID" if policy == OURS else "ADAPTIVE"
        run(stream, Ours(table.choices, seed, "latency", strategy=strategy))
    else:
        from benchmarks.peers.mabwiser_policies import Peer

        run(stream, Peer(policy, table.choices, seed))  # type: ignore[arg-type]
    found = {CLOSED: _outcomes.gap_closed(stream, half)}
    if len(stream) > 2 * BEGIN:
        found[AFTER] = _outcomes.gap_closed(stream, BEGIN)
    return found


def _offline(stream: Any, half: int) -> float:
    """A random forest that saw all outcomes of the first half."""
    from sklearn.ensemble import RandomForestRegressor

    plain = Plain()
    rows = np.array([plain.row(context) for _, context in stream.contexts()])
    every = stream.all()
    forest = RandomForestRegressor(200, max_features=1 / 3, random_state=0).fit(rows[:half], every[:half])
    choices = forest.predict(rows[half:]).argmin(axis=1)
    rest = every[half:]
    single, oracle = rest.mean(axis=0).min(), rest.min(axis=1).mean()
    return float((single - rest[np.arange(len(rest)), choices].mean()) / (single - oracle))


# ---------------------------------------------------------------- sections


def _each(function: Callable[[int], dict[str, float]], seeds: int) -> dict[str, list[float]]:
    """The findings of all seeds, metric by metric; two at a time."""
    gathered: dict[str, list[float]] = {}
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for found in pool.map(function, range(seeds)):
            for name, value in found.items():
                gathered.setdefault(name, []).append(value)
    return gathered


def routing(args: argparse.Namespace, found: Findings) -> list[Bar]:
    """Prompts, a weak and a strong model."""
    found.title = (
        f"prompts for a weak and a strong model, at most {CEILING:.0%} of the strong one, {args.seeds} seeds"
    )
    bars = []
    for at, table in enumerate(_outcomes.routings(args.data)):
        gathered = _each(partial(routed, args.data, at, args.prompts), args.seeds)
        for name, values in gathered.items():
            who, _, metric = name.rpartition(": ")
            found.add(who or OURS, f"{table.name}: {metric}", "", values)
        count = min(len(table.contexts), args.prompts or len(table.contexts))
        limits = {EARLY: 0.63, LATE: 0.645} if count >= LATE else {SHORT: 0.63}
        bars += [
            Bar(f"{table.name}: {apgr_after(begin)}", limit)
            for begin, limit in limits.items()
            if apgr_after(begin) in gathered
        ]
        bars.append(Bar(f"{table.name}: {SPENT}", 1.02, at_most=True))
    return bars


def algorithms(args: argparse.Namespace, found: Findings) -> list[Bar]:
    """Instances, and algorithms that solve them."""
    found.title = (
        f"share of the gap from the best single algorithm to the oracle, second half, {args.seeds} seeds"
    )
    tables = _outcomes.scenarios(args.data)
    policies = [OURS, NO_CONTEXT, FOREST, *args.peers]
    large = []
    bars = []
    for at, table in enumerate(tables):
        gathered = {name: _each(partial(solved, args.data, at, name), args.seeds) for name in policies}
        for name, values in gathered.items():
            found.add(name, closed(table.name), "", values[CLOSED])
        ours = gathered[OURS]
        if AFTER in ours:
            found.add(OURS, f"{AFTER}, {table.name}", "", ours[AFTER])
        # as many instances as can be learned from: some dozens for each algorithm
        is_large = len(table.contexts) >= 100 * len(table.choices) and AFTER in ours
        if is_large:
            large.append(ours[CLOSED])
            bars.append(Bar(f"{AFTER}, {table.name}", -0.05))
        rivals = {name: gathered[name][CLOSED] for name in (*args.peers, *([] if is_large else [NO_CONTEXT]))}
        if rivals:
            best = max(rivals, key=lambda name: statistics.fmean(rivals[name]))
            ahead = np.array(ours[CLOSED]) - np.array(rivals[best])
            error = float(ahead.std(ddof=1) / len(ahead) ** 0.5) if len(ahead) > 1 else float("inf")
            found.add(OURS, f"{BEYOND}, {table.name}", "", [float(one) for one in ahead])
            bars.append(Bar(f"{BEYOND}, {table.name}", 0.0))
            found.notes.append(
                f"{table.name}: {statistics.fmean(ours[CLOSED]):.3f}; the best rival is {best} "
                f"({statistics.fmean(rivals[best]):.3f}): {ahead.mean():+.3f} ± {1.96 * error:.3f} beyond it"
            )
    if large:
        found.add(OURS, MEAN, "", [statistics.fmean(row) for row in zip(*large, strict=True)])
        bars.append(Bar(MEAN, 0.5))
    return bars


def drift(args: argparse.Namespace, found: Findings) -> list[Bar]:
    """The best model becomes ten times slower half way."""
    found.title = f"the best of three models becomes 10 x slower half way, {args.seeds} seeds"
    for seed in range(args.seeds):
        found.add(OURS, BARS["drift"][0].metric, "", [_promised.regret_after_a_change(seed)])
    values = [one.values[0] for one in found.measured]
    found.measured.clear()
    found.add(OURS, BARS["drift"][0].metric, "", values)
    return list(BARS["drift"])


def promise(args: argparse.Namespace, found: Findings) -> list[Bar]:
    """A promise of latency over requests that come in bursts."""
    found.title = (
        f"latency_p95 promised, {args.requests:,} simulated requests with bursts, {args.seeds} seeds"
    )
    late, small = zip(*(_promised.late(seed, args.requests) for seed in range(args.seeds)), strict=True)
    found.add(OURS, BARS["promise"][0].metric, "points", [100 * (share - 0.05) for share in late])
    found.add(OURS, "share of the better, slower model", "", small)
    return list(BARS["promise"])


def cluster(args: argparse.Namespace, found: Findings) -> list[Bar]:
    """Two real text models on a real cluster, routed in four ways."""
    train, stream = (300, 100) if args.quick else (2_000, 1_000)
    seeds = min(args.seeds, 2)
    found.title = (
        f"MiniLM and its first two layers, labelling texts: {stream:,} requests, {_routed.AT_ONCE} at once, "
        f"{seeds} seeds; figures of the second half"
    )
    results = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as work:
            results.append(_routed.compare(args.data, Path(work), train, stream, seed))
    for policy in _routed.POLICIES:
        passed = [one[policy] for one in results]
        found.add(policy, "right", "", [one.late_quality for one in passed])
        found.add(policy, "latency, ms", "ms", [1e3 * one.late_latency for one in passed])
        found.add(policy, "cost", "layers", [one.late_cost for one in passed])
        worth = [one.late_quality - _routed.price(one.late_cost) for one in passed]
        found.add(policy, "right less cost", "", worth)
    if args.plot:
        _routed.plot(results, Path(args.plot))
        found.notes.append(f"plot: {args.plot}")
    return []


def cost(args: argparse.Namespace, found: Findings) -> list[Bar]:
    """What a decision and an update cost."""
    found.title = "what choosing costs, 20 models"
    for features, vector in ((64, 0), (0, 384)):
        figures = _promised.costs(20, features, vector, args.rows)
        wide = f"20 models, {features or vector} features"
        found.add(OURS, f"decision p50, {wide}, ms", "ms", [1e3 * figures.decision[0]])
        found.add(OURS, f"decision p99, {wide}, ms", "ms", [1e3 * figures.decision[1]])
        found.add(OURS, f"state, {wide}, MB", "MB", [figures.state / 1e6])
        found.add(OURS, f"snapshot, {wide}, MB", "MB", [figures.snapshot / 1e6])
        if features:
            found.add(OURS, "update, ms", "ms", [1e3 * figures.update])
            found.add(OURS, "fitting all, ms", "ms", [1e3 * figures.fit])
    return list(BARS["cost"])


SECTIONS: dict[str, Callable[[argparse.Namespace, Findings], Sequence[Bar]]] = {
    "routing": routing,
    "algorithms": algorithms,
    "drift": drift,
    "promise": promise,
    "cluster": cluster,
    "cost": cost,
}


def timed(section: str, args: argparse.Namespace, found: Findings) -> Sequence[Bar]:
    """Run a section, and note how long it took."""
    began = time.monotonic()
    bars = SECTIONS[section](args, found)
    found.notes.append(f"{time.monotonic() - began:.0f} s")
    return bars
