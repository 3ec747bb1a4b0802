"""Three identities in a row: pipelines beside the same graph by hand in plain Dask."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks._report import OURS
from benchmarks._sent import identity

STAGES = ("one", "two", "three")
WORKERS = 2
#: As one request each; as requests of so many inputs as a chunk has; as a frame; the same by hand.
EACH, LISTS, MAP = f"{OURS} each", f"{OURS} lists", OURS
CHUNKED, RAW = "raw dask chunked", "raw dask"
NAMES = (MAP, LISTS, EACH, CHUNKED, RAW)
#: Inputs at most of what takes milliseconds each: it is given as a rate.
FEWER = 1_000


class Chain:
    """The contestants, each over a cluster of its own kind: two workers of one thread, as processes.

    Parameters
    ----------
    flow : Flow
    client : distributed.Client
        Of another cluster, without altlas_flow.
    chunk : int
        Inputs that travel together.
    timeout : float
        Seconds for one run.
    """

    def __init__(self, flow: Any, client: Any, chunk: int, timeout: float) -> None:
        import altlas_flow as af

        self.flow, self.client, self.chunk, self.timeout = flow, client, chunk, timeout
        before = ["input", *STAGES]
        self.pipeline = af.Pipeline(
            [
                af.Stage(name, function=identity, batched=True, after=after)
                for name, after in zip(STAGES, before, strict=False)
            ],
            id="chain",
            outputs={"item": "string"},
        )
        self._numbers = itertools.count()

    def count(self, name: str, inputs: int) -> int:
        """How many inputs a contestant gets where the others get so many."""
        return min(inputs, FEWER) if name == RAW else inputs

    def seconds(self, name: str, inputs: int) -> float:
        """Seconds an input, from the first call to the last answer; every answer is checked."""
        # never the same twice: nobody may remember an answer
        items = [f"input {next(self._numbers)}" for _ in range(self.count(name, inputs))]
        send = {MAP: self._map, LISTS: self._lists, EACH: self._each, CHUNKED: self._chunked, RAW: self._raw}
        gc.collect()  # nobody pays for what another left
        start = time.perf_counter()
        found = send[name](items)
        took = time.perf_counter() - start
        if found != items:
            wrong = sum(item != answer for item, answer in zip(items, found, strict=False))
            raise ValueError(f"{name}: {wrong:,} wrong of {len(found):,} answers for {len(items):,} inputs")
        return took / len(items)

    def _chunks(self, items: Sequence[Any]) -> Iterator[Sequence[Any]]:
        return (items[at : at + self.chunk] for at in range(0, len(items), self.chunk))

    def _map(self, items: list[Any]) -> list[Any]:
        import pandas as pd

        frame = pd.DataFrame({"text": items})
        found = self.flow.map(frame, self.pipeline, input="text", part_rows=self.chunk)
        answers: list[Any] = found["item"].tolist()
        return answers

    def _lists(self, items: list[Any]) -> list[Any]:
        handles = [self.flow.submit(self.pipeline, chunk) for chunk in self._chunks(items)]
        return [item for handle in handles for item in handle.result(self.timeout).outputs]

    def _each(self, items: list[Any]) -> list[Any]:
        handles = [self.flow.submit(self.pipeline, item) for item in items]
        return [handle.result(self.timeout).outputs for handle in handles]

    def _chunked(self, items: list[Any]) -> list[Any]:
        return [item for chunk in self._by_hand(self._chunks(items)) for item in chunk]

    def _raw(self, items: list[Any]) -> list[Any]:
        return self._by_hand(items)

    def _by_hand(self, pieces: Any) -> list[Any]:
        ends = []
        for piece in pieces:
            for _ in STAGES:
                piece = self.client.submit(identity, piece, pure=False)
            ends.append(piece)
        found: list[Any] = self.client.gather(ends)
        return found


@contextmanager
def chain(chunk: int, timeout: float) -> Iterator[Chain]:
    """Both clusters, which live all the time; one of them is used at a time."""
    import dask.config
    from distributed import Client, LocalCluster

    import altlas_flow as af

    # requests travel together in pieces as large as those that are made by hand
    with (
        dask.config.set({"altlas.envelope-rows": chunk}),
        af.connect(workers=WORKERS, threads_per_worker=1) as flow,
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield Chain(flow, client, chunk, timeout)
