"""Texts into token ids, once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from altlas_flow.errors import AltlasError, InputError, one_line
from altlas_flow.models.faults import is_interrupt
from altlas_flow.models.runtimes.base import Prepared
from altlas_flow.models.runtimes.common import as_list, is_null, null_fault
from altlas_flow.models.runtimes.sentence import Recipe

if TYPE_CHECKING:
    from altlas_flow.models.spec import ModelSpec

#: Characters of a text that are tokenised first, for each token that the model reads. English has 4
#: to 5 a token; a text that needs more is tokenised whole.
_CHARACTERS = 64


class Texts:
    """A model's tokenizer, cut to what the model reads.

    Parameters
    ----------
    spec : ModelSpec
    folder : Path
        The model's.
    recipe : Recipe
        Its maximal length wins over the tokenizer's.
    config : transformers.PretrainedConfig

    Attributes
    ----------
    padding : int
        The token id that fills a batch.
    max_length : int or None
        Tokens that the model reads of a text.

    Raises
    ------
    OSError
        Where the tokenizer cannot be loaded.
    """

    def __init__(self, spec: ModelSpec, folder: Path, recipe: Recipe, config: Any) -> None:
        tokenizer = load_tokenizer(spec, folder)
        backend = tokenizer.backend_tokenizer
        self.padding = int(tokenizer.pad_token_id or 0)
        self.max_length = context_length(recipe.max_length, tokenizer.model_max_length, config)
        self._prompt = recipe.prompt
        self._backend = backend
        if recipe.lower:
            from tokenizers.normalizers import Lowercase
            from tokenizers.normalizers import Sequence as Chain

            first = [Lowercase()]
            backend.normalizer = Chain([*first, backend.normalizer] if backend.normalizer else first)
        backend.no_padding()
        backend.no_truncation()
        if self.max_length is not None:
            backend.enable_truncation(self.max_length)

    def prepare(self, rows: Sequence[Any]) -> Prepared:
        """Token ids (int64) of each row, their number, and what cannot be tokenised."""
        texts: Sequence[Any] = as_list(rows)
        faults: dict[int, Exception] = {}
        if set(map(type, texts)) - {str}:
            texts = [_text(row, at, faults) for at, row in enumerate(texts)]
        if self._prompt:
            texts = [self._prompt + text for text in texts]
        encoded = self._encode(texts, faults)
        items = [np.array(one.ids, np.int64) for one in encoded]
        costs = np.fromiter(map(len, items), np.int64, len(items))
        for at in faults:
            costs[at] = 0
        for at in np.flatnonzero(costs == 0).tolist():
            faults.setdefault(at, InputError("the text has no tokens"))
        truncated = 0
        if self.max_length is not None:
            full = np.flatnonzero(costs >= self.max_length).tolist()
            truncated = sum(1 for at in full if at not in faults and encoded[at].overflowing)
        return Prepared(items, costs, faults, truncated)

    def _encode(self, texts: Sequence[str], faults: dict[int, Exception]) -> list[Any]:
        """One encoding for each text; where a text cannot be encoded it becomes a fault."""
        short = texts
        cut: list[int] = []
        if self.max_length is not None:
            limit = _CHARACTERS * self.max_length
            cut = [at for at, text in enumerate(texts) if len(text) > 2 * limit]
        if cut:
            # the beginning of a very long text, up to a space, has the same tokens
            short = list(texts)
            for at in cut:
                short[at] = texts[at][: max(texts[at].rfind(" ", 0, limit), 0)]
        encoded = self._encode_all(short, faults)
        for at in cut:
            if not encoded[at].overflowing:
                encoded[at] = self._encode_all([texts[at]], faults, at)[0]
        return encoded

    def _encode_all(self, texts: Sequence[str], faults: dict[int, Exception], first: int = 0) -> list[Any]:
        try:
            return list(self._backend.encode_batch(texts))
        except BaseException as failure:
            if is_interrupt(failure):
                raise
            # one bad text (half of a surrogate pair) fails the whole call with an error of any type, a panic
            # included: the texts are gone through one by one, and it becomes the fault of its row
            encoded = []
            for at, text in enumerate(texts, first):
                try:
                    encoded.append(self._backend.encode(text))
                except BaseException as error:
                    if is_interrupt(error):
                        raise
                    faults[at] = InputError(f"the text cannot be tokenised: {one_line(error)}")
                    encoded.append(self._backend.encode(""))
            return encoded


def load_tokenizer(spec: ModelSpec, folder: Path) -> Any:
    """The tokenizer of a model folder, one of the tokenizers library.

    Raises
    ------
    OSError
        Where it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code="remote-code" in spec.allow
        )
        _ = tokenizer.backend_tokenizer
    except Exception as error:
        # the tokenizers library raises bare exceptions for files that it cannot read
        raise OSError(f"the tokenizer in {folder} cannot be loaded: {one_line(error)}") from error
    return tokenizer


def context_length(wanted: int | None, tokenizer: int, config: Any) -> int | None:
    """Tokens that the model reads; None where nothing limits them."""
    positions = getattr(config, "max_position_embeddings", None)
    if config.model_type in ("roberta", "xlm-roberta", "camembert") and positions:
        # their positions start behind that of the padding
        positions -= (config.pad_token_id or 0) + 1
    # a tokenizer that knows no limit says 10 to the 30th
    limits = [wanted or tokenizer, positions if positions and positions > 0 else 10**30]
    length = min(limits)
    return int(length) if length < 10**9 else None


def _text(row: Any, at: int, faults: dict[int, Exception]) -> str:
    """The text of one row; "" and a fault where it is none."""
    try:
        return text_of_row(row)
    except AltlasError as error:
        faults[at] = error
        return ""


def text_of_row(row: Any) -> str:
    """The text of one row; of a dict (several input columns) that of its values, one a line.

    Raises
    ------
    InputError
    """
    if isinstance(row, str):
        return str(row)
    if is_null(row):
        raise null_fault()
    if not isinstance(row, dict):
        raise InputError(f"the input is a {type(row).__name__}, not a text")
    parts = {name: value for name, value in row.items() if not is_null(value)}
    if not parts:
        raise null_fault()
    for name, value in parts.items():
        if not isinstance(value, str):
            raise InputError(f"the input's {name!r} is a {type(value).__name__}, not a text")
    return "\n".join(parts.values())
