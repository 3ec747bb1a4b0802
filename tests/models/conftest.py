"""Folders of tiny real models, built once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import models_zoo


@pytest.fixture(scope="session")
def tiny_classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT classifier: bad, so-so, good."""
    return models_zoo.build_classifier(tmp_path_factory.mktemp("models") / "classifier")


@pytest.fixture(scope="session")
def tiny_embedder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT embedder of 32 dimensions: mean pooling, normalised, 32 tokens."""
    return models_zoo.build_embedder(tmp_path_factory.mktemp("models") / "embedder")


@pytest.fixture(scope="session")
def tiny_linear_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a `torch.nn.Linear(3, 2)`."""
    return models_zoo.build_linear(tmp_path_factory.mktemp("models") / "linear")
