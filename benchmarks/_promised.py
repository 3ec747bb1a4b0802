"""Simulations: models that become slow, promises of latency under bursts, and what choosing costs."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from altlas_flow import Selector
from altlas_flow.selection import keep, wire


def regret_after_a_change(seed: int, rounds: int = 3000) -> float:
    """Mean regret from 300 decisions after the best of three models became 10 x slower, over the steady one.

    The steady one is that of a selector of the same seed, at the same decisions, for which it was slow from
    the beginning: before the change other models were to be avoided, and to try them cost something else.
    Regret is what is expected of a decision by its probabilities, so that a few tries by chance do not
    decide.
    """
    half = rounds // 2
    looked_at = slice(half + 300, half + 1100)
    changed, steady = (_regrets(seed, rounds, change)[looked_at].mean() for change in (half, 0))
    # of what the best one takes; below a hundredth of it there is no regret to speak of
    return float(max(changed / 0.1, 0.01) / max(steady / 0.1, 0.01))


def _regrets(seed: int, rounds: int, change: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    usual = {"a": 0.05, "b": 0.1, "c": 0.2}
    selector, regrets = Selector(list(usual), weights={"latency": 1.0}, seed=seed), np.zeros(rounds)
    for n in range(rounds):
        means = usual if n < change else {**usual, "a": 0.5}
        decision = selector.ask({"length": float(rng.integers(1, 100))})
        took = means[decision.model] * float(rng.lognormal(-0.045, 0.3))
        best = min(means.values())
        regrets[n] = sum(chance * (means[name] - best) for name, chance in decision.probabilities.items())
        selector.tell(decision, latency=took)
    return regrets


def late(seed: int, requests: int) -> tuple[float, float]:
    """The share of requests beyond a promised p95, and of those that the slower, better model got.

    Requests come in bursts; each model is one server with a queue, and both know how many wait.
    """
    rng = np.random.default_rng(seed)
    takes = {"large": (0.15, 0.4), "small": (0.02, 0.3)}
    selector = Selector(
        list(takes), weights={"quality": 1.0}, constraints={"latency_p95": "500ms"}, seed=seed
    )
    free = dict.fromkeys(takes, 0.0)
    now, missed, large = 0.0, 0, 0
    told: list[tuple[float, str, float, float]] = []
    for n in range(requests):
        burst = (n // 500) % 2 == 1
        now += float(rng.exponential(0.03 if burst else 0.3))
        # what has ended by now is known
        for ended in [one for one in told if one[0] <= now]:
            selector.tell(ended[1], latency=ended[2], quality=ended[3])
            told.remove(ended)
        waits = {f"waits_{name}": max(0.0, until - now) for name, until in free.items()}
        decision = selector.ask(waits)
        middle, spread = takes[decision.model]
        took = float(rng.lognormal(math.log(middle), spread))
        free[decision.model] = max(now, free[decision.model]) + took
        latency = free[decision.model] - now
        missed += latency > 0.5
        large += decision.model == "large"
        quality = float(rng.random() < (0.9 if decision.model == "large" else 0.6))
        told.append((now + latency, decision.id, latency, quality))
    return missed / requests, large / requests


@dataclass(frozen=True)
class Costs:
    """Seconds of a decision (median, p99), of an update, of fitting all; bytes of what is kept."""

    decision: tuple[float, float]
    update: float
    fit: float
    state: int
    snapshot: int


def costs(models: int, features: int, vector: int, rows: int) -> Costs:
    """What choosing costs once so many outcomes have been learned."""
    rng = np.random.default_rng(0)
    selector = Selector([f"m{n}" for n in range(models)], weights={"quality": 1.0, "latency": 0.1}, seed=0)

    def context() -> dict[str, object]:
        made: dict[str, object] = {f"f{n}": float(value) for n, value in enumerate(rng.normal(size=features))}
        return made | ({"vector": rng.normal(size=vector)} if vector else {})

    spent = 0.0
    for _ in range(rows):
        decision = selector.ask(context())
        quality, latency = float(rng.random()), float(rng.random())
        began = time.perf_counter()
        selector.tell(decision, quality=quality, latency=latency)
        spent += time.perf_counter() - began
    asked = []
    for _ in range(1000):
        what = context()
        began = time.perf_counter()
        selector.ask(what)
        asked.append(time.perf_counter() - began)
    began = time.perf_counter()
    selector.learner.learn(fit=True)
    fit = time.perf_counter() - began
    state, snapshot = len(keep.to_bytes(selector.learner)), len(wire.to_bytes(selector.learner.snapshot))
    return Costs(
        (float(np.median(asked)), float(np.quantile(asked, 0.99))), spent / rows, fit, state, snapshot
    )
