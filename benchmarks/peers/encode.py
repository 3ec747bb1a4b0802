"""Contestants `encode(8)`, `encode(32)`, `encode(128)`: `SentenceTransformer.encode` in one process."""

from __future__ import annotations

from _protocol import arguments, passes, read_texts, write_embeddings


def main() -> None:
    args = arguments(("--batch", {"type": int, "required": True}))
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(args.cores)
    model = SentenceTransformer(args.model, device="cpu")

    def job(folder: str) -> None:
        table, texts = read_texts(args.input, args.column)
        write_embeddings(table, model.encode(texts, batch_size=args.batch, show_progress_bar=False), folder)

    passes(args, job)


if __name__ == "__main__":
    main()
