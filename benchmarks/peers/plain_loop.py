"""Contestant `plain loop`: the limit, written out by hand in one process with all cores."""

from __future__ import annotations

from _loop import PlainLoop
from _protocol import arguments, passes, read_texts, write_embeddings


def main() -> None:
    args = arguments()
    loop = PlainLoop(args.model, args.cores)

    def job(folder: str) -> None:
        table, texts = read_texts(args.input, args.column)
        write_embeddings(table, loop(texts), folder)

    # two passes over the same texts: their tokens are counted twice
    passes(args, job, tokens=lambda: loop.tokens // 2, padding=lambda: 1 - loop.tokens / loop.padded)


if __name__ == "__main__":
    main()
