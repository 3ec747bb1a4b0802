"""Contestants `naive dask`, `dask best`: `map_partitions` over a Dask cluster of one process a core.

`naive dask` is what people write first: the model is loaded in the function, so once a partition.
`dask best` hands the model to the function as a delayed value, as Dask's examples of batch
prediction do, so that it is loaded once and kept on the workers, and uses the batch of 8 that is the best
of `encode` on processors.
"""

from __future__ import annotations

from typing import Any

from _protocol import arguments, passes


def embed_naively(part: Any, model: str, column: str) -> Any:
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(model, device="cpu")
    return part.assign(embedding=list(encoder.encode(part[column].tolist(), batch_size=32)))


def embed(part: Any, encoder: Any, column: str) -> Any:
    vectors = encoder.encode(part[column].tolist(), batch_size=8, show_progress_bar=False)
    return part.assign(embedding=list(vectors))


def load(model: str) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(model, device="cpu")


def main() -> None:
    args = arguments(("--best", {"action": "store_true"}))
    import dask.dataframe as dd
    import pandas as pd
    import pyarrow as pa
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=args.cores, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        kept: list[Any] = []
        # Dask cannot infer the type of a column of arrays from an empty frame
        schema = pa.schema(
            [("id", pa.int64()), (args.column, pa.string()), ("embedding", pa.list_(pa.float32()))]
        )

        def job(folder: str) -> None:
            frame = dd.read_parquet(args.input)
            meta = frame._meta.assign(embedding=pd.Series(dtype="object"))
            if args.best:
                if not kept:
                    kept.append(client.submit(load, args.model))
                    client.replicate(kept)
                result = frame.map_partitions(embed, kept[0], args.column, meta=meta)
            else:
                result = frame.map_partitions(embed_naively, args.model, args.column, meta=meta)
            result.to_parquet(folder, schema=schema, write_index=False)

        passes(args, job)


if __name__ == "__main__":
    main()
