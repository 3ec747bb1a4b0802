"""Whisper and Llama at toy size: real architectures with seeded random weights, made in seconds.

::

    python pipelines/tiny_models.py pipelines/tiny       # what speech_to_answer_tiny.yaml names

What they say has no meaning, and is the same each time. Nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

LANGUAGES = ("en", "de", "fr")


def saved(folder: Path, build: Any, *parts: Any, seed: int = 0) -> Path:
    """A model with seeded random weights and what belongs to it, as safetensors; the folder."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
    model.save_pretrained(folder)
    for part in parts:
        part.save_pretrained(folder)
    return folder


def build_speech(folder: Path) -> Path:
    """A Whisper of two layers that knows three languages, and says some letters for any sound."""
    from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperTokenizer
    from transformers import WhisperForConditionalGeneration as Whisper

    letters = [*"abcdefghijklmnopqrstuvwxyz", "Ġ"]
    special = [
        "<|endoftext|>",
        "<|startoftranscript|>",
        *(f"<|{language}|>" for language in LANGUAGES),
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        "<|startofprev|>",
        "<|nospeech|>",
        "<|notimestamps|>",
    ]
    place = {token: at for at, token in enumerate([*letters, *special])}
    tokenizer = WhisperTokenizer(
        vocab={letter: place[letter] for letter in letters},
        merges=[],
        additional_special_tokens=special[1:],
        pad_token="<|endoftext|>",
    )
    tokenizer.add_tokens([f"<|{at * 0.02:.2f}|>" for at in range(1501)])
    end, start = place["<|endoftext|>"], place["<|startoftranscript|>"]
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=80,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_target_positions=64,
        init_std=0.5,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=start,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    generation = GenerationConfig(
        max_new_tokens=12,
        num_beams=1,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=start,
        is_multilingual=True,
        lang_to_id={f"<|{language}|>": place[f"<|{language}|>"] for language in LANGUAGES},
        task_to_id={task: place[f"<|{task}|>"] for task in ("translate", "transcribe")},
        no_timestamps_token_id=place["<|notimestamps|>"],
        prev_sot_token_id=place["<|startofprev|>"],
        max_initial_timestamp_index=50,
        max_length=None,
        # letters only, whatever the weights say
        suppress_tokens=list(range(len(letters), len(tokenizer))),
        return_timestamps=False,
    )
    # with this seed, what it says depends on what it hears
    extractor = WhisperFeatureExtractor(feature_size=80)
    folder = saved(folder, lambda: Whisper(config), tokenizer, extractor, seed=5)
    generation.save_pretrained(folder)
    return folder


#: A chat template of the simplest kind.
CHAT = (
    "{% for message in messages %}{% if message['role'] not in ('user', 'assistant') %}"
    "{{ raise_exception('roles are user and assistant') }}{% endif %}"
    "{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"
)


def byte_tokenizer(chat: bool) -> Any:
    """One token for each byte, and some pairs; <s> before each text."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("t", "h"), ("th", "e"), ("e", "r"), ("i", "n"), ("o", "n"), ("Ġ", "a")]
    pieces = ["<pad>", "<s>", "</s>", *letters, *("".join(pair) for pair in pairs)]
    tokenizer = Tokenizer(BPE({piece: at for at, piece in enumerate(pieces)}, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=10**30,
    )
    if chat:
        fast.chat_template = CHAT
    return fast


def build_llama(folder: Path, *, seed: int = 0) -> Path:
    """A Llama of two layers over bytes with a chat template, for 512 tokens; the folder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer(chat=True)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.5,  # wide, so that texts differ clearly
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return saved(folder, lambda: LlamaForCausalLM(config), tokenizer, seed=seed)


def build(folder: Path) -> Path:
    """Both, in ``whisper`` and ``llama``, where they are not there yet; the folder."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    for name, make in (("whisper", build_speech), ("llama", build_llama)):
        if not (folder / name / "model.safetensors").is_file():
            make(folder / name)
    return folder


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Make the models of speech_to_answer_tiny.yaml in FOLDER."""
    click.echo(f"whisper and llama in {build(folder)}")


if __name__ == "__main__":
    main()
