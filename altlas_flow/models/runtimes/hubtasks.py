"""Tasks of the runtime ``transformers`` that are done by the library's own pipelines.

One class each: what a row is, what is asked of the pipeline, and what of its answer is ours.
"""

from __future__ import annotations

import copy
import os
import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from altlas_flow.errors import AltlasError, InputError, ParameterError, one_line
from altlas_flow.models.runtimes.base import Prepared
from altlas_flow.models.runtimes.common import BaseRuntime, as_list, check_options, module_bytes
from altlas_flow.models.runtimes.pretrained import load_pretrained
from altlas_flow.models.runtimes.sources import find_folder, find_weights, quiet
from altlas_flow.models.runtimes.texts import context_length, text_of_row

if TYPE_CHECKING:
    import pyarrow as pa


class HubTask(BaseRuntime):
    """A task of transformers' own pipelines, a batch at a time.

    The model, its tokenizer and the like are loaded here, with the guards of all tasks; the pipeline around
    them is made for each thread, for tokenizers are not to be shared.
    """

    #: what the pipeline is given beside the model: its argument, and the auto class that loads it
    parts: ClassVar[Mapping[str, str]] = {}

    def load(self) -> None:
        """Load weights, tokenizer and the like.

        Raises
        ------
        SpecError
            Where an option is wrong, or something is not installed.
        UnsafeModel
            Where there are only pickled weights and the spec does not allow them.
        OSError
            Where files are missing or damaged, or the hub cannot be reached.
        """
        import transformers

        check_options(self.spec, ())
        # the tokenizer's own threads would come on top of the worker's
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        folder = find_folder(self.spec)
        weights = find_weights(self.spec, folder, tokenizer="tokenizer" in self.parts)
        with quiet():
            self._parts = {
                name: self._load_part(getattr(transformers, auto), name, folder)
                for name, auto in self.parts.items()
            }
            self._model: Any = load_pretrained(
                self.spec,
                folder,
                weights,
                self._loader(folder),
                # half precision saves nothing on a CPU but accuracy
                dtype="float32" if self.device == "cpu" else None,
                # of training only
                spare=lambda key: key.endswith("masked_spec_embed") or "pooler" in key,
            )
        self._bytes = module_bytes(self._model)
        self._model.to(self.device).eval().requires_grad_(False)
        self._threads = threading.local()

    def _load_part(self, auto: Any, name: str, folder: Path) -> Any:
        try:
            return auto.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code="remote-code" in self.spec.allow
            )
        except Exception as error:
            # libraries below raise bare exceptions for files that they cannot read
            what = name.replace("_", " ")
            raise OSError(f"the {what} in {folder} cannot be loaded: {one_line(error)}") from error

    @abstractmethod
    def _loader(self, folder: Path) -> Any:
        """The auto class of the model."""

    def _ask(self, items: Sequence[Any], **keywords: Any) -> list[Any]:
        """What the pipeline answers to a batch."""
        with quiet():  # what it advises, it advises each time
            answers: list[Any] = self._pipeline()(list(items), **keywords)
        return answers

    def _pipeline(self) -> Any:
        """The library's pipeline, this thread's own; the weights are everybody's."""
        found = getattr(self._threads, "pipeline", None)
        if found is None:
            from transformers import pipeline

            parts = {name: copy.deepcopy(part) for name, part in self._parts.items()}
            found = pipeline(self.spec.task, model=self._model, device=self.device, **parts)
            self._threads.pipeline = found
        return found

    def prepare(self, rows: Sequence[Any], parameters: Mapping[str, Any]) -> Prepared:
        """Look at each row; nulls and what is none for the task become faults."""
        items: list[Any] = list(as_list(rows))
        faults: dict[int, Exception] = {}
        for at, row in enumerate(items):
            try:
                items[at] = self._look(row)
            except AltlasError as error:
                faults[at] = error
        return Prepared(items, faults=faults)

    @abstractmethod
    def _look(self, row: Any) -> Any:
        """The item of a row; raises `InputError`."""

    @abstractmethod
    def output_types(self) -> dict[str, pa.DataType]:
        """Arrow types of an answer, by column."""

    def _refuse(self, name: str, value: Any, wanted: str) -> ParameterError:
        shown = one_line(repr(value), 80)
        return ParameterError(f"model {self.spec.id!r}: parameter {name!r} is {shown}: give {wanted}")

    def unload(self) -> None:
        """Let go of the weights and of what belongs to them."""
        for name in ("_model", "_parts", "_threads"):
            self.__dict__.pop(name, None)
        self._bytes = 0

    def memory(self) -> int:
        """Bytes of the parameters and buffers."""
        return getattr(self, "_bytes", 0)


class TextTask(HubTask):
    """A task whose rows are texts; a record of several columns is the text of its values, one a line."""

    parts: ClassVar[Mapping[str, str]] = {"tokenizer": "AutoTokenizer"}

    def load(self) -> None:
        """As all tasks do; texts are cut to what the model reads."""
        super().load()
        tokenizer = self._parts["tokenizer"]
        # a tokenizer that knows no limit says 10 to the 30th, and the model would fail beyond its own
        longest = context_length(None, tokenizer.model_max_length, self._model.config)
        if longest is not None:
            tokenizer.model_max_length = longest

    def _look(self, row: Any) -> str:
        text = text_of_row(row)
        if not text.strip():
            raise InputError("the text has no tokens")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"the text cannot be tokenised: {one_line(error)}") from error
        return text


def is_count(value: Any) -> bool:
    """Whether a value is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
