"""Tiny real models for the tasks of transformers' own pipelines, from seeded random weights."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.tiny_models import LANGUAGES as LANGUAGES
from pipelines.tiny_models import build_speech as build_speech
from pipelines.tiny_models import saved
from tests.models_zoo import tiny_bert_config, tiny_tokenizer

ENTITIES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
ANIMALS = ("cat", "dog", "eel", "fox")
RATE = 16_000


def _labels(names: tuple[str, ...]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: at for at, name in enumerate(names)}}


def build_nli(folder: Path) -> Path:
    """A BERT for natural language inference."""
    from transformers import BertForSequenceClassification

    tokenizer = tiny_tokenizer(model_max_length=64)
    config = tiny_bert_config(tokenizer, **_labels(("contradiction", "neutral", "entailment")))
    return saved(folder, lambda: BertForSequenceClassification(config), tokenizer)


def build_tagger(folder: Path) -> Path:
    """A BERT that finds persons and places; its tokenizer knows no limit, the model reads 64 tokens."""
    from transformers import BertForTokenClassification

    tokenizer = tiny_tokenizer()
    config = tiny_bert_config(tokenizer, **_labels(ENTITIES))
    return saved(folder, lambda: BertForTokenClassification(config), tokenizer)


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
    return saved(folder, lambda: ViTForImageClassification(config), processor)


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
