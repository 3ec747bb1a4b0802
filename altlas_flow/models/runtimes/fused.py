"""Two ways to spend less on a CPU with the same numbers, each checked on the model at hand.

`fuse_linears` repacks the weights of linear layers once, in the order in which oneDNN reads them, and
computes GELU while a product is still in the cache. `Packed` lays the texts of a batch end to end, so
that no padding is computed: all but the attention works token by token, and the attention is given one
group of equally long texts at a time.

Neither is a promise of the libraries below, so what cannot be done, or changes the numbers, is not done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from itertools import groupby
from typing import Any

import numpy as np

from altlas_flow.models.runtimes.sentence import pool

logger = logging.getLogger(__name__)

ATTENTION = "altlas_packed"
#: Encoders whose attention is full in both directions, and whose positions can be given.
PACKABLE = frozenset({"bert", "camembert", "electra", "roberta", "xlm-roberta"})
#: Relative to the largest number: what a change of the order of sums does to float32.
TOLERANCE = 1e-5


@cache
def _fused_linear() -> Any:
    """The class of fused layers; None where this torch has no such operation."""
    import torch

    operations = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available() or not hasattr(operations, "_linear_pointwise"):
        return None

    class FusedLinear(torch.nn.Module):  # type: ignore[misc]
        """A linear layer with repacked weights, and its activation."""

        def __init__(self, linear: Any, activation: str) -> None:
            super().__init__()
            self.weights = operations._reorder_linear_weight(linear.weight.detach(), 1024)
            self.bias = None if linear.bias is None else linear.bias.detach()
            self.activation, self.algorithm = activation, "none" if activation == "gelu" else ""

        def forward(self, rows: Any) -> Any:
            return operations._linear_pointwise(
                rows, self.weights, self.bias, self.activation, [], self.algorithm
            )

    return FusedLinear


def fuse_linears(model: Any) -> int:
    """Replace the linear layers of a model on the CPU; number of layers replaced.

    What is not float32, and all where this torch has no such operation, stays as it is.
    """
    import torch

    fused_linear = _fused_linear()
    if fused_linear is None:
        return 0
    replaced = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not torch.nn.Linear or child.weight.dtype is not torch.float32:
                continue
            # BERT and its kin: a linear layer `dense`, then exact GELU
            activation = getattr(parent, "intermediate_act_fn", None)
            gelu = name == "dense" and type(activation).__name__ == "GELUActivation"
            probe = torch.randn(16, child.in_features, generator=torch.Generator().manual_seed(0))
            with torch.inference_mode():
                expected = activation(child(probe)) if activation is not None and gelu else child(probe)
                try:
                    fused = fused_linear(child, "gelu" if gelu else "none")
                    same = _same(fused(probe), expected)
                except (RuntimeError, TypeError) as error:
                    # the operation is torch's own affair: another version may take other arguments
                    logger.info("linear layers are not fused: %s", error)
                    return replaced
            if not same:
                continue
            setattr(parent, name, fused)
            if gelu:
                parent.intermediate_act_fn = torch.nn.Identity()
            replaced += 1
    return replaced


class Packed:
    """An encoder that is given texts end to end.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        On the CPU; its attention is replaced.
    offset : int
        The position of a text's first token.
    """

    def __init__(self, model: Any, offset: int) -> None:
        self.model, self.offset = model, offset

    def embed(self, items: Sequence[np.ndarray], pooling: str) -> Any:
        """Embed texts.

        Parameters
        ----------
        items : sequence of numpy.ndarray of int64
            Token ids of each text, in any order.
        pooling : str
            How tokens are pooled.

        Returns
        -------
        torch.Tensor of float32, shape (len(items), dimensions)
            In the order of the items.
        """
        import torch

        widths = np.fromiter(map(len, items), np.int64, len(items))
        order = np.argsort(-widths, kind="stable")
        groups = [(width, sum(1 for _ in group)) for width, group in groupby(widths[order].tolist())]
        if len(groups) == 1:
            # all texts are equally long: the plain shape, and no mask
            hidden = self.model(input_ids=torch.from_numpy(np.stack(items))).last_hidden_state
            return pool(hidden, None, pooling)
        ids = torch.from_numpy(np.concatenate([items[at] for at in order.tolist()])).unsqueeze(0)
        places = np.concatenate([np.tile(np.arange(width), rows) for width, rows in groups])
        positions = torch.from_numpy(places + self.offset).unsqueeze(0)
        hidden = self.model(input_ids=ids, position_ids=positions, groups=groups).last_hidden_state[0]
        result = torch.empty(len(items), hidden.shape[-1])
        token = row = 0
        for width, rows in groups:
            block = hidden[token : token + width * rows].view(rows, width, -1)
            result[torch.from_numpy(order[row : row + rows])] = pool(block, None, pooling)
            token, row = token + width * rows, row + rows
        return result


def pack(model: Any, plain: Callable[[list[np.ndarray]], Any], pooling: str) -> Packed | None:
    """A packed form of an encoder, or None where it cannot have one.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        On the CPU.
    plain : callable
        Embeds texts the padded way, to compare with.
    pooling : str
        How tokens are pooled.
    """
    config = model.config
    if config.model_type not in PACKABLE or getattr(config, "is_decoder", False):
        return None
    from transformers import AttentionInterface

    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    rng = np.random.default_rng(0)
    longest = min(40, config.max_position_embeddings - 2)
    lowest = min(10, config.vocab_size - 1)
    texts = [rng.integers(lowest, config.vocab_size, max(1, longest // n)) for n in (1, 3, 3, 2, 40)]
    former = config._attn_implementation
    expected = plain(texts)
    AttentionInterface.register(ATTENTION, _attend)
    try:
        model.set_attn_implementation(ATTENTION)
        packed = Packed(model, 0 if padding is None else padding + 1)
        if _same(packed.embed(texts, pooling), expected):
            return packed
        logger.info("packing changes the numbers of a %s: it is not used", config.model_type)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        # a model of that type that takes other arguments, or another version of it
        logger.info("packing does not work for a %s (%s): it is not used", config.model_type, error)
    model.set_attn_implementation(former)
    return None


def _attend(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    scaling: float | None = None,
    groups: Sequence[tuple[int, int]] | None = None,
    **_: Any,
) -> tuple[Any, None]:
    """Full attention within each text; tensors have the shape (1, heads, tokens, head size).

    Without `groups` it is plain attention over texts of equal length. A mask is never given:
    there is no padding.
    """
    import torch

    attention = torch.nn.functional.scaled_dot_product_attention
    if groups is None:
        return attention(query, key, value, scale=scaling).transpose(1, 2).contiguous(), None
    heads, size = query.shape[1], query.shape[3]
    blocks, token = [], 0
    for width, rows in groups:
        cut = slice(token, token + width * rows)
        q, k, v = (
            # (heads, tokens, size) -> (rows, heads, width, size): views, nothing is copied
            part[0, :, cut].unflatten(1, (rows, width)).transpose(0, 1)
            for part in (query, key, value)
        )
        block = attention(q, k, v, scale=scaling)
        blocks.append(block.transpose(1, 2).reshape(rows * width, heads, size))
        token = cut.stop
    return torch.cat(blocks).unsqueeze(0), None


def _same(one: Any, other: Any) -> bool:
    return bool((one - other).abs().max() <= TOLERANCE * max(1.0, float(other.abs().max())))
