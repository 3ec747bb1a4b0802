"""The plain loop: sort by token count, 2,048 tokens a batch, SDPA, inference mode. The limit.

What somebody who knows the model and the machine writes by hand for one process: no framework, no
checkpoints, no bad rows. `plain_loop.py` runs it alone, `ray_data.py` inside Ray's actors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BUDGET = 2048


class PlainLoop:
    """A sentence-transformers model folder (mean pooling, normalised) and how to embed texts with it.

    Parameters
    ----------
    model : str
        The model's folder.
    threads : int
        Torch's threads.
    """

    def __init__(self, model: str, threads: int) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        torch.set_num_threads(threads)
        config = json.loads(Path(model, "sentence_bert_config.json").read_text(encoding="utf-8"))
        self.length = config["max_seq_length"]
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.model = AutoModel.from_pretrained(model, attn_implementation="sdpa").eval()
        self.tokens = 0
        self.padded = 0

    def __call__(self, texts: list[str]) -> Any:
        """Embeddings, (rows, dimensions) float32, in the order of `texts`."""
        import numpy as np
        import torch

        ids = self.tokenizer(texts, truncation=True, max_length=self.length)["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        embeddings = np.empty((len(ids), self.model.config.hidden_size), np.float32)
        with torch.inference_mode():
            for batch in batches(order, ids):
                width = len(ids[batch[-1]])
                inputs = torch.zeros((len(batch), width), dtype=torch.long)
                mask = torch.zeros((len(batch), width), dtype=torch.long)
                for row, i in enumerate(batch):
                    inputs[row, : len(ids[i])] = torch.tensor(ids[i])
                    mask[row, : len(ids[i])] = 1
                states = self.model(input_ids=inputs, attention_mask=mask).last_hidden_state
                weights = mask.unsqueeze(-1).to(states.dtype)
                pooled = (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
                embeddings[batch] = torch.nn.functional.normalize(pooled, dim=1).numpy()
                self.tokens += int(mask.sum())
                self.padded += mask.numel()
        return embeddings


def batches(order: list[int], ids: list[list[int]], budget: int = BUDGET) -> list[list[int]]:
    """Cut row numbers, sorted by token count, so that rows × longest row stays within `budget`."""
    found: list[list[int]] = []
    for i in order:
        # ascending order: the row that is added is the longest
        if found and (len(found[-1]) + 1) * len(ids[i]) <= budget:
            found[-1].append(i)
        else:
            found.append([i])
    return found
