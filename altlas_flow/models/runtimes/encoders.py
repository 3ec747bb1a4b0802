"""Encoders of the runtime ``transformers``: embeddings and text classification."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from altlas_flow.errors import ParameterError
from altlas_flow.models.runtimes.base import Prepared
from altlas_flow.models.runtimes.common import BaseRuntime, check_options, module_bytes
from altlas_flow.models.runtimes.fused import Packed, fuse_linears, pack
from altlas_flow.models.runtimes.pretrained import load_pretrained
from altlas_flow.models.runtimes.sentence import pool, read_recipe
from altlas_flow.models.runtimes.sources import find_folder, find_weights, quiet
from altlas_flow.models.runtimes.texts import Texts

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

EMBED, CLASSIFY = "feature-extraction", "text-classification"


class EncoderRuntime(BaseRuntime):
    """Texts in; embeddings or labels out.

    ``feature-extraction`` answers with float32 of shape (rows, dimensions), pooled and normalised as
    the model's own sentence-transformers files say. ``text-classification`` answers with one
    ``{"label": str, "score": float}`` for each row: softmax over several labels, sigmoid for a
    single one or for independent ones, the bare number for a regression.

    Attributes
    ----------
    pads : bool
        Whether batches are padded to their longest text. Where not, `predict` computes exactly the
        tokens of the rows.
    """

    pads = True

    def parameter_names(self) -> frozenset[str]:
        """``normalize`` for embeddings, none for labels."""
        return frozenset({"normalize"} if self.spec.task == EMBED else ())

    def check_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Raise `ParameterError` where a parameter is not known, or `normalize` is no truth value."""
        super().check_parameters(parameters)
        if not isinstance(parameters.get("normalize", True), bool):
            raise ParameterError(
                f"model {self.spec.id!r}: parameter 'normalize' is true or false, "
                f"not {parameters['normalize']!r}"
            )

    def load(self) -> None:
        """Load weights and tokenizer.

        Raises
        ------
        SpecError
            Where an option is wrong, or the model needs a step that is not known here.
        UnsafeModel
            Where there are only pickled weights and the spec does not allow them.
        OSError
            Where files are missing or damaged, or the hub cannot be reached.
        """
        check_options(self.spec, ("max_length", "pooling", "normalize"))
        # the tokenizer's own threads would come on top of the worker's
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        folder = find_folder(self.spec)
        weights = find_weights(self.spec, folder)
        self._recipe = read_recipe(folder, self.spec)
        with quiet():
            self._model: Any = self._load_model(folder, weights)
            self._texts = Texts(self.spec, folder, self._recipe, self._model.config)
        self._bytes = module_bytes(self._model)
        self._model.to(self.device).eval().requires_grad_(False)
        self._packed: Packed | None = None
        if self.device == "cpu":
            self._speed_up()
        if self.spec.task == CLASSIFY:
            self._labels = [
                str(self._model.config.id2label[at]) for at in range(self._model.config.num_labels)
            ]

    def _load_model(self, folder: Path, weights: Path) -> Any:
        from transformers import AutoModel, AutoModelForSequenceClassification

        embeds = self.spec.task == EMBED
        return load_pretrained(
            self.spec,
            folder,
            weights,
            AutoModel if embeds else AutoModelForSequenceClassification,
            # half precision saves nothing on a CPU but accuracy
            dtype="float32" if self.device == "cpu" else None,
            # an embedding does without the pooler of BERT
            spare=lambda key: embeds and "pooler" in key,
        )

    def _speed_up(self) -> None:
        import torch

        replaced = fuse_linears(self._model)
        if self.spec.task == EMBED:
            with torch.inference_mode():
                self._packed = pack(self._model, self._embed_padded, self._recipe.pooling)
        self.pads = self._packed is None
        logger.debug("model %r: %d layers fused, padded: %s", self.spec.id, replaced, self.pads)

    def prepare(self, rows: Sequence[Any], parameters: Mapping[str, Any]) -> Prepared:
        """Tokenise texts; nulls and what is no text become faults.

        A row that is a dict (several input columns) is the text of its values, one a line.
        """
        return self._texts.prepare(rows)

    def predict(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> np.ndarray | list[Any]:
        """Predict a batch: float32 of shape (rows, dimensions), or a list of labels with scores."""
        import torch

        with torch.inference_mode():
            if self.spec.task == CLASSIFY:
                return self._classify(items)
            pooled = self._embed_packed(items) if self._packed is not None else self._embed_padded(items)
            if parameters.get("normalize", self._recipe.normalize):
                pooled = torch.nn.functional.normalize(pooled, dim=1)
            result: np.ndarray = pooled.float().cpu().numpy()
            return result

    def _embed_packed(self, items: Sequence[np.ndarray]) -> Any:
        assert self._packed is not None
        return self._packed.embed(items, self._recipe.pooling)

    def _embed_padded(self, items: Sequence[np.ndarray]) -> Any:
        inputs = self._inputs(items)
        hidden = self._model(**inputs).last_hidden_state
        return pool(hidden, inputs.get("attention_mask"), self._recipe.pooling)

    def _classify(self, items: Sequence[np.ndarray]) -> list[Any]:
        config = self._model.config
        logits = self._model(**self._inputs(items)).logits.float()
        if config.problem_type == "regression":
            scores = logits
        elif config.problem_type == "multi_label_classification" or config.num_labels == 1:
            scores = logits.sigmoid()
        else:
            scores = logits.softmax(-1)
        best = scores.max(-1)
        values, places = best.values.tolist(), best.indices.tolist()
        return [{"label": self._labels[at], "score": value} for at, value in zip(places, values, strict=True)]

    def _inputs(self, items: Sequence[np.ndarray]) -> dict[str, Any]:
        """Ids padded to the longest text, and a mask where there is padding."""
        import torch

        widths = np.fromiter(map(len, items), np.int64, len(items))
        if (widths == widths[0]).all():
            inputs = {"input_ids": torch.from_numpy(np.stack(items))}
        else:
            mask = np.arange(widths.max()) < widths[:, None]
            ids = np.full(mask.shape, self._texts.padding, np.int64)
            ids[mask] = np.concatenate(items)
            inputs = {
                "input_ids": torch.from_numpy(ids),
                "attention_mask": torch.from_numpy(mask.astype(np.int64)),
            }
        if self.device == "cpu":
            return inputs
        return {name: value.to(self.device, non_blocking=True) for name, value in inputs.items()}

    def output_types(self) -> dict[str, pa.DataType] | None:
        """``embedding`` as a list of fixed size, or ``label`` and ``score``."""
        import pyarrow as pa

        if self.spec.task == CLASSIFY:
            return {"label": pa.string(), "score": pa.float32()}
        size = getattr(getattr(self, "_model", None), "config", None)
        size = getattr(size, "hidden_size", None) or getattr(size, "dim", None)
        return {"embedding": pa.list_(pa.float32(), size)} if size else None

    def unload(self) -> None:
        """Let go of the weights and the tokenizer."""
        for name in ("_model", "_texts", "_packed"):
            self.__dict__.pop(name, None)
        self._bytes = 0

    def memory(self) -> int:
        """Bytes of the parameters and buffers."""
        return getattr(self, "_bytes", 0)
