"""The loop that makes tokens: prompts of uneven length together, each row to its own end."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from altlas_flow.models.runtimes.sampling import Sampling
from altlas_flow.models.runtimes.spelling import Spelling

if TYPE_CHECKING:
    import torch

    from altlas_flow.models.runtimes.base import Control


@dataclass(frozen=True)
class Prompt:
    """A row that is ready.

    Attributes
    ----------
    tokens : numpy.ndarray of int64
    most : int
        New tokens that it may get.
    """

    tokens: np.ndarray
    most: int


class Row:
    """A text while it grows."""

    def __init__(self, at: int, most: int, spelling: Spelling, generator: torch.Generator | None) -> None:
        self.at, self.left, self.spelling, self.generator = at, most, spelling, generator


class Decoder:
    """Makes tokens with a causal language model, one for each row a step.

    Keys and values of the tokens so far are kept, in the precision of the weights: for each token of each
    row 2 x layers x key-value heads x head size numbers, padding included. Rows that are at their end
    leave the batch, and their memory is free at once.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    device : str
    ends : collection of int
        Tokens that end a text.
    padding : int
        A token to fill a batch with; it is masked.
    decode : callable
        Tokens into text.
    """

    def __init__(
        self,
        model: Any,
        device: str,
        ends: Collection[int],
        padding: int,
        decode: Callable[[list[int]], str],
    ) -> None:
        self._model, self._device, self._ends = model, device, frozenset(ends)
        self._padding, self._decode = padding, decode
        self._takes = frozenset(inspect.signature(model.forward).parameters)

    def run(self, prompts: Sequence[Prompt], sampling: Sampling, control: Control) -> list[str]:
        """The text of each prompt; of those that nobody wants any more, what there was of it by then.

        Between two tokens `control` is asked which rows are still wanted, and is given what has come.
        """
        import torch

        spellings = [Spelling(self._decode, sampling.stop) for _ in prompts]
        rows = [
            Row(at, prompt.most, spelling, sampling.generator())
            for at, (prompt, spelling) in enumerate(zip(prompts, spellings, strict=True))
            if control.wanted(at)
        ]
        if not rows:
            return [""] * len(prompts)
        with torch.inference_mode():
            step = _Step(self, [prompts[row.at].tokens for row in rows])
            while rows:
                tokens = sampling.choose(step.scores(), [row.generator for row in rows])
                going = [
                    at
                    for at, (row, token) in enumerate(zip(rows, tokens, strict=True))
                    if self._goes_on(row, token, control)
                ]
                if len(going) < len(rows):
                    rows = [rows[at] for at in going]
                    if rows:
                        step.keep(going)
                if rows:
                    step.add([tokens[at] for at in going])
        return [spelling.text for spelling in spellings]

    def _goes_on(self, row: Row, token: int, control: Control) -> bool:
        """Take the next token of a row; whether there is to be another one."""
        if not control.wanted(row.at):
            return False
        row.left -= 1
        ends = token in self._ends
        piece = "" if ends else row.spelling.add(token)
        over = ends or row.left == 0 or row.spelling.stopped
        if over:
            piece += row.spelling.finish()
        if piece:
            control.emit(row.at, piece)
        return not over


class _Step:
    """The tensors of a batch: what goes into the model next, and what it keeps of what went before."""

    def __init__(self, decoder: Decoder, prompts: Sequence[np.ndarray]) -> None:
        import torch
        from transformers import DynamicCache

        self._decoder = decoder
        widths = np.fromiter(map(len, prompts), np.int64, len(prompts))
        # to the left, so that the next token of all rows stands in the same column
        mask = np.arange(widths.max()) >= (widths.max() - widths)[:, None]
        ids = np.full(mask.shape, decoder._padding, np.int64)
        ids[mask] = np.concatenate(prompts)
        self._ids = torch.from_numpy(ids).to(decoder._device)
        self._mask = None if mask.all() else torch.from_numpy(mask.astype(np.int64)).to(decoder._device)
        positions = np.maximum(mask.cumsum(-1) - 1, 0)
        self._positions = torch.from_numpy(positions).to(decoder._device)
        self._cache = DynamicCache(config=decoder._model.config)

    def scores(self) -> torch.Tensor:
        """Of each row, the scores of all tokens for its next place; shape (rows, vocabulary)."""
        inputs: dict[str, Any] = {"input_ids": self._ids, "past_key_values": self._cache, "use_cache": True}
        if self._mask is not None:
            inputs["attention_mask"] = self._mask
        takes = self._decoder._takes
        if "position_ids" in takes:
            inputs["position_ids"] = self._positions
        if "logits_to_keep" in takes:
            inputs["logits_to_keep"] = 1  # those of a whole prompt may be gigabytes
        answer = self._decoder._model(**inputs)
        self._cache = answer.past_key_values
        last: torch.Tensor = answer.logits[:, -1]
        return last

    def add(self, tokens: list[int]) -> None:
        """The next token of each row goes in."""
        import torch

        self._ids = torch.tensor(tokens, device=self._decoder._device).unsqueeze(-1)
        self._positions = self._positions[:, -1:] + 1
        if self._mask is not None:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], -1)

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows only."""
        import torch

        places = torch.tensor(rows, device=self._decoder._device)
        self._positions = self._positions[places]
        if self._mask is not None:
            self._mask = self._mask[places]
        self._cache.reorder_cache(places)  # it does not mind that rows are left out
