"""Contestants `ray data encode(32)`, `ray data best`, `ray data our loop`: `Dataset.map_batches`.

The class loads the model in its constructor and a pool of one actor a core, one CPU each, runs it, as
in Ray's guide to offline inference. Ray gets as many CPUs again for its reading and writing tasks; torch runs
with one thread an actor (Ray sets that).

encode32
    Ray's default batches (blocks as they are), ``encode(batch_size=32)``.
best
    ``batch_size=512`` (or fewer, so that each actor gets two), ``encode(batch_size=8)``.
loop
    The same batches, with the plain loop's token-budgeted batches inside.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _protocol import WARM_UP, all_ready, arguments, batch_rows, passes, ready_at


class Embedder:
    def __init__(self, mode: str, model: str, column: str, ready: str, workers: int) -> None:
        import torch

        torch.set_num_threads(1)
        self.column = column
        if mode == "loop":
            from _loop import PlainLoop

            self.embed = PlainLoop(model, 1)
        else:
            from sentence_transformers import SentenceTransformer

            encoder, size = SentenceTransformer(model, device="cpu"), 32 if mode == "encode32" else 8
            self.embed = lambda texts: encoder.encode(texts, batch_size=size, show_progress_bar=False)
        if ready:
            self.embed(WARM_UP)
            all_ready(ready, workers)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch["embedding"] = self.embed(batch[self.column].tolist())
        return batch


def main() -> None:
    args = arguments(("--mode", {"required": True, "choices": ["encode32", "best", "loop"]}))
    import ray
    import ray.data

    ray.init(
        num_cpus=2 * args.cores,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=str(Path(args.output).resolve().parent / "ray"),
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    size = None if args.mode == "encode32" else batch_rows(args.rows, args.cores)
    done: list[str] = []

    def job(folder: str) -> float | None:
        ready = args.output + ".ready" if done else ""
        done.append(folder)
        ray.data.read_parquet(args.input).map_batches(
            Embedder,
            fn_constructor_args=(args.mode, args.model, args.column, ready, args.cores),
            batch_size=size,
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(size=args.cores),
        ).write_parquet(folder)
        return ready_at(ready) if ready else None

    try:
        passes(args, job)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
