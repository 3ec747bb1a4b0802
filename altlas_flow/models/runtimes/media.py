"""Tasks ``automatic-speech-recognition`` and ``image-classification``: their inputs are files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from altlas_flow.errors import ParameterError
from altlas_flow.models.runtimes import images
from altlas_flow.models.runtimes.hubtasks import HubTask, is_count
from altlas_flow.models.runtimes.sounds import Sound, sound

if TYPE_CHECKING:
    import pyarrow as pa

WORK = ("transcribe", "translate")


class SpeechRuntime(HubTask):
    """Sounds in, texts out.

    A row is the path of a sound file or its bytes, float32 samples at the model's rate, or a record of
    ``array`` and ``sampling_rate``. Parameters: ``language`` and ``task`` (``transcribe``, ``translate``) of
    models like Whisper that know several, and ``max_new_tokens``.
    """

    known_parameters = frozenset({"language", "task", "max_new_tokens"})
    path_tasks = frozenset({"automatic-speech-recognition"})
    parts: ClassVar[Mapping[str, str]] = {
        "tokenizer": "AutoTokenizer",
        "feature_extractor": "AutoFeatureExtractor",
    }

    def check_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Raise `ParameterError` where a parameter is not known, or is not what it has to be."""
        super().check_parameters(parameters)
        if "max_new_tokens" in parameters and not is_count(parameters["max_new_tokens"]):
            raise self._refuse("max_new_tokens", parameters["max_new_tokens"], "a number of at least 1")
        if parameters.get("task", WORK[0]) not in WORK:
            raise self._refuse("task", parameters["task"], " or ".join(WORK))
        if not isinstance(parameters.get("language", ""), str):
            raise self._refuse("language", parameters["language"], 'a name such as "german", or a code')
        if hasattr(self, "_model"):  # only the model knows
            self._check_language(parameters)

    def _check_language(self, parameters: Mapping[str, Any]) -> None:
        asked = [name for name in ("language", "task") if name in parameters]
        if asked and not self._multilingual:
            raise ParameterError(
                f"model {self.spec.id!r} writes down what it hears, in one language: leave {asked[0]}= out"
            )
        if "max_new_tokens" in parameters and not self._generates:
            raise ParameterError(f"model {self.spec.id!r} generates nothing: leave max_new_tokens= out")
        language = parameters.get("language")
        if language is None:
            return
        from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

        known = getattr(self._model.generation_config, "lang_to_id", None) or {}
        code = TO_LANGUAGE_CODE.get(language.lower(), language.lower())
        if f"<|{code}|>" not in known:
            raise self._refuse("language", language, 'a language that the model knows, such as "english"')

    def load(self) -> None:
        """As all tasks do."""
        super().load()
        settings = getattr(self._model, "generation_config", None)
        self._generates = self._model.can_generate()
        self._whisper = self._model.config.model_type == "whisper"
        self._multilingual = self._whisper and bool(getattr(settings, "is_multilingual", False))
        self._rate = int(self._parts["feature_extractor"].sampling_rate)
        # what Whisper hears at once; longer sounds it takes piece by piece, and needs times for that
        self._at_once = float(getattr(self._parts["feature_extractor"], "chunk_length", 30))

    def _loader(self, folder: Path) -> Any:
        from transformers import AutoConfig, AutoModelForCTC, AutoModelForSpeechSeq2Seq
        from transformers.models.auto.modeling_auto import MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES

        config = AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code="remote-code" in self.spec.allow
        )
        generates = config.model_type in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES
        return AutoModelForSpeechSeq2Seq if generates else AutoModelForCTC

    def _look(self, row: Any) -> Sound:
        return sound(row, self._rate)

    def predict(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Any]:
        """Predict a batch: a text for each sound."""
        asked = {name: value for name, value in parameters.items() if name in self.known_parameters}
        long = {at for at, item in enumerate(items) if self._whisper and item.seconds > self._at_once}
        short = [at for at in range(len(items)) if at not in long]
        found: dict[int, str] = {}
        for places in ([short] if short else []) + [[at] for at in sorted(long)]:
            keywords: dict[str, Any] = {"generate_kwargs": asked} if asked else {}
            if places[0] in long:
                keywords["return_timestamps"] = True
            samples = [items[at].samples(self._rate) for at in places]
            answers = self._ask(samples, batch_size=len(samples), **keywords)
            found.update((at, str(answer["text"])) for at, answer in zip(places, answers, strict=True))
        return [found[at] for at in range(len(items))]

    def output_types(self) -> dict[str, pa.DataType]:
        """``text``."""
        import pyarrow as pa

        return {"text": pa.string()}


class ImageRuntime(HubTask):
    """Images in; the label that fits best, and its score.

    A row is the path of an image file or its bytes, a PIL image, or uint8 of shape (height, width, 3). With
    the parameter ``top_k`` an answer is a list of so many labels with their scores, best first.
    """

    known_parameters = frozenset({"top_k"})
    path_tasks = frozenset({"image-classification"})
    parts: ClassVar[Mapping[str, str]] = {"image_processor": "AutoImageProcessor"}

    def check_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Raise `ParameterError` where a parameter is not known, or `top_k` is no number."""
        super().check_parameters(parameters)
        if "top_k" in parameters and not is_count(parameters["top_k"]):
            raise self._refuse("top_k", parameters["top_k"], "a number of at least 1")

    def load(self) -> None:
        """As all tasks do."""
        images.need_pillow(self.spec.id)
        super().load()

    def _loader(self, folder: Path) -> Any:
        from transformers import AutoModelForImageClassification

        return AutoModelForImageClassification

    def _look(self, row: Any) -> Any:
        return images.look(row)

    def predict(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Any]:
        """Predict a batch: ``{"label": str, "score": float}`` for each image, or a list of these."""
        given = [images.decoded(item) for item in items]
        found = self._ask(given, top_k=parameters.get("top_k", 1), batch_size=len(given))
        answers = [
            [{"label": str(one["label"]), "score": float(one["score"])} for one in row] for row in found
        ]
        return answers if "top_k" in parameters else [row[0] for row in answers]

    def types_for(self, parameters: Mapping[str, Any]) -> dict[str, pa.DataType]:
        """``label`` and ``score``; with `top_k` a list of them, ``labels``."""
        import pyarrow as pa

        types = {"label": pa.string(), "score": pa.float32()}
        return {"labels": pa.list_(pa.struct(list(types.items())))} if "top_k" in parameters else types

    def output_types(self) -> dict[str, pa.DataType]:
        """Arrow types of an answer with the spec's own parameters."""
        return self.types_for(self.spec.parameters)
