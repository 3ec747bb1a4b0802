"""Contestants `ray tasks`, `ray actors` and three of Ray Serve: a burst through an identity.

Ray gets 4 logical CPUs; actors and replicas are two, of one CPU each. Serve runs without its HTTP proxy: only
the handle is measured. The burst goes out one by one, then all answers are collected and checked; it runs
once with fewer items to warm up, and then counts.

ray serve
    A deployment with an ``async`` method and Serve's defaults, but for the number of replicas. By default 5
    requests are let into a replica, and the handle looks for room for the others again and again, in ever
    longer pauses: the more there are, the lower is its rate. So no more are under way than are let in,
    which is the best that it does as it comes.
ray serve open
    The same with ``max_ongoing_requests=10_000``, so that nobody looks for room, and all of them at once.
ray serve batch
    As before, with ``@serve.batch``: 64 to a batch, 10 ms to wait.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

CPUS, COPIES, BATCH, OPEN = 4, 2, 64, 10_000
#: Requests that Serve lets into a replica by default.
LET_IN = 5
Burst = Callable[[list[Any]], list[Any]]


def tasks() -> Burst:
    import ray

    @ray.remote
    def identity(item: Any) -> Any:
        return item

    return lambda items: ray.get([identity.remote(item) for item in items])


def actors() -> Burst:
    import ray

    @ray.remote
    class Identity:
        def answer(self, item: Any) -> Any:
            return item

    copies = [Identity.options(num_cpus=1).remote() for _ in range(COPIES)]

    def burst(items: list[Any]) -> list[Any]:
        sent = [copies[number % COPIES].answer.remote(item) for number, item in enumerate(items)]
        return ray.get(sent)

    return burst


def _identity(**options: Any) -> Any:
    from ray import serve

    @serve.deployment(num_replicas=COPIES, **options)
    class Identity:
        async def __call__(self, item: Any) -> Any:
            return item

    return Identity.bind()


def serve_plain() -> Burst:
    handle = _handle(_identity())

    def burst(items: list[Any]) -> list[Any]:
        answers, sent = [], deque()
        for item in items:
            if len(sent) == COPIES * LET_IN:
                answers.append(sent.popleft().result())
            sent.append(handle.remote(item))
        return answers + [response.result() for response in sent]

    return burst


def serve_open() -> Burst:
    return _at_once(_handle(_identity(max_ongoing_requests=OPEN)))


def serve_batch() -> Burst:
    from ray import serve

    @serve.deployment(num_replicas=COPIES, max_ongoing_requests=OPEN)
    class Identity:
        @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.01)
        async def __call__(self, items: list[Any]) -> list[Any]:
            return items

    return _at_once(_handle(Identity.bind()))


def _handle(application: Any) -> Any:
    from ray import serve

    serve.start(proxy_location="Disabled")
    return serve.run(application, route_prefix=None)


def _at_once(handle: Any) -> Burst:
    def burst(items: list[Any]) -> list[Any]:
        sent = [handle.remote(item) for item in items]
        return [response.result() for response in sent]

    return burst


CONTESTANTS = {
    "ray tasks": tasks,
    "ray actors": actors,
    "ray serve": serve_plain,
    "ray serve open": serve_open,
    "ray serve batch": serve_batch,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--contestant", required=True, choices=list(CONTESTANTS))
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--warm-up", type=int, required=True)
    parser.add_argument("--report", required=True)
    args = parser.parse_args()
    import ray

    folder = str(Path(args.report).resolve().parent / "ray")
    ray.init(num_cpus=CPUS, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
    try:
        burst = CONTESTANTS[args.contestant]()
        for count in (args.warm_up, args.items):
            items = [f"request {count}-{number}" for number in range(count)]
            started = time.perf_counter()
            answers = burst(items)
            took = time.perf_counter() - started
            if answers != items:
                raise ValueError(f"{args.contestant}: wrong answers")
        report = {"committed_at": time.time(), "rate": args.items / took}
        Path(args.report).write_text(json.dumps(report), encoding="utf-8")
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
