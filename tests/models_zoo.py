"""Tiny real models, built in seconds from seeded random weights. Any test may use them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.tiny_models import byte_tokenizer

_TEXT = """the a of to and in is it you that he was for on are with as his they at be this from have or by
one had not but what all were when we there can an your which their said if do will each about how up out
them then she many some so these would other into has more her two like him see time could no make than
first been its who now people my made over did down only way find use may water long little very"""
WORDS = tuple(_TEXT.split())
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?"


def sentences(count: int, *, seed: int = 0, longest: int = 30) -> list[str]:
    """Random sentences of uneven length."""
    import numpy as np

    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, count)
    return [" ".join(rng.choice(WORDS, length)) for length in lengths]


def tiny_tokenizer(**keywords: Any) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *LETTERS, *(f"##{letter}" for letter in LETTERS), *(w for w in WORDS if len(w) > 1)]
    vocabulary = {piece: at for at, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
        **keywords,
    )


def tiny_bert_config(tokenizer: Any, **keywords: Any) -> Any:
    from transformers import BertConfig

    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.5,  # wide, so that answers differ clearly
        **keywords,
    )


def build_classifier(
    folder: Path, *, seed: int = 0, labels: tuple[str, ...] = ("bad", "so-so", "good")
) -> Path:
    """A BERT classifier over `labels`, 64 tokens at most, as safetensors; the folder."""
    import torch
    from transformers import BertForSequenceClassification

    tokenizer = tiny_tokenizer(model_max_length=64)
    config = tiny_bert_config(
        tokenizer,
        id2label=dict(enumerate(labels)),
        label2id={label: at for at, label in enumerate(labels)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForSequenceClassification(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_embedder(
    folder: Path, *, seed: int = 0, pooling: str = "mean", normalize: bool = True, max_length: int = 32
) -> Path:
    """A BERT embedder of 32 dimensions with sentence-transformers files; the folder."""
    import torch
    from transformers import BertModel

    tokenizer = tiny_tokenizer(model_max_length=64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(tiny_bert_config(tokenizer), add_pooling_layer=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling"} | ({"2_Normalize": "Normalize"} if normalize else {})
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": max_length, "do_lower_case": False})
    )
    for path in filter(None, kinds):
        (folder / path).mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps(
            {
                "word_embedding_dimension": 32,
                "pooling_mode_cls_token": pooling == "cls",
                "pooling_mode_mean_tokens": pooling == "mean",
                "pooling_mode_max_tokens": pooling == "max",
                "pooling_mode_mean_sqrt_len_tokens": False,
            }
        )
    )
    return folder


def build_linear(folder: Path, *, seed: int = 0) -> Path:
    """Weights of a `torch.nn.Linear(3, 2)` for the runtime ``torch``; the folder."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {"weight": torch.randn(2, 3, generator=generator), "bias": torch.randn(2, generator=generator)},
        folder / "model.safetensors",
    )
    return folder


def build_generator(
    folder: Path,
    *,
    seed: int = 0,
    positions: int = 256,
    chat: bool = True,
    kind: str = "llama",
    endless: bool = False,
) -> Path:
    """A causal language model (``llama`` or ``gpt2``) over bytes, of `positions` tokens; the folder.

    An endless one knows no token that ends a text.
    """
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer(chat)
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any
        if kind == "gpt2":
            model = GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=len(tokenizer),
                    n_embd=32,
                    n_layer=2,
                    n_head=4,
                    n_positions=positions,
                    initializer_range=0.5,
                    **ends,
                )
            )
        else:
            model = LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=len(tokenizer),
                    hidden_size=32,
                    intermediate_size=64,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                    num_key_value_heads=2,
                    max_position_embeddings=positions,
                    initializer_range=0.5,  # wide, so that texts differ clearly
                    **ends,
                )
            )
    if endless:
        model.generation_config.eos_token_id = 10**6
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
