"""Contestants `daft`, `daft best`: a class UDF in one process a core.

`daft` is the guide to text embeddings as it stands, for processors: ``@daft.cls`` with a batch method of
512 rows (or fewer, so that each process gets two batches) and ``encode(batch_size=32)``. `daft best` uses
the batch of 8 that is the best of `encode` on processors. The result is a fixed-size list: for Daft's
own embedding type this version ignores ``use_process`` and runs threads of one process. Torch runs with one
thread a process.
"""

from __future__ import annotations

from typing import Any

from _protocol import WARM_UP, all_ready, arguments, batch_rows, passes, ready_at


def main() -> None:
    args = arguments(("--best", {"action": "store_true"}))
    import daft

    size = 8 if args.best else 32
    rows, cores, model = batch_rows(args.rows, args.cores), args.cores, args.model
    vector = daft.DataType.fixed_size_list(daft.DataType.float32(), 384)

    @daft.cls(use_process=True, max_concurrency=cores)
    class Embedder:
        def __init__(self, ready: str) -> None:
            import torch
            from sentence_transformers import SentenceTransformer

            torch.set_num_threads(1)
            self.encoder = SentenceTransformer(model, device="cpu")
            if ready:
                self.encoder.encode(WARM_UP, batch_size=size)
                all_ready(ready, cores)

        @daft.method.batch(return_dtype=vector, batch_size=rows)
        def embed(self, texts: Any) -> Any:
            return self.encoder.encode(texts.to_pylist(), batch_size=size, show_progress_bar=False)

    done: list[str] = []

    def job(folder: str) -> float | None:
        ready = args.output + ".ready" if done else ""
        done.append(folder)
        frame = daft.read_parquet(args.input + "/*.parquet")
        frame.with_column("embedding", Embedder(ready).embed(daft.col(args.column))).write_parquet(folder)
        return ready_at(ready) if ready else None

    passes(args, job)


if __name__ == "__main__":
    main()
