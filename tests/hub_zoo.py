"""Tiny real models for the tasks of transformers' own pipelines, from seeded random weights."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import Any

import numpy as np

from tests.models_zoo import tiny_bert_config, tiny_tokenizer

ENTITIES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
ANIMALS = ("cat", "dog", "eel", "fox")
RATE = 16_000
LANGUAGES = ("en", "de", "fr")


def _saved(folder: Path, build: Any, *parts: Any, seed: int = 0) -> Path:
    """A model with seeded random weights and what belongs to it, as safetensors; the folder."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
    model.save_pretrained(folder)
    for part in parts:
        part.save_pretrained(folder)
    return folder


def _labels(names: tuple[str, ...]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: at for at, name in enumerate(names)}}


def build_nli(folder: Path) -> Path:
    """A BERT for natural language inference."""
    from transformers import BertForSequenceClassification

    tokenizer = tiny_tokenizer(model_max_length=64)
    config = tiny_bert_config(tokenizer, **_labels(("contradiction", "neutral", "entailment")))
    return _saved(folder, lambda: BertForSequenceClassification(config), tokenizer)


def build_tagger(folder: Path) -> Path:
    """A BERT that finds persons and places; its tokenizer knows no limit, the model reads 64 tokens."""
    from transformers import BertForTokenClassification

    tokenizer = tiny_tokenizer()
    config = tiny_bert_config(tokenizer, **_labels(ENTITIES))
    return _saved(folder, lambda: BertForTokenClassification(config), tokenizer)


def build_image_classifier(folder: Path) -> Path:
    """A ViT over four animals, for 32 x 32 pixels."""
    from transformers import ViTConfig, ViTForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        initializer_range=0.5,
        **_labels(ANIMALS),
    )
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    return _saved(folder, lambda: ViTForImageClassification(config), processor)


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
    folder = _saved(folder, lambda: Whisper(config), tokenizer, extractor, seed=5)
    generation.save_pretrained(folder)
    return folder


def tone(hertz: float = 440.0, seconds: float = 0.5, rate: int = RATE) -> np.ndarray:
    """A sound as float32 of shape (samples,)."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def wav(samples: np.ndarray, rate: int = RATE, width: int = 2) -> bytes:
    """A WAV file of plain samples of shape (samples,) or (samples, channels), `width` bytes each."""
    whole = np.round(samples.astype(np.float64) * (2 ** (8 * width - 1) - 1)).astype("<i4")
    if width == 1:
        data = (whole + 128).astype(np.uint8).tobytes()
    else:
        data = whole.reshape(-1, 1).view(np.uint8)[:, :width].tobytes()
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        written.setsampwidth(width)
        written.setframerate(rate)
        written.writeframes(data)
    return file.getvalue()


def picture(seed: int = 0, size: tuple[int, int] = (40, 30)) -> np.ndarray:
    """An image of coloured blocks, uint8 of shape (height, width, 3)."""
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(0, 256, (size[0] // 10, size[1] // 10, 3)), np.ones((10, 10, 1))).astype(
        np.uint8
    )


def png(image: np.ndarray, kind: str = "PNG") -> bytes:
    """The image as a file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()
