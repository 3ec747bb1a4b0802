"""Texts that go on: the runtime ``transformers`` for ``text-generation``."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from altlas_flow.errors import AltlasError, InputError, SpecError, one_line
from altlas_flow.models.faults import is_interrupt
from altlas_flow.models.runtimes.base import Control, Prepared, Unwatched
from altlas_flow.models.runtimes.common import BaseRuntime, as_list, check_options, module_bytes
from altlas_flow.models.runtimes.decoding import Decoder, Prompt
from altlas_flow.models.runtimes.pretrained import load_pretrained
from altlas_flow.models.runtimes.sampling import NEW_TOKENS, Sampling
from altlas_flow.models.runtimes.sources import find_folder, find_weights, quiet
from altlas_flow.models.runtimes.texts import context_length, load_tokenizer, text_of_row

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

NOTHING = Prompt(np.zeros(0, np.int64), 0)


class GenerationRuntime(BaseRuntime):
    """Prompts in; the text by which each goes on out, as a plain ``str``, without the prompt.

    A row is a text, or a chat: a dict with ``messages``, a list of dicts with ``role`` and ``content``,
    which goes through the model's own chat template. Any other dict (several input columns) is the text
    of its values, one a line; one with ``role`` and ``content`` is a message without its chat, and a fault.

    Parameters of a prediction: ``temperature`` (0, the default: always the likeliest token), ``top_k``,
    ``top_p``, ``seed``, ``max_new_tokens`` and ``stop``; see `Sampling`. The same seed gives the same text
    for the same prompt, whatever shares its batch, as far as rounding goes. Nothing else is asked of the
    model's ``generation_config.json`` than the tokens that end a text.

    A prompt that leaves no room for the new tokens asked for is a fault: cut, it would be another question.
    For batching, a row costs its prompt and all new tokens it may get, since memory is taken for these.

    Attributes
    ----------
    context : int or None
        Tokens of a prompt and its text together; None: no bound is known.
    token_bytes : int
        Memory that each of them takes while its batch runs.
    """

    known_parameters = frozenset({"temperature", "top_k", "top_p", "seed", "max_new_tokens", "stop"})

    def check_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Raise `ParameterError` where a parameter is not known, or out of its bounds."""
        super().check_parameters(parameters)
        Sampling.of(parameters, f"model {self.spec.id!r}")

    def load(self) -> None:
        """Load weights and tokenizer: float32 on a CPU, half precision on a GPU.

        Raises
        ------
        SpecError
            Where an option is wrong.
        UnsafeModel
            Where there are only pickled weights and the spec does not allow them.
        OSError
            Where files are missing or damaged, or the hub cannot be reached.
        """
        from transformers import AutoModelForCausalLM

        check_options(self.spec, ("max_length",))
        wanted = self.spec.options.get("max_length")
        if wanted is not None and (not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 2):
            raise SpecError(
                f"model {self.spec.id!r}: option 'max_length' is a number of tokens from 2, not {wanted!r}"
            )
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        folder = find_folder(self.spec)
        weights = find_weights(self.spec, folder)
        with quiet():
            self._model: Any = self._load_model(folder, weights, AutoModelForCausalLM)
            self._tokenizer: Any = load_tokenizer(self.spec, folder)
        self._bytes = module_bytes(self._model)
        self.token_bytes = kept_bytes(self._model.config, next(self._model.parameters()).element_size())
        self._model.to(self.device).eval().requires_grad_(False)
        self.context = context_length(wanted, self._tokenizer.model_max_length, self._model.config)
        ends = self._ends()
        padding = self._tokenizer.pad_token_id
        self._decoder = Decoder(
            self._model, self.device, ends, next(iter(ends), 0) if padding is None else padding, self._decode
        )

    def _load_model(self, folder: Path, weights: Path, loader: Any) -> Any:
        dtype = "float32"
        if self.device != "cpu":
            import torch

            dtype = "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
        return load_pretrained(self.spec, folder, weights, loader, dtype=dtype)

    def _ends(self) -> list[int]:
        """Tokens that end a text, as the model says, or else its tokenizer."""
        said = getattr(self._model.generation_config, "eos_token_id", None)
        if said is None:
            said = self._tokenizer.eos_token_id
        return [] if said is None else [said] if isinstance(said, int) else [int(token) for token in said]

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def prepare(self, rows: Sequence[Any], parameters: Mapping[str, Any]) -> Prepared:
        """Tokenise prompts and chats; what is neither, and what is too long, become faults."""
        asked = Sampling.of(parameters, f"model {self.spec.id!r}").max_new_tokens
        prompts, faults = [], {}
        for at, row in enumerate(as_list(rows)):
            try:
                prompts.append(self._prompt(row, asked))
            except AltlasError as error:
                faults[at] = error
                prompts.append(NOTHING)
        costs = np.fromiter((len(prompt.tokens) + prompt.most for prompt in prompts), np.int64, len(prompts))
        return Prepared(prompts, costs, dict(faults))

    def _prompt(self, row: Any, asked: int | None) -> Prompt:
        chat = isinstance(row, dict) and "messages" in row
        if not chat and (meant := unlike_chat(row)) is not None:
            raise InputError(meant)
        text = self._rendered(row["messages"]) if chat else text_of_row(row)
        try:
            # a template has the special tokens in it
            tokens = self._tokenizer(text, add_special_tokens=not chat, verbose=False).input_ids
        except BaseException as error:
            # the tokenizers library panics for half of a surrogate pair
            if is_interrupt(error):
                raise
            raise InputError(f"the text cannot be tokenised: {one_line(error)}") from error
        if not tokens:
            raise InputError("the text has no tokens")
        room = NEW_TOKENS if self.context is None else self.context - len(tokens)
        most = min(NEW_TOKENS, room) if asked is None else int(asked)
        if self.context is not None and (room < 1 or most > room):
            advice = f"shorten it, or ask for max_new_tokens={room}" if room > 0 else "shorten it"
            raise InputError(
                f"the prompt has {len(tokens)} tokens, and the model reads {self.context} together with the "
                f"{most if asked is not None else 1} that it is to write: {advice}"
            )
        return Prompt(np.array(tokens, np.int64), most)

    def _rendered(self, messages: Any) -> str:
        """A chat as the text that the model was trained on."""
        found = as_list(messages) if hasattr(messages, "__len__") and not isinstance(messages, str) else None
        if not found or not all(map(is_message, found)):
            raise InputError(
                "the input's 'messages' are a list of dicts with role and content, such as "
                '[{"role": "user", "content": "..."}]'
            )
        if not getattr(self._tokenizer, "chat_template", None):
            raise InputError(f"model {self.spec.id!r} has no chat template: give a text instead of messages")
        try:
            text: str = self._tokenizer.apply_chat_template(
                list(found), tokenize=False, add_generation_prompt=True
            )
        except Exception as error:
            # a template is a program of the model's, and refuses what it likes with any error
            raise InputError(f"the model's chat template refuses the messages: {one_line(error)}") from error
        return text

    def predict(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> list[Any]:
        """The text by which each prompt goes on."""
        return self.predict_steps(items, parameters, Unwatched())

    def predict_steps(
        self, items: Sequence[Any], parameters: Mapping[str, Any], control: Control
    ) -> list[Any]:
        """As `predict`; between two tokens, rows that nobody wants any more are left out."""
        texts: list[Any] = self._decoder.run(items, Sampling.of(parameters), control)
        return texts

    def output_types(self) -> dict[str, pa.DataType]:
        """One column, ``text``."""
        import pyarrow as pa

        return {"text": pa.string()}

    def unload(self) -> None:
        """Let go of the weights and the tokenizer."""
        for name in ("_model", "_tokenizer", "_decoder"):
            self.__dict__.pop(name, None)
        self._bytes = 0

    def memory(self) -> int:
        """Bytes of the parameters and buffers; the keys and values of a batch come on top (see `Decoder`)."""
        return getattr(self, "_bytes", 0)


def unlike_chat(row: Any) -> str | None:
    """What to say of a row that is a chat, but for its form; None where it is something else."""
    if is_message(row):
        return "the input is one message of a chat: give a chat as {'messages': [...]}, a list of them all"
    if isinstance(row, (list, tuple)) and row and all(map(is_message, row)):
        return "the input is a list of messages: give a chat as {'messages': [...]}"
    if isinstance(row, dict):
        for name, value in row.items():
            several = isinstance(value, (list, tuple, np.ndarray)) and len(value) > 0
            if is_message(value) or (several and all(isinstance(one, dict) for one in value)):
                return (
                    f"the input has a chat as {one_line(repr(name), 40)}, which is no key: did you mean "
                    "'messages'? give a chat as {'messages': [...]}"
                )
        [*only] = row.items()
        if len(only) == 1 and isinstance(only[0][1], str) and _nearly_messages(only[0][0]):
            return (
                f"the input has a text as {one_line(repr(only[0][0]), 40)}, which is no key: did you mean "
                "'messages'? give a chat as {'messages': [...]}, or the text alone"
            )
    return None


def _nearly_messages(name: Any) -> bool:
    return isinstance(name, str) and bool(get_close_matches(name.lower(), ["messages"], 1, cutoff=0.8))


def is_message(value: Any) -> bool:
    """Whether it is what chats are lists of."""
    return isinstance(value, dict) and {"role", "content"} <= set(value)


def kept_bytes(config: Any, size: int) -> int:
    """Bytes of the keys and values of one token; 0 where the configuration does not tell.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
    size : int
        Bytes of a number.
    """
    config = config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    layers, width = getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None)
    if not (heads and layers and width):
        return 0
    each = getattr(config, "head_dim", None) or width // heads
    return int(2 * layers * (getattr(config, "num_key_value_heads", None) or heads) * each * size)
