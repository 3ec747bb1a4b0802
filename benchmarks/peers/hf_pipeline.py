"""Contestants `pipeline(32)`, `pipeline(32) tensors`: the transformers feature-extraction pipeline.

As it comes, the pipeline turns every token's vector into lists of Python floats;
``return_tensors=True`` is its documented way out. Either way it answers with token vectors, padding
included, so the mean over a text's own tokens and the normalisation are done here.
"""

from __future__ import annotations

import json
from pathlib import Path

from _protocol import arguments, passes, read_texts, write_embeddings


def main() -> None:
    args = arguments(("--batch", {"type": int, "required": True}), ("--tensors", {"action": "store_true"}))
    import numpy as np
    import torch
    from transformers import pipeline

    torch.set_num_threads(args.cores)
    config = json.loads(Path(args.model, "sentence_bert_config.json").read_text(encoding="utf-8"))
    cut = {"truncation": True, "max_length": config["max_seq_length"]}
    extract = pipeline("feature-extraction", model=args.model, device="cpu")

    def job(folder: str) -> None:
        table, texts = read_texts(args.input, args.column)
        lengths = [len(ids) for ids in extract.tokenizer(texts, **cut)["input_ids"]]
        answers = extract(texts, batch_size=args.batch, return_tensors=args.tensors, tokenize_kwargs=cut)
        rows = []
        for answer, length in zip(answers, lengths, strict=True):
            pooled = np.asarray(answer[0][:length], np.float32).mean(axis=0)
            rows.append(pooled / np.linalg.norm(pooled))
        write_embeddings(table, np.stack(rows), folder)

    passes(args, job)


if __name__ == "__main__":
    main()
